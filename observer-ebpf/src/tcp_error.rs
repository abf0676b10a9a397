// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `sock:inet_sk_error_report(sk)` (since 5.14): the socket's owner is told `sk_err`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::{KIND_TCP_ERROR, PLACE_GIVEN_UP};

use crate::{
    layout::{WATCHING, layout, read},
    socket::{Sock, report_unchanged},
    watched::note_socket,
};

/// Errors that say that nothing leads there (errno(3)); who refuses or resets is there.
const ENETUNREACH: i32 = 101;
const ETIMEDOUT: i32 = 110;
const EHOSTUNREACH: i32 = 113;

#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn tcp_error(ctx: BtfTracePointContext) -> i32 {
    let sk: *const Sock = ctx.arg(0);
    report_unchanged(sk, KIND_TCP_ERROR);
    if WATCHING.is_set() && !sk.is_null() {
        // SAFETY: the tracepoint's `struct sock *`.
        let error: i32 = unsafe { read(sk.cast(), layout!(sk_err)) };
        if matches!(error, ENETUNREACH | ETIMEDOUT | EHOSTUNREACH) {
            note_socket(sk, PLACE_GIVEN_UP);
        }
    }
    0
}

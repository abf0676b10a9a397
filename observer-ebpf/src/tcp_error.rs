// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `sock:inet_sk_error_report(sk)` (since 5.14): the socket's owner is told `sk_err`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::KIND_TCP_ERROR;

use crate::socket::report_unchanged;

#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn tcp_error(ctx: BtfTracePointContext) -> i32 {
    report_unchanged(ctx.arg(0), KIND_TCP_ERROR);
    0
}

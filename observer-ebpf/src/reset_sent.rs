// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `tcp:tcp_send_reset(sk, skb[, reason])`: the kernel sends a RST. `sk` is NULL for a port nobody
//! listens on (since 6.12; not fired before), and may be a listener or a short-lived socket: the
//! filter drops them all.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::KIND_RESET_SENT;

use crate::socket::report_unchanged;

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn reset_sent(ctx: BtfTracePointContext) -> i32 {
    report_unchanged(ctx.arg(0), KIND_RESET_SENT);
    0
}

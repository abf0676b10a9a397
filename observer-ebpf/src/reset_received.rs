// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `tcp:tcp_receive_reset(sk)`: a valid RST arrived; the socket is still in the state it was in.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::KIND_RESET_RECEIVED;

use crate::socket::report_unchanged;

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset_received(ctx: BtfTracePointContext) -> i32 {
    report_unchanged(ctx.arg(0), KIND_RESET_RECEIVED);
    0
}

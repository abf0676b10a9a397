// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `tcp:tcp_retransmit_skb(sk, skb[, err])`: a segment was sent again. Kernels that pass `err` (6.18
//! does, 6.12 does not) also fire where it could not be sent: to try is what counts here.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::{KIND_RETRANSMIT, PLACE_SENT_AGAIN};

use crate::{socket::report_unchanged, watched::note_socket};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn retransmit(ctx: BtfTracePointContext) -> i32 {
    report_unchanged(ctx.arg(0), KIND_RETRANSMIT);
    note_socket(ctx.arg(0), PLACE_SENT_AGAIN);
    0
}

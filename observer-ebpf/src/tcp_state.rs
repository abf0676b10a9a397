// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `sock:inet_sock_set_state(sk, oldstate, newstate)`: a TCP socket changed state.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::{COUNTER_STRANGERS, KIND_TCP_STATE};

use crate::{
    filter::is_bgp,
    maps::count,
    socket::{
        Fact, Sock, Socket, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1,
        TCP_LAST_ACK, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
    },
};

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const Sock = ctx.arg(0);
    let (old, new) = (ctx.arg::<u8>(1), ctx.arg::<u8>(2));
    // A listener's child, before it has its own ports, remote address and cookie
    // (inet_csk_clone_lock). It shows itself at SYN_RECV → ESTABLISHED.
    if old == TCP_LISTEN && new == TCP_SYN_RECV {
        return 0;
    }
    let Some(socket) = Socket::observed(sk) else {
        return 0;
    };
    let dial = old == TCP_CLOSE && new == TCP_SYN_SENT && is_bgp(socket.remote_port);
    if dial {
        socket.know();
    }
    if dial || new == TCP_LISTEN {
        socket.spoken_by_current();
    }
    let ours = dial || old == TCP_SYN_SENT || old == TCP_LISTEN || new == TCP_LISTEN;
    let known = ours || socket.is_known();
    if !known && old == TCP_SYN_RECV && new == TCP_ESTABLISHED {
        count(COUNTER_STRANGERS);
    }
    let fact = Fact {
        kind: KIND_TCP_STATE,
        old_state: old,
        new_state: new,
        in_process: made_by_owner(old, new),
    };
    socket.report(&fact, known);
    0
}

/// Transitions that only `connect`, `listen`, `shutdown`, `close` or the owner's exit make. Others
/// happen in whatever process a packet or timer interrupted.
#[inline(always)]
fn made_by_owner(old: u8, new: u8) -> bool {
    (old == TCP_CLOSE && (new == TCP_SYN_SENT || new == TCP_LISTEN))
        || (old == TCP_LISTEN && new == TCP_CLOSE)
        || (old == TCP_ESTABLISHED && new == TCP_FIN_WAIT1)
        || (old == TCP_CLOSE_WAIT && new == TCP_LAST_ACK)
}

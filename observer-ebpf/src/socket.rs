// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! A TCP socket as the probes see it: the filter, its identity, and its record.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_socket_cookie, bpf_ktime_get_boot_ns,
    generated::{bpf_get_current_comm, bpf_skc_to_tcp_sock},
};
use observer_abi::{
    COMM_LEN, COUNTER_EVENTS_LOST, COUNTER_MAP_FULL, COUNTER_STRANGER_EVENTS_LOST, PeerKey,
    TcpRecord,
};

use crate::{
    filter::is_bgp,
    layout::{layout, read},
    maps::{EVENTS, KNOWN_PEERS, NETNS, SPEAKERS, STRANGERS, count},
};

/// `struct sock`, never looked into but by offset.
#[repr(C)]
pub struct Sock {
    _opaque: [u8; 0],
}

pub const TCP_ESTABLISHED: u8 = 1;
pub const TCP_SYN_SENT: u8 = 2;
pub const TCP_SYN_RECV: u8 = 3;
pub const TCP_FIN_WAIT1: u8 = 4;
pub const TCP_TIME_WAIT: u8 = 6;
pub const TCP_CLOSE: u8 = 7;
pub const TCP_CLOSE_WAIT: u8 = 8;
pub const TCP_LAST_ACK: u8 = 9;
pub const TCP_LISTEN: u8 = 10;
pub const TCP_NEW_SYN_RECV: u8 = 12;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// A socket that passed the filter. Addresses are four words in network order.
pub struct Socket {
    sk: *const u8,
    tcp: *const u8,
    netns_id: u32,
    family: u16,
    pub local_port: u16,
    pub remote_port: u16,
    local: [u32; 4],
    peer: PeerKey,
}

impl Socket {
    /// The socket, if BGP is spoken on either of its ports in an observed namespace.
    ///
    /// Not for sockets in `TIME_WAIT` or `NEW_SYN_RECV`, which are shorter structs.
    #[inline(always)]
    pub fn observed(sk: *const Sock) -> Option<Self> {
        let sk = sk.cast::<u8>();
        if sk.is_null() {
            return None;
        }
        // SAFETY: `sk` is the tracepoint's `struct sock *`; the offsets are of its members.
        let (remote_port, bound_port) = unsafe {
            (
                u16::from_be(read(sk, layout!(skc_dport))),
                read::<u16>(sk, layout!(skc_num)),
            )
        };
        // A socket that has reached CLOSE has lost `skc_num` unless its port was bound by name
        // (inet_put_port before the state is stored); `inet_sport` still has it.
        let remote_is_bgp = is_bgp(remote_port);
        if !remote_is_bgp && bound_port != 0 && !is_bgp(bound_port) {
            return None;
        }
        // SAFETY: as above.
        let state = unsafe { read::<u8>(sk, layout!(skc_state)) };
        if state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || !is_tcp(sk) {
            return None;
        }
        // SAFETY: `sk` is a `struct sock`; the helper answers NULL unless it is a full TCP socket.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) } as *const u8;
        if tcp.is_null() {
            return None;
        }
        let local_port = if bound_port == 0 {
            // SAFETY: a `tcp_sock` begins with its `inet_sock`.
            u16::from_be(unsafe { read(tcp, layout!(inet_sport)) })
        } else {
            bound_port
        };
        if !remote_is_bgp && !is_bgp(local_port) {
            return None;
        }
        let netns_id = netns_id(sk)?;
        let (family, local, remote) = addresses(sk);
        Some(Self {
            sk,
            tcp,
            netns_id,
            family,
            local_port,
            remote_port,
            local,
            peer: peer_key(netns_id, family, remote),
        })
    }

    /// `skc_state` now.
    #[inline(always)]
    pub fn state(&self) -> u8 {
        // SAFETY: `sk` is a `struct sock`.
        unsafe { read(self.sk, layout!(skc_state)) }
    }

    /// Whether the other end is a known peer.
    #[inline(always)]
    pub fn is_known(&self) -> bool {
        // SAFETY: only whether the entry exists is looked at.
        unsafe { KNOWN_PEERS.get(self.peer) }.is_some()
    }

    /// Makes the other end a known peer.
    #[inline(always)]
    pub fn know(&self) {
        if KNOWN_PEERS.insert(self.peer, 0, 0).is_err() {
            count(COUNTER_MAP_FULL);
        }
    }

    /// Makes the running process a speaker of this socket's namespace.
    #[inline(always)]
    pub fn spoken_by_current(&self) {
        let tgid = current_tgid();
        if SPEAKERS.insert(tgid, self.netns_id, 0).is_err() {
            count(COUNTER_MAP_FULL);
        }
    }

    /// Copies the socket into the ring that `known` names.
    #[inline(always)]
    pub fn report(&self, fact: &Fact, known: bool) {
        let (ring, lost) = if known {
            (&EVENTS, COUNTER_EVENTS_LOST)
        } else {
            (&STRANGERS, COUNTER_STRANGER_EVENTS_LOST)
        };
        let Some(mut entry) = ring.reserve::<TcpRecord>(0) else {
            count(lost);
            return;
        };
        self.write(fact, entry.as_mut_ptr());
        entry.submit(0);
    }

    #[inline(always)]
    fn write(&self, fact: &Fact, record: *mut TcpRecord) {
        let (sk, tcp) = (self.sk, self.tcp);
        // SAFETY: `record` is a whole reserved ring entry; `sk` and `tcp` are what their offsets
        // are of.
        unsafe {
            (*record).kind = fact.kind;
            (*record).netns_id = self.netns_id;
            (*record).boot_nanos = bpf_ktime_get_boot_ns();
            if layout!(has_socket_cookie) == 0 {
                (*record).cookie = 0;
                (*record).address = sk as u64;
            } else {
                (*record).cookie = bpf_get_socket_cookie(sk.cast_mut().cast());
                (*record).address = 0;
            }
            (*record).bytes_received = read(tcp, layout!(bytes_received));
            (*record).bytes_acked = read(tcp, layout!(bytes_acked));
            write_words((&raw mut (*record).local_addr).cast(), self.local);
            let remote = (&raw const self.peer.addr).cast::<[u32; 4]>().read();
            write_words((&raw mut (*record).remote_addr).cast(), remote);
            (*record).srtt_eighths_micros = read(tcp, layout!(srtt_us));
            (*record).total_retransmits = read(tcp, layout!(total_retrans));
            (*record).error = read(sk, layout!(sk_err));
            (*record).interface = read(sk, layout!(skc_bound_dev_if));
            (*record).pid = current_tgid();
            (*record).family = self.family;
            (*record).local_port = self.local_port;
            (*record).remote_port = self.remote_port;
            (*record).old_state = fact.old_state;
            (*record).new_state = fact.new_state;
            (*record).in_process = u8::from(fact.in_process);
            (*record).retransmits = read(tcp, layout!(icsk_retransmits));
            (*record).reserved = [0; 2];
            let comm: *mut c_void = (&raw mut (*record).comm).cast();
            if bpf_get_current_comm(comm, COMM_LEN as u32) != 0 {
                write_words(comm.cast(), [0; 4]);
            }
        }
    }
}

/// What a probe adds to the socket it saw.
pub struct Fact {
    pub kind: u32,
    pub old_state: u8,
    pub new_state: u8,
    pub in_process: bool,
}

/// Reports the fact `kind` about a socket that did not change state. Nothing for listeners: what
/// the kernel answers a stray segment with says nothing about a session.
#[inline(always)]
pub fn report_unchanged(sk: *const Sock, kind: u32) {
    let Some(socket) = Socket::observed(sk) else {
        return;
    };
    let state = socket.state();
    if state == TCP_LISTEN {
        return;
    }
    let fact = Fact {
        kind,
        old_state: state,
        new_state: state,
        in_process: false,
    };
    socket.report(&fact, socket.is_known());
}

/// Thread group id of the running process, in the host's pid namespace.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Writes four words to `to`.
///
/// # Safety
/// `to` must be valid for 16 bytes and aligned to 4.
#[inline(always)]
pub unsafe fn write_words(to: *mut u32, words: [u32; 4]) {
    let [a, b, c, d] = words;
    // SAFETY: the caller's promise. Volatile, so that they do not become a call of memcpy.
    unsafe {
        to.write_volatile(a);
        to.add(1).write_volatile(b);
        to.add(2).write_volatile(c);
        to.add(3).write_volatile(d);
    }
}

#[inline(always)]
pub fn is_tcp(sk: *const u8) -> bool {
    // SAFETY: `sk` is a `struct sock`; the width is the member's own.
    let protocol = unsafe {
        if layout!(sk_protocol_width) == 1 {
            u16::from(read::<u8>(sk, layout!(sk_protocol)))
        } else {
            read::<u16>(sk, layout!(sk_protocol))
        }
    };
    protocol == IPPROTO_TCP
}

#[inline(always)]
pub fn netns_id(sk: *const u8) -> Option<u32> {
    // SAFETY: `skc_net` holds a `struct net *`, which the verifier knows from the BTF.
    let inode: u32 = unsafe {
        let net: *const u8 = read(sk, layout!(skc_net));
        read(net, layout!(net_ns_inum))
    };
    // SAFETY: a u32 that changes under us is still one of its two values.
    unsafe { NETNS.get(inode) }.copied()
}

/// Family, local and remote address; IPv4-mapped IPv6 as the IPv4 that it is on the wire.
#[inline(always)]
pub fn addresses(sk: *const u8) -> (u16, [u32; 4], [u32; 4]) {
    // SAFETY: `sk` is a `struct sock`.
    unsafe {
        if read::<u16>(sk, layout!(skc_family)) == AF_INET6 {
            let remote = read_words(sk, layout!(skc_v6_daddr));
            if !(remote[0] == 0 && remote[1] == 0 && remote[2] == u32::to_be(0xffff)) {
                return (AF_INET6, read_words(sk, layout!(skc_v6_rcv_saddr)), remote);
            }
        }
        // The kernel keeps the IPv4 pair of a mapped socket beside the IPv6 one.
        (
            AF_INET,
            [read(sk, layout!(skc_rcv_saddr)), 0, 0, 0],
            [read(sk, layout!(skc_daddr)), 0, 0, 0],
        )
    }
}

/// # Safety
/// As [`read`], for 16 bytes.
#[inline(always)]
unsafe fn read_words(base: *const u8, offset: u32) -> [u32; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            read(base, offset),
            read(base, offset + 4),
            read(base, offset + 8),
            read(base, offset + 12),
        ]
    }
}

#[inline(always)]
fn peer_key(netns_id: u32, family: u16, remote: [u32; 4]) -> PeerKey {
    let mut key = MaybeUninit::<PeerKey>::uninit();
    let at = key.as_mut_ptr();
    // SAFETY: all three fields are written; `addr` lies at a multiple of four.
    unsafe {
        ptr::write(&raw mut (*at).netns_id, netns_id);
        ptr::write(&raw mut (*at).family, u32::from(family));
        write_words((&raw mut (*at).addr).cast(), remote);
        key.assume_init()
    }
}

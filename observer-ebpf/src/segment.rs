// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `cgroup_skb`: a packet that a socket in a BGP speaker's cgroup sends or is about to receive. What is
//! BGP is copied whole; every packet passes.
//!
//! Only sockets in a cgroup where the agent attached these pay for them. A packet comes by here behind
//! netfilter's INPUT and before TCP looks at its numbers, or behind POSTROUTING and before it is cut for
//! the device; its data begins with the network header.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{
    helpers::{
        bpf_ktime_get_boot_ns, bpf_skb_cgroup_id,
        generated::{bpf_skb_load_bytes, bpf_skc_to_tcp_sock},
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use observer_abi::{COUNTER_SEGMENTS_LOST, SegmentHead};

use crate::{
    filter::is_bgp,
    maps::{SEGMENTS, count},
    socket::netns_id,
};

const PASS: i32 = 1;
const TCP: u8 = 6;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

#[cgroup_skb(ingress)]
pub fn segment_received(ctx: SkBuffContext) -> i32 {
    tell(&ctx, 0);
    PASS
}

#[cgroup_skb(egress)]
pub fn segment_sent(ctx: SkBuffContext) -> i32 {
    tell(&ctx, 1);
    PASS
}

#[inline(always)]
fn tell(ctx: &SkBuffContext, sent: u8) {
    if !is_bgp_segment(ctx) {
        return;
    }
    let Some(netns_id) = observed(ctx) else {
        return;
    };
    let segment = Segment { netns_id, sent };
    // A record's room is a constant to the verifier. The largest super-segment of a device that does
    // not ask for more (`GSO_MAX_SIZE`) fits, and most of what IPv6 jumbograms can be.
    let told = match ctx.len() {
        0..=256 => segment.copy::<256>(ctx),
        257..=2048 => segment.copy::<2048>(ctx),
        2049..=8192 => segment.copy::<8192>(ctx),
        8193..=32_768 => segment.copy::<32_768>(ctx),
        32_769..=65_536 => segment.copy::<65_536>(ctx),
        _ => segment.copy::<131_072>(ctx),
    };
    if told.is_none() {
        count(COUNTER_SEGMENTS_LOST);
    }
}

/// TCP with a BGP port at either end, cheapest test first. As the packet tap's filter it does not look
/// behind IPv6 extension headers.
#[inline(always)]
fn is_bgp_segment(ctx: &SkBuffContext) -> bool {
    // SAFETY: the verifier lets nothing be read beyond `end`.
    let (protocol, offset) = unsafe {
        let (data, end) = (
            (*ctx.skb.skb).data as usize,
            (*ctx.skb.skb).data_end as usize,
        );
        if data + IPV4_HEADER > end {
            return false;
        }
        let octet = |at: usize| ((data + at) as *const u8).read_volatile();
        let first = octet(0);
        match first >> 4 {
            4 => (octet(9), usize::from(first & 0xf) * 4),
            6 => (octet(6), IPV6_HEADER),
            _ => return false,
        }
    };
    if protocol != TCP {
        return false;
    }
    let Ok(ports) = ctx.load::<u32>(offset) else {
        return false;
    };
    let (source, destination) = (ports as u16, (ports >> 16) as u16);
    is_bgp(u16::from_be(source)) || is_bgp(u16::from_be(destination))
}

/// The number of the socket's namespace, if it is observed.
#[inline(always)]
fn observed(ctx: &SkBuffContext) -> Option<u32> {
    // SAFETY: a member of the context; the kernel sets it to the full socket whose cgroup this is.
    let socket = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: the helper answers NULL unless it is a full TCP socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) } as *const u8;
    if tcp.is_null() {
        return None;
    }
    netns_id(tcp)
}

/// A segment to be told of.
struct Segment {
    netns_id: u32,
    sent: u8,
}

impl Segment {
    /// Copies the packet into a record with room for `ROOM` octets of it, a power of two.
    #[inline(always)]
    fn copy<const ROOM: usize>(&self, ctx: &SkBuffContext) -> Option<()> {
        let length = ctx.len();
        let mut record = SEGMENTS.reserve::<Record<ROOM>>(0)?;
        let captured = bounded::<ROOM>(length);
        let record_at: *mut Record<ROOM> = record.as_mut_ptr();
        // SAFETY: the record is ours until it is submitted, and every field of its head is written.
        let copied = unsafe {
            let head = &raw mut (*record_at).head;
            (*head).netns_id = self.netns_id;
            (*head).interface = (*ctx.skb.skb).ifindex;
            (*head).boot_nanos = bpf_ktime_get_boot_ns();
            (*head).cgroup = bpf_skb_cgroup_id(ctx.skb.skb);
            (*head).length = length;
            (*head).captured = captured as u32;
            (*head).sent = self.sent;
            (*head).merged = u8::from((*ctx.skb.skb).gso_size != 0);
            (*head).reserved = [0; 6];
            let packet = (&raw mut (*record_at).packet).cast();
            bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, packet, captured as u32)
        };
        if copied == 0 {
            record.submit(0);
            Some(())
        } else {
            record.discard(0);
            None
        }
    }
}

/// A head and room for a packet.
#[repr(C, align(8))]
struct Record<const ROOM: usize> {
    head: SegmentHead,
    packet: [u8; ROOM],
}

const _: () = assert!(offset_of!(Record<256>, packet) == size_of::<SegmentHead>());

/// The lesser of the two, and at least 1. By hand: the compiler knows that the mask changes nothing and
/// would leave it out, but the verifier believes nothing else.
#[inline(always)]
fn bounded<const ROOM: usize>(length: u32) -> u64 {
    let most = ROOM as u32;
    let mut last = u64::from(if length > most { most } else { length }.wrapping_sub(1));
    // SAFETY: arithmetic on one register.
    unsafe {
        asm!("{last} &= {mask}", last = inout(reg) last, mask = const ROOM - 1);
    }
    last + 1
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `skb:kfree_skb(skb, location, reason[, rx_sk])`: a packet was dropped. Counted where it was on its
//! way to a watched prefix and the reason is one that a lost route or neighbour gives.
//!
//! Every packet that this host drops comes by here, so the first instruction asks whether anything is
//! watched at all, and the rest is ordered by cost. The destination lies in the packet, to which the
//! verifier knows no type: the two reads of it are the only `bpf_probe_read_kernel` of this object.
//! Where lockdown forbids that helper, this probe alone does not load.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use observer_abi::{DROP_KEY_HEAD_BITS, DROP_REASONS, DropKey};

use crate::{
    layout::{REASONS, WATCHING, layout, read},
    maps::NETNS,
    route::{AF_INET, AF_INET6, Opaque},
    socket::write_words,
    watched::note,
};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// Where the destination lies in a header, and in how many bits.
const IPV4_DESTINATION: (u32, u32) = (16, 32);
const IPV6_DESTINATION: (u32, u32) = (24, 128);

#[btf_tracepoint(function = "kfree_skb")]
pub fn packet_dropped(ctx: BtfTracePointContext) -> i32 {
    if !WATCHING.is_set() {
        return 0;
    }
    let Some(reason) = wanted(ctx.arg::<u32>(2)) else {
        return 0;
    };
    if let Some(key) = destination(ctx.arg::<*const Opaque>(0).cast()) {
        note(&key, reason);
    }
    0
}

/// The place of `reason` in the agent's list.
#[inline(always)]
fn wanted(reason: u32) -> Option<usize> {
    let reasons = REASONS.as_ptr().cast::<u32>();
    let mut index = 0;
    while index < DROP_REASONS {
        // SAFETY: `index` is within the array; volatile because the loader sets it.
        if unsafe { reasons.add(index).read_volatile() } == reason {
            return Some(index);
        }
        index += 1;
    }
    None
}

/// Where the packet was to go, in an observed namespace.
#[inline(always)]
fn destination(skb: *const u8) -> Option<DropKey> {
    // SAFETY: `skb` is the tracepoint's `struct sk_buff *`; a device that is not there reads as zeros.
    let (protocol, inode) = unsafe {
        let protocol = u16::from_be(read(skb, layout!(skb_protocol)));
        let device: *const u8 = read(skb, layout!(skb_dev));
        let net: *const u8 = read(device, layout!(dev_net));
        (protocol, read::<u32>(net, layout!(net_ns_inum)))
    };
    let (family, (offset, bits)) = match protocol {
        ETH_P_IP => (AF_INET, IPV4_DESTINATION),
        ETH_P_IPV6 => (AF_INET6, IPV6_DESTINATION),
        _ => return None,
    };
    // SAFETY: a u32 that changes under us is still one of its two values.
    let netns_id = unsafe { NETNS.get(inode) }.copied()?;
    let mut key = MaybeUninit::<DropKey>::uninit();
    let at = key.as_mut_ptr();
    // SAFETY: every field is written, word by word; `addr` lies at a multiple of four. The helper
    // fails where the header is not there.
    unsafe {
        let head: u64 = read(skb, layout!(skb_head));
        let header = u64::from(read::<u16>(skb, layout!(skb_network_header)));
        ptr::write(&raw mut (*at).bits, DROP_KEY_HEAD_BITS + bits);
        ptr::write(&raw mut (*at).netns_id, netns_id);
        ptr::write(&raw mut (*at).family, u32::from(family));
        let addr: *mut u32 = (&raw mut (*at).addr).cast();
        write_words(addr, [0; 4]);
        let from = (head + header + u64::from(offset)) as *const c_void;
        if bpf_probe_read_kernel(addr.cast(), bits / 8, from) != 0 {
            return None;
        }
        Some(key.assume_init())
    }
}

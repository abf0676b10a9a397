// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Prefixes under watch: what happens to packets on their way there is counted, by its place in a
//! [`DropCount`](observer_abi::DropCount).

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, maps::lpm_trie::Key};
use observer_abi::{COUNTER_DROPS, DROP_KEY_DATA, DROP_KEY_HEAD_BITS, DropKey};

use crate::{
    layout::WATCHING,
    maps::{DROPS, WATCHED, add_one, count},
    route::AF_INET6,
    socket::{Sock, addresses, is_tcp, netns_id, write_words},
};

/// TCP of an observed namespace had trouble with what it sent: counted where it sent that to a watched
/// prefix. `sk` must be a full socket, no request and not in `TIME_WAIT`.
#[inline(always)]
pub fn note_socket(sk: *const Sock, place: usize) {
    if !WATCHING.is_set() {
        return;
    }
    let sk = sk.cast::<u8>();
    if sk.is_null() || !is_tcp(sk) {
        return;
    }
    let Some(netns_id) = netns_id(sk) else {
        return;
    };
    let (family, _, remote) = addresses(sk);
    // An IPv4-mapped address is an IPv4 one by now; the kernel has no other families of TCP.
    let bits = if family == u16::from(AF_INET6) {
        128
    } else {
        32
    };
    let mut key = MaybeUninit::<DropKey>::uninit();
    let at = key.as_mut_ptr();
    // SAFETY: every field is written, word by word; `addr` lies at a multiple of four.
    let key = unsafe {
        ptr::write(&raw mut (*at).bits, DROP_KEY_HEAD_BITS + bits);
        ptr::write(&raw mut (*at).netns_id, netns_id);
        ptr::write(&raw mut (*at).family, u32::from(family));
        write_words((&raw mut (*at).addr).cast(), remote);
        key.assume_init()
    };
    note(&key, place);
}

/// Counts it, where its destination is watched.
#[inline(always)]
pub fn note(key: &DropKey, place: usize) {
    // SAFETY: the same octets; aya's type of them has no alignment.
    let key = unsafe { &*ptr::from_ref(key).cast::<Key<[u8; DROP_KEY_DATA]>>() };
    let Some(slot) = WATCHED.get(key).copied() else {
        return;
    };
    let Some(counts) = DROPS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: a whole entry of the array; `place` is below `DROP_PLACES`. Several CPUs may be here:
    // the count is exact, the times are those of one of them.
    unsafe {
        let first = (&raw mut (*counts).first_boot_nanos)
            .cast::<u64>()
            .add(place);
        if first.read_volatile() == 0 {
            first.write_volatile(now);
        }
        (&raw mut (*counts).last_boot_nanos)
            .cast::<u64>()
            .add(place)
            .write_volatile(now);
        add_one((&raw mut (*counts).packets).cast::<u64>().add(place));
    }
    count(COUNTER_DROPS);
}

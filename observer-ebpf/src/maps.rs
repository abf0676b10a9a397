// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What the programs and the agent share.

use core::arch::asm;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use observer_abi::{COUNTERS as COUNTERS_LEN, DROP_KEY_DATA, DropCount, MAX_WATCHED, PeerKey};

use crate::route::FullRecord;

/// Evidence: facts about known peers, the speaker's own dials and listeners, and its end.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(2 << 20, 0);

/// Facts about sockets of addresses that nobody knows. Small and apart, so that a flood of them
/// overwrites nothing but itself.
#[map]
pub static STRANGERS: RingBuf = RingBuf::with_byte_size(64 << 10, 0);

/// Facts about routes, apart from those of sessions: a burst of a million overwrites none of these.
#[map]
pub static ROUTES: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Segments of sockets in a speaker's cgroup: at BIRD's full speed seconds of BGP.
#[map]
pub static SEGMENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Thread → the IPv4 route it is about to have written. As many as can write at once.
#[map]
pub static WRITING: HashMap<u64, FullRecord> = HashMap::with_max_entries(256, 0);

/// What an entry of [`WRITING`] begins as: too large for a program's stack.
#[map]
pub static BLANK: Array<FullRecord> = Array::with_max_entries(1, 0);

/// Exact counts, indexed by the `COUNTER_*` values of the ABI.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);

/// Inode of an observed network namespace → the agent's number for it.
#[map]
pub static NETNS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// Peers whose facts go to [`EVENTS`]. The value means nothing.
#[map]
pub static KNOWN_PEERS: HashMap<PeerKey, u8> = HashMap::with_max_entries(16_384, 0);

/// Thread group id of a local BGP speaker → the namespace it speaks in.
#[map]
pub static SPEAKERS: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);

/// Prefixes whose dropped packets are counted → where in [`DROPS`].
#[map]
pub static WATCHED: LpmTrie<[u8; DROP_KEY_DATA], u32> = LpmTrie::with_max_entries(MAX_WATCHED, 0);

/// What was dropped, by the value of [`WATCHED`].
#[map]
pub static DROPS: Array<DropCount> = Array::with_max_entries(MAX_WATCHED, 0);

/// Adds one to the counter `index`.
#[inline(always)]
pub fn count(index: u32) {
    count_more(index, 1);
}

/// Adds to the counter `index`.
#[inline(always)]
pub fn count_more(index: u32, more: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own slot, aligned. Atomic, because a softirq can run another program
        // in the middle of this one.
        unsafe { add(counter, more) };
    }
}

/// Adds one.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn add_one(counter: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { add(counter, 1) };
}

/// Adds; by hand, because Rust has no atomic add for a target without compare-and-swap.
///
/// # Safety
/// `counter` must be aligned and valid for writing.
#[inline(always)]
unsafe fn add(counter: *mut u64, more: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {more}",
            counter = in(reg) counter,
            more = in(reg) more,
        );
    }
}

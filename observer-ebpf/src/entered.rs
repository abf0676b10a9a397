// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What a function was called with, for the probe at its return: a kretprobe sees only the result.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::map,
    maps::HashMap,
    programs::ProbeContext,
};
use observer_abi::COUNTER_MAP_FULL;

use crate::maps::count;

/// Two arguments, by who is in the function.
pub type Entered = HashMap<u64, [u64; 2]>;

/// Functions of IPv4 routes, which run in processes and not within one another.
#[map]
pub static V4: Entered = HashMap::with_max_entries(256, 0);

/// Those of IPv6 routes, which run with softirqs off, some of them in one.
#[map]
pub static V6: Entered = HashMap::with_max_entries(256, 0);

/// A thread; every CPU's idle thread is 0, and what runs in it is told apart by CPU.
#[inline(always)]
fn who() -> u64 {
    match bpf_get_current_pid_tgid() {
        // SAFETY: the helper takes nothing.
        0 => 1 << 63 | u64::from(unsafe { bpf_get_smp_processor_id() }),
        thread => thread,
    }
}

/// Remembers two arguments until the function returns.
#[inline(always)]
pub fn note(entered: &Entered, first: u64, second: u64) {
    if entered.insert(who(), [first, second], 0).is_err() {
        count(COUNTER_MAP_FULL);
    }
}

/// The arguments of the function that returns.
#[inline(always)]
pub fn take(entered: &Entered) -> Option<[u64; 2]> {
    let who = who();
    // SAFETY: nobody else writes this thread's entry.
    let arguments = unsafe { entered.get(who) }.copied()?;
    let _ = entered.remove(who);
    Some(arguments)
}

/// Argument `number`, as a number.
#[inline(always)]
pub fn address(ctx: &ProbeContext, number: usize) -> u64 {
    ctx.arg(number).unwrap_or(0)
}

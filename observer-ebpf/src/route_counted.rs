// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! How many IPv4 routes were removed, by the kernel's own count: `fib_table_delete(net, tb, cfg,
//! extack)` returns 0 for each that was asked for, `fib_table_flush(net, tb, flush_all)` how many went
//! silently. As many must have been told.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use observer_abi::COUNTER_REMOVALS_RETURNED;

use crate::{
    entered::{self, V4, address},
    layout::{Access, Typed, Untyped},
    maps::count_more,
    route::{Opaque, observed},
};

#[inline(always)]
fn returned<A: Access>(net: *const u8, removed: u64) {
    if removed > 0 && observed::<A>(net).is_some() {
        count_more(COUNTER_REMOVALS_RETURNED, removed);
    }
}

/// `fib_table_delete` returns an error or 0, for one route.
#[inline(always)]
const fn deleted(result: i32) -> u64 {
    (result == 0) as u64
}

/// `fib_table_flush` returns how many went, or an error.
#[inline(always)]
fn flushed(result: i32) -> u64 {
    u64::from(result.max(0).unsigned_abs())
}

#[fexit(function = "fib_table_delete")]
pub fn route_deleted(ctx: FExitContext) -> i32 {
    let net = ctx.arg::<*const Opaque>(0);
    returned::<Typed>(net.cast(), deleted(ctx.arg(4)));
    0
}

#[fexit(function = "fib_table_flush")]
pub fn route_flushed(ctx: FExitContext) -> i32 {
    let net = ctx.arg::<*const Opaque>(0);
    returned::<Typed>(net.cast(), flushed(ctx.arg(3)));
    0
}

#[kprobe]
pub fn route_deleted_enter(ctx: ProbeContext) -> u32 {
    entered::note(&V4, address(&ctx, 0), 0);
    0
}

#[kprobe]
pub fn route_flushed_enter(ctx: ProbeContext) -> u32 {
    entered::note(&V4, address(&ctx, 0), 0);
    0
}

#[kretprobe]
pub fn route_deleted_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some([net, _]) = entered::take(&V4) {
        returned::<Untyped>(net as *const u8, deleted(ctx.ret()));
    }
    0
}

#[kretprobe]
pub fn route_flushed_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some([net, _]) = entered::take(&V4) {
        returned::<Untyped>(net as *const u8, flushed(ctx.ret()));
    }
    0
}

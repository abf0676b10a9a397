// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib6_del(rt, info)`: an IPv6 route, or one hop of it, was removed. It is called a second time
//! for some addresses, and then returns an error.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use observer_abi::KIND_ROUTE6_REMOVED;

use crate::{
    entered::{self, V6, address},
    layout::{Typed, Untyped},
    route::Opaque,
    route6::report6,
};

#[fexit(function = "fib6_del")]
pub fn route6_removed(ctx: FExitContext) -> i32 {
    if ctx.arg::<i32>(2) == 0 {
        let (rt, info) = (ctx.arg::<*const Opaque>(0), ctx.arg::<*const Opaque>(1));
        report6::<Typed>(KIND_ROUTE6_REMOVED, rt.cast(), info.cast());
    }
    0
}

#[kprobe]
pub fn route6_removed_enter(ctx: ProbeContext) -> u32 {
    entered::note(&V6, address(&ctx, 0), address(&ctx, 1));
    0
}

#[kretprobe]
pub fn route6_removed_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some([rt, info]) = entered::take(&V6)
        && ctx.ret::<i32>() == 0
    {
        report6::<Untyped>(KIND_ROUTE6_REMOVED, rt as *const u8, info as *const u8);
    }
    0
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib6_add(root, rt, info, extack)`: an IPv6 route, or one hop of it, was added or replaced.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use observer_abi::KIND_ROUTE6_WRITTEN;

use crate::{
    entered::{self, V6, address},
    layout::{Typed, Untyped},
    route::Opaque,
    route6::report6,
};

#[fexit(function = "fib6_add")]
pub fn route6_written(ctx: FExitContext) -> i32 {
    if ctx.arg::<i32>(4) == 0 {
        let (rt, info) = (ctx.arg::<*const Opaque>(1), ctx.arg::<*const Opaque>(2));
        report6::<Typed>(KIND_ROUTE6_WRITTEN, rt.cast(), info.cast());
    }
    0
}

#[kprobe]
pub fn route6_written_enter(ctx: ProbeContext) -> u32 {
    entered::note(&V6, address(&ctx, 1), address(&ctx, 2));
    0
}

#[kretprobe]
pub fn route6_written_kprobe(ctx: RetProbeContext) -> u32 {
    if let Some([rt, info]) = entered::take(&V6)
        && ctx.ret::<i32>() == 0
    {
        report6::<Untyped>(KIND_ROUTE6_WRITTEN, rt as *const u8, info as *const u8);
    }
    0
}

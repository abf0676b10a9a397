// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib6_del(rt, info)`: an IPv6 route, or one hop of it, was removed. It is called a second time
//! for some addresses, and then returns an error.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use observer_abi::KIND_ROUTE6_REMOVED;

use crate::route6::report6;

#[fexit(function = "fib6_del")]
pub fn route6_removed(ctx: FExitContext) -> i32 {
    if ctx.arg::<i32>(2) == 0 {
        report6(KIND_ROUTE6_REMOVED, ctx.arg(0), ctx.arg(1));
    }
    0
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib6_add(root, rt, info, extack)`: an IPv6 route, or one hop of it, was added or replaced.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use observer_abi::KIND_ROUTE6_WRITTEN;

use crate::route6::report6;

#[fexit(function = "fib6_add")]
pub fn route6_written(ctx: FExitContext) -> i32 {
    if ctx.arg::<i32>(4) == 0 {
        report6(KIND_ROUTE6_WRITTEN, ctx.arg(1), ctx.arg(2));
    }
    0
}

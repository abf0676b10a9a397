// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib_notify_alias_delete(net, key, fah, fa, extack)` (since 5.6): an IPv4 route goes, by request
//! or silently. It is not called for one that another takes the place of.

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use observer_abi::{COUNTER_REMOVALS_TOLD, KIND_ROUTE_REMOVED};

use crate::{
    entered::address,
    layout::{Access, Typed, Untyped, layout},
    maps::count,
    route::{AF_INET, Fact, Hops, Opaque, died, observed, report, wanted},
};

#[fentry(function = "fib_notify_alias_delete")]
pub fn route_removed(ctx: FEntryContext) -> i32 {
    let (net, alias) = (ctx.arg::<*const Opaque>(0), ctx.arg::<*const Opaque>(3));
    removed::<Typed>(net.cast(), ctx.arg(1), alias.cast());
    0
}

#[kprobe]
pub fn route_removed_kprobe(ctx: ProbeContext) -> u32 {
    let (net, alias) = (address(&ctx, 0), address(&ctx, 3));
    removed::<Untyped>(
        net as *const u8,
        address(&ctx, 1) as u32,
        alias as *const u8,
    );
    0
}

/// The route `alias` of `net` goes; `key` is its destination in host order.
#[inline(always)]
fn removed<A: Access>(net: *const u8, key: u32, alias: *const u8) {
    let Some((netns_id, flags)) = observed::<A>(net) else {
        return;
    };
    count(COUNTER_REMOVALS_TOLD);
    // SAFETY: `alias` is a `struct fib_alias *`, its `fa_info` a `struct fib_info *`.
    let (info, table) = unsafe {
        (
            A::read::<*const u8>(alias, layout!(fa_info)),
            A::read::<u32>(alias, layout!(fa_table)),
        )
    };
    // SAFETY: as above.
    let protocol = unsafe { A::read::<u8>(info, layout!(fib_protocol)) };
    if !wanted(protocol, table) {
        return;
    }
    // SAFETY: as above.
    let fact = unsafe {
        Fact {
            kind: KIND_ROUTE_REMOVED,
            netns_id,
            family: AF_INET,
            table,
            metric: A::read(info, layout!(fib_priority)),
            prefix: [key.to_be(), 0, 0, 0],
            length: 32_u8.wrapping_sub(A::read(alias, layout!(fa_slen))),
            tos: A::read(alias, layout!(fa_tos)),
            protocol,
            route_type: A::read(alias, layout!(fa_type)),
            flags: flags | died(A::read(info, layout!(fib_flags))),
            hops: Hops {
                base: info,
                first: layout!(fib_nh),
                step: layout!(fib_nh_size),
                count: A::read(info, layout!(fib_nhs)),
                object: A::read(info, layout!(fib_object)),
            },
        }
    };
    report::<A>(&fact);
}

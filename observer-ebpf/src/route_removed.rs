// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib_notify_alias_delete(net, key, fah, fa, extack)` (since 5.6): an IPv4 route goes, by request
//! or silently. It is not called for one that another takes the place of.

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use observer_abi::KIND_ROUTE_REMOVED;

use crate::{
    layout::{layout, read},
    route::{AF_INET, Fact, Hops, Opaque, died, observed, report, wanted},
};

#[fentry(function = "fib_notify_alias_delete")]
pub fn route_removed(ctx: FEntryContext) -> i32 {
    let net = ctx.arg::<*const Opaque>(0).cast::<u8>();
    let Some((netns_id, flags)) = observed(net) else {
        return 0;
    };
    let alias = ctx.arg::<*const Opaque>(3).cast::<u8>();
    // SAFETY: `alias` is a `struct fib_alias *`, its `fa_info` a `struct fib_info *`.
    let (info, table) = unsafe {
        (
            read::<*const u8>(alias, layout!(fa_info)),
            read::<u32>(alias, layout!(fa_table)),
        )
    };
    // SAFETY: as above.
    let protocol = unsafe { read::<u8>(info, layout!(fib_protocol)) };
    if !wanted(protocol, table) {
        return 0;
    }
    // SAFETY: as above.
    let fact = unsafe {
        Fact {
            kind: KIND_ROUTE_REMOVED,
            netns_id,
            family: AF_INET,
            table,
            metric: read(info, layout!(fib_priority)),
            prefix: [ctx.arg::<u32>(1).to_be(), 0, 0, 0],
            length: 32_u8.wrapping_sub(read(alias, layout!(fa_slen))),
            tos: read(alias, layout!(fa_tos)),
            protocol,
            route_type: read(alias, layout!(fa_type)),
            flags: flags | died(read(info, layout!(fib_flags))),
            hops: Hops {
                base: info,
                first: layout!(fib_nh),
                step: layout!(fib_nh_size),
                count: read(info, layout!(fib_nhs)),
                object: read(info, layout!(fib_object)),
            },
        }
    };
    report(&fact);
    0
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! IPv6 routes: each hop of one is a `struct fib6_info` of its own, unless it has a nexthop object.

use observer_abi::{KIND_ROUTE6_REMOVED, ROUTE_DIED, ROUTE_PARTIAL};

use crate::{
    layout::{Access, layout},
    route::{AF_INET6, Fact, Hops, observed, place, report, wanted},
};

/// Reports the route `rt` of the request `info`.
#[inline(always)]
pub fn report6<A: Access>(kind: u32, rt: *const u8, info: *const u8) {
    // SAFETY: `info` is a `struct nl_info *`, its `nl_net` a `struct net *`.
    let (net, request) = unsafe {
        (
            A::read::<*const u8>(info, layout!(nl_net)),
            A::read::<*const u8>(info, layout!(nl_header)),
        )
    };
    let Some((netns_id, mut flags)) = observed::<A>(net) else {
        return;
    };
    // SAFETY: `rt` is a `struct fib6_info *`, and all else what its offset is of; a request that is
    // not there reads as zeros.
    let (protocol, table, siblings, object) = unsafe {
        let table: *const u8 = A::read(rt, layout!(f6i_table));
        (
            A::read::<u8>(rt, layout!(f6i_protocol)),
            A::read::<u32>(table, layout!(tb6_id)),
            A::read::<u32>(rt, layout!(f6i_nsiblings)),
            A::read::<*const u8>(rt, layout!(f6i_object)),
        )
    };
    if !wanted(protocol, table) {
        return;
    }
    if request.is_null() {
        // Nobody asked: the kernel itself does it, for a device, an address or an object that goes.
        if kind == KIND_ROUTE6_REMOVED {
            flags |= ROUTE_DIED;
        }
    } else {
        // SAFETY: `request` is a `struct nlmsghdr *`.
        flags |= place(u32::from(unsafe {
            A::read::<u16>(request, layout!(nlmsg_flags))
        }));
    }
    if kind != KIND_ROUTE6_REMOVED && siblings > 0 {
        flags |= ROUTE_PARTIAL;
    }
    let dst = layout!(f6i_dst);
    // SAFETY: as above.
    let fact = unsafe {
        Fact {
            kind,
            netns_id,
            family: AF_INET6,
            table,
            metric: A::read(rt, layout!(f6i_metric)),
            prefix: [
                A::read(rt, dst),
                A::read(rt, dst + 4),
                A::read(rt, dst + 8),
                A::read(rt, dst + 12),
            ],
            length: A::read::<u32>(rt, layout!(f6i_plen)) as u8,
            tos: 0,
            protocol,
            route_type: A::read(rt, layout!(f6i_type)),
            flags,
            hops: Hops {
                base: rt,
                first: layout!(f6i_nh),
                step: 0,
                count: 1,
                object,
            },
        }
    };
    report::<A>(&fact);
}

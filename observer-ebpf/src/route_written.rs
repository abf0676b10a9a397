// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib_table_insert(net, tb, cfg, extack)`: an IPv4 route was added or replaced, by the exit and
//! its return value. Its hops are not in the request where it names a nexthop object, a gateway
//! without device or several: they are in what `fib_create_info(cfg, extack)` returns, which the
//! former calls first. What that saw waits for the outcome under the thread's id.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::fexit, programs::FExitContext};
use observer_abi::{COUNTER_MAP_FULL, COUNTER_ROUTES_LOST, KIND_ROUTE_WRITTEN};

use crate::{
    layout::{layout, read},
    maps::{BLANK, ROUTES, WRITING, count},
    route::{AF_INET, Fact, FullRecord, Hops, Opaque, observed, replaces, wanted, write},
};

/// As `IS_ERR`: the last page of addresses is errors.
const FIRST_ERROR: u64 = 4095_u64.wrapping_neg();

#[fexit(function = "fib_create_info")]
pub fn route_described(ctx: FExitContext) -> i32 {
    let config = ctx.arg::<*const Opaque>(0).cast::<u8>();
    // The slot after the arguments is the return value.
    let info = ctx.arg::<*const Opaque>(2).cast::<u8>();
    // SAFETY: `config` is a `struct fib_config *`, its `nl_net` a `struct net *`.
    let net: *const u8 = unsafe { read(config, layout!(fc_nl_net)) };
    let Some((netns_id, flags)) = observed(net) else {
        return 0;
    };
    // SAFETY: as above.
    let (protocol, table) = unsafe {
        (
            read::<u8>(config, layout!(fc_protocol)),
            read::<u32>(config, layout!(fc_table)),
        )
    };
    if !wanted(protocol, table) || ctx.arg::<u64>(2) >= FIRST_ERROR {
        return 0;
    }
    // SAFETY: `config` and `info` are what their offsets are of.
    let fact = unsafe {
        Fact {
            kind: KIND_ROUTE_WRITTEN,
            netns_id,
            family: AF_INET,
            table,
            metric: read(config, layout!(fc_priority)),
            prefix: [read(config, layout!(fc_dst)), 0, 0, 0],
            length: read(config, layout!(fc_dst_len)),
            tos: read(config, layout!(fc_tos)),
            protocol,
            route_type: read(config, layout!(fc_type)),
            flags: flags | replaces(read(config, layout!(fc_nlflags))),
            hops: Hops {
                base: info,
                first: layout!(fib_nh),
                step: layout!(fib_nh_size),
                count: read(info, layout!(fib_nhs)),
                object: read(info, layout!(fib_object)),
            },
        }
    };
    stash(&fact);
    0
}

#[inline(always)]
fn stash(fact: &Fact) {
    let thread = bpf_get_current_pid_tgid();
    let Some(blank) = BLANK.get(0) else {
        return;
    };
    if WRITING.insert(thread, blank, 0).is_err() {
        count(COUNTER_MAP_FULL);
        return;
    }
    if let Some(record) = WRITING.get_ptr_mut(thread) {
        // SAFETY: this thread's own entry.
        unsafe { write(fact, record) };
    }
}

#[fexit(function = "fib_table_insert")]
pub fn route_written(ctx: FExitContext) -> i32 {
    let thread = bpf_get_current_pid_tgid();
    let Some(record) = WRITING.get_ptr(thread) else {
        return 0;
    };
    if ctx.arg::<i32>(4) == 0 {
        // SAFETY: this thread's own entry, which nobody else writes or removes.
        let record: &FullRecord = unsafe { &*record };
        if ROUTES.output::<FullRecord>(record, 0).is_err() {
            count(COUNTER_ROUTES_LOST);
        }
    }
    let _ = WRITING.remove(thread);
    0
}

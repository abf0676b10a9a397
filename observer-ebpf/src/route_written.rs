// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `fib_table_insert(net, tb, cfg, extack)`: an IPv4 route was added or replaced, by the exit and
//! its return value. Its hops are not in the request where it names a nexthop object, a gateway
//! without device or several: they are in what `fib_create_info(cfg, extack)` returns, which the
//! former calls first. What that saw waits for the outcome under the thread's id.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use observer_abi::{COUNTER_MAP_FULL, COUNTER_ROUTES_LOST, KIND_ROUTE_WRITTEN, MAX_HOPS};

use crate::{
    entered::{self, V4, address},
    layout::{Access, Typed, Untyped, layout},
    maps::{BLANK, ROUTES, WRITING, count},
    route::{AF_INET, Fact, FullRecord, Hops, Opaque, observed, place, wanted, write},
};

/// As `IS_ERR`: the last page of addresses is errors.
const FIRST_ERROR: u64 = 4095_u64.wrapping_neg();

#[fexit(function = "fib_create_info")]
pub fn route_described(ctx: FExitContext) -> i32 {
    let config = ctx.arg::<*const Opaque>(0);
    // The slot after the arguments is the return value.
    let info = ctx.arg::<*const Opaque>(2);
    if ctx.arg::<u64>(2) < FIRST_ERROR {
        described::<Typed>(config.cast(), info.cast());
    }
    0
}

#[kprobe]
pub fn route_described_enter(ctx: ProbeContext) -> u32 {
    entered::note(&V4, address(&ctx, 0), 0);
    0
}

#[kretprobe]
pub fn route_described_kprobe(ctx: RetProbeContext) -> u32 {
    let info: u64 = ctx.ret();
    if let Some([config, _]) = entered::take(&V4)
        && info < FIRST_ERROR
    {
        described::<Untyped>(config as *const u8, info as *const u8);
    }
    0
}

/// The request `config` is for a route as in `info`.
#[inline(always)]
fn described<A: Access>(config: *const u8, info: *const u8) {
    // SAFETY: `config` is a `struct fib_config *`, its `nl_net` a `struct net *`.
    let net: *const u8 = unsafe { A::read(config, layout!(fc_nl_net)) };
    let Some((netns_id, flags)) = observed::<A>(net) else {
        return;
    };
    // SAFETY: as above.
    let (protocol, table) = unsafe {
        (
            A::read::<u8>(config, layout!(fc_protocol)),
            A::read::<u32>(config, layout!(fc_table)),
        )
    };
    if !wanted(protocol, table) {
        return;
    }
    // SAFETY: `config` and `info` are what their offsets are of.
    let fact = unsafe {
        Fact {
            kind: KIND_ROUTE_WRITTEN,
            netns_id,
            family: AF_INET,
            table,
            metric: A::read(config, layout!(fc_priority)),
            prefix: [A::read(config, layout!(fc_dst)), 0, 0, 0],
            length: A::read(config, layout!(fc_dst_len)),
            tos: A::read(config, layout!(fc_tos)),
            protocol,
            route_type: A::read(config, layout!(fc_type)),
            flags: flags | place(A::read(config, layout!(fc_nlflags))),
            hops: Hops {
                base: info,
                first: layout!(fib_nh),
                step: layout!(fib_nh_size),
                count: A::read(info, layout!(fib_nhs)),
                object: A::read(info, layout!(fib_object)),
            },
        }
    };
    stash::<A>(&fact);
}

#[inline(always)]
fn stash<A: Access>(fact: &Fact) {
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
        unsafe { write::<A, MAX_HOPS>(fact, record) };
    }
}

#[fexit(function = "fib_table_insert")]
pub fn route_written(ctx: FExitContext) -> i32 {
    written(ctx.arg(4));
    0
}

#[kretprobe]
pub fn route_written_kprobe(ctx: RetProbeContext) -> u32 {
    written(ctx.ret());
    0
}

/// What this thread was about to write is written, unless `result` is an error.
#[inline(always)]
fn written(result: i32) {
    let thread = bpf_get_current_pid_tgid();
    let Some(record) = WRITING.get_ptr(thread) else {
        return;
    };
    if result == 0 {
        // SAFETY: this thread's own entry, which nobody else writes or removes.
        let record: &FullRecord = unsafe { &*record };
        if ROUTES.output::<FullRecord>(record, 0).is_err() {
            count(COUNTER_ROUTES_LOST);
        }
    }
    let _ = WRITING.remove(thread);
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! A route as the probes see it: the filter, and its record.
//!
//! A group of nexthop objects hides behind a pointer that the verifier takes for another type, and
//! the siblings of an IPv6 route behind list heads. Such routes are told as partial: the agent looks
//! them up.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns},
};
use observer_abi::{
    COUNTER_ROUTES_LOST, MAX_HOPS, MAX_TABLES, ROUTE_APPENDS, ROUTE_DIED, ROUTE_PARTIAL,
    ROUTE_REPLACES, ROUTE_TEARDOWN, RouteHead, RouteHop,
};

use crate::{
    layout::{Access, PROTOCOLS, TABLES, layout},
    maps::{NETNS, ROUTES, count},
    process::current_comm,
    socket::write_words,
};

/// A struct of the kernel, never looked into but by offset.
#[repr(C)]
pub struct Opaque {
    _opaque: [u8; 0],
}

/// What the agent gets.
#[repr(C)]
pub struct Record<const N: usize> {
    pub head: RouteHead,
    pub hops: [RouteHop; N],
}

/// The largest.
pub type FullRecord = Record<MAX_HOPS>;

pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
const NLM_F_REPLACE: u32 = 0x100;
const NLM_F_APPEND: u32 = 0x800;
const RTNH_F_DEAD: u32 = 1;

/// What a probe knows of a route.
pub struct Fact {
    pub kind: u32,
    pub netns_id: u32,
    pub family: u8,
    pub table: u32,
    pub metric: u32,
    pub prefix: [u32; 4],
    pub length: u8,
    pub tos: u8,
    pub protocol: u8,
    pub route_type: u8,
    pub flags: u8,
    pub hops: Hops,
}

/// Where its hops are.
pub struct Hops {
    /// The struct that holds them.
    pub base: *const u8,
    /// Where in it the first begins, and how far apart they are.
    pub first: u32,
    pub step: u32,
    pub count: u32,
    /// The nexthop object that they belong to instead, or null.
    pub object: *const u8,
}

/// The agent's number of an observed namespace, and [`ROUTE_TEARDOWN`] where nobody holds it any more.
#[inline(always)]
pub fn observed<A: Access>(net: *const u8) -> Option<(u32, u8)> {
    // SAFETY: `net` is a `struct net *`.
    let inode: u32 = unsafe { A::read(net, layout!(net_ns_inum)) };
    // SAFETY: a u32 that changes under us is still one of its two values.
    let id = unsafe { NETNS.get(inode) }.copied()?;
    let counter = layout!(net_ns_count);
    // SAFETY: `counter` is the offset of an i32 of `struct net`, or 0.
    let torn = counter != 0 && unsafe { A::read::<i32>(net, counter) } == 0;
    Some((id, if torn { ROUTE_TEARDOWN } else { 0 }))
}

/// Whether routes of this protocol and table are wanted.
#[inline(always)]
pub fn wanted(protocol: u8, table: u32) -> bool {
    let words = PROTOCOLS.as_ptr().cast::<u32>();
    // SAFETY: 256 bits are eight words; volatile because the loader sets them.
    let word = unsafe { words.add((protocol >> 5) as usize).read_volatile() };
    if word & (1 << (protocol & 31)) == 0 {
        return false;
    }
    let tables = TABLES.as_ptr().cast::<u32>();
    // SAFETY: as above; the first is 0 where all are wanted.
    let mut found = unsafe { tables.read_volatile() } == 0;
    let mut index = 0;
    while index < MAX_TABLES {
        // SAFETY: `index` is within the array.
        found |= unsafe { tables.add(index).read_volatile() } == table;
        index += 1;
    }
    found
}

/// [`ROUTE_REPLACES`] and [`ROUTE_APPENDS`] where netlink's flags say so.
#[inline(always)]
pub fn place(nlmsg_flags: u32) -> u8 {
    if nlmsg_flags & NLM_F_REPLACE != 0 {
        ROUTE_REPLACES
    } else if nlmsg_flags & NLM_F_APPEND != 0 {
        ROUTE_APPENDS
    } else {
        0
    }
}

/// [`ROUTE_DIED`] where the flags of its `fib_info` say so.
#[inline(always)]
pub fn died(fib_flags: u32) -> u8 {
    if fib_flags & RTNH_F_DEAD == 0 {
        0
    } else {
        ROUTE_DIED
    }
}

/// Copies a route into the ring.
#[inline(always)]
pub fn report<A: Access>(fact: &Fact) {
    if fact.hops.object.is_null() && fact.hops.count <= 1 {
        reserve::<A, 1>(fact);
    } else {
        reserve::<A, MAX_HOPS>(fact);
    }
}

#[inline(always)]
fn reserve<A: Access, const N: usize>(fact: &Fact) {
    let Some(mut entry) = ROUTES.reserve::<Record<N>>(0) else {
        count(COUNTER_ROUTES_LOST);
        return;
    };
    // SAFETY: a whole reserved ring entry.
    unsafe { write::<A, N>(fact, entry.as_mut_ptr()) };
    entry.submit(u64::from(BPF_ANY));
}

/// Writes a route to `record`.
///
/// # Safety
/// `record` must be valid for a whole record.
#[inline(always)]
pub unsafe fn write<A: Access, const N: usize>(fact: &Fact, record: *mut Record<N>) {
    // SAFETY: the caller's promise; byte arrays lie at multiples of four.
    unsafe {
        let head = &raw mut (*record).head;
        (*head).kind = fact.kind;
        (*head).netns_id = fact.netns_id;
        (*head).boot_nanos = bpf_ktime_get_boot_ns();
        (*head).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*head).table = fact.table;
        (*head).metric = fact.metric;
        write_words((&raw mut (*head).prefix).cast(), fact.prefix);
        (*head).family = fact.family;
        (*head).length = fact.length;
        (*head).tos = fact.tos;
        (*head).protocol = fact.protocol;
        (*head).route_type = fact.route_type;
        (*head).reserved = [0; 6];
        let comm: *mut u32 = (&raw mut (*head).comm).cast();
        if !current_comm(comm) {
            write_words(comm, [0; 4]);
        }
        let hops: *mut RouteHop = (&raw mut (*record).hops).cast();
        let object = fact.hops.object;
        let mut flags = fact.flags;
        if object.is_null() {
            (*head).object = 0;
            (*head).hop_count = fact.hops.count;
            let mut index = 0;
            while index < N {
                let at = fact.hops.first + index as u32 * fact.hops.step;
                if (index as u32) < fact.hops.count {
                    write_hop::<A>(hops.add(index), fact.hops.base, at);
                } else {
                    clear_hop(hops.add(index));
                }
                index += 1;
            }
            if fact.hops.count > MAX_HOPS as u32 {
                flags |= ROUTE_PARTIAL;
            }
        } else {
            (*head).object = A::read(object, layout!(nexthop_id));
            let mut index = 1;
            while index < N {
                clear_hop(hops.add(index));
                index += 1;
            }
            if A::read::<u8>(object, layout!(nexthop_is_group)) == 0 {
                let info: *const u8 = A::read(object, layout!(nexthop_info));
                (*head).hop_count = 1;
                write_hop::<A>(hops, info, layout!(nh_info_common));
            } else {
                (*head).hop_count = 0;
                clear_hop(hops);
                flags |= ROUTE_PARTIAL;
            }
        }
        (*head).flags = flags;
    }
}

/// # Safety
/// `to` must be valid for a hop, and `base` point to a struct with a `fib_nh_common` at `at`.
#[inline(always)]
unsafe fn write_hop<A: Access>(to: *mut RouteHop, base: *const u8, at: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let gateway = at + layout!(nhc_gw);
        let family = A::read::<u8>(base, at + layout!(nhc_gw_family));
        let first = A::read(base, gateway);
        let words = if family == AF_INET6 {
            let second = A::read(base, gateway + 4);
            [
                first,
                second,
                A::read(base, gateway + 8),
                A::read(base, gateway + 12),
            ]
        } else if family == AF_INET {
            [first, 0, 0, 0]
        } else {
            [0; 4]
        };
        write_words((&raw mut (*to).gateway).cast(), words);
        (*to).interface = A::read(base, at + layout!(nhc_oif));
        (*to).weight = A::read::<u32>(base, at + layout!(nhc_weight)) as u16;
        (*to).gateway_family = family;
        (*to).flags = A::read(base, at + layout!(nhc_flags));
    }
}

/// # Safety
/// `to` must be valid for a hop.
#[inline(always)]
unsafe fn clear_hop(to: *mut RouteHop) {
    // SAFETY: the caller's promise. Volatile, so that it does not become a call of memset.
    unsafe {
        let words = to.cast::<u32>();
        let mut index = 0;
        while index < size_of::<RouteHop>() / 4 {
            words.add(index).write_volatile(0);
            index += 1;
        }
    }
}

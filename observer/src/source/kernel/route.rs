//! Route records as facts. A record that does not tell all hops of a route makes no fact: the route
//! has to be looked up.

use std::{
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use observer_abi::{
    KIND_ROUTE_REMOVED, KIND_ROUTE_WRITTEN, KIND_ROUTE6_REMOVED, KIND_ROUTE6_WRITTEN, MAX_HOPS,
    ROUTE_APPENDS, ROUTE_DIED, ROUTE_PARTIAL, ROUTE_REPLACES, ROUTE_TEARDOWN, RouteHead, RouteHop,
};
use observer_core::{
    bgp::Prefix,
    event::{
        Event, Fact, NetnsId, Process,
        forwarding::{
            Forwarding, NextHop, Protocol, Route, RouteChange, RouteKind, RouteOp, RouteOrigin,
            RouteSource,
        },
    },
    time::{Occurred, Timestamp},
};
use zerocopy::FromBytes;

use super::decode::comm;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTNH_F_DEAD: u8 = 1;

/// What a route record says.
#[derive(Debug)]
pub enum Told {
    /// All there is to say.
    Change(Event),
    /// A route of this family changed then, and has to be looked up.
    LookUp(NetnsId, bool, Timestamp),
}

/// What `bytes` are the record of.
pub fn decode(bytes: &[u8]) -> Option<Told> {
    let (head, rest) = RouteHead::read_from_prefix(bytes).ok()?;
    let op = match head.kind {
        KIND_ROUTE_WRITTEN | KIND_ROUTE6_WRITTEN if head.flags & ROUTE_REPLACES != 0 => {
            RouteOp::Replaced
        }
        KIND_ROUTE_WRITTEN if head.flags & ROUTE_APPENDS != 0 => RouteOp::Appended,
        // To an IPv6 route a hop was added.
        KIND_ROUTE_WRITTEN | KIND_ROUTE6_WRITTEN => RouteOp::Added,
        KIND_ROUTE_REMOVED | KIND_ROUTE6_REMOVED => RouteOp::Removed,
        _ => return None,
    };
    let netns = NetnsId(head.netns_id);
    let at = Timestamp::from_nanos(head.boot_nanos);
    if head.flags & ROUTE_PARTIAL != 0 && op != RouteOp::Removed {
        return Some(Told::LookUp(netns, head.family == AF_INET6, at));
    }
    let change = RouteChange {
        op,
        origin: origin(head.flags),
        writer: Some(Process {
            pid: head.pid,
            comm: comm(&head.comm),
        }),
        route: route(&head, rest)?,
    };
    let forwarding = Forwarding::Changed {
        source: RouteSource::Probe,
        changes: vec![change],
    };
    Some(Told::Change(Event {
        occurred: Occurred::kernel(at),
        fact: Fact::Forwarding { netns, forwarding },
    }))
}

const fn origin(flags: u8) -> RouteOrigin {
    if flags & ROUTE_TEARDOWN != 0 {
        RouteOrigin::Teardown
    } else if flags & ROUTE_DIED != 0 {
        RouteOrigin::Silent
    } else {
        RouteOrigin::Explicit
    }
}

fn route(head: &RouteHead, hops: &[u8]) -> Option<Route> {
    let kind = RouteKind::from_linux(head.route_type);
    let count = usize::try_from(head.hop_count).ok()?.min(MAX_HOPS);
    let next_hops = if kind.drops() {
        // `dev lo` stands for these in IPv6, which is where nobody goes.
        Vec::new()
    } else {
        let hops = hops.chunks_exact(size_of::<RouteHop>()).take(count);
        let hops: Vec<NextHop> = hops.map(next_hop).collect::<Option<_>>()?;
        if hops.len() < count {
            return None;
        }
        hops.into_iter()
            .filter(|hop| hop.gateway.is_some() || hop.interface != 0)
            .collect()
    };
    Some(Route {
        prefix: Prefix {
            address: address(head.family, &head.prefix)?,
            length: head.length,
        },
        table: head.table,
        tos: head.tos,
        metric: head.metric,
        kind,
        protocol: Protocol(head.protocol),
        object: (head.object != 0).then_some(head.object),
        next_hops,
    })
}

fn next_hop(bytes: &[u8]) -> Option<NextHop> {
    let hop = RouteHop::read_from_bytes(bytes).ok()?;
    Some(NextHop {
        gateway: address(hop.gateway_family, &hop.gateway),
        interface: hop.interface,
        weight: hop.weight,
        dead: hop.flags & RTNH_F_DEAD != 0,
    })
}

fn address(family: u8, bytes: &[u8; 16]) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let four: [u8; 4] = *bytes.first_chunk()?;
            Some(Ipv4Addr::from(four).into())
        }
        AF_INET6 => Some(Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn head(kind: u32, flags: u8, hop_count: u32) -> RouteHead {
        let mut prefix = [0; 16];
        prefix[..4].copy_from_slice(&[10, 1, 0, 0]);
        RouteHead {
            kind,
            netns_id: 3,
            boot_nanos: 7,
            pid: 12,
            table: 254,
            metric: 100,
            object: 0,
            prefix,
            hop_count,
            family: AF_INET,
            length: 26,
            tos: 0,
            protocol: 12,
            route_type: 1,
            flags,
            reserved: [0; 6],
            comm: *b"bird\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn record(head: RouteHead, hops: u8) -> Vec<u8> {
        let mut bytes = head.as_bytes().to_vec();
        for last in 1..=hops {
            let mut gateway = [0; 16];
            gateway[..4].copy_from_slice(&[10, 0, 0, last]);
            let hop = RouteHop {
                gateway,
                interface: 2,
                weight: 1,
                gateway_family: AF_INET,
                flags: 0,
            };
            bytes.extend_from_slice(hop.as_bytes());
        }
        bytes
    }

    fn change(bytes: &[u8]) -> RouteChange {
        match decode(bytes) {
            Some(Told::Change(Event {
                fact:
                    Fact::Forwarding {
                        netns: NetnsId(3),
                        forwarding:
                            Forwarding::Changed {
                                source: RouteSource::Probe,
                                mut changes,
                            },
                    },
                ..
            })) => changes.remove(0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_becomes_the_change_it_tells() {
        let written = change(&record(head(KIND_ROUTE_WRITTEN, 0, 2), 16));
        assert_eq!(written.op, RouteOp::Added);
        assert_eq!(written.route.prefix.to_string(), "10.1.0.0/26");
        assert_eq!(written.route.next_hops.len(), 2);
        assert_eq!(written.writer.unwrap().comm, "bird");
        for (flags, op) in [
            (ROUTE_REPLACES, RouteOp::Replaced),
            (ROUTE_APPENDS, RouteOp::Appended),
        ] {
            let told = change(&record(head(KIND_ROUTE_WRITTEN, flags, 1), 1));
            assert_eq!(told.op, op);
        }
        for (flags, origin) in [
            (0, RouteOrigin::Explicit),
            (ROUTE_DIED, RouteOrigin::Silent),
            (ROUTE_DIED | ROUTE_TEARDOWN, RouteOrigin::Teardown),
        ] {
            let removed = change(&record(head(KIND_ROUTE_REMOVED, flags, 1), 1));
            assert_eq!((removed.op, removed.origin), (RouteOp::Removed, origin));
        }
    }

    #[test]
    fn a_route_that_drops_has_no_hops() {
        let mut blackhole = head(KIND_ROUTE_WRITTEN, 0, 1);
        blackhole.route_type = 6;
        let written = change(&record(blackhole, 1));
        assert_eq!(written.route.kind, RouteKind::Blackhole);
        assert_eq!(written.route.next_hops, []);
    }

    #[test]
    fn what_is_not_told_whole_is_looked_up_and_nonsense_is_nothing() {
        let partial = record(head(KIND_ROUTE_WRITTEN, ROUTE_PARTIAL, 20), 16);
        let at = Timestamp::from_nanos(7);
        assert!(matches!(
            decode(&partial),
            Some(Told::LookUp(NetnsId(3), false, when)) if when == at
        ));
        assert!(decode(&record(head(KIND_ROUTE_WRITTEN, 0, 2), 1)).is_none());
        assert!(decode(&record(head(99, 0, 1), 1)).is_none());
        assert!(decode(&[9, 0, 0, 0]).is_none());
    }
}

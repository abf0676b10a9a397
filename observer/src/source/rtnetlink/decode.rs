//! rtnetlink's messages as facts. Knows nothing of sockets.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink says much that does not concern routes, and more with each kernel"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DecodeError, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as KernelState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
        RouteVia,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use observer_core::{
    bgp::Prefix,
    event::forwarding::{
        Forwarding, NeighbourState, NextHop, Protocol, Route, RouteChange, RouteKind, RouteOp,
        RouteOrigin, Rule,
    },
};

use super::next_hops::{self, Object};

/// Message types that netlink-packet-route does not know (nexthop objects, Linux 5.3).
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
/// Octets of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// A route that the kernel made for one destination (PMTU, redirect): no route of the table.
const RTM_F_CLONED: u32 = 0x200;
/// The change takes the place of another.
const NLM_F_REPLACE: u16 = 0x100;
/// It stands behind others that it shares its place with.
const NLM_F_APPEND: u16 = 0x800;

/// What one message says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// A route: as a row of a dump, or as a change.
    Route(RouteChange),
    /// A nexthop object is this now, or gone.
    NextHop(u32, Option<Object>),
    /// Something else about forwarding.
    Else(Forwarding),
    /// A rule of this family changed, or is one row of a dump.
    Rule(bool, Option<Rule>),
    /// The dump is over.
    Done,
    /// The dump failed, a negative errno.
    Error(i32),
    /// Nothing of interest.
    Nothing,
}

/// The messages of one datagram: what each says, or why it makes no sense, and its flags.
pub fn messages(mut bytes: &[u8], mut each: impl FnMut(u16, Result<Told, DecodeError>)) {
    while !bytes.is_empty() {
        let (length, flags, kind) = match NetlinkBuffer::new_checked(bytes) {
            Ok(header) => (header.length(), header.flags(), header.message_type()),
            Err(error) => return each(0, Err(error)),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(..length) else {
            return;
        };
        each(flags, told(kind, flags, message));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn told(kind: u16, flags: u16, message: &[u8]) -> Result<Told, DecodeError> {
    if kind == RTM_NEWNEXTHOP || kind == RTM_DELNEXTHOP {
        let found = next_hops::object(message.get(HEADER..).unwrap_or_default());
        return Ok(found.map_or(Told::Nothing, |(id, object)| {
            Told::NextHop(id, Some(object).filter(|_| kind == RTM_NEWNEXTHOP))
        }));
    }
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)?;
    Ok(match message.payload {
        NetlinkPayload::Done(done) if done.code < 0 => Told::Error(done.code),
        NetlinkPayload::Done(_) => Told::Done,
        NetlinkPayload::Error(error) => match error.code {
            Some(code) => Told::Error(code.get()),
            None => Told::Nothing,
        },
        NetlinkPayload::InnerMessage(inner) => match inner {
            RouteNetlinkMessage::NewRoute(route) => change(&route, op(&route, flags)),
            RouteNetlinkMessage::DelRoute(route) => change(&route, RouteOp::Removed),
            RouteNetlinkMessage::NewLink(link) => self::link(link),
            RouteNetlinkMessage::DelLink(link) => link_gone(&link),
            RouteNetlinkMessage::NewAddress(message) => address(&message, false),
            RouteNetlinkMessage::DelAddress(message) => address(&message, true),
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message, false),
            RouteNetlinkMessage::DelNeighbour(message) => neighbour(&message, true),
            RouteNetlinkMessage::NewRule(message) => rule(&message),
            RouteNetlinkMessage::DelRule(message) => {
                Told::Rule(message.header.family == AddressFamily::Inet6, None)
            }
            _ => Told::Nothing,
        },
        _ => Told::Nothing,
    })
}

fn op(message: &RouteMessage, flags: u16) -> RouteOp {
    if flags & NLM_F_REPLACE != 0 {
        RouteOp::Replaced
    } else if flags & NLM_F_APPEND != 0 && message.header.address_family == AddressFamily::Inet {
        RouteOp::Appended
    } else {
        // Of an IPv6 route that got a hop more the kernel tells all hops.
        RouteOp::Added
    }
}

fn change(message: &RouteMessage, op: RouteOp) -> Told {
    let Some(route) = route(message) else {
        return Told::Nothing;
    };
    Told::Route(RouteChange {
        op,
        origin: RouteOrigin::Explicit,
        writer: None,
        route,
    })
}

/// The route that a message tells of; none for what is no unicast address's.
fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.flags.bits() & RTM_F_CLONED != 0 {
        return None;
    }
    let any = any_address(header.address_family)?;
    let mut route = Route {
        prefix: Prefix {
            address: any,
            length: header.destination_prefix_length,
        },
        table: header.table.into(),
        tos: header.tos,
        metric: 0,
        kind: RouteKind::from_linux(header.kind.into()),
        protocol: Protocol(header.protocol.into()),
        object: None,
        next_hops: Vec::new(),
    };
    let mut hop = NextHop {
        weight: 1,
        dead: header.flags.contains(RouteFlags::Dead),
        ..NextHop::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.prefix.address = ip(address)?,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::NhId(id) => route.object = Some(*id),
            RouteAttribute::MultiPath(hops) => {
                route.next_hops = hops.iter().map(next_hop).collect();
            }
            other => hop_attribute(&mut hop, other),
        }
    }
    let leads = !route.kind.drops() && (hop.gateway.is_some() || hop.interface != 0);
    if route.next_hops.is_empty() && leads {
        // Room for it alone: there are many.
        route.next_hops = vec![hop];
    }
    if route.kind.drops() {
        // IPv6 shows `dev lo` for these, which is where nobody goes.
        route.next_hops.clear();
    }
    Some(route)
}

fn next_hop(shown: &RouteNextHop) -> NextHop {
    let mut hop = NextHop {
        gateway: None,
        interface: shown.interface_index,
        weight: u16::from(shown.hops) + 1,
        dead: shown.flags.contains(RouteNextHopFlags::Dead),
    };
    for attribute in &shown.attributes {
        hop_attribute(&mut hop, attribute);
    }
    hop
}

fn hop_attribute(hop: &mut NextHop, attribute: &RouteAttribute) {
    match attribute {
        RouteAttribute::Gateway(address) => hop.gateway = ip(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => hop.gateway = Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => hop.gateway = Some((*v6).into()),
        RouteAttribute::Oif(index) => hop.interface = *index,
        _ => {}
    }
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

const fn any_address(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => None,
    }
}

fn link(message: LinkMessage) -> Told {
    let flags = message.header.flags;
    let (mut name, mut master, mut vrf) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(it) => name = Some(it),
            LinkAttribute::Controller(it) => master = Some(it),
            LinkAttribute::LinkInfo(infos) => vrf = infos.iter().find_map(vrf_table),
            _ => {}
        }
    }
    let interface = message.header.index;
    // Bridges tell of their ports under another family; those messages say nothing of the link itself.
    if message.header.interface_family != AddressFamily::Unspec {
        return Told::Nothing;
    }
    Told::Else(Forwarding::Link {
        interface,
        name: name.unwrap_or_else(|| interface.to_string()),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        master,
        vrf,
    })
}

fn vrf_table(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Vrf(settings)) = info else {
        return None;
    };
    settings.iter().find_map(|setting| match setting {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

fn link_gone(message: &LinkMessage) -> Told {
    if message.header.interface_family != AddressFamily::Unspec {
        return Told::Nothing;
    }
    Told::Else(Forwarding::LinkGone {
        interface: message.header.index,
    })
}

fn address(message: &AddressMessage, gone: bool) -> Told {
    // On a point-to-point link `Address` is the other end, and `Local` ours.
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => found = Some(*local),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    found.map_or(Told::Nothing, |address| {
        Told::Else(Forwarding::Address {
            interface: message.header.index,
            address,
            length: message.header.prefix_len,
            gone,
        })
    })
}

fn neighbour(message: &NeighbourMessage, gone: bool) -> Told {
    let found = message.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::Destination(address) = attribute else {
            return None;
        };
        match address {
            NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
            NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
            _ => None,
        }
    });
    let Some(address) = found.filter(|address| !address.is_multicast()) else {
        return Told::Nothing;
    };
    let state = match message.header.state {
        _ if gone => NeighbourState::Gone,
        KernelState::Failed => NeighbourState::Failed,
        KernelState::Incomplete => NeighbourState::Incomplete,
        KernelState::None => NeighbourState::Gone,
        _ => NeighbourState::Usable,
    };
    Told::Else(Forwarding::Neighbour {
        interface: message.header.ifindex,
        address,
        state,
    })
}

fn rule(message: &RuleMessage) -> Told {
    let header = &message.header;
    let ipv6 = header.family == AddressFamily::Inet6;
    let prefix = |address: &IpAddr, length| Prefix {
        address: *address,
        length,
    };
    let mut rule = Rule {
        priority: 0,
        from: None,
        to: None,
        narrow: header.tos != 0,
        vrf: false,
        table: (header.action == RuleAction::ToTable).then(|| header.table.into()),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(address) => rule.from = Some(prefix(address, header.src_len)),
            RuleAttribute::Destination(address) => rule.to = Some(prefix(address, header.dst_len)),
            RuleAttribute::Table(table) if rule.table.is_some() => rule.table = Some(*table),
            // The rule of VRFs matches by device, and names no table.
            RuleAttribute::L3MDev(is) => rule.vrf |= is,
            RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::TunId(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => rule.narrow = true,
            _ => {}
        }
    }
    Told::Rule(ipv6, Some(rule))
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;

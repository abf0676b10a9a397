//! What the core is told of a namespace's forwarding: routes, and what they hang on.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Process;
use crate::{bgp::Prefix, time::Timestamp};

/// Linux's main routing table, `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;

/// A fact about a namespace's forwarding.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "forwarding", rename_all = "snake_case")]
pub enum Forwarding {
    /// From now on the changes that `by` tells of count, and no other source's; dumps always do.
    Followed {
        /// Who.
        by: RouteSource,
    },
    /// Routes changed, in this order, somewhere in the event's interval.
    Changed {
        /// Who saw it.
        source: RouteSource,
        /// What.
        changes: Vec<RouteChange>,
    },
    /// A dump of all routes of a family begins: what it shows was true at the event's time or later.
    DumpBegun {
        /// Of IPv6, else of IPv4.
        ipv6: bool,
        /// What the mirror has and the dump will not show was removed after this.
        since: Timestamp,
    },
    /// Some routes of the dump.
    Dumped {
        /// They exist.
        routes: Vec<Route>,
    },
    /// The dump is over.
    DumpEnded {
        /// It showed all there is. Without that, what it did not show says nothing.
        complete: bool,
    },
    /// An interface exists, in this state.
    Link {
        /// Its index.
        interface: u32,
        /// Its name.
        name: String,
        /// IFF_UP: configured to be up.
        up: bool,
        /// IFF_LOWER_UP: it has carrier.
        carrier: bool,
        /// The bridge, bond or VRF that it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        master: Option<u32>,
        /// Of a VRF: the table of its routes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vrf: Option<u32>,
    },
    /// An interface is gone.
    LinkGone {
        /// Its index.
        interface: u32,
    },
    /// An interface got or lost an address.
    Address {
        /// Its index.
        interface: u32,
        /// The address with its prefix length; bits beyond it are those of the address.
        address: IpAddr,
        /// Bits.
        length: u8,
        /// It lost it.
        gone: bool,
    },
    /// A nexthop object (`ip nexthop`) is gone, or is another now.
    NextHopObject {
        /// Its number.
        id: u32,
        /// It is gone.
        gone: bool,
    },
    /// A neighbour's state is another now.
    Neighbour {
        /// The interface's index.
        interface: u32,
        /// Its address.
        address: IpAddr,
        /// State.
        state: NeighbourState,
    },
    /// All routing policy rules of a family, by priority.
    Rules {
        /// Of IPv6, else of IPv4.
        ipv6: bool,
        /// They replace those told before.
        rules: Vec<Rule>,
    },
}

impl Forwarding {
    /// Values of `kind` in `bgp_observer_events_total`.
    pub const KINDS: [&str; 6] = [
        "routes",
        "route_dump",
        "link",
        "address",
        "next_hop",
        "neighbour",
    ];

    /// Its kind, one of [`Self::KINDS`].
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Followed { .. } | Self::Changed { .. } => "routes",
            Self::DumpBegun { .. } | Self::Dumped { .. } | Self::DumpEnded { .. } => "route_dump",
            Self::Link { .. } | Self::LinkGone { .. } => "link",
            Self::Address { .. } | Self::Rules { .. } => "address",
            Self::NextHopObject { .. } => "next_hop",
            Self::Neighbour { .. } => "neighbour",
        }
    }

    /// How many routes it tells of.
    pub const fn route_count(&self) -> usize {
        match self {
            Self::Changed { changes, .. } => changes.len(),
            Self::Dumped { routes } => routes.len(),
            Self::Followed { .. }
            | Self::DumpBegun { .. }
            | Self::DumpEnded { .. }
            | Self::Link { .. }
            | Self::LinkGone { .. }
            | Self::Address { .. }
            | Self::NextHopObject { .. }
            | Self::Neighbour { .. }
            | Self::Rules { .. } => 0,
        }
    }
}

/// One route of the kernel.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Route {
    /// Destination.
    pub prefix: Prefix,
    /// Routing table, [`TABLE_MAIN`] for most.
    pub table: u32,
    /// IPv4's type of service, 0 for any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tos: u8,
    /// Metric (`RTA_PRIORITY`): the lowest of a prefix is used.
    pub metric: u32,
    /// What it does with packets.
    pub kind: RouteKind,
    /// Who it belongs to (`rtm_protocol`).
    pub protocol: Protocol,
    /// Nexthop object, if it has one; its hops are resolved all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<u32>,
    /// All its hops; several are equal-cost paths. None for a route that drops packets.
    pub next_hops: Vec<NextHop>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// One hop of a route.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct NextHop {
    /// The router; none when the destination is on the link. May be of the other family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The interface's index; 0 where the source does not tell.
    pub interface: u32,
    /// Share of packets among the hops; 1 is the usual.
    pub weight: u16,
    /// RTNH_F_DEAD: its interface is down, and it is passed over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
}

/// What a route does with packets (`rtm_type`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// Forwards them.
    Unicast,
    /// Delivers them here.
    Local,
    /// Drops them silently.
    Blackhole,
    /// Drops them with EHOSTUNREACH and an ICMP error.
    Unreachable,
    /// Drops them with EACCES and an ICMP error.
    Prohibit,
    /// Goes on with the next rule.
    Throw,
    /// Broadcast, multicast, anycast and what else there is.
    Other,
}

impl RouteKind {
    /// From the kernel's number (`RTN_…`).
    pub const fn from_linux(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            _ => Self::Other,
        }
    }

    /// As `ip route` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::Throw => "throw",
            Self::Other => "other",
        }
    }

    /// Whether it drops packets.
    pub const fn drops(self) -> bool {
        matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit)
    }
}

/// A route's protocol, `rtm_protocol`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// `RTPROT_KERNEL`.
    pub const KERNEL: Self = Self(2);
    /// `RTPROT_BOOT`: whoever did not say; Calico's routes to local pods.
    pub const BOOT: Self = Self(3);
    /// `RTPROT_BIRD`.
    pub const BIRD: Self = Self(12);
    /// Felix's number by default.
    pub const FELIX: Self = Self(80);

    /// As iproute2 names it, a number where it has no name.
    pub fn name(self) -> String {
        let name = match self.0 {
            0 => "unspec",
            1 => "redirect",
            2 => "kernel",
            3 => "boot",
            4 => "static",
            9 => "ra",
            11 => "zebra",
            12 => "bird",
            16 => "dhcp",
            18 => "keepalived",
            80 => "felix",
            186 => "bgp",
            number => return number.to_string(),
        };
        name.to_owned()
    }

    /// By its name in `ip route`, or by its number.
    pub fn named(text: &str) -> Option<Self> {
        let number = text.parse().ok().map(Self);
        number.or_else(|| (0..=u8::MAX).map(Self).find(|known| known.name() == text))
    }
}

/// What became of a route.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RouteChange {
    /// What was done.
    pub op: RouteOp,
    /// By whose will; explicit for what was added or replaced.
    pub origin: RouteOrigin,
    /// The process whose system call did it, where a probe saw one. That may be a kernel thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Process>,
    /// The route as it is now, or as it was removed. A removed IPv6 route holds the removed hops only.
    #[serde(flatten)]
    pub route: Route,
}

/// What was done to a route.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteOp {
    /// It is new, or, with IPv6, has a hop more: the hops are all it has now.
    Added,
    /// It is one more with the same prefix, table, TOS and metric, behind those that are there
    /// (`ip route append`): the kernel does not use it as long as they are. IPv4 only.
    Appended,
    /// It takes the place of the one with the same prefix, table, TOS and metric.
    Replaced,
    /// It is gone.
    Removed,
}

/// By whose will a route changed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteOrigin {
    /// Somebody asked for just that.
    Explicit,
    /// It died with its device, address or nexthop object.
    Silent,
    /// It died with its namespace.
    Teardown,
}

/// Who tells of route changes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteSource {
    /// The kernel probes: exact times, writers, silent removals.
    Probe,
    /// rtnetlink's multicast: neither.
    Netlink,
}

/// A neighbour as far as forwarding is concerned (`NUD_…`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbourState {
    /// Its link-layer address is known: reachable, stale, delay, probe, permanent, noarp.
    Usable,
    /// It is being asked for.
    Incomplete,
    /// It does not answer.
    Failed,
    /// Nothing is known of it any more.
    Gone,
}

/// A routing policy rule.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rule {
    /// The lowest is looked at first.
    pub priority: u32,
    /// Packets from here; any where none.
    #[serde(default)]
    pub from: Option<Prefix>,
    /// Packets to here; any where none.
    #[serde(default)]
    pub to: Option<Prefix>,
    /// It asks for more (mark, interface, ports …), and a plain packet does not match it.
    #[serde(default)]
    pub narrow: bool,
    /// It is for packets of a VRF, and looks in that one's table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vrf: bool,
    /// What it does: the table to look in; none for rules that drop or do something else.
    #[serde(default)]
    pub table: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Fact, NetnsId};

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix {
            address: address.parse().unwrap(),
            length: length.parse().unwrap(),
        }
    }

    #[test]
    fn what_is_recorded_reads_back_as_it_was() {
        let hop = |gateway: &str| NextHop {
            gateway: Some(gateway.parse().unwrap()),
            interface: 3,
            weight: 1,
            dead: false,
        };
        let route = |text, kind, next_hops| Route {
            prefix: prefix(text),
            table: TABLE_MAIN,
            tos: 0,
            metric: 1024,
            kind,
            protocol: Protocol::BIRD,
            object: None,
            next_hops,
        };
        let removed = RouteChange {
            op: RouteOp::Removed,
            origin: RouteOrigin::Silent,
            writer: Some(Process {
                pid: 7,
                comm: "bird".to_owned(),
            }),
            route: route(
                "fd00:1::/64",
                RouteKind::Unicast,
                vec![hop("fe80::1"), hop("fe80::2")],
            ),
        };
        let ipv6 = true;
        for forwarding in [
            Forwarding::Changed {
                source: RouteSource::Probe,
                changes: vec![removed],
            },
            Forwarding::DumpBegun {
                ipv6,
                since: Timestamp::from_nanos(9),
            },
            Forwarding::Dumped {
                routes: vec![route("10.1.0.0/26", RouteKind::Blackhole, vec![])],
            },
            Forwarding::Rules {
                ipv6,
                rules: vec![Rule {
                    priority: 0,
                    from: None,
                    to: None,
                    narrow: false,
                    vrf: false,
                    table: Some(255),
                }],
            },
            Forwarding::Neighbour {
                interface: 3,
                address: "10.0.0.2".parse().unwrap(),
                state: NeighbourState::Failed,
            },
        ] {
            let netns = NetnsId(1);
            let kind = forwarding.kind();
            assert!(Forwarding::KINDS.contains(&kind), "{kind}");
            let fact = Fact::Forwarding { netns, forwarding };
            let event = Event::noticed(Timestamp::from_nanos(5), fact);
            let line = serde_json::to_string(&event).unwrap();
            assert_eq!(
                serde_json::from_str::<Event>(&line).unwrap(),
                event,
                "{line}"
            );
        }
    }

    #[test]
    fn kinds_are_the_kernels_numbers() {
        for (number, name, drops) in [
            (1, "unicast", false),
            (2, "local", false),
            (3, "other", false),
            (6, "blackhole", true),
            (7, "unreachable", true),
            (8, "prohibit", true),
            (9, "throw", false),
            (200, "other", false),
        ] {
            let kind = RouteKind::from_linux(number);
            assert_eq!((kind.name(), kind.drops()), (name, drops));
        }
    }

    #[test]
    fn a_protocol_is_known_by_name_and_number_and_by_nothing_else() {
        assert_eq!(Protocol::named("80"), Protocol::named("felix"));
        for text in ["256", "nobody", "", "-1"] {
            assert_eq!(Protocol::named(text), None, "{text}");
        }
    }

    #[test]
    fn protocols_have_iproutes_names() {
        for (number, name) in [(2, "kernel"), (12, "bird"), (80, "felix"), (77, "77")] {
            assert_eq!(Protocol(number).name(), name);
            assert_eq!(Protocol::named(name), Some(Protocol(number)));
        }
    }
}

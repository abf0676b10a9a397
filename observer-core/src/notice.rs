//! What one part of the machine tells another about a node while an event is handled. Notices are
//! collected in the turn, and whoever correlates them takes them at its end.

use std::time::Duration;

use crate::{
    address::PeerAddress,
    bgp::Prefix,
    event::{NetnsId, Process, forwarding::Protocol},
    time::Timestamp,
};

/// Prefixes that an incident follows at most, and that are told one by one when an event takes more: those
/// beyond are counted and not waited for.
pub(crate) const FOLLOWED: usize = 65_536;

/// Something that bears on whether traffic of a node still flows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Notice {
    /// A route was lost, is back, or is being fought over.
    Route(RouteNotice),
    /// A session is going down.
    Falling(Falling),
    /// A link that peers are reached over went down or came up.
    Link(LinkNotice),
    /// A next hop or a peer on the link does not resolve to a link-layer address any more, or does again.
    Neighbour(NeighbourNotice),
}

/// A link through which peers are reached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinkNotice {
    /// The node.
    pub netns: NetnsId,
    pub interface: u32,
    pub name: String,
    pub earliest: Timestamp,
    pub latest: Timestamp,
    pub step: LinkStep,
    /// The known peers that are reached over it, as far as addresses tell.
    pub peers: Vec<PeerAddress>,
}

/// What became of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LinkStep {
    /// It was set down.
    Down,
    /// It lost its carrier.
    NoCarrier,
    /// There is no such interface any more.
    Gone,
    /// It can be used again.
    Up,
}

impl LinkStep {
    /// After the link's name.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::NoCarrier => "without carrier",
            Self::Gone => "gone",
            Self::Up => "up",
        }
    }
}

/// A next hop or a peer on a link of this node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NeighbourNotice {
    /// The node.
    pub netns: NetnsId,
    pub peer: PeerAddress,
    /// The link's name.
    pub link: String,
    pub earliest: Timestamp,
    pub latest: Timestamp,
    /// It does not answer ARP or neighbour discovery; else it does again.
    pub failed: bool,
    /// Some prefixes whose routes lead over it.
    pub prefixes: Vec<Prefix>,
}

/// A session that goes down, with what will be forgotten of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Falling {
    /// The node.
    pub netns: NetnsId,
    pub peer: PeerAddress,
    pub earliest: Timestamp,
    pub latest: Timestamp,
    /// Some of the prefixes that the peer had announced, and how many those are.
    pub prefixes: Vec<Prefix>,
    pub announced: u64,
}

/// What became of the route of a prefix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteNotice {
    /// The node.
    pub netns: NetnsId,
    pub prefix: Prefix,
    /// It happened between these; they are equal when the kernel stamped it.
    pub earliest: Timestamp,
    pub latest: Timestamp,
    /// Whose route it is.
    pub owner: RouteOwner,
    /// The known peers whose sessions it hung on: those that announce it, else those whose address is
    /// its next hop.
    pub peers: Vec<PeerAddress>,
    /// Who did it, where a probe saw it.
    pub writer: Option<Process>,
    pub step: RouteStep,
    /// So many more to which the same happened.
    pub more: u64,
}

/// Whose routes they are.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum RouteOwner {
    /// BIRD, protocol 12.
    Bird,
    /// Felix, protocol 80.
    Felix,
    /// The kernel itself.
    Kernel,
    /// Anyone else.
    Other(Protocol),
}

impl RouteOwner {
    /// By the route's protocol.
    pub const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::BIRD => Self::Bird,
            Protocol::FELIX => Self::Felix,
            Protocol::KERNEL => Self::Kernel,
            other => Self::Other(other),
        }
    }

    /// Its protocol's name.
    pub fn name(self) -> String {
        match self {
            Self::Bird => Protocol::BIRD.name(),
            Self::Felix => Protocol::FELIX.name(),
            Self::Kernel => Protocol::KERNEL.name(),
            Self::Other(protocol) => protocol.name(),
        }
    }

    /// Whether routes of this owner are the cluster's: what this product watches.
    pub const fn is_watched(self) -> bool {
        matches!(self, Self::Bird | Self::Felix)
    }
}

/// What happened to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RouteStep {
    /// It leads nowhere any more. Told at once: whether it is a loss depends on how long.
    Gone {
        how: RouteLoss,
        /// An UPDATE of a healthy session withdrew it.
        planned: bool,
    },
    /// It leads somewhere again, after this long.
    Back { gap: Duration },
    /// Somebody who is not its owner removed it; the notice's writer, where known.
    Foreign,
    /// Somebody removes it again and again and its owner puts it back.
    Fight {
        /// Removals so far.
        rounds: u32,
        /// Who puts it back, where known; who removes it is the notice's writer.
        owner: Option<Process>,
    },
}

/// How a route was lost.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum RouteLoss {
    /// Somebody deleted it.
    Deleted,
    /// It died with its device, address, nexthop object or namespace.
    Silent,
    /// It became `unreachable` or `prohibit`.
    Unreachable,
    /// It became `blackhole`.
    Blackhole,
    /// Another route of the same prefix, not the cluster's, took its place.
    WorseRoute,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_follow_the_protocol() {
        for (protocol, owner, watched) in [
            (2, RouteOwner::Kernel, false),
            (3, RouteOwner::Other(Protocol::BOOT), false),
            (12, RouteOwner::Bird, true),
            (80, RouteOwner::Felix, true),
        ] {
            let found = RouteOwner::of(Protocol(protocol));
            assert_eq!((found, found.is_watched()), (owner, watched));
        }
    }
}

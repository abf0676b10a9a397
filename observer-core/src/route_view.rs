//! Routes and paths as users see them: the JSON of `/api/v1/routes` and `/api/v1/path`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    bgp::Prefix,
    event::{
        Process,
        forwarding::{NeighbourState, Protocol, RouteKind, RouteSource},
    },
    peer::SessionState,
};

/// Which routes are wanted. Without any wish: those of BIRD and Felix, and what is missing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteFilter {
    /// Of this node.
    pub node: Option<String>,
    /// Of this prefix, or with this address in it.
    pub within: Option<Prefix>,
    /// Of this protocol.
    pub owner: Option<Protocol>,
    /// Of every protocol.
    pub all: bool,
    /// That hang on one of these peers.
    pub peers: Option<Vec<IpAddr>>,
    /// Only those that are not as they should be.
    pub wrong: bool,
    /// So many at most.
    pub limit: usize,
}

/// An answer about routes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RoutesView {
    /// The routes, by node, table and prefix; those that are missing come last.
    pub routes: Vec<RouteView>,
    /// More would match, beyond the limit.
    pub truncated: bool,
    /// How each node's forwarding does.
    pub nodes: Vec<FibView>,
}

/// One node's forwarding as a whole.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FibView {
    /// The node.
    pub node: String,
    /// Who tells of changes; none while nobody does.
    pub source: Option<RouteSource>,
    /// All routes were seen at least once, of both families.
    pub complete: bool,
    /// How many there are.
    pub routes: Vec<RouteCount>,
    /// Sessions that are Established and from which nothing is in the kernel's tables.
    pub unprogrammed: Vec<Unprogrammed>,
    /// How long the kernel's routes took to follow each peer.
    pub latencies: Vec<LatencyView>,
}

/// Routes of one protocol and family.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RouteCount {
    /// The protocol's name.
    pub protocol: String,
    /// 4 or 6.
    pub ip_version: u8,
    /// How many.
    pub count: u64,
}

/// A session from which nothing is programmed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Unprogrammed {
    /// The peer.
    pub peer: String,
    /// Prefixes it announces.
    pub announced: u64,
    /// Seconds since that was noticed.
    pub seconds: f64,
    /// Seconds until BIRD's recovery timer (240 s) programs them at the latest, if it waits for
    /// graceful restarts of other peers; 0 when that time is over.
    pub expected_within_seconds: f64,
}

/// The latest times from a peer's message to the kernel's route; with rtnetlink as the source until the
/// change was noticed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LatencyView {
    /// The peer.
    pub peer: String,
    /// From an announcement to the route.
    pub update_to_fib_seconds: Option<f64>,
    /// From a withdrawal to the route's end.
    pub withdraw_to_fib_seconds: Option<f64>,
    /// From the session's end to the end of its routes.
    pub down_to_withdraw_seconds: Option<f64>,
}

/// One route: expected, actual, or both.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RouteView {
    /// The node.
    pub node: String,
    /// Destination.
    pub prefix: String,
    /// How it compares with what is announced.
    pub state: RouteState,
    /// Table; 254 is main.
    pub table: u32,
    /// What it does with packets; none for a route that is missing.
    pub kind: Option<RouteKind>,
    /// The protocol's name; none for a route that never was.
    pub owner: Option<String>,
    /// Metric; the lowest is used.
    pub metric: Option<u32>,
    /// Where it leads, or led.
    pub next_hops: Vec<HopView>,
    /// Since when it is as it is; none for what never was.
    pub since: Option<jiff::Timestamp>,
    /// Who wrote or removed it last, where a probe saw it.
    pub writer: Option<Process>,
    /// Peers that announce the prefix.
    pub announced_by: Vec<String>,
}

/// How a route compares with what is announced.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteState {
    /// Announced, and there.
    Programmed,
    /// Announced, and not there.
    Missing,
    /// It was there and is gone, without a withdrawal.
    Lost,
    /// BIRD's, and no peer announces it.
    Stray,
    /// There, and no peer has to announce it.
    Own,
}

impl RouteState {
    /// Whether something is not as it should be.
    pub const fn is_wrong(self) -> bool {
        matches!(self, Self::Missing | Self::Lost | Self::Stray)
    }

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Programmed => "programmed",
            Self::Missing => "missing",
            Self::Lost => "lost",
            Self::Stray => "stray",
            Self::Own => "own",
        }
    }
}

/// A next hop.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HopView {
    /// The router; none when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Name of the interface, or its index where no name is known.
    pub interface: String,
    /// Share among the hops.
    pub weight: u16,
    /// Passed over, because its interface is down.
    pub dead: bool,
}

/// The way of a packet, as far as observed nodes know it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PathView {
    /// Where it comes from, if that was asked for.
    pub source: Option<IpAddr>,
    /// Where it goes.
    pub destination: IpAddr,
    /// From node to node.
    pub legs: Vec<LegView>,
    /// What becomes of it, in words.
    pub verdict: String,
    /// Whether it arrives as far as the tables tell; none when it leaves the observed nodes, or when
    /// the tables are not wholly known.
    pub arrives: Option<bool>,
    /// The configuration leaves routes out, so that others than these may be taken.
    #[serde(default)]
    pub partial: bool,
}

/// What one node does with it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LegView {
    /// The node.
    pub node: String,
    /// Interface it comes in by: that of the pod it comes from, where that is here.
    pub from: Option<String>,
    /// The route it takes; none when there is none.
    pub route: Option<RouteView>,
    /// Where to, one for each equal-cost path.
    pub hops: Vec<PathHopView>,
}

/// One way on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PathHopView {
    /// The hop.
    #[serde(flatten)]
    pub hop: HopView,
    /// The interface is up and has carrier; none where nothing is known of it.
    pub link_up: Option<bool>,
    /// The neighbour's state, where the kernel has one.
    pub neighbour: Option<NeighbourState>,
    /// The peers whose sessions this route hangs on.
    pub peers: Vec<PathPeerView>,
}

/// A session that a route hangs on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PathPeerView {
    /// The peer.
    pub peer: String,
    /// Its node's name, where known.
    pub peer_node: Option<String>,
    /// The session.
    pub state: SessionState,
    /// Since when it is up or down; none when it was never seen up nor going down.
    #[serde(default)]
    pub since: Option<jiff::Timestamp>,
    /// Why it was lost last, in words; none when it never was, or while the cause is not final.
    #[serde(default)]
    pub last_cause_text: Option<String>,
    /// Its routes are stale: a graceful restart goes on.
    pub stale: bool,
}

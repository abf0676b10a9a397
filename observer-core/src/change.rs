//! What the core concludes: the lines of `events`, what sinks act on, and what a replay must
//! reproduce.

use serde::{Deserialize, Serialize};

use crate::{
    bgp::Family,
    cause::SpeakerEnd,
    event::{LossStage, NetnsId, Process, SocketId},
    incident::Incident,
    peer::{Flap, KnownBy, SessionState},
    time::Timestamp,
};

/// What `apply` gives back, in order.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "short-lived: a box per change would cost more than the space"
)]
pub enum Output {
    /// Something changed.
    Change(ChangeRecord),
    /// The core would like to know something; the answer comes as an event, or does not.
    Request(Request),
}

/// A question of the core to the edges.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Request {
    /// Ask sock_diag about one socket: [`Fact::SocketInfo`](crate::event::Fact::SocketInfo) or
    /// [`Fact::SocketGone`](crate::event::Fact::SocketGone) answers.
    Inspect {
        /// Its namespace.
        netns: NetnsId,
        /// Its identity.
        id: SocketId,
        /// Our end.
        local: std::net::SocketAddr,
        /// The other end.
        remote: std::net::SocketAddr,
    },
    /// List the pods of some nodes: [`Fact::PodsListed`](crate::event::Fact::PodsListed) answers.
    ListPods {
        /// The incident that they are asked for.
        incident: String,
        /// The nodes.
        nodes: Vec<String>,
    },
    /// Ask how a node fares: [`Fact::Circumstances`](crate::event::Fact::Circumstances) answers.
    AskCircumstances {
        /// The incident that is about the node.
        incident: String,
        /// The node.
        node: String,
    },
    /// Let the kernel send this peer's events through the main ring.
    Trust {
        /// The namespace.
        netns: NetnsId,
        /// The peer's address.
        address: std::net::IpAddr,
    },
    /// The peer is forgotten: back among the strangers.
    Distrust {
        /// The namespace.
        netns: NetnsId,
        /// The peer's address.
        address: std::net::IpAddr,
    },
    /// Routes may have gone without a word, or events were lost: dump the namespace's routes of a
    /// family again. [`Forwarding::DumpBegun`](crate::event::forwarding::Forwarding::DumpBegun) and
    /// what belongs to it answer.
    DumpRoutes {
        /// The namespace.
        netns: NetnsId,
        /// Of IPv6, else of IPv4.
        ipv6: bool,
        /// Until then the mirror was right.
        since: Timestamp,
    },
    /// Events were lost: dump the namespace's BGP sockets again.
    /// [`Fact::SocketInfo`](crate::event::Fact::SocketInfo) for each and
    /// [`Fact::SocketsDumped`](crate::event::Fact::SocketsDumped) answer.
    Dump {
        /// The namespace.
        netns: NetnsId,
    },
    /// Count the packets that the kernel drops on their way to this prefix, and what TCP sends again:
    /// [`Fact::PacketsDropped`](crate::event::Fact::PacketsDropped) tells of them.
    Watch {
        /// In this namespace.
        netns: NetnsId,
        /// The prefix.
        prefix: crate::bgp::Prefix,
    },
    /// No longer.
    Unwatch {
        /// In this namespace.
        netns: NetnsId,
        /// The prefix.
        prefix: crate::bgp::Prefix,
    },
    /// Send one ICMP echo request. [`Fact::EchoReplied`](crate::event::Fact::EchoReplied) or
    /// [`Fact::EchoFailed`](crate::event::Fact::EchoFailed) answers; silence answers as well.
    Echo {
        /// From this namespace.
        netns: NetnsId,
        /// To this address.
        target: std::net::IpAddr,
        /// Never used twice in a run.
        token: u64,
    },
}

/// One change, when, and at which node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ChangeRecord {
    /// 1, 2, 3 … within a run.
    pub seq: u64,
    /// When it took effect, nanoseconds since boot.
    pub at: Timestamp,
    /// The same in wall time.
    pub time: jiff::Timestamp,
    /// The observed node; empty when it concerns the agent as a whole.
    pub node: String,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// What changed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A peer is known from now on.
    PeerKnown {
        /// Its address.
        peer: String,
        /// How it came to be known.
        known_by: KnownBy,
    },
    /// A peer is forgotten.
    PeerForgotten {
        /// Its address.
        peer: String,
        /// Why.
        reason: String,
    },
    /// The session's state went from one to another.
    SessionState {
        /// The peer.
        peer: String,
        /// Before.
        from: SessionState,
        /// After.
        to: SessionState,
    },
    /// The session is Established.
    SessionUp {
        /// The peer.
        peer: String,
        /// It already was when the agent first saw it.
        inherited: bool,
        /// Seconds from SYN to TCP's ESTABLISHED, where both were seen.
        establish_seconds: Option<f64>,
        /// Seconds it was down, where its end was seen.
        down_seconds: Option<f64>,
    },
    /// The session is no longer Established; a [`Change::Flap`] with the cause follows within
    /// 250 ms.
    SessionDown {
        /// The peer.
        peer: String,
    },
    /// A flap is counted: its cause is final.
    Flap {
        /// The record.
        flap: Flap,
    },
    /// Evidence that came after a flap was counted says more about its cause; the counter stays.
    FlapAmended {
        /// The record as it reads now.
        flap: Flap,
    },
    /// An attempt to connect failed.
    ConnectFailed {
        /// The peer.
        peer: String,
        /// Who dialled.
        outbound: bool,
        /// Why, in words.
        reason: String,
    },
    /// Data to the peer goes unanswered; told once per doubling.
    Unanswered {
        /// The peer.
        peer: String,
        /// Retransmissions of the oldest segment so far.
        retransmits: u8,
    },
    /// The session ended, and graceful restart keeps the peer's routes as stale (RFC 4724 §4.2).
    GrStarted {
        /// The peer.
        peer: String,
        /// Seconds that they are kept unless the session comes back.
        restart_secs: u16,
        /// Of these families.
        families: Vec<Family>,
        /// How many.
        stale: u64,
    },
    /// None of the peer's routes are stale any more.
    GrEnded {
        /// The peer.
        peer: String,
        /// How that ended.
        how: RestartEnd,
        /// Seconds since the session's end.
        seconds: f64,
        /// Stale routes that were not announced again.
        dropped: u64,
    },
    /// Less than a third of the hold time is left; told once until the peer is heard again.
    HoldMarginLow {
        /// The peer.
        peer: String,
        /// The hold time, seconds.
        hold_secs: u64,
        /// How long nothing has been heard, seconds.
        silent_seconds: f64,
    },
    /// A local BGP speaker ended.
    SpeakerEnded {
        /// Which.
        speaker: Process,
        /// How.
        #[serde(flatten)]
        end: SpeakerEnd,
    },
    /// A local BGP speaker was seen for the first time.
    SpeakerSeen {
        /// Which.
        speaker: Process,
    },
    /// Routes of BIRD or Felix changed in the same way, one or many.
    Routes(RoutesChanged),
    /// A route of BIRD or Felix was removed by somebody else.
    ForeignDelete {
        /// Its prefix.
        prefix: String,
        /// Whose it is.
        owner: String,
        /// Who removed it, where a probe saw it.
        writer: Option<Process>,
    },
    /// A route is removed again and again by somebody, and put back by its owner.
    RouteFight {
        /// Its prefix.
        prefix: String,
        /// Whose it is.
        owner: String,
        /// Removals so far.
        rounds: u32,
        /// Who removes it, where a probe saw it.
        remover: Option<Process>,
        /// Who puts it back, likewise.
        keeper: Option<Process>,
    },
    /// BGP speakers of several nodes ended one after the other before the first one's restart was over:
    /// graceful restart covers one at a time.
    ConcurrentRestarts {
        /// Their nodes, the latest last; identifiers where names are not known.
        nodes: Vec<String>,
        /// From the first end to the last, seconds.
        seconds: f64,
    },
    /// A session is Established and announces routes, and none of them is in the kernel's tables.
    NotProgrammed {
        /// The peer.
        peer: String,
        /// Prefixes it announces.
        announced: u64,
        /// Seconds until BIRD's recovery timer programs them at the latest, if it is that: it waits
        /// for peers that are still away after a restart.
        expected_within_seconds: f64,
    },
    /// They are now.
    Programmed {
        /// The peer.
        peer: String,
        /// Seconds after that was noticed.
        seconds: f64,
    },
    /// An incident is open: what it is, its cause being known.
    IncidentOpened {
        /// The record.
        incident: Box<Incident>,
    },
    /// More is known of an open incident. At most one a second of each, so that a sink can keep up.
    IncidentUpdated {
        /// The record as it reads now.
        incident: Box<Incident>,
    },
    /// An incident is over.
    IncidentClosed {
        /// The record.
        incident: Box<Incident>,
    },
    /// Something was lost on the way to the core.
    Lost {
        /// Where.
        stage: LossStage,
        /// How many events.
        count: u64,
    },
}

/// What happened to one or many routes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RoutesChanged {
    /// What happened.
    pub event: RouteEvent,
    /// Whose they are: the protocol's name.
    pub owner: String,
    /// To how many.
    pub count: u64,
    /// The first did not happen before this.
    pub earliest: jiff::Timestamp,
    /// The first did not happen after this.
    pub first: jiff::Timestamp,
    /// Nor the last after this.
    pub last: jiff::Timestamp,
    /// Some of their prefixes: all, up to eight.
    pub prefixes: Vec<String>,
    /// Their next hops, likewise.
    pub next_hops: Vec<String>,
    /// Where those that lead elsewhere now led before, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_next_hops: Vec<String>,
    /// The peers whose sessions they hang on, likewise.
    pub peers: Vec<String>,
    /// Who did it, where a probe saw it.
    pub writer: Option<Process>,
    /// Longest time that one of them was gone, for those that are back.
    pub longest_gap_seconds: Option<f64>,
}

/// What happened to routes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteEvent {
    /// They are new.
    Added,
    /// They lead elsewhere; while they were exchanged they were gone for less than a second, or not
    /// at all.
    Replaced,
    /// BIRD's became Felix's, or the other way round.
    HandedOver,
    /// An UPDATE of a healthy session took them out, or Felix did.
    Withdrawn,
    /// Somebody deleted them, and no UPDATE had asked for it.
    Deleted,
    /// They died with an interface, an address, a nexthop object or their namespace.
    SilentlyRemoved,
    /// They became `unreachable` or `prohibit`.
    Unreachable,
    /// They became `blackhole`.
    Blackhole,
    /// They became this node's own, which announces them and drops what no longer route matches.
    TakenOver,
    /// Another's route of the same prefix took their place.
    WorseRoute,
    /// They were gone for more than a second and are back.
    Back,
}

impl RouteEvent {
    /// Whether traffic may be lost by it, nobody having asked for it.
    pub const fn is_loss(self) -> bool {
        matches!(
            self,
            Self::Deleted
                | Self::SilentlyRemoved
                | Self::Unreachable
                | Self::Blackhole
                | Self::WorseRoute
        )
    }

    /// In words, after the number of routes.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Replaced => "replaced",
            Self::HandedOver => "handed over",
            Self::Withdrawn => "withdrawn",
            Self::Deleted => "deleted",
            Self::SilentlyRemoved => "gone silently",
            Self::Unreachable => "became unreachable",
            Self::Blackhole => "became blackhole",
            Self::TakenOver => "taken over by this node",
            Self::WorseRoute => "overridden",
            Self::Back => "back",
        }
    }
}

/// How a graceful restart ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartEnd {
    /// End-of-RIB came for every family: the peer is back.
    EndOfRib,
    /// The restart timer expired before the session came back: stale routes are dropped.
    Expired,
    /// The session came back, and the peer had not preserved its forwarding state: likewise.
    NotPreserved,
    /// The session ended again before End-of-RIB: likewise.
    SecondRestart,
}

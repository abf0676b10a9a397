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
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
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
    /// Events were lost: dump the namespace's BGP sockets again.
    /// [`Fact::SocketInfo`](crate::event::Fact::SocketInfo) for each and
    /// [`Fact::SocketsDumped`](crate::event::Fact::SocketsDumped) answer.
    Dump {
        /// The namespace.
        netns: NetnsId,
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

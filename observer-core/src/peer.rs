//! Peers as users see and as the state directory keeps them: the JSON of `/api/v1/peers`.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{bgp_view::BgpView, cause::Cause, event::PeerType, terms::SavedTerms};

/// RFC 4271 §8.2.2 states with their MIB numbers (`bgpPeerState`, RFC 4273).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Nobody tries.
    #[default]
    Idle,
    /// The local side has sent a SYN.
    Connect,
    /// No connection; one side will try again.
    Active,
    /// TCP is up, OPEN sent.
    OpenSent,
    /// OPEN received, KEEPALIVE awaited.
    OpenConfirm,
    /// The session is up.
    Established,
}

impl SessionState {
    /// 1 (Idle) to 6 (Established).
    pub const fn number(self) -> u8 {
        match self {
            Self::Idle => 1,
            Self::Connect => 2,
            Self::Active => 3,
            Self::OpenSent => 4,
            Self::OpenConfirm => 5,
            Self::Established => 6,
        }
    }

    /// The RFC's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

/// How a peer came to be known (DESIGN §3).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownBy {
    /// The local speaker dials it.
    Dialled,
    /// A session with it reached Established.
    Established,
    /// An inventory or the configuration names it.
    Inventory,
    /// The state directory remembered it.
    Restored,
}

/// One peer of one observed node, as `status` and the API show it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PeerView {
    /// The observed node.
    pub node: String,
    /// The peer's address, with `%interface-index` when link-local.
    pub peer: String,
    /// 4 or 6.
    pub ip_version: u8,
    /// The name of the peer's node, where an inventory gave it.
    pub peer_node: Option<String>,
    /// Its type, where an inventory gave it.
    pub peer_type: Option<PeerType>,
    /// Its AS number, where known.
    pub asn: Option<u32>,
    /// State of the session.
    pub state: SessionState,
    /// Whether the session is Established.
    pub up: bool,
    /// Since when it is up or down; none when it was never seen up nor going down.
    pub since: Option<jiff::Timestamp>,
    /// The session was already Established when the agent first saw it, so `since` is not its
    /// beginning but the agent's.
    pub inherited: bool,
    /// How it is known.
    pub known_by: KnownBy,
    /// The one-line answer to "what is it doing": the cause of the last loss while down, the last
    /// failed attempt, or `Established`.
    pub info: String,
    /// Cause of the latest flap; none while none happened.
    pub last_cause: Option<Cause>,
    /// The same in words.
    pub last_cause_text: Option<String>,
    /// True from the session's end until its cause is final (at most 250 ms).
    pub cause_pending: bool,
    /// When the session last became Established, if seen or inherited.
    pub established_at: Option<jiff::Timestamp>,
    /// When it last went down.
    pub last_down_at: Option<jiff::Timestamp>,
    /// Established → not Established, counted since the peer is known, restarts of the agent
    /// included.
    pub flaps: u64,
    /// Attempts to connect that failed since the session was last Established.
    pub failed_attempts: u64,
    /// Why the latest attempt failed, in words.
    pub last_failure: Option<String>,
    /// Smoothed TCP round-trip time in seconds.
    pub rtt_seconds: Option<f64>,
    /// Segments retransmitted to this peer, all connections since it is known.
    pub retransmits: u64,
    /// Seconds from SYN to TCP's ESTABLISHED, latest connection that was seen to begin.
    pub establish_seconds: Option<f64>,
    /// Seconds since payload last arrived.
    pub last_data_age_seconds: Option<f64>,
    /// Its connections now: usually one, two in a collision or while an old one drains.
    pub connections: Vec<ConnectionView>,
    /// What was read of its messages; the fields stand beside the others.
    #[serde(flatten)]
    pub bgp: BgpView,
}

/// One TCP connection of a peer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConnectionView {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// TCP state, the kernel's name.
    pub tcp_state: String,
    /// Whether the Established session rides on this one.
    pub carries_session: bool,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Payload bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Bytes sent and not acknowledged, as last read.
    pub send_queue: u32,
    /// Bytes received and not read by the speaker, as last read.
    pub receive_queue: u32,
}

/// One flap, kept for ever: the JSON of `flaps`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Flap {
    /// The observed node.
    pub node: String,
    /// The peer, as [`PeerView::peer`].
    pub peer: String,
    /// 1 for the peer's first.
    pub number: u64,
    /// When the session went down.
    pub down_at: jiff::Timestamp,
    /// When it was Established again; none while it is not.
    pub up_at: Option<jiff::Timestamp>,
    /// Seconds it was down.
    pub down_seconds: Option<f64>,
    /// Seconds it had been up before; none when nobody saw it come up.
    pub up_before_seconds: Option<f64>,
    /// Why.
    pub cause: Cause,
    /// The same in words.
    pub cause_text: String,
    /// The facts that the cause rests on, in order, each in words.
    pub evidence: Vec<String>,
}

/// A peer as the state directory keeps it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SavedPeer {
    /// Its address.
    pub address: IpAddr,
    /// Interface index for a link-local address, else 0.
    #[serde(default)]
    pub scope: u32,
    /// How it came to be known first.
    pub known_by: KnownBy,
    /// Name of its node, as last known.
    #[serde(default)]
    pub peer_node: Option<String>,
    /// Its type, as last known.
    #[serde(default)]
    pub peer_type: Option<PeerType>,
    /// Its AS number, as last known.
    #[serde(default)]
    pub asn: Option<u32>,
    /// When something was last heard of it: the 24 h of silence count from here.
    pub last_heard_at: Option<jiff::Timestamp>,
    /// When its session last became Established.
    #[serde(default)]
    pub established_at: Option<jiff::Timestamp>,
    /// When its session last went down.
    #[serde(default)]
    pub last_down_at: Option<jiff::Timestamp>,
    /// Whether its session was Established when this was saved.
    #[serde(default)]
    pub was_up: bool,
    /// What was agreed on with it; none where no OPEN was ever read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<SavedTerms>,
    /// Flaps counted.
    #[serde(default)]
    pub flaps: u64,
    /// The latest flaps, oldest first.
    #[serde(default)]
    pub recent_flaps: Vec<Flap>,
}

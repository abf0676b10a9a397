//! What the messages of a peer show, as users see it: part of the JSON of `/api/v1/peers`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    bgp::{CapabilityView, Family, NotificationFacts, OpenFacts},
    conversation::Inference,
    exchange::Sides,
    message_counts::{MalformedUpdates, MessageCounts},
};

/// What was read of a peer's messages. All of it is absent or 0 where no tap runs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct BgpView {
    /// Whether the node's packets are read at all; where not, the rest says nothing.
    pub tapped: bool,
    /// How much of the present connection's messages was read.
    pub conversation: ConversationView,
    /// What was inferred of the present connection because its OPENs were not seen, by what each
    /// side's UPDATEs carried.
    pub inference: Sides<Inference>,
    /// Hold time that both OPENs agreed on, seconds (RFC 4271 §4.2); 0 when there is none.
    pub hold_time_secs: Option<u16>,
    /// A third of it: how often a KEEPALIVE is due (RFC 4271 §4.4).
    pub keepalive_secs: Option<u16>,
    /// Seconds since the latest KEEPALIVE.
    pub keepalive_age_seconds: Sides<Option<f64>>,
    /// Fraction of the hold time that is left before this node's hold timer expires.
    pub hold_margin: Option<f64>,
    /// Messages since the peer is known.
    pub messages: Sides<MessageCounts>,
    /// The latest OPENs.
    pub opens: Sides<Option<OpenFacts>>,
    /// The latest NOTIFICATIONs.
    pub notifications: Sides<Option<NotificationView>>,
    /// Prefixes in Adj-RIB-In, stale ones included, of each family that both OPENs name; with
    /// ADD-PATH every path counts.
    pub prefixes: BTreeMap<Family, u64>,
    /// These are all there are: the session was read from its beginning.
    pub prefixes_complete: bool,
    /// Stale ones among them.
    pub stale_prefixes: BTreeMap<Family, u64>,
    /// Routes in Adj-RIB-Out, counted likewise; what the peer holds as stale included.
    pub advertised: BTreeMap<Family, u64>,
    /// These are all there are: the session was read from its beginning.
    pub advertised_complete: bool,
    /// Entries announced since the peer is known.
    pub announcements: u64,
    /// Entries withdrawn.
    pub withdrawals: u64,
    /// Entries announced again without a withdrawal in between.
    pub replacements: u64,
    /// Seconds from Established to End-of-RIB received, of the latest session that was seen whole.
    pub end_of_rib_seconds: Option<f64>,
    /// Things wrong in messages of both sides, by kind.
    pub decode_errors: BTreeMap<String, u64>,
    /// UPDATEs that RFC 7606 has their receiver treat in some other way.
    pub malformed_updates: Sides<MalformedUpdates>,
    /// The peer's graceful restart capability, and whether it restarts now; none when it has none or
    /// its OPEN was not seen.
    pub graceful_restart: Option<GracefulRestartView>,
    /// This node's own graceful restart: the peer holds its routes as stale, as far as can be
    /// concluded. None when it holds none.
    pub held_stale: Option<HeldView>,
    /// The capabilities of the latest OPENs, side by side.
    pub capabilities: Vec<CapabilityView>,
}

/// How much of a session's messages was read.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationView {
    /// From the first OPEN on, without a hole.
    Complete,
    /// From somewhere in the middle, or with a hole: what the OPENs agreed on may be inferred, and
    /// counts are of what was seen.
    Inferred,
    /// Nothing.
    #[default]
    None,
}

/// A NOTIFICATION and when it was seen.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct NotificationView {
    /// When.
    pub at: jiff::Timestamp,
    /// What it says.
    #[serde(flatten)]
    pub notification: NotificationFacts,
    /// The same in words.
    pub words: String,
}

/// Graceful restart of a peer, this node being the one that waits (RFC 4724 §4.2).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the bits of a capability, as users know them"
)]
pub struct GracefulRestartView {
    /// Both sides have the capability, and the peer keeps its forwarding state for some family.
    pub negotiated: bool,
    /// Seconds that the peer asked its routes to be kept.
    pub restart_secs: u16,
    /// R bit of its latest OPEN: it had restarted.
    pub restarted: bool,
    /// N bit: NOTIFICATIONs and hold timers keep routes too (RFC 8538).
    pub notification: bool,
    /// Families of its capability, with the F bit: its forwarding state was preserved.
    pub families: BTreeMap<Family, bool>,
    /// Its routes are stale, from its session's end until End-of-RIB.
    pub active: bool,
    /// Since when.
    pub active_since: Option<jiff::Timestamp>,
    /// Seconds until the restart timer drops the stale routes; none while the session is up again.
    pub expires_in_seconds: Option<f64>,
    /// Families whose End-of-RIB is still awaited.
    pub awaited: Vec<Family>,
}

/// A peer that holds this node's routes as stale (RFC 4724 §4.2): while it does, a second restart of
/// this node's speaker loses them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeldView {
    /// Since when: the session's end.
    pub since: jiff::Timestamp,
    /// Seconds until its restart timer drops them; none while the session is up again.
    pub expires_in_seconds: Option<f64>,
    /// Families whose End-of-RIB this node has not sent yet.
    pub awaited: Vec<Family>,
    /// How many it holds.
    pub routes: u64,
}

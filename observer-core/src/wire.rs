//! What the tap shows of one connection: its conversation, and the session it carries as far as the
//! messages tell (RFC 4271 §8.2.2, as somebody sees it who is neither end).
//!
//! What the peer sends counts once our kernel acknowledged it: what a firewall dropped behind the tap
//! was never received. What we send counts at once: a NOTIFICATION into a dead network is never
//! acknowledged, and still is why the session ended.

use std::{collections::VecDeque, time::Duration};

use crate::{
    address::Role,
    bgp::OpenFacts,
    bgp_view::ConversationView,
    connection::Connection,
    conversation::{Conversation, ConversationConfig, Direction, Inference, Observation},
    exchange::Sides,
    message_counts::MessageCounts,
    peer::SessionState,
    stream::{Release, StreamConfig},
    tap::Tapped,
    time::Timestamp,
    totals::TapTotals,
};

/// Octets held back of what this node sends: at its own interfaces hardly any comes early.
const SENT_CAPACITY: usize = 256 << 10;
/// Octets held back of what the peer sends: as much as a sender can have under way, since while the
/// speaker keeps its socket busy nothing is acknowledged. Linux's largest window by default
/// (`tcp_rmem`).
const RECEIVED_CAPACITY: usize = 6 << 20;
/// The same segment on another interface comes within this.
const COPIES_WITHIN: Duration = Duration::from_millis(2);
/// Segments remembered to know their copies.
const MAX_COPIES: usize = 32;
/// The kernel has received more than the tap has seen for this long: the tap misses something.
const BLIND_AFTER: Duration = Duration::from_secs(1);

/// The tap's side of one connection.
#[derive(Debug)]
pub(crate) struct Wire {
    conversation: Conversation,
    pub signs: Signs,
    copies: VecDeque<Glimpse>,
    /// A segment of it was seen.
    pub seen: bool,
    /// Since when the kernel has received more than the tap has seen.
    lags_since: Option<Timestamp>,
    /// When the first came of what the peer sent and the kernel has not acknowledged.
    arrived: Option<Timestamp>,
}

/// What messages and segments have shown so far.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing seen or not; they are no states of one machine"
)]
pub(crate) struct Signs {
    /// A SYN was seen: read from the beginning.
    pub begun: bool,
    /// Something is missing since.
    pub broken: bool,
    /// OPENs seen.
    pub open: Sides<bool>,
    /// KEEPALIVEs seen after both OPENs.
    pub keepalive: Sides<bool>,
    /// When the second side's KEEPALIVE completed the session.
    pub established_at: Option<Timestamp>,
    /// A NOTIFICATION was seen, either way.
    pub notified: bool,
    /// Nothing more about its end is to be expected: FIN, RST or NOTIFICATION was seen.
    pub passed: bool,
    /// When the latest KEEPALIVE was seen.
    pub keepalive_at: Sides<Option<Timestamp>>,
    /// When the peer's latest KEEPALIVE or UPDATE was received: what restarts the hold timer.
    pub heard_at: Option<Timestamp>,
    /// That this may expire soon was told.
    pub margin_told: bool,
}

/// A segment as far as its copies resemble it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Glimpse {
    at: Timestamp,
    interface: u32,
    sent: bool,
    seq: u32,
    ack: Option<u32>,
    flags: (bool, bool, bool),
    length: usize,
}

impl Glimpse {
    fn is_copy_of(&self, other: &Self) -> bool {
        self.interface != other.interface
            && Self {
                at: other.at,
                interface: other.interface,
                ..*self
            } == *other
    }
}

/// What counters stood at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub messages: Sides<MessageCounts>,
    conflicts: u64,
    out_of_window: u64,
    unacknowledged: u64,
    gaps: u64,
    unfinished: u64,
}

impl Default for Wire {
    fn default() -> Self {
        let stream = |release, capacity| StreamConfig {
            release,
            capacity,
            // A kernel shows the two directions in order.
            patience: 0,
            settle: false,
        };
        Self {
            conversation: Conversation::new(ConversationConfig {
                a_to_b: stream(Release::Immediately, SENT_CAPACITY),
                b_to_a: stream(Release::Acknowledged, RECEIVED_CAPACITY),
                ..ConversationConfig::default()
            }),
            signs: Signs::default(),
            copies: VecDeque::new(),
            seen: false,
            lags_since: None,
            arrived: None,
        }
    }
}

impl Wire {
    /// Starts anew, midway: what was held had to go.
    pub fn give_up(&mut self) {
        let established_at = self.signs.established_at;
        *self = Self {
            seen: true,
            ..Self::default()
        };
        self.signs.broken = true;
        self.signs.established_at = established_at;
    }

    /// Whether this segment was seen on another interface just before.
    pub fn is_copy(&mut self, at: Timestamp, tapped: &Tapped<'_>) -> bool {
        let segment = &tapped.segment;
        let glimpse = Glimpse {
            at,
            interface: tapped.interface,
            sent: tapped.sent,
            seq: segment.seq,
            ack: segment.ack,
            flags: (segment.syn, segment.fin, segment.rst),
            length: segment.payload.len(),
        };
        let recent = |old: &Glimpse| at.since(old.at) <= COPIES_WITHIN;
        while self.copies.front().is_some_and(|old| !recent(old)) || self.copies.len() >= MAX_COPIES
        {
            self.copies.pop_front();
        }
        let copy = self.copies.iter().any(|old| glimpse.is_copy_of(old));
        if !copy {
            self.copies.push_back(glimpse);
        }
        copy
    }

    /// Takes a segment in; `read` is told what it completes. Gives when the first came of what it
    /// completes of the peer's: that counts when it is acknowledged, but the speaker reads it at once.
    pub fn take(
        &mut self,
        at: Timestamp,
        tapped: &Tapped<'_>,
        read: &mut dyn FnMut(&mut Signs, &Observation<'_>),
    ) -> Timestamp {
        self.seen = true;
        let direction = if tapped.sent {
            Direction::AToB
        } else {
            Direction::BToA
        };
        let Self {
            conversation,
            signs,
            ..
        } = self;
        let before = conversation.waiting(Direction::BToA);
        conversation.segment(at, direction, &tapped.segment, &mut |observation| {
            read(signs, &observation);
        });
        let waiting = conversation.waiting(Direction::BToA);
        let arrived = self.arrived.unwrap_or(at);
        self.arrived = match waiting {
            0 => None,
            // When the rest came is not kept: before now.
            rest if rest < before => Some(at),
            _ => Some(arrived),
        };
        arrived
    }

    /// Nothing more will come: what was never acknowledged is counted.
    pub fn finish(&mut self, at: Timestamp) {
        self.conversation.finish(at, &mut |_| {});
    }

    /// Where the counters stand.
    pub fn tally(&self) -> Tally {
        let (sent, received) = (Direction::AToB, Direction::BToA);
        let streams = [sent, received].map(|way| self.conversation.stream_counters(way));
        let sum = |of: fn(&crate::stream::StreamCounters) -> u64| {
            streams.iter().map(|stream| of(stream)).sum()
        };
        Tally {
            messages: Sides {
                sent: self.conversation.counters(sent).messages,
                received: self.conversation.counters(received).messages,
            },
            conflicts: sum(|stream| stream.conflicts),
            out_of_window: sum(|stream| stream.out_of_window),
            unacknowledged: sum(|stream| stream.unacknowledged),
            gaps: sum(|stream| stream.gaps),
            unfinished: [sent, received]
                .map(|way| self.conversation.counters(way).unfinished)
                .iter()
                .sum(),
        }
    }

    /// Octets held back.
    pub fn held(&self) -> usize {
        self.conversation.held()
    }

    /// The OPEN of a side.
    pub fn open(&self, direction: Direction) -> Option<&OpenFacts> {
        self.conversation.open(direction)
    }

    /// Hold time that both agreed on (RFC 4271 §4.2); none while unknown.
    pub fn hold(&self) -> Option<Duration> {
        self.conversation
            .hold_secs()
            .map(|secs| Duration::from_secs(u64::from(secs)))
    }

    /// Whether its messages decide what state the session is in: read from the beginning, without a
    /// hole.
    pub const fn is_telling(&self) -> bool {
        self.signs.is_telling()
    }

    /// What each side's UPDATEs had to tell because OPENs were not seen.
    pub fn inference(&self) -> Sides<Inference> {
        let of = |way| self.conversation.counters(way).inference.clone();
        Sides {
            sent: of(Direction::AToB),
            received: of(Direction::BToA),
        }
    }

    /// Whether the tap has still to show how the connection ends.
    pub const fn awaits_end(&self) -> bool {
        self.seen && !self.signs.passed
    }

    /// The tap did not see everything: messages decide nothing that they have not shown yet.
    pub fn miss(&mut self) {
        if self.seen {
            self.signs.broken = true;
        }
    }

    /// The kernel has received this many octets by `at`: a tap that has seen less for long is blind.
    pub fn compare(&mut self, at: Timestamp, received: u64) {
        if !self.is_telling() || self.received() >= received {
            self.lags_since = None;
            return;
        }
        let since = *self.lags_since.get_or_insert(at);
        if at.since(since) >= BLIND_AFTER {
            self.signs.broken = true;
        }
    }

    fn received(&self) -> u64 {
        let held = u64::try_from(self.conversation.held()).unwrap_or(u64::MAX);
        let stream = self.conversation.stream_counters(Direction::BToA);
        stream.bytes.saturating_add(held)
    }

    /// How much of what the view shows was read and how much inferred.
    pub const fn view(&self) -> ConversationView {
        if !self.seen {
            ConversationView::None
        } else if self.signs.open.sent && self.signs.open.received && !self.signs.broken {
            ConversationView::Complete
        } else {
            ConversationView::Inferred
        }
    }
}

impl Signs {
    /// As [`Wire::is_telling`].
    pub const fn is_telling(&self) -> bool {
        self.begun && !self.broken
    }

    /// A KEEPALIVE was seen at `at`; one before both OPENs is none (RFC 4271 §8.2.2, event 26 in
    /// OpenSent).
    pub fn keep_alive(&mut self, at: Timestamp, direction: Direction) {
        *self.keepalive_at.of_mut(direction) = Some(at);
        if !self.open.sent || !self.open.received {
            return;
        }
        *self.keepalive.of_mut(direction) = true;
        let both = self.keepalive.sent && self.keepalive.received;
        if both && !self.notified && self.established_at.is_none() {
            self.established_at = Some(at);
        }
    }

    /// The peer was heard: the hold timer starts again.
    pub const fn hear(&mut self, at: Timestamp) {
        self.heard_at = Some(at);
        self.margin_told = false;
    }

    /// State of the session by its messages, on a connection that is up. OPENSENT is entered with our
    /// OPEN. That the peer's OPEN was found valid shows in our KEEPALIVE: OpenConfirm; before it,
    /// nobody outside can know.
    const fn state(&self, role: Role) -> SessionState {
        if self.keepalive.sent {
            SessionState::OpenConfirm
        } else if self.open.sent {
            SessionState::OpenSent
        } else {
            match role {
                Role::Outbound => SessionState::Connect,
                Role::Inbound => SessionState::Active,
            }
        }
    }
}

impl Tally {
    /// Adds what changed since `before` to `totals`.
    pub fn add_since(&self, before: &Self, totals: &mut TapTotals) {
        totals.conflicts += self.conflicts.saturating_sub(before.conflicts);
        totals.out_of_window += self.out_of_window.saturating_sub(before.out_of_window);
        totals.unacknowledged += self.unacknowledged.saturating_sub(before.unacknowledged);
        totals.gaps += self.gaps.saturating_sub(before.gaps);
        totals.unfinished += self.unfinished.saturating_sub(before.unfinished);
    }
}

/// The state that a connection gives a session that is not Established; none when it gives none.
/// Where the messages are not read, TCP alone tells: up is as good as OpenSent.
pub(crate) fn state_by(connection: &Connection) -> Option<SessionState> {
    use crate::event::TcpState;
    match connection.tcp {
        TcpState::Established if connection.wire.is_telling() => {
            Some(connection.wire.signs.state(connection.role))
        }
        TcpState::Established => Some(SessionState::OpenSent),
        TcpState::SynSent => Some(SessionState::Connect),
        TcpState::Listen
        | TcpState::NewSynRecv
        | TcpState::SynRecv
        | TcpState::CloseWait
        | TcpState::FinWait1
        | TcpState::LastAck
        | TcpState::FinWait2
        | TcpState::Closing
        | TcpState::TimeWait
        | TcpState::Close => None,
    }
}

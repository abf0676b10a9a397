//! The TCP connections of a capture: which segment belongs to which, and a bound over all.

use std::{collections::BTreeMap, net::SocketAddr};

use observer_core::{
    conversation::{Conversation, ConversationConfig, Direction, Observation},
    stream::StreamConfig,
    time::Timestamp,
};

use super::packet::TcpPacket;

/// Connections kept; what more a capture holds is counted.
const MAX_CONNECTIONS: usize = 1 << 16;
/// Octets held for all of them together.
const MAX_HELD: usize = 64 << 20;

/// Acknowledged octets by which a SYN that comes late is still known as a connection's own.
const NEAR: u32 = 1 << 20;

/// One connection of a capture. `a` sent the first packet.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) a: SocketAddr,
    pub(super) b: SocketAddr,
    pub(super) conversation: Conversation,
    /// Sequence numbers of the SYNs of `a` and `b`.
    syns: (Option<u32>, Option<u32>),
    /// What `a` and `b` acknowledged last.
    acks: (Option<u32>, Option<u32>),
    last: Timestamp,
}

/// Every connection, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) all: Vec<Connection>,
    /// Latest connection of a pair of ends, the lesser first.
    latest: BTreeMap<(SocketAddr, SocketAddr), usize>,
    held: usize,
    /// Segments of connections beyond the bound.
    pub(super) left_out: u64,
}

/// An observation of the connection with this number.
pub(super) type Tell<'a> = &'a mut dyn FnMut(usize, Observation<'_>);

impl Connections {
    pub(super) fn take(&mut self, at: Timestamp, packet: &TcpPacket<'_>, tell: Tell<'_>) {
        let Some(index) = self.find(packet) else {
            self.left_out += 1;
            return;
        };
        let Some(connection) = self.all.get_mut(index) else {
            return;
        };
        connection.last = connection.last.max(at);
        let direction = connection.direction(packet);
        let (syn, ack) = match direction {
            Direction::AToB => (&mut connection.syns.0, &mut connection.acks.0),
            Direction::BToA => (&mut connection.syns.1, &mut connection.acks.1),
        };
        if packet.segment.syn {
            syn.get_or_insert(packet.segment.seq);
        }
        *ack = packet.segment.ack.or(*ack);
        let conversation = &mut connection.conversation;
        self.held = self.held.saturating_sub(conversation.held());
        let mut sink = |observation: Observation<'_>| tell(index, observation);
        conversation.segment(at, direction, &packet.segment, &mut sink);
        if self.held + conversation.held() > MAX_HELD {
            conversation.finish(at, &mut sink);
        }
        self.held += conversation.held();
    }

    pub(super) fn finish(&mut self, tell: Tell<'_>) {
        for (index, connection) in self.all.iter_mut().enumerate() {
            let at = connection.last;
            connection
                .conversation
                .finish(at, &mut |observation| tell(index, observation));
        }
    }

    /// The connection that a segment belongs to; a new one when there is none, or when a SYN begins
    /// another between the same ends.
    fn find(&mut self, packet: &TcpPacket<'_>) -> Option<usize> {
        let (from, to) = (packet.from, packet.to);
        let ends = if from <= to { (from, to) } else { (to, from) };
        if let Some(index) = self.latest.get(&ends) {
            let connection = self.all.get(*index)?;
            if !packet.segment.syn || !connection.is_past(packet) {
                return Some(*index);
            }
        }
        if self.all.len() == MAX_CONNECTIONS {
            return None;
        }
        let index = self.all.len();
        self.all.push(Connection {
            a: from,
            b: to,
            conversation: Conversation::new(patient()),
            syns: (None, None),
            acks: (None, None),
            last: Timestamp::default(),
        });
        self.latest.insert(ends, index);
        Some(index)
    }
}

/// Segments of a capture may be in any order, of either direction and from the first on: only time
/// tells that one will not come.
fn patient() -> ConversationConfig {
    let stream = StreamConfig {
        patience: u32::MAX,
        settle: true,
        ..StreamConfig::default()
    };
    ConversationConfig {
        a_to_b: stream,
        b_to_a: stream,
        ..ConversationConfig::default()
    }
}

impl Connection {
    fn direction(&self, packet: &TcpPacket<'_>) -> Direction {
        if packet.from == self.a {
            Direction::AToB
        } else {
            Direction::BToA
        }
    }

    /// Whether a SYN is not of this connection: it has another number than the one seen, or comes
    /// after bytes that it cannot be the beginning of.
    fn is_past(&self, packet: &TcpPacket<'_>) -> bool {
        let direction = self.direction(packet);
        let (own, other, ack) = match direction {
            Direction::AToB => (self.syns.0, self.syns.1, self.acks.1),
            Direction::BToA => (self.syns.1, self.syns.0, self.acks.0),
        };
        let seq = packet.segment.seq;
        if let Some(syn) = own {
            return syn != seq;
        }
        // The other side speaks only once it was spoken to, and then acknowledges this SYN.
        let answers = packet.segment.ack.is_some() || other.is_some();
        let answered = ack.is_some_and(|ack| ack.wrapping_sub(seq) < NEAR);
        let speaks = self.conversation.spoke(direction.reversed());
        !self.conversation.can_begin(direction, seq) || speaks && !answers && !answered
    }
}

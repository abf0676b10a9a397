//! Segments on the node's interfaces: whose connection they are, and what follows from what they
//! say. Reading them is in `wire` and `exchange`.
//!
//! A segment belongs to the connection that has its two ends now, or had them until a moment ago. What
//! belongs to none waits a little (`early`), or is transit: one counter.

use std::net::{SocketAddr, SocketAddrV6};

use crate::{
    address::{PeerAddress, canonical_end, is_link_local},
    bgp::Prefix,
    change::RestartEnd,
    connection::Connection,
    early::{Kept, Tuple},
    event::{Fact, LossStage, SocketId, TcpState},
    evidence::{Clue, End, Evidence},
    exchange::Listening,
    node::{Node, inspection},
    session::Subject,
    stream::Segment,
    time::Timestamp,
    turn::Turn,
    wire::Wire,
};

/// Octets held back for all connections of a node.
const MAX_HELD: usize = 64 << 20;

/// Routes kept for all peers of a node, both ways.
const MAX_ROUTES: usize = 4_000_000;
/// Routes that a peer may have before all are counted.
const MANY_ROUTES: usize = 4_096;
/// Tapped interfaces remembered.
const MAX_INTERFACES: usize = 4096;

/// A segment as the tap saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tapped<'a> {
    pub interface: u32,
    /// It left this host.
    pub sent: bool,
    /// Our end and the other, in the form that is compared.
    pub tuple: Tuple,
    pub segment: Segment<'a>,
}

/// What a segment's messages ask for.
#[derive(Debug)]
struct Heard {
    clues: Vec<Clue>,
    news: bool,
    /// It is the first that shows the connection's end.
    ends: bool,
    refused: u64,
    learned: Vec<(Prefix, bool)>,
    /// When the first of what was learned came.
    arrived: Timestamp,
    restart_over: bool,
}

/// Both ends in the form that is compared: a link-local connection has one interface, and sources
/// differ in which end they tell it of.
pub(crate) fn tuple(local: SocketAddr, remote: SocketAddr) -> Tuple {
    let (local, remote) = (canonical_end(local), canonical_end(remote));
    match (local, remote) {
        (SocketAddr::V6(own), SocketAddr::V6(other)) if is_link_local(local.ip()) => {
            let own = SocketAddrV6::new(*own.ip(), own.port(), 0, other.scope_id());
            (own.into(), remote)
        }
        _ => (local, remote),
    }
}

impl<'a> Tapped<'a> {
    /// The segment that a fact tells of, if it does.
    pub fn of(fact: &'a Fact) -> Option<Self> {
        let Fact::Segment {
            interface,
            sent,
            local,
            remote,
            seq,
            ack,
            syn,
            fin,
            rst,
            payload,
            missing,
            ..
        } = fact
        else {
            return None;
        };
        Some(Self {
            interface: *interface,
            sent: *sent,
            tuple: tuple(*local, *remote),
            segment: Segment {
                seq: *seq,
                ack: *ack,
                syn: *syn,
                fin: *fin,
                rst: *rst,
                payload,
                missing: *missing,
            },
        })
    }
}

impl Node {
    /// An interface's segments are seen.
    pub fn tap_attached(&mut self, interface: u32) {
        if self.tapped.len() < MAX_INTERFACES {
            self.tapped.insert(interface);
        }
    }

    /// An interface's segments are not seen any more.
    pub fn tap_detached(&mut self, turn: &mut Turn<'_>, interface: u32) {
        if self.tapped.remove(&interface) && self.tapped.is_empty() {
            self.miss_segments(turn);
        }
    }

    /// A segment was seen.
    pub fn segment(&mut self, turn: &mut Turn<'_>, tapped: &Tapped<'_>) {
        self.learn_port(turn, tapped);
        self.early.expire(turn.at);
        for (tuple, segments) in self.early.take_whole() {
            self.unseen_attempt(turn, tuple, &segments);
        }
        let unclaimed = self.early.take_unclaimed();
        if unclaimed > 0 {
            turn.totals.wire(&self.name).tap.transit += unclaimed;
        }
        let key = tapped.tuple;
        let id = self.tuples.get(&key).copied().filter(|id| {
            // A SYN after the end is another connection between the same ends.
            let live = |id| self.connections.get(id).is_some_and(Connection::is_live);
            !self.early.contains(&key) && (!tapped.segment.syn || live(id))
        });
        let at = turn.at;
        if let Some(id) = id {
            self.deliver(turn, id, at, tapped);
            return;
        }
        let address = PeerAddress::of(key.1);
        let known = self.peers.contains_key(&address)
            || turn.inventory.find(&self.name, address.ip).is_some();
        if !self.early.keep(at, tapped, known) {
            turn.totals.wire(&self.name).tap.transit += 1;
        }
    }

    /// A connection of a peer came and went between two looks at the sockets, where the kernel does not tell
    /// of changes: an attempt that failed, and what was said in it.
    fn unseen_attempt(&mut self, turn: &mut Turn<'_>, tuple: Tuple, segments: &[Kept]) {
        let address = PeerAddress::of(tuple.1);
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return;
        };
        let mut wire = Wire::default();
        let mut listening = Listening {
            exchange: &mut peer.exchange,
            totals: turn.totals.wire(&self.name),
            id: SocketId::default(),
            wall: turn.wall,
            carries: false,
            room: 0,
            refused: 0,
            learned: Vec::new(),
            restart_over: false,
            clues: Vec::new(),
            news: false,
        };
        for kept in segments {
            let tapped = kept.tapped(tuple);
            if !wire.is_copy(kept.at, &tapped) {
                wire.take(kept.at, &tapped, &mut |signs, seen| {
                    listening.take(signs, seen);
                });
            }
        }
        let outbound = first.tapped(tuple).sent;
        let mut evidence = Evidence::default();
        for clue in listening.clues {
            evidence.add(last.at, clue);
        }
        evidence.end = Some(End::unseen(last.at));
        // A whole session that nobody else saw is no failed attempt; nor is a SYN for which nobody listens here.
        let attempt = outbound || wire.signs.open.sent || wire.signs.open.received;
        if !attempt || wire.signs.established_at.is_some() || peer.session.is_up() {
            return;
        }
        peer.tried = true;
        let failure = evidence.failure(turn.config.cause_wait());
        let answered = segments
            .iter()
            .any(|kept| kept.tapped(tuple).segment.syn && kept.acknowledges());
        let name = address.to_string();
        let subject = Subject {
            node: &self.name,
            peer: &name,
        };
        peer.session
            .fail(turn, subject, outbound, failure.words(answered));
    }

    /// Our SYN shows the port of a dial that the kernel told of before it chose one.
    fn learn_port(&mut self, turn: &mut Turn<'_>, tapped: &Tapped<'_>) {
        let segment = &tapped.segment;
        let (local, remote) = tapped.tuple;
        if !tapped.sent || !segment.syn || segment.ack.is_some() {
            return;
        }
        let Some(peer) = self.peers.get(&PeerAddress::of(remote)) else {
            return;
        };
        let mut dials = peer.connections.iter().copied().filter(|id| {
            self.connections.get(id).is_some_and(|dial| {
                dial.tcp == TcpState::SynSent
                    && dial.socket.local.port() == 0
                    && dial.socket.remote == remote
            })
        });
        if let (Some(id), None) = (dials.next(), dials.next())
            && let Some(dial) = self.connections.get_mut(&id)
        {
            dial.socket.local = local;
            self.join(turn, id);
        }
    }

    /// A connection's ends are known, or changed: its segments are its own from now on, those that
    /// came before included.
    pub fn join(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let socket = &connection.socket;
        if socket.local.port() == 0 {
            return;
        }
        let key = tuple(socket.local, socket.remote);
        if connection.joined == Some(key) || !connection.is_live() {
            return;
        }
        let before = connection.joined.replace(key);
        if let Some(before) = before {
            self.leave_tuple(id, &before);
        }
        self.tuples.insert(key, id);
        for kept in self.early.take(turn.at, &key) {
            self.deliver(turn, id, kept.at, &kept.tapped(key));
        }
    }

    fn leave_tuple(&mut self, id: SocketId, key: &Tuple) {
        if self.tuples.get(key) == Some(&id) {
            self.tuples.remove(key);
        }
    }

    /// A connection is forgotten: what was never acknowledged never was received.
    pub fn part(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let wire = &mut connection.wire;
        if wire.seen {
            let (before, held) = (wire.tally(), wire.held());
            wire.finish(turn.at);
            let tap = &mut turn.totals.wire(&self.name).tap;
            wire.tally().add_since(&before, tap);
            self.held = self.held.saturating_sub(held);
        }
        if let Some(key) = connection.joined {
            self.leave_tuple(id, &key);
        }
    }

    fn deliver(&mut self, turn: &mut Turn<'_>, id: SocketId, at: Timestamp, tapped: &Tapped<'_>) {
        self.make_way(turn, id);
        let room = self.room(id);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&connection.peer) else {
            return;
        };
        let wire = &mut connection.wire;
        let totals = turn.totals.wire(&self.name);
        if wire.is_copy(at, tapped) {
            totals.tap.duplicates += 1;
            return;
        }
        totals.tap.segments += 1;
        let (before, held) = (wire.tally(), wire.held());
        let passed = wire.signs.passed;
        let free = peer.session.carrier.is_none_or(|carrier| carrier == id);
        let mut listening = Listening {
            exchange: &mut peer.exchange,
            totals,
            id,
            wall: turn.wall,
            carries: free && connection.evidence.end.is_none(),
            room,
            refused: 0,
            learned: Vec::new(),
            restart_over: false,
            clues: Vec::new(),
            news: false,
        };
        let arrived = wire.take(at, tapped, &mut |signs, seen| listening.take(signs, seen));
        let mut heard = Heard {
            clues: listening.clues,
            news: listening.news,
            ends: false,
            refused: listening.refused,
            learned: listening.learned,
            arrived,
            restart_over: listening.restart_over,
        };
        heard.ends = !passed && wire.signs.passed;
        let now = wire.tally();
        let totals = turn.totals.wire(&self.name);
        now.add_since(&before, &mut totals.tap);
        for side in [&mut peer.exchange.messages, &mut totals.messages] {
            let (to, from) = (&now.messages, &before.messages);
            side.sent.add_since(&to.sent, &from.sent);
            side.received.add_since(&to.received, &from.received);
        }
        self.held = (self.held + wire.held()).saturating_sub(held);
        if self.held > MAX_HELD {
            self.let_go_of_most(turn);
        }
        self.heed(turn, id, heard);
    }

    /// The connection for which most is held has to do without it: those that need little are not to
    /// suffer from one that needs much.
    fn let_go_of_most(&mut self, turn: &mut Turn<'_>) {
        let wires = self.connections.values_mut();
        let Some(wire) = wires
            .map(|other| &mut other.wire)
            .max_by_key(|wire| wire.held())
        else {
            return;
        };
        self.held = self.held.saturating_sub(wire.held());
        wire.give_up();
        turn.lost(LossStage::Table, 1);
    }

    /// An end whose cause is still awaited is settled before another connection of the same peer
    /// brings a session up: its routes are the next one's concern no more.
    fn make_way(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let address = connection.peer;
        let greeted = connection.wire.signs.open.sent && connection.wire.signs.open.received;
        let other = self
            .peers
            .get(&address)
            .and_then(|peer| peer.session.pending.as_ref())
            .is_some_and(|pending| pending.carrier != id);
        if greeted && other {
            self.settle(turn, address, true);
        }
    }

    /// How many routes more a connection's peer may bring. All peers are only counted for the sake of
    /// large ones.
    fn room(&self, id: SocketId) -> usize {
        let peer = self
            .connections
            .get(&id)
            .and_then(|connection| self.peers.get(&connection.peer));
        if peer.is_none_or(|peer| peer.exchange.routes() < MANY_ROUTES) {
            return MANY_ROUTES;
        }
        let all = self.peers.values().map(|peer| peer.exchange.routes());
        MAX_ROUTES.saturating_sub(all.sum())
    }

    /// What was read may have changed the session, or explained an end.
    fn heed(&mut self, turn: &mut Turn<'_>, id: SocketId, heard: Heard) {
        if heard.refused > 0 {
            turn.lost(LossStage::Table, heard.refused);
        }
        for clue in heard.clues {
            self.notified(turn, id, clue);
        }
        if let Some(connection) = self.connections.get(&id)
            && !heard.learned.is_empty()
        {
            self.hear_routes(turn, connection.peer, heard.arrived, &heard.learned);
        }
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let address = connection.peer;
        if heard.news {
            if heard.ends && connection.is_usable() {
                // Where the kernel tells nothing by itself, this is when it is worth asking.
                turn.ask(inspection(&connection.socket));
            }
            self.settle_failure(turn, id, false);
            self.settle(turn, address, false);
            self.assess(turn, id);
            self.refresh(turn, address);
        }
        if heard.restart_over {
            self.end_restart(turn, address, RestartEnd::EndOfRib);
        }
        self.watch_hold(turn, id);
    }

    /// Segments were lost before the core saw them, nobody knows whose.
    pub fn miss_segments(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<SocketId> = self.connections.keys().copied().collect();
        for id in ids {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let address = connection.peer;
            connection.wire.miss();
            self.assess(turn, id);
            self.refresh(turn, address);
        }
    }
}

//! What a connection's steps mean for its peer's session: up, down, why, and which attempts failed.

use std::time::Duration;

use crate::{
    address::{PeerAddress, Role},
    cause::{Cause, Signal},
    change::Change,
    connection::{Connection, Step},
    deadline::Due,
    event::{Process, SocketId},
    evidence::Clue,
    exchange::deconfigures,
    node::{LINGER, Naming, Node, Peer, pause_after, phase},
    notice::{Falling, Notice},
    peer::{KnownBy, SessionState},
    session::Subject,
    turn::Turn,
    wire::state_by,
};

/// Prefixes that are told of a session that falls.
const SAMPLE: usize = 4;

impl Node {
    /// A connection made a step.
    pub fn take_step(&mut self, turn: &mut Turn<'_>, id: SocketId, step: Step) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let address = connection.peer;
        match step {
            Step::Stay => {}
            Step::Connected => self.connected(turn, id),
            Step::Left => self.left(turn, id),
            Step::Closed => self.keep_remains(turn, id),
        }
        self.assess(turn, id);
        self.refresh(turn, address);
    }

    /// TCP came up.
    fn connected(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.connected_at = Some(turn.at);
        if turn.exact
            && let Some(syn) = connection.syn_at
        {
            let took = turn.at.since(syn);
            connection.establish = Some(took);
            turn.totals.observe_establish(&self.name, took);
            if let Some(peer) = self.peers.get_mut(&connection.peer) {
                peer.establish = Some(took);
            }
        }
        let first_look = turn.again(pause_after(connection, turn.config.inspect_every()));
        connection.checks = connection.checks.saturating_add(1);
        turn.deadlines
            .set(Due::Connection(self.netns, id), first_look);
    }

    /// A connection stopped being usable.
    fn left(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let address = connection.peer;
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        let carried = peer.session.carrier == Some(id);
        let failed = !connection.confirmed && !self.has_usable(peer);
        if carried {
            self.lose(turn, address, id);
        }
        self.keep_remains(turn, id);
        if failed && let Some(connection) = self.connections.get_mut(&id) {
            connection.failing = true;
            let counted_at = turn.at.after(turn.config.cause_wait());
            turn.deadlines
                .set(Due::Connection(self.netns, id), counted_at);
            self.settle_failure(turn, id, false);
        }
    }

    /// A closed connection is kept a little longer; one that drains needs no looks.
    fn keep_remains(&self, turn: &mut Turn<'_>, id: SocketId) {
        let due = Due::Connection(self.netns, id);
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if connection.failing {
            return;
        }
        match connection.ended_at {
            Some(ended) => turn.deadlines.set(due, ended.after(LINGER)),
            None => turn.deadlines.clear(due),
        }
    }

    fn has_usable(&self, peer: &Peer) -> bool {
        peer.connections
            .iter()
            .filter_map(|id| self.connections.get(id))
            .any(Connection::is_usable)
    }

    /// What the bytes and counters of a connection say: a session, or silence.
    pub fn assess(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !connection.confirmed && connection.proves_session(turn.config, turn.at) {
            self.confirm(turn, id);
        }
        self.tell_unanswered(turn, id);
    }

    /// A session is proven to ride on this connection.
    fn confirm(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.confirmed = true;
        let (address, took) = (connection.peer, connection.establish);
        let inherited = connection.connected_at.is_none();
        let every = turn.config.inspect_every();
        let look = turn
            .at
            .after(phase(id, every).max(Duration::from_millis(1)));
        turn.deadlines.set(Due::Connection(self.netns, id), look);
        if self
            .peers
            .get(&address)
            .is_none_or(|peer| peer.session.is_up())
        {
            return;
        }
        self.settle(turn, address, true);
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        if peer.known_by == KnownBy::Restored {
            peer.known_by = KnownBy::Established;
        }
        let name = address.to_string();
        let subject = Subject {
            node: &self.name,
            peer: &name,
        };
        peer.session.establish(turn, subject, id, inherited, took);
        self.resume_routes(turn, address, id);
        self.resume_advertised(turn, address, id);
        self.watch_hold(turn, id);
    }

    fn tell_unanswered(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let carries = self
            .peers
            .get(&connection.peer)
            .is_some_and(|peer| peer.session.carrier == Some(id));
        if !carries {
            return;
        }
        let Some(retransmits) = connection.tells_unanswered() else {
            return;
        };
        let peer = connection.peer.to_string();
        turn.tell(&self.name, Change::Unanswered { peer, retransmits });
    }

    /// The connection that carried the session stopped being usable: the session goes on if another
    /// one was proven to carry it meanwhile, and goes down otherwise.
    fn lose(&mut self, turn: &mut Turn<'_>, address: PeerAddress, id: SocketId) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let heir = peer.connections.iter().copied().find(|other| {
            *other != id
                && self
                    .connections
                    .get(other)
                    .is_some_and(|other| other.confirmed && other.is_usable())
        });
        if let Some(heir) = heir {
            peer.session.carrier = Some(heir);
            for rib in [&mut peer.exchange.rib, &mut peer.exchange.advertised] {
                rib.clear();
                rib.begin(heir);
            }
            return;
        }
        let name = address.to_string();
        let subject = Subject {
            node: &self.name,
            peer: &name,
        };
        let others = peer
            .connections
            .iter()
            .filter(|other| **other != id)
            .filter_map(|other| self.connections.get(other));
        let state = state_without_session(others, peer.tried);
        turn.notices.push(Notice::Falling(Falling {
            netns: self.netns,
            peer: address,
            earliest: turn.earliest,
            latest: turn.at,
            prefixes: peer.exchange.rib.sample(SAMPLE),
            announced: u64::try_from(peer.exchange.rib.len()).unwrap_or(u64::MAX),
        }));
        peer.session.lose(turn, subject, state);
        let due = turn.at.after(turn.config.cause_wait());
        turn.deadlines.set(Due::Cause(self.netns, address), due);
        self.settle(turn, address, false);
    }

    /// Counts a session's end that is pending, if its cause is settled or has to be final now.
    pub fn settle(&mut self, turn: &mut Turn<'_>, address: PeerAddress, now: bool) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let Some(pending) = &peer.session.pending else {
            return;
        };
        let carrier = self.connections.get(&pending.carrier);
        let evidence = carrier
            .map(|connection| connection.evidence.clone())
            .unwrap_or_default();
        let verdict = evidence.conclude(&self.speakers, turn.config.cause_wait());
        let awaited = carrier.is_some_and(|connection| connection.wire.awaits_end());
        if !now && (!verdict.settled || awaited) {
            return;
        }
        let deconfigured = matches!(
            &verdict.cause,
            Cause::NotificationSent(notification) if deconfigures(notification)
        );
        turn.deadlines.clear(Due::Cause(self.netns, address));
        let name = address.to_string();
        let subject = Subject {
            node: &self.name,
            peer: &name,
        };
        let (carrier, cause) = (pending.carrier, verdict.cause.clone());
        peer.session.count(turn, subject, verdict, evidence);
        let down = peer.session.down.unwrap_or_else(|| turn.moment());
        self.end_routes(turn, address, carrier, down, &cause);
        self.end_advertised(turn, address, carrier, down, &cause);
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        // DESIGN §3: what this node de-configured it does not miss, unless the inventory does.
        if deconfigured && peer.naming != Naming::Named {
            let reason = "this node sent Cease/Peer De-configured";
            self.forget(turn, address, reason);
            return;
        }
        self.consider_forgetting(turn, address);
    }

    /// A clue came for connection `id`: if the latest flap was counted for it, the record may change.
    pub fn amend_with(
        &mut self,
        turn: &mut Turn<'_>,
        address: PeerAddress,
        id: SocketId,
        clue: Clue,
    ) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let Some(evidence) = peer.session.counted_evidence(id) else {
            return;
        };
        evidence.add(turn.at, clue);
        self.amend(turn, address);
    }

    /// A NOTIFICATION was read on connection `id`.
    pub fn notified(&mut self, turn: &mut Turn<'_>, id: SocketId, clue: Clue) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let address = connection.peer;
        connection.evidence.add(turn.at, clue.clone());
        self.amend_with(turn, address, id, clue);
    }

    fn amend(&mut self, turn: &mut Turn<'_>, address: PeerAddress) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        if !peer.session.is_amendable(turn.at) {
            return;
        }
        let name = address.to_string();
        let subject = Subject {
            node: &self.name,
            peer: &name,
        };
        peer.session.amend(turn, subject, &self.speakers);
    }

    /// An attempt failed: counted once its reason is settled or has to be final now.
    pub fn settle_failure(&mut self, turn: &mut Turn<'_>, id: SocketId, now: bool) {
        let Some(connection) = self.connections.get_mut(&id).filter(|at| at.failing) else {
            return;
        };
        let failure = connection.evidence.failure(turn.config.cause_wait());
        if !now && !failure.is_settled() {
            return;
        }
        connection.failing = false;
        let address = connection.peer;
        let outbound = matches!(connection.role, Role::Outbound);
        let words = failure.words(connection.connected_at.is_some());
        self.keep_remains(turn, id);
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        if peer.session.is_up() {
            return;
        }
        let name = address.to_string();
        let subject = Subject {
            node: &self.name,
            peer: &name,
        };
        peer.session.fail(turn, subject, outbound, words);
    }

    /// Brings the session's state in line with its peer's connections.
    pub fn refresh(&mut self, turn: &mut Turn<'_>, address: PeerAddress) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let state = if peer.session.is_up() {
            SessionState::Established
        } else {
            let connections = peer
                .connections
                .iter()
                .filter_map(|id| self.connections.get(id));
            state_without_session(connections, peer.tried)
        };
        if peer.session.state == state {
            return;
        }
        let name = address.to_string();
        let subject = Subject {
            node: &self.name,
            peer: &name,
        };
        peer.session.enter(turn, subject, state);
    }

    /// A local speaker ended: told once, and whatever it explains is explained.
    pub fn speaker_exited(
        &mut self,
        turn: &mut Turn<'_>,
        speaker: &Process,
        status: Option<i32>,
        signal: Option<i32>,
    ) {
        let Some(end) = self.speakers.exit(turn.at, speaker, status, signal) else {
            return;
        };
        let speaker = speaker.clone();
        turn.tell(&self.name, Change::SpeakerEnded { speaker, end });
        self.reconsider(turn);
    }

    /// A local speaker was sent a signal.
    pub fn speaker_signalled(
        &mut self,
        turn: &mut Turn<'_>,
        speaker: &Process,
        number: i32,
        sender: Option<&Process>,
    ) {
        let sender = sender.cloned();
        self.speakers
            .signal(turn.at, speaker, Signal { number, sender });
    }

    /// Ends that are pending or lately counted, in the light of what is known of speakers now.
    fn reconsider(&mut self, turn: &mut Turn<'_>) {
        let affected: Vec<PeerAddress> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.session.pending.is_some() || peer.session.is_amendable(turn.at)
            })
            .map(|(address, _)| *address)
            .collect();
        for address in affected {
            self.settle(turn, address, false);
            self.amend(turn, address);
        }
    }

    /// The first dump is complete: sessions that were up when the agent last ran and are not now went
    /// down meanwhile. When exactly nobody saw; the record says so.
    pub fn count_unseen_ends(&mut self, turn: &mut Turn<'_>) {
        for (address, peer) in &mut self.peers {
            if !peer.session.was_up || peer.session.is_up() {
                peer.session.was_up = false;
                continue;
            }
            let name = address.to_string();
            let subject = Subject {
                node: &self.name,
                peer: &name,
            };
            let found = format!(
                "last heard of at {}, gone at the first look",
                peer.heard.wall
            );
            peer.session.count_unseen(turn, subject, &found);
        }
    }
}

/// The state of a session that is not Established: that of the connection that is furthest.
fn state_without_session<'a>(
    connections: impl Iterator<Item = &'a Connection>,
    tried: bool,
) -> SessionState {
    let none = if tried {
        SessionState::Active
    } else {
        SessionState::Idle
    };
    connections.filter_map(state_by).max().unwrap_or(none)
}

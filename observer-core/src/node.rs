//! One observed node: its peers, their connections, its strangers and speakers; what is due.
//!
//! What sockets do is in `sockets`, what that means for sessions in `sessions`, how peers come and
//! go in `known`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::{
    address::PeerAddress,
    announcers::Announcers,
    change::{Change, Request},
    connection::Connection,
    deadline::Due,
    early::{Early, Tuple},
    event::{NetnsId, PeerType, Process, Socket, SocketId},
    exchange::Exchange,
    fib::Fib,
    peer::{KnownBy, SavedPeer},
    session::Session,
    speaker::{Noted, Speakers},
    stranger::Strangers,
    time::Timestamp,
    turn::{Moment, Turn},
};

/// How long the remains of a closed connection are kept for evidence that comes late.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// Two dumps of one namespace are at least this far apart.
const DUMPS_APART: Duration = Duration::from_secs(5);
/// Two dumps only for strangers' sake are at least this far apart.
const STRANGER_DUMPS_APART: Duration = Duration::from_mins(1);
/// Own addresses remembered.
const MAX_OWN: usize = 256;
/// Pauses between looks at a connection that came up, until its bytes prove a session. Then every
/// second, and after [`EAGER_CHECKS`] as often as all others.
const CHECK_PAUSES: [Duration; 6] = [
    Duration::from_millis(20),
    Duration::from_millis(30),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];
const EAGER_CHECKS: u32 = 30;

/// One observed namespace.
#[derive(Debug)]
pub(crate) struct Node {
    pub netns: NetnsId,
    pub name: String,
    pub peers: BTreeMap<PeerAddress, Peer>,
    /// Their routes, by prefix.
    pub announcers: Announcers,
    pub connections: BTreeMap<SocketId, Connection>,
    /// Connections by their ends.
    pub tuples: BTreeMap<Tuple, SocketId>,
    pub early: Early,
    /// Interfaces whose segments are seen, where the tap told.
    pub tapped: BTreeSet<u32>,
    /// Octets of segments held back for all connections.
    pub held: usize,
    pub strangers: Strangers,
    pub speakers: Speakers,
    pub fib: Fib,
    /// Addresses that sockets showed to be the node's own.
    pub own: BTreeSet<IpAddr>,
    /// The sockets that existed before the agent are known.
    pub dumped: bool,
    last_dump: Option<Timestamp>,
    /// A dump that replaces lost events was asked for.
    resyncing: bool,
}

/// A known peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// How it is known.
    pub known_by: KnownBy,
    /// How it came to be known first, in whatever run.
    pub origin: KnownBy,
    pub naming: Naming,
    /// The local speaker's protocol for it, where that is switched off.
    pub disabled: Option<String>,
    pub name: Option<String>,
    pub kind: Option<PeerType>,
    pub asn: Option<u32>,
    pub connections: BTreeSet<SocketId>,
    pub session: Session,
    /// When the local speaker last dialled it.
    pub dialled_at: Option<Timestamp>,
    /// Somebody has tried to bring a session up.
    pub tried: bool,
    /// What the state directory remembered is in.
    pub restored: bool,
    pub heard: Moment,
    pub retransmits: u64,
    pub establish: Option<Duration>,
    /// What it and this node have said.
    pub exchange: Exchange,
}

/// What the inventory has to do with a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Naming {
    /// It never named it.
    Never,
    /// It names it.
    Named,
    /// It named it and does not any more.
    Dropped,
}

/// How urgently a dump is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Urgency {
    /// Evidence was lost.
    Now,
    /// Only strangers were.
    Sometime,
}

impl Node {
    pub fn new(netns: NetnsId, name: &str) -> Self {
        Self {
            netns,
            name: name.to_owned(),
            peers: BTreeMap::new(),
            announcers: Announcers::default(),
            connections: BTreeMap::new(),
            tuples: BTreeMap::new(),
            early: Early::default(),
            tapped: BTreeSet::new(),
            held: 0,
            strangers: Strangers::default(),
            speakers: Speakers::default(),
            fib: Fib::new(netns),
            own: BTreeSet::new(),
            dumped: false,
            last_dump: None,
            resyncing: false,
        }
    }

    /// The namespace is gone: what it had ends now, causes become final with what is known, and its
    /// peers are what it leaves behind.
    pub fn close(mut self, turn: &mut Turn<'_>) -> Vec<SavedPeer> {
        self.tear_down_forwarding(turn);
        let live: Vec<SocketId> = self.live_connections().collect();
        for id in live {
            self.miss(turn, id);
        }
        let addresses: Vec<PeerAddress> = self.peers.keys().copied().collect();
        for address in addresses {
            self.settle(turn, address, true);
            turn.deadlines.clear(Due::Cause(self.netns, address));
            turn.deadlines.clear(Due::Silence(self.netns, address));
            turn.deadlines.clear(Due::Restart(self.netns, address));
            turn.deadlines.clear(Due::Held(self.netns, address));
            turn.deadlines.clear(Due::Hold(self.netns, address));
            turn.ask(Request::Distrust {
                netns: self.netns,
                address: address.ip,
            });
        }
        for id in self.connections.keys() {
            turn.deadlines.clear(Due::Connection(self.netns, *id));
        }
        for id in self.strangers.ids() {
            turn.deadlines.clear(Due::Stranger(self.netns, id));
        }
        turn.deadlines.clear(Due::Resync(self.netns));
        self.save()
    }

    pub fn live_connections(&self) -> impl Iterator<Item = SocketId> {
        self.connections
            .iter()
            .filter(|(_, connection)| connection.is_live())
            .map(|(id, _)| *id)
    }

    /// `process` did what only a speaker does.
    pub fn note_speaker(&mut self, turn: &mut Turn<'_>, process: &Process) {
        if self.speakers.note(turn.at, process) == Noted::First {
            let speaker = process.clone();
            turn.tell(&self.name, Change::SpeakerSeen { speaker });
        }
    }

    /// A socket of this node is bound to `ip`: it is the node's own, and if the inventory made a peer
    /// of it, that was meant for the others.
    pub fn learn_own(&mut self, turn: &mut Turn<'_>, ip: IpAddr) {
        if ip.is_unspecified() || self.own.len() >= MAX_OWN || !self.own.insert(ip) {
            return;
        }
        let address = PeerAddress::new(ip, 0);
        let only_named = self
            .peers
            .get(&address)
            .is_some_and(|peer| peer.known_by == KnownBy::Inventory && !peer.tried);
        if only_named {
            self.forget(turn, address, "it is the node's own address");
        }
    }

    /// Asks for a dump, now or as soon as the last one is old enough.
    pub fn want_dump(&mut self, turn: &mut Turn<'_>, urgency: Urgency) {
        let (soonest, apart) = match urgency {
            Urgency::Now => (turn.at, DUMPS_APART),
            Urgency::Sometime => (
                turn.at.after(turn.config.stranger_age()),
                STRANGER_DUMPS_APART,
            ),
        };
        let at = self
            .last_dump
            .map_or(soonest, |last| soonest.max(last.after(apart)));
        if at <= turn.at {
            self.dump(turn);
        } else {
            turn.deadlines.hasten(Due::Resync(self.netns), at);
        }
    }

    /// Asks for a dump.
    pub fn dump(&mut self, turn: &mut Turn<'_>) {
        turn.deadlines.clear(Due::Resync(self.netns));
        self.last_dump = Some(turn.at);
        self.resyncing = true;
        turn.ask(Request::Dump { netns: self.netns });
    }

    /// A dump begun at `begun` is complete: sockets that it would have shown and did not are gone.
    pub fn sockets_dumped(&mut self, turn: &mut Turn<'_>, begun: Timestamp) {
        for id in self.strangers.take_missing(begun) {
            turn.deadlines.clear(Due::Stranger(self.netns, id));
        }
        let missing: Vec<SocketId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_live() && connection.seen_at < begun)
            .map(|(id, _)| *id)
            .collect();
        for id in missing {
            self.miss(turn, id);
        }
        if std::mem::take(&mut self.resyncing) {
            turn.totals.resyncs = turn.totals.resyncs.saturating_add(1);
        }
        if !std::mem::replace(&mut self.dumped, true) {
            self.count_unseen_ends(turn);
        }
    }

    /// sock_diag knows no such socket.
    pub fn socket_gone(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        self.drop_stranger(turn, id);
        self.miss(turn, id);
    }

    /// A candidate is none any more.
    pub fn drop_stranger(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        if self.strangers.remove(id).is_some() {
            turn.deadlines.clear(Due::Stranger(self.netns, id));
        }
    }

    /// It is time to look at a stranger's connection.
    pub fn stranger_due(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        if let Some((socket, pause)) = self.strangers.next_look(id, turn.at) {
            turn.ask(inspection(&socket));
            let next = turn.again(pause);
            turn.deadlines.set(Due::Stranger(self.netns, id), next);
        }
    }

    /// It is time to look at a connection, to count its failure, or to let its remains go.
    pub fn connection_due(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        self.settle_failure(turn, id, true);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let Some(ended) = connection.ended_at {
            let until = ended.after(LINGER);
            if turn.at >= until {
                self.remove_connection(turn, id);
            } else {
                turn.deadlines.set(Due::Connection(self.netns, id), until);
            }
            return;
        }
        if connection.is_usable() {
            turn.ask(inspection(&connection.socket));
            let pause = pause_after(connection, turn.config.inspect_every());
            connection.checks = connection.checks.saturating_add(1);
            let next = turn.again(pause);
            turn.deadlines.set(Due::Connection(self.netns, id), next);
        }
    }

    /// Forgets a connection, whatever state it is in.
    pub fn remove_connection(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        turn.deadlines.clear(Due::Connection(self.netns, id));
        self.part(turn, id);
        if let Some(connection) = self.connections.remove(&id)
            && let Some(peer) = self.peers.get_mut(&connection.peer)
        {
            peer.connections.remove(&id);
        }
    }
}

/// The question about `socket`.
pub(crate) const fn inspection(socket: &Socket) -> Request {
    Request::Inspect {
        netns: socket.netns,
        id: socket.id,
        local: socket.local,
        remote: socket.remote,
    }
}

/// How long to wait before the next look at a usable connection.
pub(crate) fn pause_after(connection: &Connection, every: Duration) -> Duration {
    let second = Duration::from_secs(1).min(every);
    let hurried = connection.socket.unanswered_retransmits > 0
        || (!connection.confirmed && connection.checks < EAGER_CHECKS);
    if connection.confirmed || !hurried {
        return if hurried { second } else { every };
    }
    let check = usize::try_from(connection.checks).unwrap_or(usize::MAX);
    CHECK_PAUSES.get(check).copied().unwrap_or(second)
}

/// Where in the period `every` a confirmed connection's looks lie, so that thousands do not coincide.
pub(crate) fn phase(id: SocketId, every: Duration) -> Duration {
    let period = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
    // Fibonacci hashing: neighbouring cookies land far apart.
    let scattered = id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_millis(scattered % period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_neighbouring_sockets_are_spread_over_the_period() {
        let every = Duration::from_secs(5);
        let mut buckets = [0_u32; 5];
        for id in 0..1_000 {
            let at = usize::try_from(phase(SocketId(id), every).as_secs()).unwrap();
            buckets[at] += 1;
        }
        assert!(
            buckets.iter().all(|count| (150..250).contains(count)),
            "{buckets:?}"
        );
    }
}

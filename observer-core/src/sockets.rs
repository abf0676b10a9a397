//! What sockets do: from the kernel's facts to a connection's steps. Decides whose connection a
//! socket is; what a step means for the session is in `sessions`.

use std::time::Duration;

use crate::{
    address::{PeerAddress, Role},
    connection::{Connection, carries_session},
    deadline::Due,
    event::{LossStage, Process, Socket, SocketId, TcpState},
    evidence::Clue,
    node::{Node, Urgency, inspection},
    peer::KnownBy,
    stranger::{Admitted, Look},
    tap::tuple,
    turn::Turn,
};

/// Connections per peer: a handful exist at a time, the rest is a peer gone mad.
const MAX_CONNECTIONS: usize = 16;

/// What sock_diag said of one socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inspected<'a> {
    /// In canonical form.
    pub socket: &'a Socket,
    pub state: TcpState,
    pub last_data_received: Option<Duration>,
    /// Send queue, receive queue; bytes.
    pub queues: (u32, u32),
    pub process: Option<&'a Process>,
}

impl Node {
    /// A socket went from one state to another.
    pub fn tcp_state(
        &mut self,
        turn: &mut Turn<'_>,
        socket: &Socket,
        from: TcpState,
        to: TcpState,
        process: Option<&Process>,
    ) {
        if from == TcpState::Listen || to == TcpState::Listen {
            if turn.config.ports.contains(&socket.local.port())
                && let Some(process) = process
            {
                self.note_speaker(turn, process);
            }
            return;
        }
        if self.strangers.contains(socket.id) {
            if to != TcpState::Established {
                self.drop_stranger(turn, socket.id);
            }
            return;
        }
        if (from, to) == (TcpState::Close, TcpState::SynSent) {
            self.bury(turn, socket.id);
        }
        if !self.connections.contains_key(&socket.id) && !self.begin(turn, socket, from, to) {
            return;
        }
        self.learn_own(turn, socket.local.ip());
        if let Some(process) = process {
            self.note_speaker(turn, process);
        }
        self.advance(turn, socket, to, process);
    }

    /// A socket that failed is dialled with again: what is left of its last life ends.
    fn bury(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        self.miss(turn, id);
        self.settle_failure(turn, id, true);
        let carrier = self.connections.get(&id).map(|connection| connection.peer);
        if let Some(address) = carrier {
            self.settle(turn, address, true);
            self.remove_connection(turn, id);
        }
    }

    /// A socket that is not known yet does something: takes it in if it is a known peer's. An unknown
    /// address that completed a connection to us is a stranger.
    fn begin(
        &mut self,
        turn: &mut Turn<'_>,
        socket: &Socket,
        from: TcpState,
        to: TcpState,
    ) -> bool {
        let Some(role) = Role::of(socket, from, &turn.config.ports) else {
            return false;
        };
        let address = PeerAddress::of(socket.remote);
        if address.ip.is_unspecified() {
            return false;
        }
        let dialled = matches!(from, TcpState::Close | TcpState::SynSent);
        if dialled {
            if to == TcpState::Close || !self.ensure_known(turn, address, KnownBy::Dialled) {
                return false;
            }
        } else if !self.is_known(turn, address) {
            if to == TcpState::Established {
                self.admit(turn, socket, address, role, true);
            }
            return false;
        } else if to != TcpState::Established {
            return self.adopt_ending(turn, socket, address, role, from);
        }
        // A socket's life as a connection begins with its SYN, not with the CLOSE before.
        let state = if from == TcpState::Close {
            TcpState::SynSent
        } else {
            from
        };
        self.insert_connection(turn, socket, address, role, state, true);
        true
    }

    /// Between attaching and the first dump a connection may end that the dump would have shown. If
    /// the peer was up when the agent last ran, and the bytes fit, that was its session.
    fn adopt_ending(
        &mut self,
        turn: &mut Turn<'_>,
        socket: &Socket,
        address: PeerAddress,
        role: Role,
        from: TcpState,
    ) -> bool {
        let was_up = self
            .peers
            .get(&address)
            .is_some_and(|peer| peer.session.was_up);
        let fits = from == TcpState::Established && carries_session(socket, role, turn.config);
        if self.dumped || !was_up || !fits {
            return false;
        }
        self.insert_connection(turn, socket, address, role, from, false);
        self.assess(turn, socket.id);
        true
    }

    /// A socket of a known peer is looked at from now on.
    fn insert_connection(
        &mut self,
        turn: &mut Turn<'_>,
        socket: &Socket,
        address: PeerAddress,
        role: Role,
        state: TcpState,
        born: bool,
    ) {
        let forgotten = self.make_room(turn, address);
        // Those that a dump brings again and again count once.
        if born && forgotten {
            turn.lost(LossStage::Table, 1);
        }
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        peer.tried = true;
        peer.connections.insert(socket.id);
        let counted = if born {
            Socket {
                total_retransmits: 0,
                ..*socket
            }
        } else {
            *socket
        };
        let connection = Connection::new(address, role, &counted, state, turn.at, born);
        self.connections.insert(socket.id, connection);
    }

    /// Keeps a peer's connections few; whether that cost one that still stands.
    fn make_room(&mut self, turn: &mut Turn<'_>, address: PeerAddress) -> bool {
        let Some(peer) = self.peers.get(&address) else {
            return false;
        };
        if peer.connections.len() < MAX_CONNECTIONS {
            return false;
        }
        let pending = peer.session.pending.as_ref().map(|pending| pending.carrier);
        let keep = [peer.session.carrier, pending];
        let victim = peer
            .connections
            .iter()
            .filter(|id| !keep.contains(&Some(**id)))
            .filter_map(|id| self.connections.get(id).map(|connection| (id, connection)))
            .min_by_key(|(id, connection)| (connection.is_live(), connection.begun_at, **id))
            .map(|(id, _)| *id);
        let Some(id) = victim else { return false };
        let live = self.connections.get(&id).is_some_and(Connection::is_live);
        self.settle_failure(turn, id, true);
        self.remove_connection(turn, id);
        live
    }

    /// A stranger's connection becomes a candidate.
    fn admit(
        &mut self,
        turn: &mut Turn<'_>,
        socket: &Socket,
        address: PeerAddress,
        role: Role,
        born: bool,
    ) {
        let admitted = self
            .strangers
            .admit(socket, address, role, turn.at, born, turn.config);
        match admitted {
            Admitted::Yes => {}
            Admitted::InsteadOf(victim) => {
                turn.deadlines.clear(Due::Stranger(self.netns, victim));
                self.want_dump(turn, Urgency::Sometime);
            }
            Admitted::No => {
                self.want_dump(turn, Urgency::Sometime);
                return;
            }
        }
        let look = turn.at.after(turn.config.stranger_age());
        turn.deadlines
            .set(Due::Stranger(self.netns, socket.id), look);
    }

    /// The candidates of a peer that has just become known are its connections.
    pub fn adopt_candidates(&mut self, turn: &mut Turn<'_>, address: PeerAddress) {
        let candidates: Vec<SocketId> = self.strangers.of(address).collect();
        for id in candidates {
            self.adopt_candidate(turn, id);
        }
    }

    fn adopt_candidate(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(candidate) = self.strangers.remove(id) else {
            return;
        };
        turn.deadlines.clear(Due::Stranger(self.netns, id));
        let (socket, role) = (candidate.socket, candidate.role);
        let established = TcpState::Established;
        self.learn_own(turn, socket.local.ip());
        self.insert_connection(turn, &socket, candidate.peer, role, established, false);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.connected_at = candidate.born.then_some(candidate.since);
        }
        self.join(turn, id);
        turn.deadlines.set(Due::Connection(self.netns, id), turn.at);
        self.assess(turn, id);
        self.refresh(turn, candidate.peer);
    }

    /// Takes in an event's counters and moves its connection to `to`.
    fn advance(
        &mut self,
        turn: &mut Turn<'_>,
        socket: &Socket,
        to: TcpState,
        process: Option<&Process>,
    ) {
        let Some(connection) = self.connections.get_mut(&socket.id) else {
            return;
        };
        let address = connection.peer;
        let retransmits = connection.observe(socket, turn.at);
        if to == TcpState::SynSent && turn.exact {
            connection.syn_at = Some(turn.at);
        }
        if process.is_some() {
            connection.owner = process.cloned();
        }
        let step = connection.enter(to, turn.at, process);
        self.heard(turn, address, retransmits);
        // A socket closed in the same breath is joined by what it was.
        if to != TcpState::Close {
            self.join(turn, socket.id);
        }
        if to == TcpState::SynSent
            && let Some(peer) = self.peers.get_mut(&address)
        {
            peer.dialled_at = Some(turn.at);
        }
        self.take_step(turn, socket.id, step);
    }

    /// A connection is not among the sockets any more.
    pub fn miss(&mut self, turn: &mut Turn<'_>, id: SocketId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.is_live()
        {
            let step = connection.miss(turn.at);
            self.take_step(turn, id, step);
        }
    }

    /// Something about a socket that bears on its end.
    pub fn clue(&mut self, turn: &mut Turn<'_>, socket: &Socket, clue: Clue) {
        let Some(connection) = self.connections.get_mut(&socket.id) else {
            return;
        };
        let address = connection.peer;
        let retransmits = connection.observe(socket, turn.at);
        connection.evidence.add(turn.at, clue.clone());
        self.heard(turn, address, retransmits);
        self.settle_failure(turn, socket.id, false);
        self.settle(turn, address, false);
        // Its counters prove no session: it may be the very end of one that never came up.
        self.amend_with(turn, address, socket.id, clue);
        self.refresh(turn, address);
    }

    /// A segment was sent again.
    pub fn retransmit(&mut self, turn: &mut Turn<'_>, socket: &Socket) {
        let Some(connection) = self.connections.get_mut(&socket.id) else {
            return;
        };
        let address = connection.peer;
        let answered = connection.socket.unanswered_retransmits == 0;
        let counted = connection.observe(socket, turn.at);
        let retransmits = if socket.total_retransmits == 0 {
            1
        } else {
            counted
        };
        let starts = answered && connection.socket.unanswered_retransmits > 0;
        if starts && connection.is_usable() {
            turn.ask(inspection(&connection.socket));
            let next = turn.again(Duration::from_secs(1));
            turn.deadlines
                .hasten(Due::Connection(self.netns, socket.id), next);
        }
        self.heard(turn, address, retransmits);
        self.assess(turn, socket.id);
        self.refresh(turn, address);
    }

    /// sock_diag said something about a socket, asked or in a dump.
    pub fn inspected(&mut self, turn: &mut Turn<'_>, said: Inspected<'_>) {
        let socket = said.socket;
        if self.strangers.contains(socket.id) {
            if said.state == TcpState::Established {
                self.look_at_stranger(turn, socket);
            } else {
                self.drop_stranger(turn, socket.id);
            }
            return;
        }
        if !self.connections.contains_key(&socket.id) && !self.find(turn, socket, said.state) {
            return;
        }
        self.learn_own(turn, socket.local.ip());
        if let Some(process) = said.process {
            self.note_speaker(turn, process);
        }
        let Some(connection) = self.connections.get_mut(&socket.id) else {
            return;
        };
        if !connection.is_live() {
            return;
        }
        let address = connection.peer;
        let retransmits = connection.observe(socket, turn.at);
        connection.inspect(turn.at, socket, said.last_data_received, said.queues);
        if said.process.is_some() {
            connection.owner = said.process.cloned();
        }
        connection.wire.compare(turn.at, socket.bytes_received);
        let step = connection.enter(said.state, turn.at, None);
        self.heard(turn, address, retransmits);
        self.join(turn, socket.id);
        self.take_step(turn, socket.id, step);
    }

    fn look_at_stranger(&mut self, turn: &mut Turn<'_>, socket: &Socket) {
        if self.strangers.look(socket, turn.at, turn.config) == Look::Proven {
            // Known by its session: all its candidates are adopted with it.
            self.ensure_known(turn, PeerAddress::of(socket.remote), KnownBy::Established);
        }
    }

    /// A socket that nobody saw begin: takes it in if it is a known peer's, or if it is as old as the
    /// agent and carries a session. Otherwise it is a stranger's.
    fn find(&mut self, turn: &mut Turn<'_>, socket: &Socket, state: TcpState) -> bool {
        let Some(role) = Role::of(socket, state, &turn.config.ports) else {
            return false;
        };
        let address = PeerAddress::of(socket.remote);
        if address.ip.is_unspecified() {
            return false;
        }
        let carries = carries_session(socket, role, turn.config);
        if state == TcpState::SynSent {
            if !self.ensure_known(turn, address, KnownBy::Dialled) {
                return false;
            }
        } else if state != TcpState::Established {
            return false;
        } else if !self.is_known(turn, address) {
            let inherited = !self.dumped && carries;
            if !inherited || !self.ensure_known(turn, address, KnownBy::Established) {
                if !inherited {
                    self.admit(turn, socket, address, role, !carries);
                }
                return false;
            }
        }
        self.insert_connection(turn, socket, address, role, state, false);
        if state == TcpState::Established {
            // One of which the tap saw the SYN is younger than the agent.
            let seen = self.early.contains(&tuple(socket.local, socket.remote));
            if (!carries || seen)
                && let Some(connection) = self.connections.get_mut(&socket.id)
            {
                connection.connected_at = Some(turn.at);
            }
            let look = turn.again(Duration::from_millis(20));
            turn.deadlines
                .set(Due::Connection(self.netns, socket.id), look);
        }
        true
    }
}

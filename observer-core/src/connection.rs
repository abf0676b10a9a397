//! One TCP connection: its state, its counters and the evidence of its end. Knows bytes, not
//! sessions.

use std::time::Duration;

use crate::{
    address::{PeerAddress, Role},
    config::CoreConfig,
    early::Tuple,
    event::{Process, Socket, TcpState},
    evidence::{Clue, End, Evidence, Way},
    peer::ConnectionView,
    time::Timestamp,
    wire::Wire,
};

/// Besides two round trips, how long a connection must have lived before bytes prove a session: a
/// speaker that rejects our OPEN has closed by then.
const SETTLING: Duration = Duration::from_millis(10);

/// Unanswered retransmissions that are worth telling.
pub(crate) const UNANSWERED: u8 = 2;

/// A connection of a known peer.
#[derive(Debug)]
pub(crate) struct Connection {
    pub peer: PeerAddress,
    pub role: Role,
    /// Its ends and its counters, as last seen.
    pub socket: Socket,
    pub tcp: TcpState,
    /// When the local side sent its SYN, if the kernel said so.
    pub syn_at: Option<Timestamp>,
    /// When TCP came up, or was first seen up before any session; none when the session was there
    /// first.
    pub connected_at: Option<Timestamp>,
    /// SYN to ESTABLISHED, both stamped by the kernel.
    pub establish: Option<Duration>,
    /// A session was proven to ride, or to have ridden, on it.
    pub confirmed: bool,
    /// The last payload arrived at this time, or before.
    pub last_data: Option<Timestamp>,
    /// Since when data of ours has been waiting without progress, by sock_diag.
    pub stuck_since: Option<Timestamp>,
    pub send_queue: u32,
    pub receive_queue: u32,
    pub owner: Option<Process>,
    pub evidence: Evidence,
    pub begun_at: Timestamp,
    pub seen_at: Timestamp,
    /// When it reached CLOSE; kept a little longer for late evidence.
    pub ended_at: Option<Timestamp>,
    /// It ended before it carried a session, and that is not yet counted.
    pub failing: bool,
    /// Unanswered retransmissions last told.
    told_unanswered: u8,
    /// How often it was inspected.
    pub checks: u32,
    /// The ends by which its segments are known.
    pub joined: Option<Tuple>,
    /// What its segments say.
    pub wire: Wire,
    /// Whether retransmissions are counted from its birth on, or from its first sight.
    counted: bool,
}

/// What a state change meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing that matters.
    Stay,
    /// TCP came up.
    Connected,
    /// It stopped being usable.
    Left,
    /// It had stopped before; now it is closed.
    Closed,
}

impl Connection {
    /// First seen in state `tcp` at `at`; `born` when that is its beginning.
    pub fn new(
        peer: PeerAddress,
        role: Role,
        socket: &Socket,
        tcp: TcpState,
        at: Timestamp,
        born: bool,
    ) -> Self {
        Self {
            peer,
            role,
            socket: *socket,
            tcp,
            syn_at: None,
            connected_at: None,
            establish: None,
            confirmed: false,
            last_data: None,
            stuck_since: None,
            send_queue: 0,
            receive_queue: 0,
            owner: None,
            evidence: Evidence::default(),
            begun_at: at,
            seen_at: at,
            ended_at: None,
            failing: false,
            told_unanswered: 0,
            checks: 0,
            joined: None,
            wire: Wire::default(),
            counted: born,
        }
    }

    /// Whether it is worth telling that so many retransmissions went unanswered: from two on, at each
    /// doubling.
    pub fn tells_unanswered(&mut self) -> Option<u8> {
        let retransmits = self.socket.unanswered_retransmits;
        if retransmits == 0 {
            self.told_unanswered = 0;
        }
        if retransmits < self.told_unanswered.saturating_mul(2).max(UNANSWERED) {
            return None;
        }
        self.told_unanswered = retransmits;
        Some(retransmits)
    }

    /// TCP is up and neither side has closed.
    pub const fn is_usable(&self) -> bool {
        matches!(self.tcp, TcpState::Established)
    }

    /// Not closed yet.
    pub const fn is_live(&self) -> bool {
        self.ended_at.is_none()
    }

    /// Takes in the counters that an event at `at` carries; gives how many segments were
    /// retransmitted since the event before.
    pub fn observe(&mut self, socket: &Socket, at: Timestamp) -> u64 {
        if socket.local.port() != 0 {
            self.socket.local = socket.local;
        }
        if socket.bytes_received > self.socket.bytes_received {
            self.socket.bytes_received = socket.bytes_received;
            self.last_data = Some(at);
        }
        let progress = socket.bytes_acked > self.socket.bytes_acked;
        if progress {
            self.socket.bytes_acked = socket.bytes_acked;
            self.stuck_since = None;
        }
        if socket.srtt_micros != 0 {
            self.socket.srtt_micros = socket.srtt_micros;
        }
        if at >= self.seen_at {
            self.seen_at = at;
            // Only an answer ends silence; a probe that cannot read the counter shows 0.
            let before = if progress {
                0
            } else {
                self.socket.unanswered_retransmits
            };
            self.socket.unanswered_retransmits = socket.unanswered_retransmits.max(before);
        }
        self.count_retransmits(socket.total_retransmits)
    }

    fn count_retransmits(&mut self, total: u32) -> u64 {
        let before = self.socket.total_retransmits;
        if total > before {
            self.socket.total_retransmits = total;
        }
        if !self.counted {
            self.counted = true;
            return 0;
        }
        u64::from(total.saturating_sub(before))
    }

    /// Takes in what only sock_diag knows. `last_data_received` is how long ago payload arrived.
    pub fn inspect(
        &mut self,
        at: Timestamp,
        socket: &Socket,
        last_data_received: Option<Duration>,
        queues: (u32, u32),
    ) {
        (self.send_queue, self.receive_queue) = queues;
        self.socket.unanswered_retransmits = socket.unanswered_retransmits;
        if let Some(ago) = last_data_received
            && socket.bytes_received >= self.socket.bytes_received
        {
            self.last_data = Some(at.before(ago));
        }
        if self.send_queue == 0 {
            self.stuck_since = None;
        } else if self.stuck_since.is_none() {
            self.stuck_since = Some(at);
        }
    }

    /// Goes to state `to` at `at`, by a system call of `process` where there was one. TCP's states
    /// only move forward: what comes late is ignored.
    pub fn enter(&mut self, to: TcpState, at: Timestamp, process: Option<&Process>) -> Step {
        if rank(to) <= rank(self.tcp) {
            return Step::Stay;
        }
        self.tcp = to;
        if matches!(to, TcpState::Established) {
            return Step::Connected;
        }
        if rank(to) < rank(TcpState::CloseWait) {
            return Step::Stay;
        }
        if matches!(to, TcpState::Close) {
            self.ended_at = Some(at);
        }
        self.leave(at, Way::of(to), Clue::Went(to), process)
    }

    /// It is not among the node's sockets any more.
    pub fn miss(&mut self, at: Timestamp) -> Step {
        self.tcp = TcpState::Close;
        self.ended_at = Some(at);
        self.leave(at, Way::Missing, Clue::Missing, None)
    }

    fn leave(&mut self, at: Timestamp, way: Way, clue: Clue, process: Option<&Process>) -> Step {
        if self.evidence.end.is_some() {
            return Step::Closed;
        }
        self.evidence.add(at, clue);
        self.evidence.end = Some(End {
            at,
            way,
            process: process.or(self.owner.as_ref()).cloned(),
            by_call: process.is_some(),
            silent: self.silent(at),
            unanswered: self.socket.unanswered_retransmits,
            stuck: self
                .stuck_since
                .is_some_and(|since| at.since(since) >= Duration::from_secs(1)),
            hold: self.wire.hold(),
        });
        Step::Left
    }

    /// How long nothing has been received, at least.
    pub fn silent(&self, at: Timestamp) -> Duration {
        // Messages that were read tell the moment; a counter that grew only tells of one before now.
        let read = self.wire.signs.heard_at.filter(|_| self.wire.is_telling());
        let heard = read.or(self.last_data).or(self.connected_at);
        at.since(heard.unwrap_or(self.begun_at))
    }

    /// Payload bytes acknowledged: the kernel counts the SYN of the side that dialled.
    pub fn payload_acked(&self) -> u64 {
        payload_acked(&self.socket, self.role)
    }

    /// Whether a session is proven at `at`: by its messages where they are read from the beginning,
    /// else by its bytes.
    pub fn proves_session(&self, config: &CoreConfig, at: Timestamp) -> bool {
        if self.wire.signs.established_at.is_some() {
            return self.is_usable();
        }
        !self.wire.is_telling() && self.bytes_prove_session(config, at)
    }

    fn bytes_prove_session(&self, config: &CoreConfig, at: Timestamp) -> bool {
        let round_trips = Duration::from_micros(u64::from(self.socket.srtt_micros)) * 2;
        self.is_usable()
            && carries_session(&self.socket, self.role, config)
            && self
                .connected_at
                .is_none_or(|since| at.since(since) >= SETTLING + round_trips)
    }

    /// As users see it.
    pub fn view(&self, carries_session: bool) -> ConnectionView {
        ConnectionView {
            local: self.socket.local,
            remote: self.socket.remote,
            tcp_state: self.tcp.name().to_owned(),
            carries_session,
            bytes_received: self.socket.bytes_received,
            bytes_acked: self.payload_acked(),
            send_queue: self.send_queue,
            receive_queue: self.receive_queue,
        }
    }
}

fn payload_acked(socket: &Socket, role: Role) -> u64 {
    match role {
        Role::Outbound => socket.bytes_acked.saturating_sub(1),
        Role::Inbound => socket.bytes_acked,
    }
}

/// Whether enough went each way for an OPEN and a KEEPALIVE.
pub(crate) fn carries_session(socket: &Socket, role: Role, config: &CoreConfig) -> bool {
    socket.bytes_received >= config.stranger_bytes
        && payload_acked(socket, role) >= config.stranger_bytes
}

/// How far along its life a connection in this state is.
const fn rank(state: TcpState) -> u8 {
    match state {
        TcpState::Listen => 0,
        TcpState::SynSent | TcpState::NewSynRecv => 1,
        TcpState::SynRecv => 2,
        TcpState::Established => 3,
        TcpState::CloseWait | TcpState::FinWait1 => 4,
        TcpState::LastAck | TcpState::FinWait2 => 5,
        TcpState::Closing => 6,
        TcpState::TimeWait => 7,
        TcpState::Close => 8,
    }
}

//! Inbound connections from addresses that are no known peer: candidates until they have lived long
//! enough and carried enough. They cost a bounded table and nothing else.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    address::{PeerAddress, Role},
    config::CoreConfig,
    connection::carries_session,
    event::{Socket, SocketId},
    time::Timestamp,
};

/// Candidates per node.
pub(crate) const MAX_CANDIDATES: usize = 256;
/// Candidates per address: one host cannot fill the table.
const MAX_PER_ADDRESS: usize = 4;
/// A connection that proved nothing for this long is let go; a dump would find it again.
const GIVE_UP: Duration = Duration::from_mins(10);
/// The longest pause between two looks at one candidate.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A stranger's connection.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub peer: PeerAddress,
    pub role: Role,
    pub socket: Socket,
    /// When it came up, or was first seen.
    pub since: Timestamp,
    /// Whether no session was on it at `since`.
    pub born: bool,
    pub seen_at: Timestamp,
    proven: bool,
    looks: u32,
}

/// The strangers of one node.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    by_id: BTreeMap<SocketId, Candidate>,
}

/// What became of a new candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admitted {
    /// There was room.
    Yes,
    /// This one was let go for it; it may be found again by a dump.
    InsteadOf(SocketId),
    /// The table is full of better ones.
    No,
}

/// What a look at a candidate showed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Look {
    /// It is a session.
    Proven,
    /// Look again later.
    Wait,
    /// Not one of ours.
    Unknown,
}

impl Strangers {
    pub fn contains(&self, id: SocketId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn remove(&mut self, id: SocketId) -> Option<Candidate> {
        self.by_id.remove(&id)
    }

    /// Takes in a connection. In a full table the oldest without traffic both ways makes room: a
    /// flood can displace other silent connections, but no local speaker answers a flood, so never
    /// one that has carried a session's bytes.
    pub fn admit(
        &mut self,
        socket: &Socket,
        peer: PeerAddress,
        role: Role,
        at: Timestamp,
        born: bool,
        config: &CoreConfig,
    ) -> Admitted {
        let candidate = Candidate {
            peer,
            role,
            socket: *socket,
            since: at,
            born,
            seen_at: at,
            proven: carries_session(socket, role, config),
            looks: 0,
        };
        let same: Vec<SocketId> = self.of(peer).collect();
        let victim = if same.len() >= MAX_PER_ADDRESS {
            self.worst(|other| other.peer == peer)
        } else if self.by_id.len() >= MAX_CANDIDATES {
            self.worst(|_| true)
        } else {
            self.by_id.insert(socket.id, candidate);
            return Admitted::Yes;
        };
        let Some(victim) = victim else {
            return Admitted::No;
        };
        self.by_id.remove(&victim);
        self.by_id.insert(socket.id, candidate);
        Admitted::InsteadOf(victim)
    }

    fn worst(&self, among: impl Fn(&Candidate) -> bool) -> Option<SocketId> {
        self.by_id
            .iter()
            .filter(|(_, candidate)| !candidate.proven && among(candidate))
            .min_by_key(|(id, candidate)| (candidate.since, **id))
            .map(|(id, _)| *id)
    }

    /// The candidates from one address.
    pub fn of(&self, peer: PeerAddress) -> impl Iterator<Item = SocketId> {
        self.by_id
            .iter()
            .filter(move |(_, candidate)| candidate.peer == peer)
            .map(|(id, _)| *id)
    }

    /// sock_diag answered about a candidate that is still ESTABLISHED.
    pub fn look(&mut self, socket: &Socket, at: Timestamp, config: &CoreConfig) -> Look {
        let Some(candidate) = self.by_id.get_mut(&socket.id) else {
            return Look::Unknown;
        };
        candidate.socket = *socket;
        candidate.seen_at = candidate.seen_at.max(at);
        candidate.proven = carries_session(socket, candidate.role, config);
        if candidate.proven && at.since(candidate.since) >= config.stranger_age() {
            Look::Proven
        } else {
            Look::Wait
        }
    }

    /// A look is due: what to ask for, and the pause until the next; none when it is let go.
    pub fn next_look(&mut self, id: SocketId, at: Timestamp) -> Option<(Socket, Duration)> {
        let candidate = self.by_id.get_mut(&id)?;
        if at.since(candidate.since) >= GIVE_UP {
            self.by_id.remove(&id);
            return None;
        }
        let pause = Duration::from_secs(1).saturating_mul(1 << candidate.looks.min(6));
        candidate.looks = candidate.looks.saturating_add(1);
        Some((candidate.socket, pause.min(LONGEST_PAUSE)))
    }

    /// A dump begun at `begun` is complete: takes out those that it would have shown and did not.
    pub fn take_missing(&mut self, begun: Timestamp) -> Vec<SocketId> {
        let missing: Vec<SocketId> = self
            .by_id
            .iter()
            .filter(|(_, candidate)| candidate.seen_at < begun)
            .map(|(id, _)| *id)
            .collect();
        self.by_id.retain(|_, candidate| candidate.seen_at >= begun);
        missing
    }

    /// Every candidate there is.
    pub fn ids(&self) -> impl Iterator<Item = SocketId> {
        self.by_id.keys().copied()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NetnsId;

    fn socket(id: u64, host: u8, bytes: u64) -> Socket {
        Socket {
            netns: NetnsId(1),
            id: SocketId(id),
            local: "10.0.0.1:179".parse().unwrap(),
            remote: format!("10.1.{}.{host}:4000", id % 200).parse().unwrap(),
            bytes_received: bytes,
            bytes_acked: bytes,
            srtt_micros: 0,
            total_retransmits: 0,
            unanswered_retransmits: 0,
        }
    }

    fn admit(strangers: &mut Strangers, socket: &Socket, millis: u64) -> Admitted {
        let peer = PeerAddress::of(socket.remote);
        let at = Timestamp::from_nanos(millis * 1_000_000);
        strangers.admit(
            socket,
            peer,
            Role::Inbound,
            at,
            true,
            &CoreConfig::default(),
        )
    }

    #[test]
    fn a_flood_never_displaces_a_connection_that_carries_a_session() {
        let mut strangers = Strangers::default();
        assert_eq!(admit(&mut strangers, &socket(1, 1, 100), 0), Admitted::Yes);
        for id in 2..10_000 {
            let host = u8::try_from(id / 200 % 200).unwrap();
            admit(&mut strangers, &socket(id, host, 0), id);
        }
        assert_eq!(strangers.len(), MAX_CANDIDATES);
        assert!(strangers.contains(SocketId(1)));
    }

    #[test]
    fn one_address_gets_a_few_places_only() {
        let mut strangers = Strangers::default();
        for id in 0..100 {
            admit(&mut strangers, &socket(id * 200, 1, 0), id);
        }
        assert_eq!(strangers.len(), MAX_PER_ADDRESS);
        assert!(strangers.contains(SocketId(99 * 200)));
    }

    #[test]
    fn bytes_without_age_and_age_without_bytes_prove_nothing() {
        let mut strangers = Strangers::default();
        let config = CoreConfig::default();
        admit(&mut strangers, &socket(1, 1, 0), 0);
        let second = Timestamp::from_nanos(1_000_000_000);
        let sooner = Timestamp::from_nanos(999_000_000);
        assert_eq!(
            strangers.look(&socket(1, 1, 48), sooner, &config),
            Look::Wait
        );
        assert_eq!(
            strangers.look(&socket(1, 1, 47), second, &config),
            Look::Wait
        );
        assert_eq!(
            strangers.look(&socket(1, 1, 48), second, &config),
            Look::Proven
        );
        assert_eq!(
            strangers.look(&socket(2, 1, 48), second, &config),
            Look::Unknown
        );
    }

    #[test]
    fn looks_become_rarer_and_end() {
        let mut strangers = Strangers::default();
        admit(&mut strangers, &socket(1, 1, 0), 0);
        let mut at = Timestamp::from_nanos(1_000_000_000);
        let mut looks = 0;
        while let Some((_, pause)) = strangers.next_look(SocketId(1), at) {
            at = at.after(pause);
            looks += 1;
        }
        assert!((20..30).contains(&looks), "{looks}");
        assert_eq!(strangers.len(), 0);
    }
}

//! What the machine has to do later, by time. One entry per thing: setting it again moves it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    address::PeerAddress,
    event::{LossStage, NetnsId, SocketId},
    time::Timestamp,
};

/// What is due. The order is the order of work that is due at the same moment.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Due {
    /// A flap's cause has to be final.
    Cause(NetnsId, PeerAddress),
    /// A connection of a known peer is to be inspected, or its remains dropped.
    Connection(NetnsId, SocketId),
    /// A stranger's connection is to be inspected.
    Stranger(NetnsId, SocketId),
    /// A peer's restart timer expires (RFC 4724 §4.2).
    Restart(NetnsId, PeerAddress),
    /// A peer's restart timer for this node's routes expires.
    Held(NetnsId, PeerAddress),
    /// A peer's session may have little hold time left.
    Hold(NetnsId, PeerAddress),
    /// Something about a namespace's routes has to be told or measured.
    Fib(NetnsId),
    /// A peer may have been silent for too long.
    Silence(NetnsId, PeerAddress),
    /// A namespace's sockets have to be dumped again.
    Resync(NetnsId),
    /// An incident is to be looked at.
    Incident(u64),
    /// An incident's targets are to be probed.
    Echo(u64),
    /// A namespace's routes that are gone without an incident have waited for long enough.
    Gone(NetnsId),
    /// A namespace's peers are to be probed though nothing is wrong.
    Baseline(NetnsId),
    /// Losses that were held back have to be told.
    Losses(LossStage),
}

/// All that is due, now or later.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(Timestamp, Due)>,
    by_due: BTreeMap<Due, Timestamp>,
}

impl Deadlines {
    /// `due` is due at `at`, and at no other time.
    pub fn set(&mut self, due: Due, at: Timestamp) {
        self.clear(due);
        self.by_due.insert(due, at);
        self.by_time.insert((at, due));
    }

    /// As [`Self::set`], unless it is due earlier already.
    pub fn hasten(&mut self, due: Due, at: Timestamp) {
        if self.by_due.get(&due).is_none_or(|&set| set > at) {
            self.set(due, at);
        }
    }

    /// `due` is off.
    pub fn clear(&mut self, due: Due) {
        if let Some(at) = self.by_due.remove(&due) {
            self.by_time.remove(&(at, due));
        }
    }

    /// Takes out the earliest that is due by `now`.
    pub fn pop(&mut self, now: Timestamp) -> Option<(Timestamp, Due)> {
        let first = self.by_time.first().copied().filter(|(at, _)| *at <= now)?;
        self.by_time.remove(&first);
        self.by_due.remove(&first.1);
        Some(first)
    }

    /// When the earliest is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// How many are set.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_again_moves_and_the_earliest_comes_first() {
        let mut deadlines = Deadlines::default();
        let (one, two) = (Due::Resync(NetnsId(1)), Due::Resync(NetnsId(2)));
        deadlines.set(one, Timestamp::from_nanos(5));
        deadlines.set(two, Timestamp::from_nanos(7));
        deadlines.set(one, Timestamp::from_nanos(9));
        deadlines.hasten(two, Timestamp::from_nanos(8));
        assert_eq!(deadlines.next(), Some(Timestamp::from_nanos(7)));
        assert_eq!(deadlines.pop(Timestamp::from_nanos(6)), None);
        assert_eq!(
            deadlines.pop(Timestamp::from_nanos(9)),
            Some((Timestamp::from_nanos(7), two))
        );
        deadlines.clear(one);
        assert_eq!(deadlines.pop(Timestamp::from_nanos(9)), None);
        assert_eq!(deadlines.len(), 0);
    }
}

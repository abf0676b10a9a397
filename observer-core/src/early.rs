//! Segments that came before their connection is known: a dial whose event is still being merged, an
//! inbound connection of a candidate, a socket that only sock_diag will tell of. Bounded in number,
//! octets and time, so that neither transit traffic nor strangers cost more than that.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{address::PeerAddress, stream::Segment, tap::Tapped, time::Timestamp};

/// Our end and the other end.
pub(crate) type Tuple = (SocketAddr, SocketAddr);

/// Tuples kept at most; half of them may be of addresses that are no known peer.
const MAX_TUPLES: usize = 64;
/// Tuples kept for one address that is no known peer.
const MAX_PER_ADDRESS: usize = 4;
/// Octets kept per tuple, bookkeeping included. What needs more is not kept at all: a conversation
/// with a hole is read no better than one entered midway.
const MAX_OCTETS: usize = 64 << 10;
/// What a segment costs besides its payload.
const OVERHEAD: usize = 128;
/// How long an unknown address may take to become a peer.
const STRANGER_WAITS: Duration = Duration::from_secs(2);
/// How long a peer's connection may take to show: without kernel probes sock_diag finds it.
const PEER_WAITS: Duration = Duration::from_secs(10);

/// How long it may take to show once its end was seen: then nobody will tell of it any more.
const ENDED_WAITS: Duration = Duration::from_secs(1);

/// The segments of one node.
#[derive(Debug, Default)]
pub(crate) struct Early {
    by_tuple: BTreeMap<Tuple, Waiting>,
    unclaimed: u64,
    whole: Vec<(Tuple, Vec<Kept>)>,
}

#[derive(Debug)]
struct Waiting {
    until: Timestamp,
    known: bool,
    /// Its end was seen.
    ended: bool,
    size: usize,
    segments: Vec<Kept>,
}

impl Waiting {
    /// Segments that were kept for nobody known.
    fn strangers(&self) -> u64 {
        let count = if self.known { 0 } else { self.segments.len() };
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

/// A segment that waits.
#[derive(Debug)]
pub(crate) struct Kept {
    pub at: Timestamp,
    interface: u32,
    sent: bool,
    seq: u32,
    ack: Option<u32>,
    /// SYN, FIN, RST.
    flags: (bool, bool, bool),
    payload: Box<[u8]>,
    missing: u32,
}

impl Kept {
    fn new(at: Timestamp, tapped: &Tapped<'_>) -> Self {
        let segment = &tapped.segment;
        Self {
            at,
            interface: tapped.interface,
            sent: tapped.sent,
            seq: segment.seq,
            ack: segment.ack,
            flags: (segment.syn, segment.fin, segment.rst),
            payload: segment.payload.into(),
            missing: segment.missing,
        }
    }

    /// Whether it answers something.
    pub const fn acknowledges(&self) -> bool {
        self.ack.is_some()
    }

    /// As it was, between the ends `tuple`.
    pub fn tapped(&self, tuple: Tuple) -> Tapped<'_> {
        let (syn, fin, rst) = self.flags;
        Tapped {
            interface: self.interface,
            sent: self.sent,
            tuple,
            segment: Segment {
                seq: self.seq,
                ack: self.ack,
                syn,
                fin,
                rst,
                payload: &self.payload,
                missing: self.missing,
            },
        }
    }
}

impl Early {
    /// Whether segments of `tuple` wait.
    pub fn contains(&self, tuple: &Tuple) -> bool {
        self.by_tuple.contains_key(tuple)
    }

    /// Keeps a segment whose connection is not known; `known` when the other end is a known peer. A
    /// tuple begins with its SYN: what is met midway is transit, or is read midway all the same.
    /// False when it is not kept.
    pub fn keep(&mut self, at: Timestamp, tapped: &Tapped<'_>, known: bool) -> bool {
        self.expire(at);
        let tuple = tapped.tuple;
        if !self.contains(&tuple) {
            if !tapped.segment.syn || !self.has_room(tuple, known) {
                return false;
            }
            let waits = if known { PEER_WAITS } else { STRANGER_WAITS };
            let waiting = Waiting {
                until: at.after(waits),
                known,
                ended: false,
                size: 0,
                segments: Vec::new(),
            };
            self.by_tuple.insert(tuple, waiting);
        }
        let Some(waiting) = self.by_tuple.get_mut(&tuple) else {
            return false;
        };
        waiting.size += tapped.segment.payload.len() + OVERHEAD;
        if waiting.size > MAX_OCTETS {
            let given_up = self.by_tuple.remove(&tuple);
            self.unclaimed += given_up.map_or(0, |waiting| waiting.strangers());
            return false;
        }
        waiting.segments.push(Kept::new(at, tapped));
        if tapped.segment.fin || tapped.segment.rst {
            waiting.ended = true;
            waiting.until = waiting.until.min(at.after(ENDED_WAITS));
        }
        true
    }

    /// The connection between these ends is known now: gives its segments, in order.
    pub fn take(&mut self, at: Timestamp, tuple: &Tuple) -> Vec<Kept> {
        self.expire(at);
        self.by_tuple
            .remove(tuple)
            .map(|waiting| waiting.segments)
            .unwrap_or_default()
    }

    /// Lets go of what waited long enough.
    pub fn expire(&mut self, at: Timestamp) {
        let mut unclaimed = 0;
        let whole = &mut self.whole;
        self.by_tuple.retain(|tuple, waiting| {
            let stays = waiting.until >= at;
            unclaimed += if stays { 0 } else { waiting.strangers() };
            if !stays && waiting.known && waiting.ended && whole.len() < MAX_TUPLES {
                whole.push((*tuple, std::mem::take(&mut waiting.segments)));
            }
            stays
        });
        self.unclaimed += unclaimed;
    }

    /// Connections of known peers, from SYN to end, of which nobody but the tap told: since the last
    /// call.
    pub fn take_whole(&mut self) -> Vec<(Tuple, Vec<Kept>)> {
        std::mem::take(&mut self.whole)
    }

    /// Segments of no known peer that waited in vain, since the last call.
    pub const fn take_unclaimed(&mut self) -> u64 {
        std::mem::replace(&mut self.unclaimed, 0)
    }

    fn has_room(&self, tuple: Tuple, known: bool) -> bool {
        if known {
            return self.by_tuple.len() < MAX_TUPLES;
        }
        let unknown = || self.by_tuple.iter().filter(|(_, waiting)| !waiting.known);
        let address = PeerAddress::of(tuple.1);
        let same = unknown().filter(|(other, _)| PeerAddress::of(other.1) == address);
        unknown().count() < MAX_TUPLES / 2 && same.count() < MAX_PER_ADDRESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(host: u8, port: u16) -> Tuple {
        let remote = SocketAddr::from(([10, 1, 0, host], port));
        (SocketAddr::from(([10, 0, 0, 1], 179)), remote)
    }

    fn tapped(tuple: Tuple, syn: bool, payload: &[u8]) -> Tapped<'_> {
        Tapped {
            interface: 1,
            sent: false,
            tuple,
            segment: Segment {
                syn,
                payload,
                ..Segment::default()
            },
        }
    }

    #[test]
    fn a_flood_of_strangers_leaves_room_for_peers_and_ends() {
        let mut early = Early::default();
        let at = Timestamp::from_nanos(1_000_000_000);
        for number in 0..10_000_u16 {
            let host = u8::try_from(number % 200).unwrap();
            early.keep(at, &tapped(tuple(host, number), true, b""), false);
        }
        assert_eq!(early.by_tuple.len(), MAX_TUPLES / 2);
        let peer = tuple(250, 5);
        assert!(early.keep(at, &tapped(peer, true, b""), true));
        assert!(early.keep(at, &tapped(peer, false, b"x"), true));
        let later = at.after(Duration::from_secs(3));
        assert_eq!(early.take(later, &peer).len(), 2);
        assert!(early.by_tuple.is_empty());
    }

    #[test]
    fn what_begins_midway_or_grows_too_large_is_not_kept() {
        let mut early = Early::default();
        let at = Timestamp::default();
        let peer = tuple(2, 5);
        assert!(!early.keep(at, &tapped(peer, false, b"x"), true));
        assert!(early.keep(at, &tapped(peer, true, b""), true));
        let big = vec![0; MAX_OCTETS];
        assert!(!early.keep(at, &tapped(peer, false, &big), true));
        assert!(early.take(at, &peer).is_empty());
    }

    #[test]
    fn a_peer_s_connection_that_ended_is_given_whole_once_nobody_claimed_it() {
        let mut early = Early::default();
        let at = Timestamp::from_nanos(1_000_000_000);
        let (peer, claimed, stranger) = (tuple(2, 5), tuple(2, 6), tuple(9, 7));
        let reset = |tuple| {
            let mut reset = tapped(tuple, false, b"");
            reset.segment.rst = true;
            reset
        };
        for (tuple, known) in [(peer, true), (claimed, true), (stranger, false)] {
            early.keep(at, &tapped(tuple, true, b""), known);
            early.keep(at, &reset(tuple), known);
        }
        assert_eq!(early.take(at, &claimed).len(), 2);
        assert!(early.take_whole().is_empty());
        early.expire(at.after(Duration::from_millis(1_001)));
        let whole = early.take_whole();
        assert_eq!(whole.len(), 1);
        assert_eq!((whole[0].0, whole[0].1.len()), (peer, 2));
        early.expire(at.after(Duration::from_secs(20)));
        assert!(early.take_whole().is_empty());
    }

    #[test]
    fn one_address_cannot_fill_the_table() {
        let mut early = Early::default();
        let at = Timestamp::default();
        for port in 0..100 {
            early.keep(at, &tapped(tuple(9, port), true, b""), false);
        }
        assert_eq!(early.by_tuple.len(), MAX_PER_ADDRESS);
    }
}

//! Dropped packets: which prefixes the kernel is to watch, and what it counted for them.
//!
//! The programs count in the kernel, whatever the rate; here the counts are read, a few times a second
//! at most and only when there is something new.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use observer_abi::{
    DROP_KEY_DATA, DROP_KEY_HEAD_BITS, DROP_PLACES, DROP_REASONS, DropCount, DropKey, MAX_WATCHED,
    PLACE_GIVEN_UP, PLACE_SENT_AGAIN,
};
use observer_core::{
    bgp::Prefix,
    event::{Event, Fact, NetnsId, drops::DropReason},
    time::{Occurred, Timestamp},
};
use zerocopy::IntoBytes;

use super::{MapChangeError, decode::peer_key};

/// Reasons that are counted, by the kernel's name without its `SKB_DROP_REASON_`, and whether the
/// probe is of no use without it. Tried on 6.18: a forwarded packet that no route takes
/// is dropped for the first (IPv4, IPv6) or second (IPv6), one whose next hop does not answer for those
/// of neighbours, one that meets an `unreachable` or `blackhole` route for the last.
pub const REASONS: [(&str, DropReason, bool); DROP_REASONS] = [
    ("IP_INNOROUTES", DropReason::NoRoute, true),
    ("IP_OUTNOROUTES", DropReason::NoRoute, true),
    ("IP_INADDRERRORS", DropReason::HostUnreachable, false),
    ("NEIGH_FAILED", DropReason::Neighbour, true),
    ("NEIGH_QUEUEFULL", DropReason::Neighbour, false),
    ("NEIGH_DEAD", DropReason::Neighbour, false),
    ("NEIGH_CREATEFAIL", DropReason::Neighbour, false),
    ("NOT_SPECIFIED", DropReason::Unspecified, true),
];

/// What is counted in each place.
fn places() -> impl Iterator<Item = (usize, DropReason)> {
    let reasons = REASONS.iter().map(|(_, reason, _)| *reason).enumerate();
    reasons.chain([
        (PLACE_SENT_AGAIN, DropReason::SentAgain),
        (PLACE_GIVEN_UP, DropReason::GivenUp),
    ])
}

/// Counts are read this often at most.
const READ_EVERY: Duration = Duration::from_millis(200);
/// The counts of one prefix as the map holds them.
type Words = [u64; DROP_PLACES * 3];

/// A watched prefix: where its counts are, and what was told of them.
#[derive(Debug)]
struct Slot {
    index: u32,
    told: DropCount,
}

/// The programs' maps for dropped packets.
pub struct Drops {
    watched: LpmTrie<MapData, [u8; DROP_KEY_DATA], u32>,
    counts: Array<MapData, Words>,
    watching: Array<MapData, u32>,
    slots: BTreeMap<(NetnsId, Prefix), Slot>,
    /// Longest unused first, so that a program that is still at it writes to nobody's.
    free: VecDeque<u32>,
    /// How many drops there were when the counts were last read.
    seen: u64,
    read_at: Timestamp,
}

impl Drops {
    /// Nothing is watched yet.
    pub fn over(programs: &mut Ebpf) -> Result<Self, MapError> {
        let mut take = |name: &str| -> Result<Map, MapError> {
            let name_of = || MapError::InvalidName {
                name: name.to_owned(),
            };
            programs.take_map(name).ok_or_else(name_of)
        };
        Ok(Self {
            watched: LpmTrie::try_from(take("WATCHED")?)?,
            counts: Array::try_from(take("DROPS")?)?,
            // The word WATCHING is all there is in this section.
            watching: Array::try_from(take(".bss")?)?,
            slots: BTreeMap::new(),
            free: (0..MAX_WATCHED).collect(),
            seen: 0,
            read_at: Timestamp::default(),
        })
    }

    /// Counts what is dropped on its way to `prefix` from now on.
    pub fn watch(&mut self, netns: NetnsId, prefix: Prefix) -> Result<(), MapChangeError> {
        if self.slots.contains_key(&(netns, prefix)) {
            return Ok(());
        }
        let failed = |source| MapChangeError {
            doing: format!("watch {prefix} for dropped packets"),
            source,
        };
        let full = || MapError::OutOfBounds {
            index: MAX_WATCHED,
            max_entries: MAX_WATCHED,
        };
        let index = self.free.pop_front().ok_or_else(full).map_err(failed)?;
        let slot = Slot {
            index,
            told: DropCount::default(),
        };
        self.slots.insert((netns, prefix), slot);
        let done = self
            .counts
            .set(index, Words::default(), 0)
            .and_then(|()| self.watched.insert(&key(netns, prefix), index, 0))
            .and_then(|()| self.watching.set(0, 1, 0));
        if done.is_err() {
            self.slots.remove(&(netns, prefix));
            self.free.push_front(index);
        }
        done.map_err(failed)
    }

    /// No longer. What was counted and not told goes to `out`.
    pub fn unwatch(
        &mut self,
        netns: NetnsId,
        prefix: Prefix,
        out: &mut Vec<Event>,
    ) -> Result<(), MapChangeError> {
        let Some(mut slot) = self.slots.remove(&(netns, prefix)) else {
            return Ok(());
        };
        let failed = |source| MapChangeError {
            doing: format!("stop watching {prefix} for dropped packets"),
            source,
        };
        if self.slots.is_empty() {
            self.watching.set(0, 0, 0).map_err(failed)?;
        }
        self.watched.remove(&key(netns, prefix)).map_err(failed)?;
        tell(&self.counts, (netns, prefix), &mut slot, out);
        self.free.push_back(slot.index);
        Ok(())
    }

    /// Tells what was counted since the last time; `dropped` is how many drops there were ever.
    pub fn read(&mut self, dropped: u64, now: Timestamp, out: &mut Vec<Event>) {
        if dropped == self.seen || now.since(self.read_at) < READ_EVERY {
            return;
        }
        (self.seen, self.read_at) = (dropped, now);
        for (of, slot) in &mut self.slots {
            tell(&self.counts, *of, slot, out);
        }
    }
}

/// Tells what is new of one prefix. A read that fails is made good by the next one.
fn tell(
    counts: &Array<MapData, Words>,
    (netns, prefix): (NetnsId, Prefix),
    slot: &mut Slot,
    out: &mut Vec<Event>,
) {
    let Ok(words) = counts.get(&slot.index, 0) else {
        return;
    };
    let counted: DropCount = zerocopy::transmute!(words);
    out.extend(news(&slot.told, &counted, netns, prefix));
    slot.told = counted;
}

/// What `now` has over `before`: one event for each reason.
fn news(before: &DropCount, now: &DropCount, netns: NetnsId, prefix: Prefix) -> Vec<Event> {
    let mut told: BTreeMap<DropReason, (u64, Timestamp, Timestamp)> = BTreeMap::new();
    for (place, reason) in places() {
        let of = |counts: &[u64; DROP_PLACES]| counts.get(place).copied().unwrap_or_default();
        let packets = of(&now.packets).wrapping_sub(of(&before.packets));
        if packets == 0 {
            continue;
        }
        // All but the first are known to have come after what was told before.
        let first = of(&now.first_boot_nanos).max(of(&before.last_boot_nanos));
        let first = Timestamp::from_nanos(first);
        let last = Timestamp::from_nanos(of(&now.last_boot_nanos)).max(first);
        told.entry(reason)
            .and_modify(|(count, begin, end)| {
                *count += packets;
                (*begin, *end) = ((*begin).min(first), (*end).max(last));
            })
            .or_insert((packets, first, last));
    }
    let event = |(reason, (packets, first, last))| Event {
        occurred: Occurred::kernel(last),
        fact: Fact::PacketsDropped {
            netns,
            prefix,
            reason,
            packets,
            first,
            last,
        },
    };
    told.into_iter().map(event).collect()
}

fn key(netns: NetnsId, prefix: Prefix) -> Key<[u8; DROP_KEY_DATA]> {
    let of = peer_key(netns, prefix.address);
    let bits = DROP_KEY_HEAD_BITS + u32::from(prefix.length);
    let whole = DropKey {
        bits,
        netns_id: of.netns_id,
        family: of.family,
        addr: of.addr,
    };
    let mut data = [0; DROP_KEY_DATA];
    let octets = whole.as_bytes().iter().skip(size_of_val(&bits));
    for (to, from) in data.iter_mut().zip(octets) {
        *to = *from;
    }
    Key::new(bits, data)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn prefix(address: &str, length: u8) -> Prefix {
        Prefix {
            address: address.parse::<IpAddr>().unwrap(),
            length,
        }
    }

    #[test]
    fn a_key_is_namespace_family_and_address_in_the_kernel_s_order() {
        let key = key(NetnsId(3), prefix("10.244.2.0", 26));
        let (bits, data) = (key.prefix_len(), key.data());
        assert_eq!(bits, 90);
        assert_eq!(data[..4], 3_u32.to_ne_bytes());
        assert_eq!(data[4..8], 2_u32.to_ne_bytes());
        assert_eq!(data[8..12], [10, 244, 2, 0]);
        assert_eq!(data[12..], [0; 12]);
    }

    #[test]
    fn only_what_is_new_is_told_and_reasons_that_mean_the_same_are_one() {
        let of = prefix("10.244.2.0", 26);
        let mut counted = DropCount::default();
        assert_eq!(news(&counted, &counted, NetnsId(1), of), []);
        let before = counted;
        (counted.packets[0], counted.packets[1]) = (2, 3);
        (counted.first_boot_nanos[0], counted.last_boot_nanos[0]) = (10, 20);
        (counted.first_boot_nanos[1], counted.last_boot_nanos[1]) = (5, 15);
        let told = news(&before, &counted, NetnsId(1), of);
        let at = Timestamp::from_nanos;
        let fact = |packets, first, last| Fact::PacketsDropped {
            netns: NetnsId(1),
            prefix: of,
            reason: DropReason::NoRoute,
            packets,
            first: at(first),
            last: at(last),
        };
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].fact, fact(5, 5, 20));
        let before = counted;
        (counted.packets[0], counted.last_boot_nanos[0]) = (9, 90);
        let told = news(&before, &counted, NetnsId(1), of);
        assert_eq!(told[0].fact, fact(7, 20, 90));
    }

    #[test]
    fn the_core_asks_for_no_more_than_there_is_room_for() {
        let asked = observer_core::incident::MAX_WATCHED;
        assert_eq!(u32::try_from(asked), Ok(MAX_WATCHED));
    }
}

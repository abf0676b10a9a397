//! Which peers may announce a prefix: with thousands of them, asking each one's Adj-RIB-In about every
//! route that the kernel loses takes longer than all else that is done about it.
//!
//! What counts is still the Adj-RIB-In: a peer that is named here may have ended its session meanwhile.
//! One that is not named does not announce the prefix.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{address::PeerAddress, bgp::Prefix, node::Peer, rib::words};

/// With fewer peers than the first, all are asked; from more than the second on the index is kept.
const FEW: usize = 32;
const MANY: usize = 64;
/// Names of sessions that ended are left behind until they may be as many as those that count, and this many.
const LEFT_BEHIND: usize = 4_096;
/// How many bits of a key tell the peer; the others tell the prefix's length.
const NUMBER_BITS: u32 = 24;

/// By prefix. An entry is the prefix's address, and its length with the number of a peer in one word: that
/// is 8 octets for IPv4.
#[derive(Debug, Default)]
pub(crate) struct Announcers {
    /// None where the peers are few.
    index: Option<Index>,
}

#[derive(Debug, Default)]
struct Index {
    v4: BTreeSet<(u32, u32)>,
    v6: BTreeSet<([u32; 4], u32)>,
    numbers: BTreeMap<PeerAddress, u32>,
    /// By number.
    addresses: Vec<PeerAddress>,
    /// With more entries it is made anew.
    limit: usize,
}

impl Announcers {
    /// The peers that may announce `prefix`, by their addresses; None when that is not known.
    pub fn candidates(&self, prefix: Prefix) -> Option<Vec<PeerAddress>> {
        let index = self.index.as_ref()?;
        let (least, most) = span(prefix.length);
        let mut found: Vec<PeerAddress> = match prefix.address {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                let entries = index.v4.range((bits, least)..=(bits, most));
                entries
                    .filter_map(|(_, tail)| index.address(*tail))
                    .collect()
            }
            IpAddr::V6(address) => {
                let words = words(address);
                let entries = index.v6.range((words, least)..=(words, most));
                entries
                    .filter_map(|(_, tail)| index.address(*tail))
                    .collect()
            }
        };
        found.sort_unstable();
        Some(found)
    }

    /// `address`, one of `peers`, has announced (true) and withdrawn these; its Adj-RIB-In says so already.
    pub fn learn(
        &mut self,
        peers: &BTreeMap<PeerAddress, Peer>,
        address: PeerAddress,
        learned: &[(Prefix, bool)],
    ) {
        let kept = self.index.is_some();
        if peers.len() < if kept { FEW } else { MANY } {
            self.index = None;
            return;
        }
        let index = self.index.get_or_insert_default();
        if !kept || index.len() > index.limit {
            *index = Index::of(peers);
            return;
        }
        let Some(rib) = peers.get(&address).map(|peer| &peer.exchange.rib) else {
            return;
        };
        for (prefix, announced) in learned {
            if *announced {
                index.insert(address, *prefix);
            } else if !rib.has_prefix(*prefix) {
                index.remove(address, *prefix);
            }
        }
    }
}

/// The least and the greatest word that begins with this length.
const fn span(length: u8) -> (u32, u32) {
    let least = (length as u32) << NUMBER_BITS;
    (least, least | ((1 << NUMBER_BITS) - 1))
}

impl Index {
    fn of(peers: &BTreeMap<PeerAddress, Peer>) -> Self {
        let mut index = Self::default();
        for (address, peer) in peers {
            for prefix in peer.exchange.rib.unicast() {
                index.insert(*address, prefix);
            }
        }
        index.limit = 2 * index.len() + LEFT_BEHIND;
        index
    }

    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn address(&self, tail: u32) -> Option<PeerAddress> {
        let number = tail & ((1 << NUMBER_BITS) - 1);
        self.addresses.get(usize::try_from(number).ok()?).copied()
    }

    fn insert(&mut self, address: PeerAddress, prefix: Prefix) {
        let next = self.addresses.len();
        let number = *self.numbers.entry(address).or_insert_with(|| {
            self.addresses.push(address);
            // A node has far fewer peers than this word has room for.
            u32::try_from(next).unwrap_or(u32::MAX)
        });
        let tail = span(prefix.length).0 | number;
        match prefix.address {
            IpAddr::V4(address) => self.v4.insert((address.to_bits(), tail)),
            IpAddr::V6(address) => self.v6.insert((words(address), tail)),
        };
    }

    fn remove(&mut self, address: PeerAddress, prefix: Prefix) {
        let Some(number) = self.numbers.get(&address) else {
            return;
        };
        let tail = span(prefix.length).0 | number;
        match prefix.address {
            IpAddr::V4(address) => self.v4.remove(&(address.to_bits(), tail)),
            IpAddr::V6(address) => self.v6.remove(&(words(address), tail)),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        bgp::{Family, NlriEntry},
        peer::KnownBy,
        turn::Moment,
    };

    fn address(number: u8) -> PeerAddress {
        PeerAddress::new(Ipv4Addr::new(10, 0, 0, number).into(), 0)
    }

    fn unknown() -> Peer {
        let moment = Moment::restored(jiff::Timestamp::UNIX_EPOCH);
        Peer::new(KnownBy::Dialled, moment)
    }

    /// One of few prefixes, of either family, some of the same address with another length.
    fn prefix(number: u8) -> Prefix {
        let length = 24 + number % 3;
        let third = number / 3 % 4;
        let address = if number.is_multiple_of(2) {
            IpAddr::V4(Ipv4Addr::new(10, 244, third, 0))
        } else {
            IpAddr::V6(Ipv6Addr::new(0xfd00, u16::from(third), 0, 0, 0, 0, 0, 0))
        };
        Prefix { address, length }
    }

    fn family(prefix: Prefix) -> Family {
        if prefix.address.is_ipv4() {
            Family::IPV4_UNICAST
        } else {
            Family::IPV6_UNICAST
        }
    }

    fn entry(prefix: Prefix, path: u32) -> NlriEntry {
        NlriEntry {
            prefix,
            path_id: Some(path),
            stray_bits: false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever peers come, go and say: whoever announces a prefix is a candidate.
        #[test]
        fn whoever_announces_a_prefix_is_a_candidate(
            steps in prop::collection::vec((0_u8..8, 0_u8..100, 0_u8..24, 0_u32..2), 0..400),
        ) {
            let mut peers: BTreeMap<PeerAddress, Peer> = BTreeMap::new();
            let mut announcers = Announcers::default();
            for number in 0..70 {
                peers.insert(address(number), unknown());
            }
            for (step, number, which, path) in steps {
                let (address, prefix) = (address(number), prefix(which));
                let Some(peer) = peers.get_mut(&address) else {
                    peers.insert(address, unknown());
                    continue;
                };
                let rib = &mut peer.exchange.rib;
                match step {
                    0..=3 => {
                        rib.learn(family(prefix), &entry(prefix, path));
                        announcers.learn(&peers, address, &[(prefix, true)]);
                    }
                    4 | 5 => {
                        rib.unlearn(family(prefix), &entry(prefix, path));
                        announcers.learn(&peers, address, &[(prefix, false)]);
                    }
                    6 => rib.clear(),
                    _ => drop(peers.remove(&address)),
                }
                let announces = |address: &PeerAddress| {
                    let peer = peers.get(address);
                    peer.is_some_and(|peer| peer.exchange.rib.has_prefix(prefix))
                };
                if let Some(named) = announcers.candidates(prefix) {
                    let found: Vec<_> = named.into_iter().filter(announces).collect();
                    let all: Vec<_> = peers.keys().copied().filter(announces).collect();
                    prop_assert_eq!(found, all, "{:?}", prefix);
                }
            }
        }
    }

    #[test]
    fn what_ended_sessions_leave_behind_is_bounded() {
        let mut peers: BTreeMap<PeerAddress, Peer> = (0..100)
            .map(|number| (address(number), unknown()))
            .collect();
        let mut announcers = Announcers::default();
        for round in 0..200_u32 {
            for number in 0..100 {
                let prefix = Prefix {
                    address: Ipv4Addr::from_bits(round << 16 | u32::from(number) << 8).into(),
                    length: 24,
                };
                let peer = peers.get_mut(&address(number)).unwrap();
                peer.exchange.rib.clear();
                peer.exchange
                    .rib
                    .learn(Family::IPV4_UNICAST, &entry(prefix, 0));
                announcers.learn(&peers, address(number), &[(prefix, true)]);
            }
        }
        let index = announcers.index.unwrap();
        assert!(index.len() <= 2 * 100 + LEFT_BEHIND + 1, "{}", index.len());
    }
}

//! Which addresses behind a peer are probed, and which of them are known to answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    address::PeerAddress, bgp::Prefix, config::ReachMode, event::NetnsId, node::Node,
    time::Timestamp, turn::Turn,
};

/// Addresses of a block that may be its node's tunnel address: Calico hands them out from the start.
const FIRST_HOSTS: u128 = 3;
/// Prefixes whose addresses are tried per peer.
pub(super) const PREFIXES: usize = 4;
/// Addresses remembered per peer, and so many of them are enough not to guess at more.
const REMEMBERED: usize = 4;
pub(super) const ENOUGH: usize = 2;

/// A peer of a node.
pub(super) type Of = (NetnsId, PeerAddress);

/// Addresses that answered, and when the latest echo that each of them answered was sent.
#[derive(Debug, Default)]
pub(super) struct Alive {
    by_peer: BTreeMap<Of, BTreeMap<IpAddr, Timestamp>>,
}

impl Alive {
    /// One of a peer's answered an echo sent at `at`; of too many the one that is longest ago goes.
    pub fn remember(&mut self, of: Of, target: IpAddr, at: Timestamp) {
        let known = self.by_peer.entry(of).or_default();
        known.insert(target, at);
        let oldest = known.iter().min_by_key(|(_, at)| **at);
        if let Some((oldest, _)) = oldest.filter(|_| known.len() > REMEMBERED) {
            let oldest = *oldest;
            known.remove(&oldest);
        }
    }

    /// It may be gone.
    pub fn forget(&mut self, of: Of, target: IpAddr) {
        if let Some(known) = self.by_peer.get_mut(&of) {
            known.remove(&target);
        }
    }

    /// The peer is forgotten.
    pub fn forget_all(&mut self, of: Of) {
        self.by_peer.remove(&of);
    }

    /// Those of a peer.
    pub fn of(&self, of: Of) -> Vec<IpAddr> {
        let known = self.by_peer.get(&of).into_iter().flatten();
        known.map(|(target, _)| *target).collect()
    }

    /// When an address behind a peer answered last.
    pub fn at(&self, of: Of, target: IpAddr) -> Option<Timestamp> {
        self.by_peer.get(&of)?.get(&target).copied()
    }

    /// Whether an address of `prefix` answered after `since`.
    pub fn lies_in(&self, of: Of, prefix: Prefix, since: Timestamp) -> bool {
        let mut known = self.by_peer.get(&of).into_iter().flatten();
        known.any(|(target, at)| prefix.contains(*target) && *at >= since)
    }
}

/// Addresses behind a peer that may be probed, the most telling first: those `alive`, those that the
/// configuration or the cluster names, and if that is not enough guesses.
pub(super) fn targets(
    turn: &Turn<'_>,
    node: &Node,
    peer: PeerAddress,
    alive: Vec<IpAddr>,
    prefixes: &[Prefix],
) -> Vec<IpAddr> {
    let reach = &turn.config.reach;
    let mut found = alive;
    if reach.mode == ReachMode::Canary {
        let name = node.peers.get(&peer).and_then(|peer| peer.name.as_deref());
        let of_peer = |of: &str| of == peer.to_string() || Some(of) == name;
        let canaries = reach.canaries.iter().filter(|canary| {
            let behind = prefixes
                .iter()
                .any(|prefix| prefix.contains(canary.address));
            canary.peer.as_deref().map_or(behind, of_peer)
        });
        found.extend(canaries.map(|canary| canary.address));
    } else {
        let named = named(turn, node, peer);
        let guess = named.is_empty() && found.len() < ENOUGH;
        found.extend(named);
        if reach.mode == ReachMode::Tunnel && guess {
            let blocks = prefixes.iter().take(PREFIXES);
            found.extend(blocks.flat_map(|prefix| first_hosts(*prefix)));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|target| seen.insert(*target) && !node.own.contains(target));
    found
}

/// Addresses that the inventory places behind a peer.
pub(super) fn named(turn: &Turn<'_>, node: &Node, peer: PeerAddress) -> Vec<IpAddr> {
    let entry = turn.inventory.find(&node.name, peer.ip);
    entry.map(|entry| entry.targets.clone()).unwrap_or_default()
}

/// The first addresses of a block.
fn first_hosts(prefix: Prefix) -> impl Iterator<Item = IpAddr> {
    let (base, bits) = match prefix.address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let host_bits = u32::from(bits - prefix.length.min(bits));
    let hosts = 1_u128
        .checked_shl(host_bits)
        .unwrap_or(u128::MAX)
        .min(FIRST_HOSTS);
    // A default route or the like is no pod block.
    let hosts = if prefix.length < 8 { 0 } else { hosts };
    (0..hosts).map(move |host| {
        let address = base.saturating_add(host);
        match prefix.address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(address).unwrap_or(u32::MAX).into()),
            IpAddr::V6(_) => IpAddr::V6(address.into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_s_first_addresses_are_tried_and_a_host_route_s_only_one() {
        let prefix = |text: &str, length| Prefix {
            address: text.parse().unwrap(),
            length,
        };
        let shown = |prefix| {
            first_hosts(prefix)
                .map(|ip| ip.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(prefix("10.244.2.0", 26)),
            ["10.244.2.0", "10.244.2.1", "10.244.2.2"]
        );
        assert_eq!(shown(prefix("10.244.2.7", 32)), ["10.244.2.7"]);
        assert_eq!(
            shown(prefix("fd00:2::40", 122)),
            ["fd00:2::40", "fd00:2::41", "fd00:2::42"]
        );
        assert!(shown(prefix("0.0.0.0", 0)).is_empty());
    }

    #[test]
    fn of_too_many_addresses_the_one_longest_silent_is_forgotten() {
        let of = (NetnsId(1), PeerAddress::new("10.0.0.2".parse().unwrap(), 0));
        let mut alive = Alive::default();
        for host in 0..6_u8 {
            let target: IpAddr = [10, 244, 2, host].into();
            alive.remember(of, target, Timestamp::from_nanos(u64::from(host)));
        }
        let left = alive.of(of);
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        assert_eq!(
            left,
            ["10.244.2.2", "10.244.2.3", "10.244.2.4", "10.244.2.5"]
        );
    }
}

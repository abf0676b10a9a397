//! The peers that ought to exist, as an inventory file last said, and as follows from the cluster. What
//! the file says of a peer goes before what the cluster says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    cluster::{Cluster, ClusterPeer},
    event::{
        InventoryPeer,
        cluster::{ClusterFact, ClusterKind},
    },
};

/// Both, by address.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    by_address: BTreeMap<IpAddr, Vec<InventoryPeer>>,
    cluster: Cluster,
    /// What follows from the cluster for each observed node.
    derived: BTreeMap<String, BTreeMap<IpAddr, ClusterPeer>>,
}

impl Inventory {
    #[cfg(test)]
    pub fn new(peers: &[InventoryPeer]) -> Self {
        let mut inventory = Self::default();
        inventory.read(peers);
        inventory
    }

    /// What the file says now.
    pub fn read(&mut self, peers: &[InventoryPeer]) {
        let mut by_address: BTreeMap<IpAddr, Vec<InventoryPeer>> = BTreeMap::new();
        for peer in peers {
            let ip = peer.address.to_canonical();
            if !ip.is_unspecified() && !ip.is_multicast() {
                by_address.entry(ip).or_default().push(peer.clone());
            }
        }
        self.by_address = by_address;
    }

    /// More is known of the cluster; whether that makes a difference to peers, which blocks do not.
    pub fn learn(&mut self, fact: &ClusterFact) -> bool {
        if !self.cluster.take(fact) || fact.kind() == ClusterKind::Blocks {
            return false;
        }
        for (node, peers) in &mut self.derived {
            *peers = self.cluster.peers_of(node);
        }
        true
    }

    /// A node is observed: its peers are asked for from now on.
    pub fn attend(&mut self, node: &str) {
        let peers = self.cluster.peers_of(node);
        self.derived.insert(node.to_owned(), peers);
    }

    /// The cluster.
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What is said of `ip` as a peer of `node`; an entry for that very node before one for all, and
    /// never one that is the node itself.
    pub fn find(&self, node: &str, ip: IpAddr) -> Option<&InventoryPeer> {
        self.find_read(node, ip).or_else(|| {
            let derived = self.derived.get(node)?.get(&ip)?;
            Some(&derived.entry)
        })
    }

    fn find_read(&self, node: &str, ip: IpAddr) -> Option<&InventoryPeer> {
        let entries = self.by_address.get(&ip)?;
        let fits = |entry: &&InventoryPeer| entry.name.as_deref() != Some(node);
        let own = |entry: &&InventoryPeer| entry.node.as_deref() == Some(node);
        entries.iter().filter(fits).find(own).or_else(|| {
            entries
                .iter()
                .filter(fits)
                .find(|entry| entry.node.is_none())
        })
    }

    /// Every address that ought to be a peer of `node`.
    pub fn of(&self, node: &str) -> BTreeSet<IpAddr> {
        let read = { self.by_address.keys() }.filter(|ip| self.find_read(node, **ip).is_some());
        let derived = self.derived.get(node).into_iter().flatten();
        let expected = derived.filter(|(_, peer)| peer.expected);
        read.chain(expected.map(|(ip, _)| ip)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: Option<&str>, address: &str, name: &str) -> InventoryPeer {
        InventoryPeer {
            node: node.map(str::to_owned),
            address: address.parse().unwrap(),
            name: Some(name.to_owned()),
            peer_type: None,
            asn: None,
            targets: Vec::new(),
        }
    }

    #[test]
    fn an_entry_for_all_is_for_all_but_the_peer_itself() {
        let inventory = Inventory::new(&[
            entry(None, "10.0.0.1", "n1"),
            entry(None, "::ffff:10.0.0.2", "n2"),
            entry(Some("n1"), "10.0.0.3", "tor"),
            entry(Some("n1"), "10.0.0.2", "n2-special"),
            entry(None, "0.0.0.0", "nobody"),
        ]);
        let of = |node| {
            inventory
                .of(node)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("n1"), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(of("n2"), ["10.0.0.1"]);
        let two = "10.0.0.2".parse().unwrap();
        let name = |node| {
            inventory
                .find(node, two)
                .and_then(|entry| entry.name.clone())
        };
        assert_eq!(name("n1").as_deref(), Some("n2-special"));
        assert_eq!(name("n3").as_deref(), Some("n2"));
    }
}

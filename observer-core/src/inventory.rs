//! The peers that ought to exist, as an inventory file last said, as follows from the cluster, and as the
//! local speaker is configured. What the file says of a peer goes before what the cluster says, and that before
//! what the speaker says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    cluster::{Cluster, ClusterPeer},
    event::{
        InventoryPeer,
        cluster::{ClusterFact, ClusterKind},
        configured::ConfiguredPeer,
    },
};

/// A peer of a local speaker's configuration.
#[derive(Debug)]
pub(crate) struct Configured {
    /// As an inventory would name it.
    entry: InventoryPeer,
    /// What switches it off, if anything does: the protocol of that name.
    pub disabled: Option<String>,
}

impl Configured {
    fn of(node: &str, peer: &ConfiguredPeer) -> Self {
        Self {
            entry: InventoryPeer {
                node: Some(node.to_owned()),
                address: peer.address.to_canonical(),
                name: None,
                peer_type: peer.peer_type,
                asn: peer.asn,
                targets: Vec::new(),
            },
            disabled: peer.disabled.then(|| peer.protocol.clone()),
        }
    }

    /// Its type and AS number.
    pub const fn terms(&self) -> (Option<crate::event::PeerType>, Option<u32>) {
        (self.entry.peer_type, self.entry.asn)
    }
}

/// All of it, by address.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    by_address: BTreeMap<IpAddr, Vec<InventoryPeer>>,
    cluster: Cluster,
    /// What follows from the cluster for each observed node.
    derived: BTreeMap<String, BTreeMap<IpAddr, ClusterPeer>>,
    /// What a node's speakers are configured with, by where they were asked.
    configured: BTreeMap<String, BTreeMap<String, BTreeMap<IpAddr, Configured>>>,
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

    /// What the speaker of `node` that was asked at `socket` is configured with now.
    pub fn configure(&mut self, node: &str, socket: &str, peers: &[ConfiguredPeer]) {
        let mut by_address: BTreeMap<IpAddr, Configured> = BTreeMap::new();
        for peer in peers {
            let peer = Configured::of(node, peer);
            let ip = peer.entry.address;
            // Of two protocols for one peer it may be either that is switched off.
            let serves = |known: &Configured| known.disabled.is_none();
            let known = by_address.get(&ip).is_some_and(serves);
            if !known && !ip.is_unspecified() && !ip.is_multicast() {
                by_address.insert(ip, peer);
            }
        }
        let of_node = self.configured.entry(node.to_owned()).or_default();
        of_node.insert(socket.to_owned(), by_address);
    }

    /// What the speakers of `node` say of `ip`.
    pub fn configured(&self, node: &str, ip: IpAddr) -> Option<&Configured> {
        let mut said = { self.configured.get(node)?.values() }.filter_map(|of| of.get(&ip));
        said.next()
    }

    /// More is known of the cluster; whether that makes a difference to peers, which blocks do not.
    pub fn learn(&mut self, fact: &ClusterFact) -> bool {
        if !self.cluster.take(fact) || fact.kind() == ClusterKind::Blocks {
            return false;
        }
        for (node, peers) in &mut self.derived {
            let before = std::mem::replace(peers, self.cluster.peers_of(node));
            // Whom the cluster gives up its speakers name until their configuration is written anew: until
            // they say so again nobody is waited for.
            let gone = before.keys().filter(|ip| !peers.contains_key(ip));
            let configured = self.configured.get_mut(node);
            let mut configured: Vec<_> = { configured.into_iter() }
                .flat_map(BTreeMap::values_mut)
                .collect();
            for ip in gone {
                for of in &mut configured {
                    of.remove(ip);
                }
            }
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
        self.find_read(node, ip)
            .or_else(|| {
                let derived = self.derived.get(node)?.get(&ip)?;
                Some(&derived.entry)
            })
            .or_else(|| Some(&self.configured(node, ip)?.entry))
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
        let configured = { self.configured.get(node).into_iter() }.flat_map(BTreeMap::values);
        let serves = configured
            .flatten()
            .filter(|(_, peer)| peer.disabled.is_none());
        read.chain(expected.map(|(ip, _)| ip))
            .chain(serves.map(|(ip, _)| ip))
            .copied()
            .collect()
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

    fn configured(protocol: &str, address: &str, disabled: bool) -> ConfiguredPeer {
        ConfiguredPeer {
            protocol: protocol.to_owned(),
            address: address.parse().unwrap(),
            asn: Some(64_512),
            peer_type: crate::event::PeerType::of_protocol(protocol),
            disabled,
        }
    }

    #[test]
    fn a_speaker_s_word_is_of_its_node_and_the_last_one_and_goes_after_others() {
        let mut inventory = Inventory::new(&[entry(None, "10.0.0.2", "n2")]);
        let peers = [
            configured("Mesh_10_0_0_2", "10.0.0.2", false),
            configured("Node_10_0_0_9", "10.0.0.9", true),
            configured("Global_10_0_0_8", "10.0.0.8", true),
            configured("other", "10.0.0.8", false),
        ];
        inventory.configure("n1", "bird.ctl", &peers);
        inventory.configure("n1", "bird6.ctl", &[configured("a", "fd00::2", false)]);
        let of = |inventory: &Inventory, node| -> Vec<String> {
            let all = inventory.of(node);
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(&inventory, "n1"), ["10.0.0.2", "10.0.0.8", "fd00::2"]);
        assert_eq!(of(&inventory, "n3"), ["10.0.0.2"]);
        let ip = |text: &str| text.parse().unwrap();
        let found = inventory.find("n1", ip("10.0.0.2")).unwrap();
        assert_eq!(found.name.as_deref(), Some("n2"), "the file goes before");
        let off = inventory.configured("n1", ip("10.0.0.9")).unwrap();
        assert_eq!(off.disabled.as_deref(), Some("Node_10_0_0_9"));
        assert!(inventory.find("n3", ip("10.0.0.9")).is_none());

        inventory.configure("n1", "bird.ctl", &[]);
        assert_eq!(of(&inventory, "n1"), ["10.0.0.2", "fd00::2"]);
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

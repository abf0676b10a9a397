//! The peers that ought to exist, as an inventory last said.

use std::{collections::BTreeMap, net::IpAddr};

use crate::event::InventoryPeer;

/// The inventory, by address.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    by_address: BTreeMap<IpAddr, Vec<InventoryPeer>>,
}

impl Inventory {
    pub fn new(peers: &[InventoryPeer]) -> Self {
        let mut by_address: BTreeMap<IpAddr, Vec<InventoryPeer>> = BTreeMap::new();
        for peer in peers {
            let ip = peer.address.to_canonical();
            if !ip.is_unspecified() && !ip.is_multicast() {
                by_address.entry(ip).or_default().push(peer.clone());
            }
        }
        Self { by_address }
    }

    /// What is said of `ip` as a peer of `node`; an entry for that very node before one for all, and
    /// never one that is the node itself.
    pub fn find(&self, node: &str, ip: IpAddr) -> Option<&InventoryPeer> {
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

    /// Every address named as a peer of `node`, in order.
    pub fn of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        self.by_address
            .keys()
            .copied()
            .filter(move |ip| self.find(node, *ip).is_some())
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
                .map(|ip| ip.to_string())
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

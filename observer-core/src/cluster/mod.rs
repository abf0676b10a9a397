//! The cluster as its API last described it, and what follows from that: who ought to peer with whom,
//! and whose a block of addresses is.
//!
//! It is a mirror and no more: how it is read, and how old it is, is the edges' concern. What is not
//! known yet leads to no peer; what was known stays until the API says otherwise.

mod selector;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use self::selector::Selector;
use crate::{
    bgp::Prefix,
    event::{
        InventoryPeer, PeerType,
        cluster::{
            BgpConfiguration, BgpPeer, ClusterFact, ClusterKind, ClusterNode, ClusterObject,
        },
    },
};

/// Calico's AS number where nobody set one.
const DEFAULT_ASN: u32 = 64_512;
/// The BGPConfiguration that holds for all nodes.
const DEFAULT: &str = "default";

/// A peer of a node, by the cluster's configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ClusterPeer {
    pub entry: InventoryPeer,
    /// It ought to be there; otherwise only its name is known.
    pub expected: bool,
}

/// All that is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    objects: BTreeMap<ClusterKind, BTreeMap<String, ClusterObject>>,
    unavailable: BTreeSet<ClusterKind>,
    /// Whose each block is.
    blocks: BTreeMap<Prefix, String>,
}

impl Cluster {
    /// Takes a fact in; whether anything is different now.
    pub fn take(&mut self, fact: &ClusterFact) -> bool {
        let changed = match fact {
            ClusterFact::Listed { of, objects } => self.replace(*of, objects),
            ClusterFact::Unavailable { of } => self.unavailable.insert(*of),
            ClusterFact::Changed { object } => {
                let of = self.objects.entry(object.kind()).or_default();
                let before = of.insert(object.name().to_owned(), object.clone());
                before.as_ref() != Some(object)
            }
            ClusterFact::Gone { of, name } => {
                let objects = self.objects.get_mut(of);
                objects.is_some_and(|objects| objects.remove(name).is_some())
            }
        };
        if changed && fact.kind() == ClusterKind::Blocks {
            self.map_blocks();
        }
        changed
    }

    fn replace(&mut self, of: ClusterKind, objects: &[ClusterObject]) -> bool {
        let listed: BTreeMap<String, ClusterObject> = objects
            .iter()
            .filter(|object| object.kind() == of)
            .map(|object| (object.name().to_owned(), object.clone()))
            .collect();
        let was_unavailable = self.unavailable.remove(&of);
        let changed = self.objects.get(&of) != Some(&listed);
        self.objects.insert(of, listed);
        changed || was_unavailable
    }

    fn map_blocks(&mut self) {
        // Of two affinities for one block the last by name counts, in whatever order they came.
        let blocks = self.of(ClusterKind::Blocks).filter_map(|object| {
            let ClusterObject::Block(block) = object else {
                return None;
            };
            Some((block.cidr, block.node.clone()))
        });
        self.blocks = blocks.collect();
    }

    /// The facts from which a cluster like this one follows.
    pub fn standing(&self) -> Vec<ClusterFact> {
        let listed = self
            .objects
            .iter()
            .map(|(of, objects)| ClusterFact::Listed {
                of: *of,
                objects: objects.values().cloned().collect(),
            });
        let unavailable = self
            .unavailable
            .iter()
            .map(|of| ClusterFact::Unavailable { of: *of });
        listed.chain(unavailable).collect()
    }

    /// The node whose block has all of `prefix`.
    pub fn node_of(&self, prefix: Prefix) -> Option<&str> {
        (0..=prefix.length)
            .rev()
            .map(|length| Prefix::masked(prefix.address, length))
            .find_map(|block| self.blocks.get(&block))
            .map(String::as_str)
    }

    /// Whether all that bears on peers is known. A kind that cannot be read is as good as known only
    /// where it is not decisive.
    pub fn is_complete(&self) -> bool {
        let decisive = [
            ClusterKind::Nodes,
            ClusterKind::BgpConfigurations,
            ClusterKind::BgpPeers,
        ];
        let knows = |of: &ClusterKind| self.objects.contains_key(of);
        decisive.iter().all(knows)
            && (knows(&ClusterKind::IpPools) || self.unavailable.contains(&ClusterKind::IpPools))
    }

    /// Whether BGP carries no pod traffic here: every pool is VXLAN, and nobody configured a peer.
    pub fn is_vxlan_only(&self) -> bool {
        let mut pools = self.of(ClusterKind::IpPools).peekable();
        pools.peek().is_some()
            && pools.all(|pool| matches!(pool, ClusterObject::IpPool(pool) if pool.vxlan))
            && self.bgp_peers().next().is_none()
    }

    /// The peers of `node`, by address; none as long as the cluster does not know such a node.
    pub(crate) fn peers_of(&self, node: &str) -> BTreeMap<IpAddr, ClusterPeer> {
        let mut peers = BTreeMap::new();
        let Some(own) = self.node(node) else {
            return peers;
        };
        let expected = self.is_complete() && !self.is_vxlan_only();
        let mesh = self.has_mesh() && own.reflector.is_none();
        for other in self.nodes() {
            let meshed = mesh && other.reflector.is_none();
            let of_type = meshed.then_some(PeerType::Mesh);
            self.add_node(&mut peers, own, other, of_type, meshed && expected);
        }
        let configured: Vec<Configured<'_>> = self.bgp_peers().map(Configured::new).collect();
        let types = [PeerType::Global, PeerType::NodeSpecific];
        // What is said of one node goes before what is said of all.
        for of_type in types {
            for peer in configured.iter().filter(|peer| peer.of_type() == of_type) {
                self.add_configured(&mut peers, own, peer, expected);
            }
        }
        // A peering between nodes is configured on both ends, whichever end the selector names.
        let mut back = BTreeMap::new();
        for peer in configured.iter().filter(|peer| peer.is_peer(own)) {
            for other in self.nodes().filter(|other| peer.applies_to(other)) {
                let of_type = Some(PeerType::NodeSpecific);
                self.add_node(&mut back, own, other, of_type, expected);
            }
        }
        let is_configured = |peer: &ClusterPeer| {
            { peer.entry.peer_type }.is_some_and(|of_type| of_type != PeerType::Mesh)
        };
        back.retain(|address, _| !peers.get(address).is_some_and(is_configured));
        peers.extend(back);
        peers
    }

    fn add_configured(
        &self,
        peers: &mut BTreeMap<IpAddr, ClusterPeer>,
        own: &ClusterNode,
        configured: &Configured<'_>,
        expected: bool,
    ) {
        if !configured.applies_to(own) {
            return;
        }
        let of_type = Some(configured.of_type());
        for other in self.nodes().filter(|other| configured.is_peer(other)) {
            self.add_node(peers, own, other, of_type, expected);
        }
        let Some(address) = configured.peer.address.map(|ip| ip.to_canonical()) else {
            return;
        };
        if own.addresses.contains(&address) {
            return;
        }
        let node = self.nodes().find(|node| node.addresses.contains(&address));
        let entry = InventoryPeer {
            node: Some(own.name.clone()),
            address,
            name: node.map(|node| node.name.clone()),
            peer_type: of_type,
            asn: configured.peer.asn,
            targets: node.map(|node| node.tunnels.clone()).unwrap_or_default(),
        };
        peers.insert(address, ClusterPeer { entry, expected });
    }

    /// `other` is a peer of `own`, if it is another, in every family that both have.
    fn add_node(
        &self,
        peers: &mut BTreeMap<IpAddr, ClusterPeer>,
        own: &ClusterNode,
        other: &ClusterNode,
        of_type: Option<PeerType>,
        expected: bool,
    ) {
        for address in other.addresses.iter().filter(|_| other.name != own.name) {
            let shared = |mine: &IpAddr| mine.is_ipv4() == address.is_ipv4();
            if !own.addresses.iter().any(shared) || own.addresses.contains(address) {
                continue;
            }
            let entry = InventoryPeer {
                node: Some(own.name.clone()),
                address: *address,
                name: Some(other.name.clone()),
                peer_type: of_type,
                asn: of_type.and(Some(other.asn.unwrap_or_else(|| self.default_asn()))),
                targets: other.tunnels.clone(),
            };
            peers.insert(*address, ClusterPeer { entry, expected });
        }
    }

    /// Calico's nodes are meshed unless somebody said that they are not.
    fn has_mesh(&self) -> bool {
        let known = self.objects.contains_key(&ClusterKind::BgpConfigurations);
        let off = |configuration: &BgpConfiguration| configuration.mesh == Some(false);
        known && !self.configuration().is_some_and(off)
    }

    fn default_asn(&self) -> u32 {
        let configuration = self.configuration();
        configuration
            .and_then(|configuration| configuration.asn)
            .unwrap_or(DEFAULT_ASN)
    }

    fn configuration(&self) -> Option<&BgpConfiguration> {
        let of = self.objects.get(&ClusterKind::BgpConfigurations)?;
        if let ClusterObject::BgpConfiguration(configuration) = of.get(DEFAULT)? {
            Some(configuration)
        } else {
            None
        }
    }

    fn of(&self, kind: ClusterKind) -> impl Iterator<Item = &ClusterObject> {
        self.objects
            .get(&kind)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    fn node(&self, name: &str) -> Option<&ClusterNode> {
        let of = self.objects.get(&ClusterKind::Nodes)?;
        if let ClusterObject::Node(node) = of.get(name)? {
            Some(node)
        } else {
            None
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &ClusterNode> {
        self.of(ClusterKind::Nodes).filter_map(|object| {
            if let ClusterObject::Node(node) = object {
                Some(node)
            } else {
                None
            }
        })
    }

    fn bgp_peers(&self) -> impl Iterator<Item = &BgpPeer> {
        self.of(ClusterKind::BgpPeers).filter_map(|object| {
            if let ClusterObject::BgpPeer(peer) = object {
                Some(peer)
            } else {
                None
            }
        })
    }
}

/// A BGPPeer with its selectors read.
struct Configured<'a> {
    peer: &'a BgpPeer,
    /// Of nodes that peer.
    nodes: Option<Selector>,
    /// Of nodes that are the peers.
    peers: Option<Selector>,
}

impl<'a> Configured<'a> {
    fn new(peer: &'a BgpPeer) -> Self {
        // One that cannot be read selects nobody.
        let read = |text: &str| Selector::parse(text).unwrap_or(Selector::Nobody);
        let parse = |text: &Option<String>| text.as_deref().map(read);
        Self {
            peer,
            nodes: parse(&peer.node_selector),
            peers: parse(&peer.peer_selector),
        }
    }

    /// As calicoctl tells them apart.
    const fn of_type(&self) -> PeerType {
        if self.peer.node.is_some() || self.nodes.is_some() {
            PeerType::NodeSpecific
        } else {
            PeerType::Global
        }
    }

    /// Whether `node` is to have this peer.
    fn applies_to(&self, node: &ClusterNode) -> bool {
        match (&self.nodes, &self.peer.node) {
            (Some(selector), _) => selector.matches(&node.labels),
            (None, Some(name)) => *name == node.name,
            (None, None) => true,
        }
    }

    /// Whether `node` is this peer.
    fn is_peer(&self, node: &ClusterNode) -> bool {
        let selects = |selector: &Selector| selector.matches(&node.labels);
        self.peers.as_ref().is_some_and(selects)
    }
}

#[cfg(test)]
mod tests;

//! What the core is told of the cluster that the observed nodes belong to: objects of its API, reduced
//! to what bears on BGP. What follows from them is `crate::cluster`'s.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::bgp::Prefix;

/// A fact about the cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "cluster", rename_all = "snake_case")]
pub enum ClusterFact {
    /// All objects of a kind; they replace what was known of it.
    Listed {
        /// Which kind.
        of: ClusterKind,
        /// Its objects.
        objects: Vec<ClusterObject>,
    },
    /// The API has no such kind, or does not let this agent read it: it is not to be waited for. What
    /// was known of it stays.
    Unavailable {
        /// Which kind.
        of: ClusterKind,
    },
    /// An object is new or another than before.
    Changed {
        /// As it is now.
        object: ClusterObject,
    },
    /// An object is gone.
    Gone {
        /// Of this kind.
        of: ClusterKind,
        /// Its name.
        name: String,
    },
}

impl ClusterFact {
    /// Which kind of object it is about.
    pub const fn kind(&self) -> ClusterKind {
        match self {
            Self::Listed { of, .. } | Self::Unavailable { of } | Self::Gone { of, .. } => *of,
            Self::Changed { object } => object.kind(),
        }
    }
}

/// Kinds of objects.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterKind {
    /// Kubernetes' nodes.
    Nodes,
    /// Calico's BGPConfiguration.
    BgpConfigurations,
    /// Calico's BGPPeer.
    BgpPeers,
    /// Calico's IPPool.
    IpPools,
    /// Calico's BlockAffinity.
    Blocks,
}

impl ClusterKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Nodes,
        Self::BgpConfigurations,
        Self::BgpPeers,
        Self::IpPools,
        Self::Blocks,
    ];

    /// As Kubernetes' API calls it in the plural.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::BgpConfigurations => "bgpconfigurations",
            Self::BgpPeers => "bgppeers",
            Self::IpPools => "ippools",
            Self::Blocks => "blockaffinities",
        }
    }
}

/// An object.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ClusterObject {
    /// A node.
    Node(ClusterNode),
    /// A BGPConfiguration.
    BgpConfiguration(BgpConfiguration),
    /// A BGPPeer.
    BgpPeer(BgpPeer),
    /// An IPPool.
    IpPool(IpPool),
    /// A BlockAffinity.
    Block(Block),
}

impl ClusterObject {
    /// Its kind.
    pub const fn kind(&self) -> ClusterKind {
        match self {
            Self::Node(_) => ClusterKind::Nodes,
            Self::BgpConfiguration(_) => ClusterKind::BgpConfigurations,
            Self::BgpPeer(_) => ClusterKind::BgpPeers,
            Self::IpPool(_) => ClusterKind::IpPools,
            Self::Block(_) => ClusterKind::Blocks,
        }
    }

    /// Its name, unique within its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::Node(node) => &node.name,
            Self::BgpConfiguration(configuration) => &configuration.name,
            Self::BgpPeer(peer) => &peer.name,
            Self::IpPool(pool) => &pool.name,
            Self::Block(block) => &block.name,
        }
    }
}

/// A node, as calico-node annotates it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// Addresses with which it speaks BGP, one of each family at most.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its tunnel devices.
    pub tunnels: Vec<IpAddr>,
    /// Its AS number, where it has one of its own.
    pub asn: Option<u32>,
    /// It reflects routes with this cluster id.
    pub reflector: Option<String>,
    /// Its labels: Calico's selectors read them.
    pub labels: BTreeMap<String, String>,
}

/// A BGPConfiguration.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct BgpConfiguration {
    /// Its name; the one for the whole cluster is `default`.
    pub name: String,
    /// Whether nodes peer with each other; Calico takes silence for yes.
    pub mesh: Option<bool>,
    /// AS number of nodes that have none of their own.
    pub asn: Option<u32>,
}

/// A BGPPeer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct BgpPeer {
    /// Its name.
    pub name: String,
    /// The node that peers, where it is one.
    pub node: Option<String>,
    /// A selector of nodes that peer.
    pub node_selector: Option<String>,
    /// The peer's address.
    pub address: Option<IpAddr>,
    /// Or a selector of nodes that are the peers.
    pub peer_selector: Option<String>,
    /// The peer's AS number.
    pub asn: Option<u32>,
}

/// An IPPool.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IpPool {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub cidr: Prefix,
    /// Packets between nodes are encapsulated in VXLAN, always or across subnets.
    #[serde(default)]
    pub vxlan: bool,
}

/// A BlockAffinity: a block of addresses that a node hands out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub cidr: Prefix,
    /// The node.
    pub node: String,
}

/// A pod.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node that it runs on.
    pub node: String,
    /// Its addresses; none for one that uses its node's.
    pub addresses: Vec<IpAddr>,
    /// What keeps it running, as `KIND/NAME`; none for one that stands alone.
    #[serde(default)]
    pub workload: Option<String>,
}

//! Who peers with whom, by what the cluster's API says.

use super::*;
use crate::event::cluster::{Block, IpPool};

fn node(name: &str, address: &str) -> ClusterNode {
    ClusterNode {
        name: name.to_owned(),
        addresses: address.split(' ').map(|ip| ip.parse().unwrap()).collect(),
        ..ClusterNode::default()
    }
}

fn labelled(mut node: ClusterNode, key: &str) -> ClusterNode {
    node.labels.insert(key.to_owned(), "yes".to_owned());
    node
}

fn listed(of: ClusterKind, objects: impl IntoIterator<Item = ClusterObject>) -> ClusterFact {
    ClusterFact::Listed {
        of,
        objects: objects.into_iter().collect(),
    }
}

fn configuration(mesh: bool, asn: u32) -> ClusterObject {
    ClusterObject::BgpConfiguration(BgpConfiguration {
        name: DEFAULT.to_owned(),
        mesh: Some(mesh),
        asn: Some(asn),
    })
}

/// Of these nodes; nothing else configured.
fn cluster(nodes: impl IntoIterator<Item = ClusterNode>) -> Cluster {
    let mut cluster = Cluster::default();
    let nodes = nodes.into_iter().map(ClusterObject::Node);
    cluster.take(&listed(ClusterKind::Nodes, nodes));
    for of in [
        ClusterKind::BgpConfigurations,
        ClusterKind::BgpPeers,
        ClusterKind::IpPools,
    ] {
        cluster.take(&listed(of, []));
    }
    cluster
}

fn peer(name: &str, edit: impl FnOnce(&mut BgpPeer)) -> ClusterObject {
    let mut peer = BgpPeer {
        name: name.to_owned(),
        ..BgpPeer::default()
    };
    edit(&mut peer);
    ClusterObject::BgpPeer(peer)
}

/// `ADDRESS NAME TYPE ASN`, with a question mark where the peer is not expected.
fn shown(cluster: &Cluster, node: &str) -> Vec<String> {
    let peers = cluster.peers_of(node);
    let words = peers.values().map(|peer| {
        let entry = &peer.entry;
        format!(
            "{} {} {} {}{}",
            entry.address,
            entry.name.as_deref().unwrap_or("-"),
            entry.peer_type.map_or("-", PeerType::name),
            entry.asn.map_or("-".to_owned(), |asn| asn.to_string()),
            if peer.expected { "" } else { " ?" }
        )
    });
    words.collect()
}

#[test]
fn nodes_are_meshed_in_the_families_that_both_have() {
    let mut three = node("n3", "10.0.0.3 fd00::3");
    three.asn = Some(65_003);
    let cluster = cluster([
        node("n1", "10.0.0.1 fd00::1"),
        node("n2", "10.0.0.2"),
        three,
        node("n4", "fd00::4"),
    ]);
    assert_eq!(
        shown(&cluster, "n1"),
        [
            "10.0.0.2 n2 node-to-node mesh 64512",
            "10.0.0.3 n3 node-to-node mesh 65003",
            "fd00::3 n3 node-to-node mesh 65003",
            "fd00::4 n4 node-to-node mesh 64512",
        ]
    );
    assert_eq!(shown(&cluster, "n2").len(), 2);
    assert!(shown(&cluster, "stranger").is_empty());
}

#[test]
fn without_a_mesh_only_names_are_known() {
    let mut cluster = cluster([node("n1", "10.0.0.1"), node("n2", "10.0.0.2")]);
    cluster.take(&ClusterFact::Changed {
        object: configuration(false, 64_600),
    });
    assert_eq!(shown(&cluster, "n1"), ["10.0.0.2 n2 - - ?"]);
}

#[test]
fn nothing_is_expected_before_all_that_decides_is_known() {
    let mut cluster = Cluster::default();
    let nodes = [node("n1", "10.0.0.1"), node("n2", "10.0.0.2")];
    let nodes = nodes.map(ClusterObject::Node);
    cluster.take(&listed(ClusterKind::Nodes, nodes));
    assert_eq!(shown(&cluster, "n1"), ["10.0.0.2 n2 - - ?"]);
    cluster.take(&listed(ClusterKind::BgpConfigurations, []));
    cluster.take(&ClusterFact::Unavailable {
        of: ClusterKind::BgpPeers,
    });
    assert!(!cluster.is_complete());
    cluster.take(&listed(ClusterKind::BgpPeers, []));
    assert!(!cluster.is_complete());
    cluster.take(&ClusterFact::Unavailable {
        of: ClusterKind::IpPools,
    });
    assert_eq!(
        shown(&cluster, "n1"),
        ["10.0.0.2 n2 node-to-node mesh 64512"]
    );
}

#[test]
fn a_cluster_that_is_vxlan_only_expects_nobody() {
    let mut cluster = cluster([node("n1", "10.0.0.1"), node("n2", "10.0.0.2")]);
    let pool = |name: &str, vxlan| {
        ClusterObject::IpPool(IpPool {
            name: name.to_owned(),
            cidr: Prefix::masked("10.244.0.0".parse().unwrap(), 16),
            vxlan,
        })
    };
    assert!(!cluster.is_vxlan_only(), "no pool at all");
    cluster.take(&listed(ClusterKind::IpPools, [pool("a", true)]));
    assert!(cluster.is_vxlan_only());
    assert_eq!(
        shown(&cluster, "n1"),
        ["10.0.0.2 n2 node-to-node mesh 64512 ?"]
    );
    let object = pool("b", false);
    cluster.take(&ClusterFact::Changed { object });
    assert!(!cluster.is_vxlan_only());
}

#[test]
fn route_reflectors_are_peers_by_selector_in_both_directions() {
    let mut reflector = labelled(node("rr", "10.0.0.9"), "reflector");
    reflector.reflector = Some("244.0.0.1".to_owned());
    let mut cluster = cluster([
        node("n1", "10.0.0.1"),
        labelled(node("n2", "10.0.0.2"), "rack"),
        reflector,
    ]);
    let to_reflector = peer("rr", |peer| {
        peer.node_selector = Some("!has(reflector)".to_owned());
        peer.peer_selector = Some("has(reflector)".to_owned());
    });
    cluster.take(&listed(ClusterKind::BgpPeers, [to_reflector]));
    assert_eq!(
        shown(&cluster, "n1"),
        [
            "10.0.0.2 n2 node-to-node mesh 64512",
            "10.0.0.9 rr node specific 64512",
        ]
    );
    assert_eq!(
        shown(&cluster, "rr"),
        [
            "10.0.0.1 n1 node specific 64512",
            "10.0.0.2 n2 node specific 64512",
        ]
    );
}

#[test]
fn configured_peers_have_their_type_and_the_own_address_is_none() {
    let mut cluster = cluster([
        node("n1", "10.0.0.1"),
        labelled(node("n2", "10.0.0.2"), "rack"),
    ]);
    let address = |text: &str| Some(text.parse().unwrap());
    cluster.take(&listed(
        ClusterKind::BgpPeers,
        [
            peer("everywhere", |peer| {
                peer.address = address("10.0.0.254");
                peer.asn = Some(65_000);
            }),
            peer("of-n1", |peer| {
                peer.node = Some("n1".to_owned());
                peer.address = address("10.0.0.254");
                peer.asn = Some(65_001);
            }),
            peer("of-rack", |peer| {
                peer.node_selector = Some("has(rack)".to_owned());
                peer.address = address("fd00::fe");
            }),
            peer("unreadable", |peer| {
                peer.node_selector = Some("has(rack".to_owned());
                peer.address = address("10.0.0.253");
            }),
            peer("itself", |peer| peer.address = address("10.0.0.1")),
        ],
    ));
    assert_eq!(
        shown(&cluster, "n1"),
        [
            "10.0.0.2 n2 node-to-node mesh 64512",
            "10.0.0.254 - node specific 65001",
        ]
    );
    assert_eq!(
        shown(&cluster, "n2"),
        [
            "10.0.0.1 n1 global -",
            "10.0.0.254 - global 65000",
            "fd00::fe - node specific -",
        ]
    );
}

#[test]
fn a_prefix_belongs_to_the_node_whose_block_has_it() {
    let mut cluster = Cluster::default();
    let prefix = |text: &str, length| Prefix::masked(text.parse().unwrap(), length);
    let block = |name: &str, cidr, node: &str| {
        ClusterObject::Block(Block {
            name: name.to_owned(),
            cidr,
            node: node.to_owned(),
        })
    };
    let wide = block("wide", prefix("10.244.0.0", 24), "n1");
    let narrow = block("narrow", prefix("10.244.0.64", 26), "n2");
    cluster.take(&listed(ClusterKind::Blocks, [wide, narrow]));
    for (text, length, node) in [
        ("10.244.0.64", 26, Some("n2")),
        ("10.244.0.70", 32, Some("n2")),
        ("10.244.0.0", 26, Some("n1")),
        ("10.244.0.0", 23, None),
        ("10.244.1.0", 26, None),
        ("fd00::", 64, None),
    ] {
        assert_eq!(cluster.node_of(prefix(text, length)), node, "{text}");
    }
    assert!(cluster.take(&ClusterFact::Gone {
        of: ClusterKind::Blocks,
        name: "narrow".to_owned(),
    }));
    assert_eq!(cluster.node_of(prefix("10.244.0.64", 26)), Some("n1"));
}

#[test]
fn what_is_said_twice_is_no_change_and_what_stands_makes_the_same_cluster() {
    let mut first = cluster([node("n1", "10.0.0.1"), node("n2", "10.0.0.2")]);
    let again = listed(ClusterKind::IpPools, []);
    assert!(!first.take(&again));
    let object = ClusterObject::Node(node("n2", "10.0.0.2"));
    assert!(!first.take(&ClusterFact::Changed { object }));
    let no_blocks = ClusterFact::Unavailable {
        of: ClusterKind::Blocks,
    };
    assert!(first.take(&no_blocks));
    assert!(!first.take(&no_blocks));
    let mut second = Cluster::default();
    for fact in first.standing() {
        second.take(&fact);
    }
    assert_eq!(second.standing(), first.standing());
    assert_eq!(shown(&second, "n1"), shown(&first, "n1"));
}

//! What a cluster's API says of peers, and what becomes of those it does not name any more.

use crate::{
    event::{
        Fact, PeerType, TcpState,
        cluster::{ClusterFact, ClusterKind, ClusterNode, ClusterObject},
        configured::ConfiguredPeer,
    },
    peer::{KnownBy, SavedPeer, SessionState},
    testing::{OWN, PEER, Scene, millis, outbound},
};

fn tell(scene: &mut Scene, cluster: ClusterFact) {
    scene.tell(Fact::Cluster { cluster });
}

fn node(name: &str, address: &str) -> ClusterObject {
    ClusterObject::Node(ClusterNode {
        name: name.to_owned(),
        addresses: vec![address.parse().unwrap()],
        ..ClusterNode::default()
    })
}

/// All lists of a mesh of n1 and `others`.
fn mesh(scene: &mut Scene, others: &[(&str, &str)]) {
    let nodes = std::iter::once(&("n1", OWN)).chain(others);
    let mut nodes: Vec<_> = nodes.map(|(name, address)| node(name, address)).collect();
    for of in ClusterKind::ALL {
        let objects = if of == ClusterKind::Nodes {
            std::mem::take(&mut nodes)
        } else {
            Vec::new()
        };
        tell(scene, ClusterFact::Listed { of, objects });
    }
}

fn gone(name: &str) -> ClusterFact {
    ClusterFact::Gone {
        of: ClusterKind::Nodes,
        name: name.to_owned(),
    }
}

#[test]
fn a_mesh_peer_is_known_with_name_type_and_number_before_it_ever_connects() {
    let mut scene = Scene::started();
    mesh(&mut scene, &[("n2", PEER)]);
    let view = scene.view();
    assert_eq!((view.peer.as_str(), view.state), (PEER, SessionState::Idle));
    assert_eq!(view.peer_node.as_deref(), Some("n2"));
    assert_eq!(view.peer_type, Some(PeerType::Mesh));
    assert_eq!(view.asn, Some(64_512));
    assert_eq!(view.known_by, KnownBy::Inventory);
}

#[test]
fn a_name_alone_makes_no_peer_but_names_one_that_is_dialled() {
    let mut scene = Scene::started();
    let objects = vec![node("n1", OWN), node("n2", PEER)];
    let of = ClusterKind::Nodes;
    tell(&mut scene, ClusterFact::Listed { of, objects });
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    scene.dial(outbound(1, PEER));
    let view = scene.view();
    assert_eq!(view.peer_node.as_deref(), Some("n2"));
    assert_eq!(view.peer_type, None);
}

#[test]
fn a_node_that_leaves_the_cluster_is_forgotten_once_it_is_down() {
    let mut scene = Scene::started();
    mesh(&mut scene, &[("n2", PEER), ("n3", "10.0.0.3")]);
    scene.establish(outbound(1, PEER));
    tell(&mut scene, gone("n3"));
    assert_eq!(scene.view().peer, PEER, "n3 goes at once");
    tell(&mut scene, gone("n2"));
    assert!(scene.view().up);
    let socket = outbound(1, PEER);
    scene.state(socket, TcpState::Established, TcpState::CloseWait);
    scene.state(socket, TcpState::CloseWait, TcpState::Close);
    scene.pass(61_000);
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
}

#[test]
fn a_peer_of_an_earlier_run_whose_node_left_meanwhile_is_not_awaited() {
    for (known_by, named, stays) in [
        (KnownBy::Inventory, true, false),
        (KnownBy::Inventory, false, false),
        (KnownBy::Dialled, true, false),
        (KnownBy::Dialled, false, true),
    ] {
        let mut scene = Scene::started();
        mesh(&mut scene, &[("n2", PEER)]);
        let mut saved: Vec<SavedPeer> = scene.observer.save().remove(0).1;
        saved[0].known_by = known_by;
        saved[0].peer_node = named.then(|| "n2".to_owned());
        let mut later = Scene::started();
        later.tell(Fact::PeersRestored {
            node: "n1".to_owned(),
            peers: saved,
        });
        assert_eq!(later.view().peer, PEER);
        mesh(&mut later, &[("n3", "10.0.0.3")]);
        let peers = later.observer.peers(millis(later.now));
        assert_eq!(peers.iter().any(|peer| peer.peer == PEER), stays);
    }
}

/// What n1's BIRD says, each peer with whether its protocol is disabled.
fn configured(scene: &mut Scene, peers: &[(&str, bool)]) {
    let peer = |(address, disabled): &(&str, bool)| ConfiguredPeer {
        protocol: format!("Node_{}", address.replace('.', "_")),
        address: address.parse().unwrap(),
        asn: Some(64_513),
        peer_type: Some(PeerType::NodeSpecific),
        disabled: *disabled,
    };
    scene.tell(Fact::PeersConfigured {
        node: "n1".to_owned(),
        socket: "bird.ctl".to_owned(),
        peers: peers.iter().map(peer).collect(),
    });
}

#[test]
fn a_peer_that_only_bird_waits_for_is_known_and_down_until_bird_gives_it_up() {
    let mut scene = Scene::started();
    configured(&mut scene, &[(PEER, false), ("10.0.0.9", true)]);
    let view = scene.view();
    assert_eq!((view.peer.as_str(), view.up), (PEER, false));
    assert_eq!(view.known_by, KnownBy::Inventory);
    assert_eq!(view.peer_type, Some(PeerType::NodeSpecific));
    assert_eq!(view.asn, Some(64_513));
    configured(&mut scene, &[]);
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
}

#[test]
fn a_known_peer_whose_protocol_is_disabled_says_so_until_it_is_enabled() {
    let mut scene = Scene::started();
    scene.dial(outbound(1, PEER));
    configured(&mut scene, &[(PEER, true)]);
    let info = scene.view().info;
    assert!(
        info.ends_with("protocol Node_10_0_0_2 is disabled"),
        "{info}"
    );
    configured(&mut scene, &[(PEER, false)]);
    let info = scene.view().info;
    assert!(!info.contains("disabled"), "{info}");
}

#[test]
fn bird_s_word_goes_after_the_cluster_s_and_keeps_nobody_whom_the_cluster_gives_up() {
    let mut scene = Scene::started();
    mesh(&mut scene, &[("n2", PEER)]);
    configured(&mut scene, &[(PEER, false)]);
    let view = scene.view();
    assert_eq!(view.peer_type, Some(PeerType::Mesh), "not node specific");
    assert_eq!(view.peer_node.as_deref(), Some("n2"));
    tell(&mut scene, gone("n2"));
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    // Said again, it is so.
    configured(&mut scene, &[(PEER, false)]);
    assert_eq!(scene.view().peer, PEER);
}

//! Which addresses are peers: at the start, from the inventory, from the state directory, among
//! strangers; and how they are forgotten.

use std::net::IpAddr;

use TcpState::{Close, CloseWait, Established, FinWait1, SynRecv, SynSent};

use crate::{
    cause::Cause,
    change::Request,
    config::CoreConfig,
    event::{Fact, InventoryPeer, LossStage, NetnsId, PeerType, SocketId, TcpState},
    peer::{KnownBy, SavedPeer, SessionState},
    stranger::MAX_CANDIDATES,
    testing::{NETNS, OWN, PEER, Scene, bird, carrying, inbound, millis, outbound, socket},
};

fn named(address: &str, name: &str) -> InventoryPeer {
    InventoryPeer {
        node: None,
        address: address.parse().unwrap(),
        name: Some(name.to_owned()),
        peer_type: Some(PeerType::Mesh),
        asn: Some(64512),
        targets: Vec::new(),
    }
}

fn inventory(scene: &mut Scene, peers: &[(&str, &str)]) {
    let peers = peers
        .iter()
        .map(|(address, name)| named(address, name))
        .collect();
    scene.tell(Fact::Inventory { peers });
}

fn restored(was_up: bool) -> SavedPeer {
    let wall = |ago: i64| jiff::Timestamp::from_second(1_700_000_000 - ago).unwrap();
    SavedPeer {
        address: PEER.parse().unwrap(),
        scope: 0,
        known_by: KnownBy::Established,
        peer_node: Some("n2".to_owned()),
        peer_type: None,
        asn: None,
        last_heard_at: Some(wall(60)),
        established_at: Some(wall(3_600)),
        last_down_at: Some(wall(7_200)),
        was_up,
        terms: None,
        flaps: 3,
        recent_flaps: Vec::new(),
    }
}

fn restore(scene: &mut Scene, peers: Vec<SavedPeer>) {
    let node = "n1".to_owned();
    scene.tell(Fact::PeersRestored { node, peers });
}

#[test]
fn sessions_that_predate_the_agent_are_established_at_once_and_inherited() {
    let mut scene = Scene::new();
    scene.info(carrying(inbound(1, PEER), 5_000), Established);
    scene.info(carrying(outbound(2, "10.0.0.3"), 5_000), Established);
    scene.dumped();
    let story = scene.story();
    let up = story.iter().filter(|line| *line == "up, inherited").count();
    assert_eq!(up, 2, "{story:?}");
    for view in scene.observer.peers(millis(scene.now)) {
        assert!(view.up && view.inherited && view.since.is_some());
        assert_eq!(view.known_by, KnownBy::Established);
        assert_eq!(view.info, "Established (inherited)");
    }
    scene.state(inbound(1, PEER), Established, CloseWait);
    assert_eq!(scene.flap().up_before_seconds, None);
}

#[test]
fn sockets_that_a_dump_does_not_show_are_gone_unless_they_are_younger() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.establish(outbound(2, "10.0.0.3"));
    scene.pass(1_000);
    let begun = millis(scene.now);
    scene.now += 5;
    scene.info(carrying(outbound(2, "10.0.0.3"), 100), Established);
    scene.establish(outbound(3, "10.0.0.4"));
    scene.tell(Fact::SocketsDumped {
        netns: NETNS,
        begun,
    });
    let flap = scene.flap();
    assert_eq!(
        (flap.peer.as_str(), &flap.cause),
        (PEER, &Cause::Unobserved)
    );
    let up = scene.observer.peers(millis(scene.now));
    assert_eq!(up.iter().filter(|view| view.up).count(), 2);
}

#[test]
fn a_restored_peer_is_down_until_seen_and_an_unseen_end_is_counted_once() {
    let mut scene = Scene::new();
    let saved = restored(true);
    restore(&mut scene, vec![saved.clone()]);
    let view = scene.view();
    assert!(!view.up);
    assert_eq!((view.flaps, view.known_by), (3, KnownBy::Restored));
    assert_eq!(view.peer_node.as_deref(), Some("n2"));
    assert!(scene.observer.save()[0].1[0].was_up, "not looked at yet");
    scene.dumped();
    let flap = scene.flap();
    assert_eq!((flap.number, &flap.cause), (4, &Cause::Unobserved));
    assert!(
        flap.evidence[0].contains("last heard of at"),
        "{:?}",
        flap.evidence
    );
    assert!(!scene.observer.save()[0].1[0].was_up);
    scene.dumped();
    scene.pass(1_000);
    assert_eq!(scene.view().flaps, 4);
    restore(&mut scene, vec![saved]);
    assert_eq!(scene.view().flaps, 4, "what is known is not restored twice");
}

#[test]
fn a_restored_peer_that_is_found_established_has_no_flap() {
    let mut scene = Scene::new();
    let saved = restored(true);
    restore(&mut scene, vec![saved]);
    scene.info(carrying(inbound(1, PEER), 5_000), Established);
    scene.dumped();
    let view = scene.view();
    assert!(view.up && view.inherited);
    assert_eq!((view.flaps, view.known_by), (3, KnownBy::Established));
    assert!(scene.flaps().is_empty());
}

#[test]
fn a_restored_peer_that_comes_back_on_a_new_connection_has_flapped_unseen() {
    let mut scene = Scene::new();
    let saved = restored(true);
    restore(&mut scene, vec![saved]);
    scene.state(inbound(1, PEER), SynRecv, Established);
    scene.now += 50;
    scene.info(carrying(inbound(1, PEER), 100), Established);
    scene.dumped();
    assert!(scene.view().up);
    let flap = scene.flap();
    assert_eq!(flap.cause, Cause::Unobserved);
    assert_eq!(scene.observer.flaps()[0].down_seconds, None);
}

#[test]
fn an_end_between_attaching_and_the_first_dump_has_its_cause() {
    let mut scene = Scene::new();
    let saved = restored(true);
    restore(&mut scene, vec![saved]);
    scene.state(carrying(inbound(1, PEER), 5_000), Established, CloseWait);
    scene.dumped();
    assert_eq!(scene.flap().cause, Cause::FinReceived);
}

#[test]
fn a_peer_restored_before_its_node_is_observed_waits_for_it() {
    let mut scene = Scene::new();
    let saved = restored(false);
    let (node, peers) = ("n9".to_owned(), vec![saved]);
    scene.tell(Fact::PeersRestored { node, peers });
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    let saved = scene.observer.save();
    assert!(
        saved
            .iter()
            .any(|(node, peers)| node == "n9" && peers.len() == 1)
    );
    scene.tell(Fact::NodeObserved {
        netns: NetnsId(9),
        node: "n9".to_owned(),
    });
    assert_eq!(scene.view().node, "n9");
    assert_eq!(
        scene
            .observer
            .save()
            .iter()
            .filter(|(_, peers)| !peers.is_empty())
            .count(),
        1
    );
}

#[test]
fn what_is_saved_comes_back_as_it_was() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.state(outbound(1, PEER), Established, CloseWait);
    let saved = scene.observer.save();
    let text = serde_json::to_string(&saved).unwrap();
    let read: Vec<(String, Vec<SavedPeer>)> = serde_json::from_str(&text).unwrap();
    assert_eq!(read, saved);
    let mut next = Scene::new();
    restore(&mut next, read[0].1.clone());
    next.dumped();
    let (before, after) = (scene.view(), next.view());
    assert_eq!(after.flaps, 1);
    assert_eq!(after.last_cause, before.last_cause);
    assert_eq!(after.last_down_at, before.last_down_at);
    assert_eq!(next.observer.flaps(), scene.observer.flaps());
    assert!(next.flaps().is_empty());
}

#[test]
fn a_stranger_is_no_peer_whatever_it_sends_in_its_first_second() {
    let mut scene = Scene::started();
    let stranger = inbound(1, "192.0.2.9");
    scene.state(stranger, SynRecv, Established);
    scene.pass(900);
    scene.info(carrying(stranger, 5_000), Established);
    scene.state(carrying(stranger, 5_000), Established, CloseWait);
    scene.pass(5_000);
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    assert_eq!(scene.story(), Vec::<String>::new());
    assert_eq!(scene.inspections(), 0);
}

#[test]
fn an_unknown_address_with_a_lasting_session_becomes_a_peer() {
    let mut scene = Scene::started();
    let newcomer = inbound(1, PEER);
    scene.state(newcomer, SynRecv, Established);
    scene.pass(1_000);
    assert_eq!(scene.inspections(), 1);
    scene.info(carrying(newcomer, 100), Established);
    assert_eq!(
        scene.story(),
        ["known Established", "Idle > Established", "up"]
    );
    assert!(!scene.view().inherited);
}

#[test]
fn a_flood_of_strangers_costs_a_bounded_table_and_cannot_hide_a_newcomer() {
    let mut scene = Scene::started();
    scene.state(inbound(1, PEER), SynRecv, Established);
    for id in 2..5_000 {
        let host = format!("192.0.{}.{}", id / 200, id % 200);
        scene.state(inbound(id, &host), SynRecv, Established);
        if id % 50 == 0 {
            scene.pass(1);
        }
    }
    assert!(scene.story().is_empty());
    scene.pass(2_000);
    assert!(scene.requests.contains(&Request::Dump { netns: NETNS }));
    let strangers = scene.requests.iter();
    let asked = strangers
        .filter(|r| matches!(r, Request::Inspect { .. }))
        .count();
    assert!(asked <= 4 * MAX_CANDIDATES, "{asked}");
    // The dump shows the newcomer among them: it has a session's bytes, they have none.
    scene.info(carrying(inbound(1, PEER), 200), Established);
    for id in 4_000..5_000 {
        let host = format!("192.0.{}.{}", id / 200, id % 200);
        scene.info(inbound(id, &host), Established);
    }
    scene.dumped();
    scene.pass(1_000);
    scene.info(carrying(inbound(1, PEER), 219), Established);
    assert!(scene.view().up);
}

#[test]
fn a_connection_from_port_179_to_another_service_is_not_bgp() {
    let mut scene = Scene::started();
    let disguised = socket(1, "10.0.0.1:10250", "192.0.2.9:179");
    scene.state(disguised, SynRecv, Established);
    scene.pass(2_000);
    scene.info(carrying(disguised, 5_000), Established);
    scene.pass(500);
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
}

#[test]
fn a_candidate_becomes_a_connection_when_its_address_becomes_known() {
    let mut scene = Scene::started();
    scene.state(inbound(1, PEER), SynRecv, Established);
    inventory(&mut scene, &[(PEER, "n2")]);
    assert_eq!(scene.view().state, SessionState::OpenSent);
    scene.now += 30;
    scene.info(carrying(inbound(1, PEER), 100), Established);
    assert!(scene.view().up);
}

#[test]
fn the_kernels_count_of_strangers_is_all_they_leave() {
    let mut scene = Scene::started();
    scene.tell(Fact::Strangers { connections: 7 });
    scene.tell(Fact::Strangers { connections: 3 });
    assert_eq!(scene.observer.totals().strangers, 10);
    assert!(scene.changes.is_empty());
}

#[test]
fn the_inventory_names_peers_but_never_the_node_itself() {
    let mut scene = Scene::new();
    inventory(&mut scene, &[("10.0.0.9", "n1"), (PEER, "n2")]);
    let view = scene.view();
    assert_eq!((view.peer.as_str(), view.state), (PEER, SessionState::Idle));
    assert_eq!(view.peer_node.as_deref(), Some("n2"));
    assert_eq!(view.asn, Some(64512));
    assert_eq!(view.info, "Idle");
    // Its own address under another name shows when a socket is bound to it.
    inventory(&mut scene, &[(OWN, "alias"), (PEER, "n2")]);
    assert_eq!(scene.observer.peers(millis(scene.now)).len(), 2);
    scene.dial(outbound(1, PEER));
    scene.state(outbound(1, PEER), SynSent, Established);
    assert_eq!(scene.view().peer, PEER);
    inventory(&mut scene, &[(OWN, "alias"), (PEER, "n2")]);
    assert_eq!(scene.view().peer, PEER);
}

#[test]
fn a_peer_that_leaves_the_inventory_is_forgotten_once_it_is_down_and_not_dialled() {
    let mut scene = Scene::new();
    inventory(&mut scene, &[(PEER, "n2"), ("10.0.0.3", "n3")]);
    scene.establish(outbound(1, PEER));
    inventory(&mut scene, &[]);
    assert_eq!(scene.view().peer, PEER, "n3 goes at once");
    scene.pass(300_000);
    assert!(scene.view().up);
    scene.state(outbound(1, PEER), Established, CloseWait);
    scene.state(outbound(1, PEER), CloseWait, Close);
    assert_eq!(scene.flaps().len(), 1);
    scene.pass(61_000);
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    assert!(scene.requests.contains(&Request::Distrust {
        netns: NETNS,
        address: PEER.parse().unwrap()
    }));
}

#[test]
fn silence_is_forgotten_after_its_time_but_a_dialled_peer_is_not_silent() {
    let config = CoreConfig {
        forget_after_secs: 100,
        ..CoreConfig::default()
    };
    let mut scene = Scene::with(config);
    scene.establish(outbound(1, PEER));
    scene.pass(500_000);
    assert!(scene.view().up);
    scene.state(outbound(1, PEER), Established, CloseWait);
    scene.state(outbound(1, PEER), CloseWait, Close);
    for id in 2..50 {
        scene.dial(outbound(id, PEER));
        scene.state(outbound(id, PEER), SynSent, Close);
        scene.pass(5_000);
    }
    assert_eq!(scene.view().flaps, 1);
    scene.story();
    scene.pass(120_000);
    let story = scene.story();
    assert!(
        story.contains(&"forgotten: silent for 100 s".to_owned()),
        "{story:?}"
    );
}

#[test]
fn an_operator_can_have_a_peer_forgotten_and_evidence_brings_it_back() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.state(outbound(1, PEER), Established, CloseWait);
    scene.tell(Fact::PeerForget {
        node: Some("n2".to_owned()),
        peer: PEER.parse().unwrap(),
    });
    assert_eq!(scene.view().flaps, 1);
    scene.tell(Fact::PeerForget {
        node: None,
        peer: "::ffff:10.0.0.2".parse::<IpAddr>().unwrap(),
    });
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    scene.state(outbound(1, PEER), CloseWait, Close);
    scene.pass(5_000);
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    scene.dial(outbound(2, PEER));
    assert_eq!(scene.view().flaps, 0);
}

#[test]
fn a_node_that_goes_takes_its_sessions_down_and_its_name_brings_its_peers_back() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.story();
    scene.tell(Fact::NodeGone { netns: NETNS });
    assert_eq!(
        scene.story(),
        ["Established > Active", "down", "flap 1: unobserved"]
    );
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
    assert_eq!(scene.observer.flaps().len(), 1);
    assert_eq!(scene.observer.next_deadline(), None);
    scene.state(outbound(1, PEER), FinWait1, Close);
    scene.tell(Fact::NodeObserved {
        netns: NetnsId(2),
        node: "n1".to_owned(),
    });
    let view = scene.view();
    assert_eq!((view.flaps, view.known_by), (1, KnownBy::Restored));
    assert_eq!(scene.observer.flaps().len(), 1);
}

#[test]
fn losses_are_told_in_sums_and_lead_to_one_dump_at_a_time() {
    let mut scene = Scene::started();
    scene.requests.clear();
    for _ in 0..100 {
        let (stage, count) = (LossStage::Ring, 2);
        scene.tell(Fact::Lost { stage, count });
        scene.pass(10);
    }
    let dumps = |scene: &Scene| {
        let dump = |request: &&Request| matches!(request, Request::Dump { .. });
        scene.requests.iter().filter(dump).count()
    };
    assert_eq!(dumps(&scene), 1);
    scene.dumped();
    assert_eq!(scene.observer.totals().resyncs, 1);
    scene.pass(20_000);
    assert_eq!(dumps(&scene), 2);
    assert_eq!(scene.observer.totals().lost[&LossStage::Ring], 200);
    assert_eq!(scene.story(), ["lost ring 2", "lost ring 198"]);
}

#[test]
fn mapped_and_plain_addresses_are_one_peer_and_link_local_ones_keep_their_interface() {
    let mut scene = Scene::new();
    let mapped = socket(1, "[::ffff:10.0.0.1]:179", "[::ffff:10.0.0.2]:50000");
    scene.info(carrying(mapped, 500), Established);
    scene.dial(outbound(2, PEER));
    assert_eq!(scene.view().connections.len(), 2);
    let scoped = socket(3, "[fe80::1%4]:40000", "[fe80::2%4]:179");
    scene.dial(scoped);
    let other = socket(4, "[fe80::1%5]:40000", "[fe80::2%5]:179");
    scene.dial(other);
    let views = scene.observer.peers(millis(scene.now));
    let names: Vec<&str> = views.iter().map(|view| view.peer.as_str()).collect();
    assert_eq!(names, [PEER, "fe80::2%4", "fe80::2%5"]);
    assert_eq!(views[1].ip_version, 6);
}

#[test]
fn a_local_process_that_dials_the_world_is_bounded_and_counted() {
    let mut scene = Scene::started();
    let peers = u64::try_from(crate::known::MAX_PEERS).unwrap() + 10;
    for id in 0..peers {
        let peer = format!("10.{}.{}.{}", id / 65_536, id / 256 % 256, id % 256);
        scene.state_by(outbound(id, &peer), Close, SynSent, Some(bird()));
        scene.changes.clear();
        scene.requests.clear();
        scene.told.clear();
    }
    let known = scene.observer.peers(millis(scene.now)).len();
    assert_eq!(known, crate::known::MAX_PEERS);
    assert_eq!(scene.observer.totals().lost[&LossStage::Table], 10);
}

#[test]
fn connections_per_peer_are_bounded_and_the_session_survives_it() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    for id in 2..200 {
        scene.state(inbound(id, PEER), SynRecv, Established);
    }
    let view = scene.view();
    assert!(view.up && view.connections.len() <= 16);
    // 198 came, and 15 are kept beside the session's own.
    assert_eq!(scene.observer.totals().lost[&LossStage::Table], 183);
    assert!(
        view.connections
            .iter()
            .any(|connection| connection.carries_session)
    );
    let id = SocketId(1);
    scene.tell(Fact::SocketGone { netns: NETNS, id });
    assert!(!scene.view().up);
}

#[test]
fn events_of_unknown_namespaces_and_sockets_change_nothing() {
    let mut scene = Scene::started();
    let mut elsewhere = outbound(1, PEER);
    elsewhere.netns = NetnsId(77);
    scene.dial(elsewhere);
    let unknown = outbound(5, PEER);
    scene.tell(Fact::ResetReceived { socket: unknown });
    scene.tell(Fact::Retransmit { socket: unknown });
    scene.state(unknown, Established, CloseWait);
    scene.state(unknown, FinWait1, Close);
    scene.tell(Fact::NodeGone { netns: NetnsId(77) });
    assert!(scene.changes.is_empty());
    assert!(scene.observer.peers(millis(scene.now)).is_empty());
}

#[test]
fn what_is_restored_after_the_first_dump_is_not_lost() {
    let mut scene = Scene::started();
    scene.dial(outbound(1, PEER));
    restore(&mut scene, vec![restored(true)]);
    let view = scene.view();
    assert_eq!((view.flaps, view.known_by), (4, KnownBy::Dialled));
    assert_eq!(scene.flap().cause, Cause::Unobserved);
}

#[test]
fn a_connection_found_before_its_session_is_not_inherited() {
    let mut scene = Scene::new();
    restore(&mut scene, vec![restored(false)]);
    scene.info(carrying(inbound(1, PEER), 10), Established);
    scene.dumped();
    assert_eq!(scene.view().state, SessionState::OpenSent);
    scene.pass(100);
    scene.info(carrying(inbound(1, PEER), 100), Established);
    let view = scene.view();
    assert!(view.up && !view.inherited);
}

#[test]
fn peers_of_nodes_that_are_never_observed_are_not_saved_for_ever() {
    let mut scene = Scene::new();
    let (node, peers) = ("n9".to_owned(), vec![restored(false)]);
    scene.tell(Fact::PeersRestored { node, peers });
    assert_eq!(scene.observer.save().len(), 2);
    scene.pass(25 * 3_600_000);
    assert_eq!(scene.observer.save().len(), 1);
}

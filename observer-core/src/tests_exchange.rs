//! What messages say about routes, timers and restarts.

use crate::{
    bgp::Family,
    bgp_view::{BgpView, ConversationView},
    cause::Cause,
    event::{Socket, TcpState},
    peer::PeerView,
    testing::{PEER, Scene, bird, carrying, outbound},
    testing_wire::{Offer, Talk, end_of_rib, keepalive, notification, update},
};
use TcpState::{CloseWait, Established};

const V4: Family = Family::IPV4_UNICAST;

/// Graceful restart of 120 s, forwarding of IPv4 unicast kept.
fn restarting() -> Offer {
    Offer {
        restart: Some((120, true)),
        ..Offer::default()
    }
}

fn dial(id: u64) -> Socket {
    let mut socket = outbound(id, PEER);
    socket.local.set_port(40_000 + u16::try_from(id).unwrap());
    socket
}

/// A session of which both sides can restart gracefully, with two routes.
fn graceful(scene: &mut Scene, id: u64, theirs: Offer) -> Talk {
    let mut talk = Talk::new(dial(id));
    talk.connect(scene);
    talk.greet(scene, restarting(), theirs);
    talk
}

fn with_routes() -> (Scene, Talk) {
    let mut scene = Scene::started();
    let mut talk = graceful(&mut scene, 1, restarting());
    talk.says(
        &mut scene,
        false,
        &update(&[], &[24, 10, 1, 0, 24, 10, 2, 0]),
    );
    talk.says(&mut scene, false, &end_of_rib());
    scene.pass(1_000);
    scene.story();
    (scene, talk)
}

fn prefixes(scene: &Scene) -> (u64, u64) {
    let bgp = scene.view().bgp;
    let of = |counts: &std::collections::BTreeMap<Family, u64>| counts.get(&V4).copied();
    (
        of(&bgp.prefixes).unwrap_or(0),
        of(&bgp.stale_prefixes).unwrap_or(0),
    )
}

#[test]
fn routes_are_counted_once_each_however_often_they_are_announced() {
    let (mut scene, mut talk) = with_routes();
    assert_eq!(prefixes(&scene), (2, 0));
    talk.says(&mut scene, false, &update(&[], &[24, 10, 1, 0]));
    talk.says(
        &mut scene,
        false,
        &update(&[24, 10, 2, 0, 24, 10, 9, 0], &[]),
    );
    // What this node announces is not the peer's.
    talk.says(&mut scene, true, &update(&[], &[24, 10, 7, 0]));
    assert_eq!(prefixes(&scene), (1, 0));
    let bgp = scene.view().bgp;
    let counts = (bgp.announcements, bgp.withdrawals, bgp.replacements);
    assert_eq!(counts, (3, 2, 1));
    assert_eq!(bgp.messages.received.update, 4);
    assert_eq!(bgp.messages.sent.update, 1);
    assert_eq!(bgp.end_of_rib_seconds, Some(0.0));
    let totals = scene.observer.totals();
    let counted: u64 = totals.wire["n1"].end_of_rib.counts.iter().sum();
    assert_eq!(counted, 1);
}

fn advertised(scene: &Scene) -> (u64, Option<u64>) {
    let bgp = scene.view().bgp;
    let held = bgp.held_stale.map(|held| held.routes);
    (bgp.advertised.get(&V4).copied().unwrap_or(0), held)
}

/// A session on which this node has announced two routes.
fn announcing() -> (Scene, Talk) {
    let (mut scene, mut talk) = with_routes();
    let routes = update(&[], &[24, 10, 7, 0, 24, 10, 8, 0]);
    talk.says(&mut scene, true, &routes);
    talk.says(&mut scene, true, &update(&[24, 10, 8, 0], &[24, 10, 7, 0]));
    talk.says(&mut scene, true, &update(&[], &[24, 10, 9, 0]));
    talk.says(&mut scene, true, &end_of_rib());
    (scene, talk)
}

#[test]
fn what_this_node_announces_is_counted_by_itself() {
    let (scene, _) = announcing();
    assert_eq!(advertised(&scene), (2, None));
    assert_eq!(prefixes(&scene), (2, 0));
    let bgp = scene.view().bgp;
    assert!(bgp.prefixes_complete && bgp.advertised_complete);
    assert_eq!(bgp.announcements, 2, "those are the peer's");
}

#[test]
fn a_restart_of_the_local_speaker_leaves_its_routes_stale_at_the_peer() {
    let (mut scene, mut talk) = announcing();
    talk.we_close(&mut scene);
    scene.pass(250);
    assert_eq!(prefixes(&scene), (0, 0));
    assert_eq!(advertised(&scene), (2, Some(2)));
    scene.pass(5_000);
    let mut talk = graceful(&mut scene, 2, restarting());
    talk.says(&mut scene, true, &update(&[], &[24, 10, 7, 0]));
    assert_eq!(advertised(&scene), (2, Some(1)));
    let held = scene.view().bgp.held_stale.unwrap();
    assert_eq!((held.expires_in_seconds, held.awaited), (None, vec![V4]));
    scene.pass(200_000);
    talk.says(&mut scene, true, &end_of_rib());
    assert_eq!(advertised(&scene), (1, None));

    // Never back: the peer drops them when its timer runs out.
    talk.we_close(&mut scene);
    scene.pass(250);
    assert_eq!(advertised(&scene), (1, Some(1)));
    let left = scene.view().bgp.held_stale.unwrap().expires_in_seconds;
    assert!(left.is_some_and(|left| (119.0..=120.0).contains(&left)));
    scene.pass(120_000);
    assert_eq!(advertised(&scene), (0, None));
}

#[test]
fn a_peer_drops_this_nodes_routes_after_a_notification_or_when_it_ends_itself() {
    let (mut scene, mut talk) = announcing();
    talk.says(&mut scene, true, &notification(6, 2, ""));
    talk.we_close(&mut scene);
    scene.pass(250);
    assert_eq!(advertised(&scene), (0, None));

    let (mut scene, mut talk) = announcing();
    talk.peer_closes(&mut scene);
    assert_eq!(advertised(&scene), (0, None));

    // Back without its forwarding state.
    let (mut scene, mut talk) = announcing();
    talk.we_close(&mut scene);
    scene.pass(250);
    let mut talk = Talk::new(dial(2));
    talk.connect(&mut scene);
    talk.greet(&mut scene, Offer::default(), restarting());
    assert_eq!(advertised(&scene), (0, None));
}

#[test]
fn malformed_updates_are_counted_by_what_becomes_of_them() {
    let (mut scene, mut talk) = with_routes();
    // ORIGIN 7 does not exist: the announced route is taken as withdrawn (RFC 7606 §7.1).
    let mut odd = update(&[], &[24, 10, 1, 0]);
    let origin = odd.windows(4).position(|at| at == [0x40, 1, 1, 0]).unwrap();
    odd[origin + 3] = 7;
    talk.says(&mut scene, false, &odd);
    let bgp = scene.view().bgp;
    assert_eq!(bgp.malformed_updates.received.treat_as_withdraw, 1);
    assert_eq!(bgp.malformed_updates.sent.treat_as_withdraw, 0);
    assert_eq!(prefixes(&scene), (1, 0));
    assert_eq!(bgp.decode_errors["attribute"], 1);
}

#[test]
fn a_killed_peer_that_returns_opens_and_closes_a_restart() {
    let (mut scene, mut talk) = with_routes();
    talk.peer_closes(&mut scene);
    assert_eq!(
        scene.story(),
        [
            "Established > Active",
            "down",
            "flap 1: fin_received",
            "restart, 2 stale"
        ]
    );
    assert_eq!(prefixes(&scene), (2, 2));
    let restart = scene.view().bgp.graceful_restart.unwrap();
    assert!(restart.active && restart.negotiated);
    assert_eq!(restart.expires_in_seconds, Some(120.0));
    scene.pass(5_000);
    let mut talk = graceful(&mut scene, 2, restarting());
    assert!(scene.view().up);
    talk.says(&mut scene, false, &update(&[], &[24, 10, 1, 0]));
    assert_eq!(prefixes(&scene), (2, 1));
    scene.pass(200_000);
    assert_eq!(prefixes(&scene), (2, 1), "once it is back nothing expires");
    talk.says(&mut scene, false, &end_of_rib());
    assert_eq!(prefixes(&scene), (1, 0));
    assert!(
        scene
            .story()
            .contains(&"restart over: EndOfRib, 1 dropped".to_owned())
    );
    assert!(!scene.view().bgp.graceful_restart.unwrap().active);
}

#[test]
fn a_restart_ends_in_other_ways_too() {
    // Never back.
    let (mut scene, mut talk) = with_routes();
    talk.peer_closes(&mut scene);
    scene.pass(119_000);
    assert_eq!(prefixes(&scene), (2, 2));
    scene.pass(2_000);
    assert_eq!(prefixes(&scene), (0, 0));
    let over = "restart over: Expired, 2 dropped".to_owned();
    assert!(scene.story().contains(&over));

    // Back without its forwarding state.
    let (mut scene, mut talk) = with_routes();
    talk.peer_closes(&mut scene);
    graceful(&mut scene, 2, Offer::default());
    let over = "restart over: NotPreserved, 2 dropped".to_owned();
    assert!(scene.story().contains(&over));
    assert_eq!(prefixes(&scene), (0, 0));

    // Gone again before End-of-RIB: what came meanwhile is stale in its turn.
    let (mut scene, mut talk) = with_routes();
    talk.peer_closes(&mut scene);
    let mut talk = graceful(&mut scene, 2, restarting());
    talk.says(&mut scene, false, &update(&[], &[24, 10, 1, 0]));
    talk.peer_closes(&mut scene);
    let story = scene.story();
    assert!(story.contains(&"restart over: SecondRestart, 1 dropped".to_owned()));
    assert_eq!(story.last().unwrap(), "restart, 1 stale");
}

#[test]
fn a_notification_drops_routes_unless_both_sides_set_the_n_bit() {
    for (flags, kept) in [(0, 0), (0x4000, 2)] {
        let offer = Offer {
            restart: Some((120 + flags, true)),
            ..Offer::default()
        };
        let mut scene = Scene::started();
        let mut talk = Talk::new(dial(1));
        talk.connect(&mut scene);
        talk.greet(&mut scene, offer, offer);
        let routes = update(&[], &[24, 10, 1, 0, 24, 10, 2, 0]);
        talk.says(&mut scene, false, &routes);
        talk.says(&mut scene, false, &notification(6, 4, ""));
        talk.peer_closes(&mut scene);
        assert_eq!(prefixes(&scene), (kept, kept));
    }
}

#[test]
fn an_expiring_hold_timer_is_foretold_once() {
    let mut scene = Scene::started();
    let mut talk = Talk::new(dial(1));
    talk.connect(&mut scene);
    let nine = Offer {
        hold: 9,
        ..Offer::default()
    };
    talk.greet(&mut scene, Offer::default(), nine);
    let bgp = scene.view().bgp;
    assert_eq!((bgp.hold_time_secs, bgp.keepalive_secs), (Some(9), Some(3)));
    for _ in 0..3 {
        scene.pass(3_000);
        talk.says(&mut scene, false, &keepalive());
    }
    scene.story();
    scene.pass(3_000);
    talk.says_unheard(&mut scene, false, &keepalive());
    scene.pass(2_999);
    assert_eq!(scene.story(), Vec::<String>::new());
    scene.pass(1);
    assert_eq!(scene.story(), ["hold margin low of 9 s"]);
    let bgp = scene.view().bgp;
    assert!((bgp.hold_margin.unwrap() - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!(bgp.keepalive_age_seconds.received, Some(6.0));
    scene.pass(2_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    talk.says(&mut scene, false, &keepalive());
    scene.pass(6_000);
    assert_eq!(scene.story(), ["hold margin low of 9 s"]);
    let intervals = &scene.observer.totals().wire["n1"].keepalive_interval;
    assert_eq!(intervals.counts.iter().sum::<u64>(), 5);
}

#[test]
fn a_blind_tap_foretells_nothing() {
    let mut scene = Scene::started();
    let mut talk = Talk::new(dial(1));
    talk.connect(&mut scene);
    let nine = Offer {
        hold: 9,
        ..Offer::default()
    };
    talk.greet(&mut scene, nine, nine);
    scene.pass(4_000);
    scene.info(carrying(talk.socket, 200), Established);
    scene.story();
    scene.pass(4_000);
    assert_eq!(scene.story(), Vec::<String>::new());
}

#[test]
fn a_session_entered_midway_is_read_by_inference_and_says_so() {
    let mut scene = Scene::new();
    let mut talk = Talk::new(dial(1));
    scene.info(carrying(talk.socket, 5_000), Established);
    scene.dumped();
    assert_eq!(scene.view().bgp.conversation, ConversationView::None);
    let with_ids = [0, 0, 0, 1, 24, 10, 1, 0, 0, 0, 0, 2, 24, 10, 1, 0];
    talk.says(&mut scene, false, &update(&[], &with_ids));
    let view = scene.view();
    assert!(view.up && view.inherited);
    assert_eq!(view.bgp.conversation, ConversationView::Inferred);
    assert_eq!(prefixes(&scene), (2, 0));
    assert_eq!(view.bgp.hold_time_secs, None);
    assert_eq!(view.bgp.graceful_restart, None);
    assert!(!view.bgp.prefixes_complete && !view.bgp.advertised_complete);
    let inferred = &view.bgp.inference.received;
    assert_eq!(inferred.add_path.get(&V4), Some(&true));
    assert_eq!(inferred.updates, 1);
}

#[test]
fn both_opens_stand_side_by_side_and_views_read_back() {
    let (scene, _) = with_routes();
    let view = scene.view();
    assert_eq!(view.bgp.conversation, ConversationView::Complete);
    assert_eq!(view.asn, Some(64_512));
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["conversation"], "complete");
    assert_eq!(json["hold_time_secs"], 240);
    assert_eq!(json["prefixes"]["ipv4-unicast"], 2);
    assert_eq!(json["opens"]["received"]["restart"]["restart_secs"], 120);
    assert_eq!(json["messages"]["sent"]["keepalive"], 1);
    let text = json.to_string();
    assert_eq!(serde_json::from_str::<PeerView>(&text).unwrap(), view);
    // What an agent of before the tap wrote reads too.
    let mut old = json;
    let fields = serde_json::to_value(BgpView::default()).unwrap();
    for field in fields.as_object().unwrap().keys() {
        old.as_object_mut().unwrap().remove(field);
    }
    let old: PeerView = serde_json::from_value(old).unwrap();
    assert_eq!(old.bgp, BgpView::default());
    let cause: Cause =
        serde_json::from_str(r#"{"kind":"hold_timer_expired","silent_millis":9}"#).unwrap();
    assert_eq!(cause.label(), "hold_timer_expired");
}

#[test]
fn routes_go_with_a_session_that_this_nodes_speaker_ends() {
    let (mut scene, mut talk) = with_routes();
    talk.we_close(&mut scene);
    scene.pass(250);
    assert_eq!(prefixes(&scene), (0, 0));

    let (mut scene, talk) = with_routes();
    scene.state_by(talk.socket, Established, CloseWait, Some(bird()));
    // The next session is up before the cause of the last end is settled: its routes stay.
    let mut next = Talk::new(dial(2));
    next.connect(&mut scene);
    next.greet(&mut scene, Offer::default(), Offer::default());
    next.says(&mut scene, false, &update(&[], &[24, 10, 5, 0]));
    scene.pass(1_000);
    assert_eq!(prefixes(&scene), (1, 0));
    assert_eq!(scene.flaps().len(), 1);
}

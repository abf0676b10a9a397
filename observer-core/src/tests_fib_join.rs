//! Routes and the sessions they hang on: withdrawn, lost, missing, stray, not programmed.

use crate::{
    change::{Change, RouteEvent},
    event::{
        Fact, TcpState,
        forwarding::{Route, RouteKind, RouteOp},
    },
    peer::SessionState,
    route_view::RouteState,
    testing::{NETNS, PEER, Scene, bird, carrying, millis, outbound, process},
    testing_wire::{Talk, keepalive, update},
    tests_fib::{BLOCK, block, route, via},
};

/// NLRI of [`BLOCK`].
const NLRI: [u8; 5] = [26, 10, 244, 2, 0];

/// A session read from its beginning that announces [`BLOCK`], and its route.
fn announced() -> (Scene, Talk) {
    let mut scene = Scene::with_routes(&[]);
    let mut talk = Talk::new(outbound(1, PEER));
    talk.establish(&mut scene);
    talk.says(&mut scene, false, &update(&[], &NLRI));
    scene.now += 1;
    scene.add(&block());
    scene.pass(500);
    scene.changes.clear();
    (scene, talk)
}

fn states(scene: &Scene) -> Vec<(String, RouteState)> {
    let shown = scene.shown(false).into_iter();
    shown.map(|view| (view.prefix, view.state)).collect()
}

#[test]
fn what_an_update_withdraws_is_planned_whichever_is_seen_first() {
    // On a busy machine the agent itself reads late.
    for (message_first, late) in [(true, 0), (false, 40), (false, 200), (false, 900)] {
        let (mut scene, mut talk) = announced();
        let withdraw = update(&NLRI, &[]);
        if message_first {
            talk.says(&mut scene, false, &withdraw);
            scene.now += 1;
            scene.del(&block());
        } else {
            // The peer's segment counts when it is acknowledged, which may take a while.
            talk.says_unheard(&mut scene, false, &withdraw);
            scene.now += 1;
            scene.del(&block());
            scene.pass(late);
            let ack = talk.segment(true, crate::testing_wire::Flags::default(), &[]);
            scene.tap(ack);
        }
        scene.pass(2_000);
        let told = scene.routes_told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].event, RouteEvent::Withdrawn, "{late}");
        assert!(states(&scene).is_empty(), "{:?}", states(&scene));
        scene.pass(20_000);
        assert_eq!(scene.observer.incidents(), [], "{late}");
    }
}

/// The agent was started while the session was up: what the peer announces it learns as it goes on.
#[test]
fn what_is_announced_and_withdrawn_before_it_is_acknowledged_is_planned_midway_too() {
    let mut scene = Scene::new();
    let mut talk = Talk::new(outbound(1, PEER));
    scene.info(carrying(talk.socket, 5_000), TcpState::Established);
    scene.dumped();
    let mut scene = scene.following(&[]);
    // Something to begin with: from here on the stream is read.
    talk.says(&mut scene, false, &keepalive());
    scene.pass(1_000);
    talk.says_unheard(&mut scene, false, &update(&[], &NLRI));
    scene.now += 1;
    scene.add(&block());
    talk.says_unheard(&mut scene, false, &update(&NLRI, &[]));
    scene.now += 1;
    scene.del(&block());
    scene.now += 40;
    let ack = talk.segment(true, crate::testing_wire::Flags::default(), &[]);
    scene.tap(ack);
    scene.pass(20_000);
    assert_eq!(scene.observer.incidents(), []);
}

/// A service's address, say, that several nodes announce: BIRD exchanges the way to another node for this
/// node's own blackhole, by a delete and an add.
#[test]
fn what_becomes_this_node_s_own_is_no_loss_whichever_is_seen_first() {
    for (late, exchanged) in [
        (0, false),
        (0, true),
        (60, false),
        (700, false),
        (700, true),
    ] {
        let (mut scene, mut talk) = announced();
        let own = Route {
            kind: RouteKind::Blackhole,
            next_hops: Vec::new(),
            ..block()
        };
        if exchanged {
            scene.act(RouteOp::Replaced, &own, Some(bird()));
        } else {
            scene.del(&block());
            scene.now += 1;
            scene.add(&own);
        }
        scene.pass(late);
        talk.says(&mut scene, true, &update(&[], &NLRI));
        scene.pass(20_000);
        let told: Vec<_> = scene.observer.incidents();
        assert_eq!(told, [], "{late} {exchanged}");
        let told = scene.routes_told().into_iter().map(|told| told.event);
        let told: Vec<_> = told.collect();
        assert_eq!(told, [RouteEvent::TakenOver], "{late} {exchanged}");
    }
    // All of it over within a second.
    let (mut scene, mut talk) = announced();
    let own = Route {
        kind: RouteKind::Blackhole,
        next_hops: Vec::new(),
        ..block()
    };
    scene.del(&block());
    scene.add(&own);
    scene.pass(150);
    talk.says(&mut scene, true, &update(&[], &NLRI));
    scene.pass(200);
    talk.says(&mut scene, false, &update(&NLRI, &[]));
    scene.pass(200);
    talk.says(&mut scene, true, &update(&NLRI, &[]));
    scene.del(&own);
    scene.pass(20_000);
    assert_eq!(scene.observer.incidents(), []);
    // A blackhole that it does not announce is one.
    let (mut scene, _talk) = announced();
    let hole = Route {
        kind: RouteKind::Blackhole,
        next_hops: Vec::new(),
        ..block()
    };
    scene.act(RouteOp::Replaced, &hole, Some(bird()));
    scene.pass(20_000);
    assert_eq!(scene.observer.incidents().len(), 1);
}

#[test]
fn what_nobody_withdrew_is_deleted_and_missing_from_then_on() {
    let (mut scene, _) = announced();
    assert_eq!(states(&scene), [(BLOCK.to_owned(), RouteState::Programmed)]);
    scene.del(&block());
    scene.pass(10_000);
    let told = scene.routes_told();
    assert_eq!(told[0].event, RouteEvent::Deleted, "{told:?}");
    assert_eq!(told[0].peers, [PEER]);
    assert_eq!(states(&scene), [(BLOCK.to_owned(), RouteState::Lost)]);
}

#[test]
fn what_goes_with_its_session_is_deleted_and_hangs_on_it() {
    let (mut scene, mut talk) = announced();
    talk.peer_closes(&mut scene);
    scene.now += 1;
    scene.del(&block());
    scene.pass(2_000);
    let told = scene.routes_told();
    assert_eq!(told[0].event, RouteEvent::Deleted, "{told:?}");
    assert_eq!(told[0].peers, [PEER]);
}

#[test]
fn a_path_says_since_when_its_session_is_as_it_is_and_why() {
    let (mut scene, _) = announced();
    let session = |scene: &Scene| {
        let destination = "10.244.2.7".parse().unwrap();
        let path = scene
            .observer
            .path(millis(scene.now), None, None, destination);
        path.unwrap().legs[0].hops[0].peers[0].clone()
    };
    let up = session(&scene);
    assert_eq!(up.since, scene.view().established_at);
    assert_eq!(
        (up.state, up.last_cause_text),
        (SessionState::Established, None)
    );
    // Of its end the tap has not told yet.
    let socket = outbound(1, PEER);
    scene.state(socket, TcpState::Established, TcpState::CloseWait);
    assert_eq!(session(&scene).last_cause_text, None, "not final yet");
    scene.pass(500);
    let down = session(&scene);
    assert_ne!(down.state, SessionState::Established);
    assert_eq!(down.since, scene.view().last_down_at);
    assert_eq!(down.last_cause_text, Some(scene.flap().cause_text));
}

#[test]
fn what_is_put_back_by_the_scan_was_deleted_by_somebody() {
    let (mut scene, _) = announced();
    scene.del(&block());
    scene.pass(1_500);
    scene.add(&block());
    scene.pass(500);
    let story = scene.story();
    assert!(
        story.contains(&format!("foreign delete of {BLOCK}")),
        "{story:?}"
    );
    // BIRD's own replacement is no such thing.
    scene.del(&block());
    scene.now += 1;
    scene.add(&route(BLOCK, 12, &[via("10.0.0.3", 2)]));
    scene.pass(2_000);
    assert_eq!(scene.story(), ["1 replaced of bird"]);
}

#[test]
fn what_is_announced_and_not_there_is_missing_and_the_other_way_round_stray() {
    let (mut scene, mut talk) = announced();
    let other = [24, 10, 9, 9];
    talk.says(&mut scene, false, &update(&[], &other));
    scene.add(&route("10.8.8.0/24", 12, &[via(PEER, 2)]));
    assert!(
        !states(&scene)
            .iter()
            .any(|(_, state)| *state == RouteState::Missing),
        "it has five seconds"
    );
    scene.pass(6_000);
    let expected = [
        ("10.8.8.0/24", RouteState::Stray),
        (BLOCK, RouteState::Programmed),
        ("10.9.9.0/24", RouteState::Missing),
    ];
    let expected = expected.map(|(prefix, state)| (prefix.to_owned(), state));
    assert_eq!(states(&scene), expected);
}

#[test]
fn a_session_that_programs_nothing_is_told_and_counted_down() {
    let mut scene = Scene::with_routes(&[]);
    let mut talk = Talk::new(outbound(1, PEER));
    talk.establish(&mut scene);
    talk.says(&mut scene, false, &update(&[], &NLRI));
    scene.changes.clear();
    scene.pass(15_000);
    assert_eq!(scene.story(), [format!("{PEER}: none of 1 programmed")]);
    let view = scene.observer.forwarding(millis(scene.now));
    let silent = &view[0].unprogrammed[0];
    assert_eq!((silent.peer.as_str(), silent.announced), (PEER, 1));
    assert!(
        (200.0..240.0).contains(&silent.expected_within_seconds),
        "{silent:?}"
    );
    scene.add(&block());
    scene.pass(6_000);
    let story = scene.story();
    assert!(story.contains(&format!("{PEER}: programmed")), "{story:?}");
}

#[test]
fn a_speaker_that_programs_no_routes_owes_none() {
    for (comm, owes) in [("gobgpd", false), ("bird6", true)] {
        let mut scene = Scene::with_routes(&[]);
        let dialled = outbound(1, PEER);
        let mut talk = Talk::new(dialled);
        talk.establish(&mut scene);
        // The one that dialled hands over to another.
        scene.tell(Fact::SpeakerExited {
            netns: NETNS,
            speaker: bird(),
            status: Some(0),
            signal: None,
        });
        let (from, to) = (TcpState::Established, TcpState::Established);
        scene.state_by(dialled, from, to, Some(process(41, comm)));
        talk.says(&mut scene, false, &update(&[], &NLRI));
        scene.pass(15_000);
        let mut changes = scene.changes.iter().map(|record| &record.change);
        let silent = changes.any(|change| matches!(change, Change::NotProgrammed { .. }));
        assert_eq!(silent, owes, "{comm}: {:?}", scene.story());
    }
}

#[test]
fn what_a_reflector_had_announced_hangs_on_it_beyond_its_session() {
    let mut scene = Scene::with_routes(&[]);
    let mut talk = Talk::new(outbound(1, PEER));
    talk.establish(&mut scene);
    talk.says(&mut scene, false, &update(&[], &NLRI));
    // Its next hop is a client of the reflector, no peer of this node.
    let route = route(BLOCK, 12, &[via("10.0.0.77", 2)]);
    scene.add(&route);
    scene.pass(500);
    scene.changes.clear();
    talk.peer_closes(&mut scene);
    scene.pass(300);
    scene.del(&route);
    scene.pass(2_000);
    let told = scene.routes_told();
    assert_eq!(told[0].event, RouteEvent::Deleted, "{told:?}");
    assert_eq!(told[0].peers, [PEER]);
}

#[test]
fn how_long_the_kernel_takes_counts_from_the_arrival_of_the_message() {
    for acknowledged_first in [true, false] {
        let mut scene = Scene::with_routes(&[]);
        let mut talk = Talk::new(outbound(1, PEER));
        talk.establish(&mut scene);
        let mut step = |scene: &mut Scene, message: &[u8], act: fn(&mut Scene)| {
            scene.pass(500);
            if acknowledged_first {
                talk.says(scene, false, message);
                scene.now += 1;
                act(scene);
            } else {
                talk.says_unheard(scene, false, message);
                scene.now += 1;
                act(scene);
                scene.now += 40;
                let ack = talk.segment(true, crate::testing_wire::Flags::default(), &[]);
                scene.tap(ack);
            }
        };
        step(&mut scene, &update(&[], &NLRI), |scene| scene.add(&block()));
        step(&mut scene, &update(&NLRI, &[]), |scene| scene.del(&block()));
        let view = scene.observer.forwarding(millis(scene.now));
        let took = view[0].latencies.first();
        let took = took.map(|took| (took.update_to_fib_seconds, took.withdraw_to_fib_seconds));
        assert_eq!(
            took,
            Some((Some(0.001), Some(0.001))),
            "{acknowledged_first}"
        );
    }
}

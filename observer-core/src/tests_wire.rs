//! Sessions as the tap shows them, beside what the kernel tells.

use crate::{
    cause::{Cause, TimerOwner},
    event::{Fact, LossStage, TcpState},
    peer::SessionState,
    replay::replay,
    testing::{NETNS, PEER, Scene, bird, carrying, inbound, millis, outbound, process},
    testing_wire::{Flags, Offer, Talk, end_of_rib, keepalive, notification, open},
    time::Timestamp,
};
use TcpState::{Close, CloseWait, Established, FinWait1, SynRecv, SynSent};

fn scene() -> (Scene, Talk) {
    (Scene::started(), Talk::new(outbound(1, PEER)))
}

/// A session that is up, its story so far taken.
fn established() -> (Scene, Talk) {
    let (mut scene, mut talk) = scene();
    talk.establish(&mut scene);
    assert!(scene.view().up);
    scene.pass(1_000);
    scene.story();
    (scene, talk)
}

#[test]
fn states_follow_the_messages_one_by_one() {
    let (mut scene, mut talk) = scene();
    talk.connect(&mut scene);
    assert_eq!(scene.view().state, SessionState::Connect);
    for (sent, message, state) in [
        (true, open(Offer::default()), SessionState::OpenSent),
        (false, open(Offer::default()), SessionState::OpenSent),
        (true, keepalive(), SessionState::OpenConfirm),
        (false, keepalive(), SessionState::Established),
    ] {
        talk.says(&mut scene, sent, &message);
        assert_eq!(scene.view().state, state);
    }
    let story = scene.story();
    assert_eq!(story.last().unwrap(), "up");
    scene.pass(5_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    assert_eq!(scene.observer.totals().wire["n1"].messages.sent.open, 1);
}

#[test]
fn bytes_alone_prove_nothing_where_the_messages_are_read() {
    let (mut scene, mut talk) = scene();
    talk.connect(&mut scene);
    talk.says(&mut scene, true, &open(Offer::default()));
    talk.says(&mut scene, false, &open(Offer::default()));
    scene.now += 500;
    scene.info(carrying(talk.socket, 40), Established);
    scene.info(carrying(talk.socket, 50), Established);
    assert_eq!(scene.view().state, SessionState::OpenSent);
    // A tap that sees less than the kernel receives is blind: then bytes count again.
    scene.pass(1_000);
    scene.info(carrying(talk.socket, 200), Established);
    scene.pass(1_000);
    scene.info(carrying(talk.socket, 219), Established);
    assert!(scene.view().up);
}

#[test]
fn a_lossy_tap_leaves_it_to_the_bytes() {
    let (mut scene, mut talk) = scene();
    talk.connect(&mut scene);
    scene.now += 50;
    scene.info(carrying(talk.socket, 100), Established);
    assert!(!scene.view().up);
    let stage = LossStage::Tap;
    scene.tell(Fact::Lost { stage, count: 3 });
    assert!(scene.view().up);
}

#[test]
fn a_keepalive_that_a_firewall_dropped_behind_the_tap_establishes_nothing() {
    let (mut scene, mut talk) = scene();
    talk.connect(&mut scene);
    talk.says(&mut scene, true, &open(Offer::default()));
    talk.says(&mut scene, false, &open(Offer::default()));
    talk.says(&mut scene, true, &keepalive());
    for _ in 0..3 {
        talk.says_unheard(&mut scene, false, &keepalive());
        scene.pass(80_000);
    }
    assert_eq!(scene.view().state, SessionState::OpenConfirm);
    let messages = scene.observer.totals().wire["n1"].messages;
    assert_eq!(messages.received.keepalive, 0);
    scene.state(talk.socket, Established, Close);
    scene.pass(3_000);
    let tap = scene.observer.totals().wire["n1"].tap;
    assert_eq!(tap.unacknowledged, 57);
}

#[test]
fn a_wrong_as_is_named_by_its_notification_and_never_up() {
    for ours in [true, false] {
        let mut scene = Scene::started();
        for id in 1..4 {
            let mut talk = Talk::new(outbound(id, PEER));
            talk.connect(&mut scene);
            talk.says(&mut scene, true, &open(Offer::default()));
            talk.says(&mut scene, false, &open(Offer::default()));
            talk.says(&mut scene, !ours, &keepalive());
            talk.says(&mut scene, ours, &notification(2, 2, ""));
            if ours {
                talk.we_close(&mut scene);
            } else {
                talk.peer_closes(&mut scene);
            }
            scene.state(talk.socket, CloseWait, Close);
            scene.pass(5_000);
        }
        let way = if ours { "sent" } else { "received" };
        let failed = format!("failed: OPEN Message Error/Bad Peer AS {way}");
        let story = scene.story();
        assert_eq!(story.iter().filter(|line| **line == failed).count(), 1);
        assert!(!story.contains(&"up".to_owned()), "{story:?}");
        let view = scene.view();
        assert_eq!((view.flaps, view.failed_attempts), (0, 3));
        assert_eq!(view.last_failure.unwrap(), failed["failed: ".len()..]);
    }
}

#[test]
fn a_received_notification_is_the_cause_in_words() {
    let (mut scene, mut talk) = established();
    talk.says(&mut scene, false, &notification(6, 2, "maint"));
    assert!(scene.view().up, "until the kernel closes");
    talk.peer_closes(&mut scene);
    let flap = scene.flap();
    assert_eq!(flap.cause.label(), "notification_received");
    assert_eq!(
        flap.cause_text,
        "peer sent Cease/Administrative Shutdown 'maint'"
    );
    assert_eq!(
        flap.evidence[0],
        "NOTIFICATION received: Cease/Administrative Shutdown 'maint'"
    );
    let json = serde_json::to_value(&flap.cause).unwrap();
    assert_eq!(json["kind"], "notification_received");
    assert_eq!((&json["code"], &json["text"]), (&6.into(), &"maint".into()));
    let received = &scene.observer.totals().wire["n1"].notifications.received;
    assert_eq!(received[&(Some(6), Some(2))], 1);
}

#[test]
fn a_notification_that_comes_after_the_kernels_word_is_awaited() {
    let (mut scene, mut talk) = established();
    scene.state(talk.socket, Established, CloseWait);
    assert!(scene.view().cause_pending, "the tap has not passed the end");
    talk.says(&mut scene, false, &notification(6, 4, ""));
    assert_eq!(
        scene.flap().cause_text,
        "peer sent Cease/Administrative Reset"
    );
}

#[test]
fn a_fin_is_a_fin_as_soon_as_the_tap_has_passed_it() {
    let (mut scene, mut talk) = established();
    talk.peer_closes(&mut scene);
    assert_eq!(scene.flap().cause, Cause::FinReceived);

    let (mut scene, talk) = established();
    scene.state(talk.socket, Established, CloseWait);
    scene.pass(250);
    assert_eq!(scene.flap().cause, Cause::FinReceived);
}

#[test]
fn a_notification_that_the_kernel_does_not_follow_is_no_cause() {
    let (mut scene, mut talk) = established();
    talk.says(&mut scene, false, &notification(6, 2, "forged"));
    scene.pass(5_000);
    assert!(scene.view().up);
    scene.tell(Fact::ResetReceived {
        socket: talk.socket,
    });
    scene.state(talk.socket, Established, Close);
    assert_eq!(scene.flap().cause, Cause::ResetReceived);
}

#[test]
fn a_notification_of_ours_is_the_cause_and_a_dying_speaker_outranks_its_cease() {
    let (mut scene, mut talk) = established();
    talk.says_unheard(&mut scene, true, &notification(6, 4, ""));
    talk.we_close(&mut scene);
    scene.pass(250);
    assert_eq!(
        scene.flap().cause_text,
        "this node sent Cease/Administrative Reset"
    );

    let (mut scene, mut talk) = established();
    scene.tell(Fact::SpeakerSignalled {
        netns: NETNS,
        speaker: bird(),
        signal: 15,
        sender: Some(process(7, "bash")),
    });
    talk.says(&mut scene, true, &notification(6, 2, ""));
    talk.we_close(&mut scene);
    scene.tell(Fact::SpeakerExited {
        netns: NETNS,
        speaker: bird(),
        status: Some(0),
        signal: None,
    });
    let flap = scene.flap();
    assert_eq!(flap.cause.label(), "local_speaker_gone");
    assert_eq!(
        flap.cause_text,
        "local bird (pid 40) exited with status 0 after SIGTERM from bash (pid 7); it sent \
         Cease/Administrative Shutdown"
    );
    assert!(
        flap.evidence
            .contains(&"NOTIFICATION sent: Cease/Administrative Shutdown".to_owned())
    );
}

#[test]
fn a_hold_timer_is_proven_by_whose_notification_says_so() {
    for ours in [true, false] {
        let (mut scene, mut talk) = established();
        scene.pass(9_000);
        if ours {
            talk.says_unheard(&mut scene, true, &notification(4, 0, ""));
            talk.we_close(&mut scene);
        } else {
            talk.says(&mut scene, false, &notification(4, 0, ""));
            talk.peer_closes(&mut scene);
        }
        let flap = scene.flap();
        assert_eq!(flap.cause.label(), "hold_timer_expired");
        let owner = if ours {
            TimerOwner::ThisNode
        } else {
            TimerOwner::Peer
        };
        assert!(matches!(
            flap.cause,
            Cause::HoldTimerExpired { told_by: Some(told_by), .. } if told_by == owner
        ));
    }
}

#[test]
fn what_an_old_stream_delivers_after_a_heal_changes_nothing() {
    let (mut scene, mut old) = established();
    scene.pass(8_000);
    scene.state_by(old.socket, Established, FinWait1, Some(bird()));
    scene.pass(5_000);
    let mut second = outbound(2, PEER);
    second.local.set_port(40_001);
    let mut new = Talk::new(second);
    new.establish(&mut scene);
    assert!(scene.view().up);
    scene.story();
    // The firewall is gone: stale KEEPALIVEs, then both sides' last words.
    for _ in 0..3 {
        old.says(&mut scene, false, &keepalive());
    }
    old.says(&mut scene, false, &notification(4, 0, ""));
    old.says(&mut scene, true, &notification(4, 0, ""));
    old.fin(&mut scene, false);
    scene.state(old.socket, FinWait1, Close);
    scene.pass(3_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    assert!(scene.view().up);
    assert_eq!(scene.observer.flaps()[0].cause, Cause::FinSent);
}

#[test]
fn forged_segments_change_nothing_but_a_counter() {
    let (mut scene, talk) = established();
    let mut forged = talk;
    forged.advance(false, 1 << 30);
    let rst = Flags {
        rst: true,
        ..Flags::default()
    };
    scene.tap(forged.segment(false, rst, &[]));
    forged.says_unheard(&mut scene, false, &notification(6, 2, "forged"));
    // In the window, but never taken by the kernel.
    let mut ahead = talk;
    ahead.advance(false, 500);
    ahead.says_unheard(&mut scene, false, &notification(6, 2, "forged"));
    scene.tap(ahead.segment(false, rst, &[]));
    scene.pass(5_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    assert!(scene.view().up);
    let wire = &scene.observer.totals().wire["n1"];
    assert_eq!(wire.tap.out_of_window, 2);
    assert_eq!(wire.messages.received.notification, 0);
}

#[test]
fn half_a_message_and_silence_is_counted_when_its_connection_is_gone() {
    let (mut scene, talk) = established();
    let unfinished = |scene: &Scene| scene.observer.totals().wire["n1"].tap.unfinished;
    for id in 2..100 {
        let local = format!("10.0.0.1:{}", 40_000 + id);
        let socket = crate::testing::socket(id, &local, &format!("{PEER}:179"));
        let mut half = Talk::new(socket);
        half.connect(&mut scene);
        half.says(&mut scene, false, &open(Offer::default())[..20]);
    }
    assert!(scene.view().up);
    let kept = u64::try_from(scene.view().connections.len()).unwrap() - 1;
    assert_eq!(unfinished(&scene), 98 - kept);
    assert_eq!(scene.observer.totals().lost[&LossStage::Table], 98 - kept);
    // A whole message is none, nor is what was met midway.
    let mut talk = talk;
    talk.peer_closes(&mut scene);
    scene.pass(60_000);
    assert_eq!(unfinished(&scene), 98 - kept);
}

#[test]
fn a_window_full_of_messages_waits_for_one_acknowledgement() {
    let (mut scene, mut talk) = established();
    let many = keepalive().repeat(3_000);
    for _ in 0..90 {
        talk.says_unheard(&mut scene, false, &many);
    }
    let received = |scene: &Scene| scene.view().bgp.messages.received.keepalive;
    assert_eq!(received(&scene), 1, "nothing is acknowledged");
    talk.says(&mut scene, true, &keepalive());
    assert_eq!(received(&scene), 1 + 90 * 3_000);
    assert_eq!(scene.observer.totals().wire["n1"].tap.gaps, 0);
}

#[test]
fn what_is_held_for_all_connections_is_bounded_and_the_greedy_pay() {
    let (mut scene, mut talk) = established();
    talk.says_unheard(&mut scene, false, &keepalive());
    let zeros = vec![0; 60_000];
    for id in 2..15 {
        let local = format!("10.0.0.1:{}", 40_000 + id);
        let socket = crate::testing::socket(id, &local, &format!("{PEER}:179"));
        let mut greedy = Talk::new(socket);
        greedy.connect(&mut scene);
        for _ in 0..95 {
            greedy.says_unheard(&mut scene, false, &zeros);
        }
    }
    let totals = scene.observer.totals();
    assert!(
        totals.lost[&LossStage::Table] >= 1,
        "13 times 5.7 MB are more than 64 MiB"
    );
    let before = totals.wire["n1"].messages.received.keepalive;
    talk.says(&mut scene, true, &keepalive());
    let after = scene.observer.totals().wire["n1"]
        .messages
        .received
        .keepalive;
    assert_eq!(after, before + 1, "the session's own was kept");
    assert!(scene.view().up);
}

#[test]
fn a_flood_of_resets_is_asked_about_once() {
    let (mut scene, talk) = established();
    scene.inspections();
    let rst = Flags {
        rst: true,
        ..Flags::default()
    };
    for _ in 0..1_000 {
        scene.tap(talk.segment(false, rst, &[]));
    }
    assert_eq!(scene.inspections(), 1);
    assert!(scene.view().up);
}

#[test]
fn a_segment_on_two_interfaces_is_one() {
    let (mut scene, mut talk) = established();
    let before = scene.observer.totals().wire["n1"].clone();
    for sent in [true, false] {
        let mut other = talk;
        other.interface = 3;
        talk.says(&mut scene, sent, &keepalive());
        other.says(&mut scene, sent, &keepalive());
    }
    // Much later the same octets are sent again: that is a retransmission, on whatever interface.
    let wire = &scene.observer.totals().wire["n1"];
    assert_eq!(wire.tap.duplicates - before.tap.duplicates, 4);
    assert_eq!(wire.tap.segments - before.tap.segments, 4);
    assert_eq!(wire.messages.sent.keepalive, 2);
}

#[test]
fn transit_is_one_counter() {
    let (mut scene, _) = established();
    let foreign = crate::testing::socket(9, "10.9.0.1:40000", "10.9.0.2:179");
    let mut talk = Talk::new(foreign);
    for _ in 0..10 {
        talk.says(&mut scene, true, &keepalive());
    }
    let tap = scene.observer.totals().wire["n1"].tap;
    assert_eq!(tap.transit, 20);
    // From its SYN on it could have been a new peer's, and waited for a socket that never came.
    let syn = Flags {
        syn: true,
        ..Flags::default()
    };
    let begun = Talk::new(crate::testing::socket(9, "10.9.0.1:40001", "10.9.0.2:179"));
    scene.tap(begun.segment(true, syn, &[]));
    scene.pass(5_000);
    talk.says(&mut scene, true, &keepalive());
    let tap = scene.observer.totals().wire["n1"].tap;
    assert_eq!(tap.transit, 23);
    assert_eq!(scene.story(), Vec::<String>::new());
}

#[test]
fn an_inbound_connection_of_a_candidate_keeps_its_opens() {
    let mut scene = Scene::started();
    let mut talk = Talk::new(inbound(1, PEER));
    talk.handshake(&mut scene, false);
    scene.state(talk.socket, SynRecv, Established);
    talk.greet(&mut scene, Offer::default(), Offer::default());
    scene.pass(1_000);
    scene.info(carrying(talk.socket, 100), Established);
    assert!(scene.view().up);
    let messages = scene.observer.totals().wire["n1"].messages;
    assert_eq!((messages.received.open, messages.sent.keepalive), (1, 1));
}

#[test]
fn without_probes_sock_diag_finds_the_connection_that_the_tap_has_read() {
    let mut scene = Scene::with_named_peer();
    let mut talk = Talk::new(inbound(1, PEER));
    talk.handshake(&mut scene, false);
    talk.greet(&mut scene, Offer::default(), Offer::default());
    scene.pass(4_000);
    scene.info(carrying(talk.socket, 100), Established);
    assert!(scene.view().up && scene.view().flaps == 0);
    scene.inspections();
    talk.says(&mut scene, false, &notification(6, 2, ""));
    assert_eq!(scene.inspections(), 1, "the wire says when to ask");
    scene.info(carrying(talk.socket, 121), CloseWait);
    assert_eq!(scene.flap().cause.label(), "notification_received");
}

#[test]
fn a_peer_that_this_node_deconfigures_is_forgotten() {
    let (mut scene, mut talk) = established();
    talk.says(&mut scene, true, &notification(6, 3, ""));
    talk.we_close(&mut scene);
    scene.pass(250);
    assert_eq!(
        scene.story().last().unwrap(),
        "forgotten: this node sent Cease/Peer De-configured"
    );
    assert!(scene.observer.peers(Timestamp::default()).is_empty());
}

#[test]
fn a_dial_that_the_tap_shows_first_is_read_from_its_beginning() {
    let (mut scene, mut talk) = scene();
    talk.handshake(&mut scene, true);
    talk.says(&mut scene, true, &open(Offer::default()));
    scene.state(talk.socket, SynSent, Established);
    talk.says(&mut scene, false, &open(Offer::default()));
    talk.says(&mut scene, true, &keepalive());
    talk.says(&mut scene, false, &keepalive());
    assert!(scene.view().up);
}

#[test]
fn a_recording_with_segments_replays_bit_for_bit() {
    let (mut scene, mut talk) = scene();
    talk.establish(&mut scene);
    talk.says(&mut scene, false, &end_of_rib());
    talk.says(&mut scene, false, &notification(6, 2, "maint"));
    talk.peer_closes(&mut scene);
    scene.pass(1_000);
    let lines: Vec<String> = scene
        .told
        .iter()
        .map(|entry| serde_json::to_string(entry).unwrap())
        .collect();
    let read = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    let changes = replay(crate::config::CoreConfig::default(), read);
    assert_eq!(changes, scene.changes);
    assert!(millis(scene.now) > Timestamp::default());
}

//! Sessions where the kernel tells of nothing by itself: dumps now and then, and what the tap shows.

use crate::{
    event::{Fact, TcpState},
    testing::{PEER, Scene, bird, carrying, inbound, outbound},
    testing_wire::{Flags, Offer, Talk, notification, open},
};
use TcpState::Established;

const UNSEEN: &str = "no BGP daemon of this node is seen";

/// A session that a dump finds after the tap has read it.
fn found() -> (Scene, Talk) {
    let mut scene = Scene::with_named_peer();
    let mut talk = Talk::new(inbound(1, PEER));
    talk.handshake(&mut scene, false);
    talk.greet(&mut scene, Offer::default(), Offer::default());
    scene.info(carrying(talk.socket, 100), Established);
    scene.dumped();
    assert!(scene.view().up);
    scene.pass(1_000);
    scene.story();
    (scene, talk)
}

/// A dump without the socket.
fn gone(scene: &mut Scene) {
    scene.now += 5;
    scene.dumped();
    scene.pass(300);
}

fn reset(scene: &mut Scene, talk: &Talk, sent: bool) {
    let rst = Flags {
        rst: true,
        ..Flags::default()
    };
    scene.tap(talk.segment(sent, rst, &[]));
}

#[test]
fn a_session_of_which_the_tap_saw_the_beginning_is_no_older_than_the_agent() {
    let (scene, _) = found();
    assert!(!scene.view().inherited);
}

#[test]
fn the_wire_says_who_ended_a_session_whose_socket_is_found_gone() {
    for (fin, sent, label, line) in [
        (
            true,
            false,
            "fin_received",
            "FIN received (seen on the wire)",
        ),
        (true, true, "fin_sent", "FIN sent (seen on the wire)"),
        (
            false,
            false,
            "rst_received",
            "RST received (seen on the wire)",
        ),
        (false, true, "rst_sent", "RST sent (seen on the wire)"),
    ] {
        let (mut scene, mut talk) = found();
        if fin {
            talk.fin(&mut scene, sent);
            // The other side follows.
            talk.fin(&mut scene, !sent);
        } else {
            reset(&mut scene, &talk, sent);
        }
        gone(&mut scene);
        let flap = scene.flap();
        assert_eq!(flap.cause.label(), label);
        assert!(
            flap.evidence.iter().any(|it| it == line),
            "{:?}",
            flap.evidence
        );
        let unseen = flap.evidence.iter().any(|it| it.starts_with(UNSEEN));
        assert_eq!(unseen, sent, "{:?}", flap.evidence);
    }
}

#[test]
fn a_daemon_that_is_known_is_not_called_unseen() {
    let (mut scene, mut talk) = found();
    let mut other = carrying(talk.socket, 100);
    other.id.0 += 1;
    scene.tell(Fact::TcpState {
        socket: other,
        from: TcpState::Close,
        to: TcpState::Listen,
        process: Some(bird()),
    });
    talk.fin(&mut scene, true);
    gone(&mut scene);
    let flap = scene.flap();
    assert_eq!(flap.cause.label(), "fin_sent");
    assert!(
        !flap.evidence.iter().any(|it| it.starts_with(UNSEEN)),
        "{flap:?}"
    );
}

#[test]
fn a_reset_that_the_kernel_did_not_obey_is_no_cause() {
    let (mut scene, talk) = found();
    reset(&mut scene, &talk, false);
    scene.info(carrying(talk.socket, 100), Established);
    scene.pass(3_000);
    scene.info(carrying(talk.socket, 100), Established);
    assert!(scene.view().up);
    gone(&mut scene);
    assert_eq!(scene.flap().cause.label(), "unobserved");
}

#[test]
fn attempts_between_two_dumps_are_told_from_their_packets() {
    let mut scene = Scene::with_named_peer();
    scene.story();
    // Dialled and refused.
    let mut refused = Talk::new(outbound(1, PEER));
    let syn = Flags {
        syn: true,
        ..Flags::default()
    };
    scene.tap(refused.segment(true, syn, &[]));
    refused.advance(true, 1);
    reset(&mut scene, &refused, false);
    // Accepted, and the OPEN refused.
    let mut wrong = Talk::new(inbound(2, PEER));
    wrong.handshake(&mut scene, false);
    wrong.says(&mut scene, false, &open(Offer::default()));
    wrong.says(&mut scene, true, &notification(2, 2, ""));
    wrong.fin(&mut scene, true);
    // A dump may still find them.
    assert_eq!(scene.story(), Vec::<String>::new());
    scene.pass(1_500);
    let mut third = Talk::new(outbound(3, PEER));
    third.handshake(&mut scene, true);
    let mut story = scene.story();
    story.sort();
    assert_eq!(
        story,
        [
            "failed: OPEN Message Error/Bad Peer AS sent",
            "failed: connection refused",
        ]
    );
    let view = scene.view();
    assert_eq!(view.failed_attempts, 2);
    let sent = view.bgp.notifications.sent.map(|said| said.notification);
    assert!(sent.is_some_and(|said| (said.code, said.subcode) == (2, 2)));
}

//! Sessions on one peer, told as kernel events, and what the machine makes of them.

use TcpState::{Close, CloseWait, Established, FinWait1, SynRecv, SynSent};

use crate::{
    cause::Cause,
    change::Request,
    event::{Fact, TcpState},
    peer::SessionState,
    testing::{NETNS, PEER, Scene, bird, carrying, inbound, millis, outbound, process, unanswered},
};

#[test]
fn a_dialled_session_comes_up_and_its_latency_is_the_kernels() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    assert_eq!(
        scene.story(),
        [
            "known Dialled",
            "speaker bird",
            "Idle > Connect",
            "Connect > OpenSent",
            "OpenSent > Established",
            "up",
        ]
    );
    let view = scene.view();
    assert!(view.up && !view.inherited && view.flaps == 0);
    assert_eq!(view.info, "Established");
    assert_eq!(view.establish_seconds, Some(0.001));
    assert_eq!(view.connections[0].bytes_acked, 100);
    assert_eq!(view.connections[0].local.port(), 40000);
    let histogram = &scene.observer.totals().establish["n1"];
    assert_eq!(histogram.counts.iter().sum::<u64>(), 1);
    assert!(scene.requests.contains(&Request::Trust {
        netns: NETNS,
        address: PEER.parse().unwrap()
    }));
}

#[test]
fn a_latency_that_the_agent_stamped_is_not_measured() {
    let mut scene = Scene::started();
    scene.info(outbound(1, PEER), SynSent);
    scene.now += 5;
    scene.state(outbound(1, PEER), SynSent, Established);
    assert_eq!(scene.view().establish_seconds, None);
}

#[test]
fn bytes_of_an_open_alone_or_right_after_tcp_came_up_prove_no_session() {
    let mut scene = Scene::started();
    let socket = outbound(1, PEER);
    scene.dial(socket);
    scene.state(socket, SynSent, Established);
    scene.now += 5;
    scene.info(carrying(socket, 90), Established);
    assert_eq!(scene.view().state, SessionState::OpenSent);
    scene.now += 45;
    let mut rejected = carrying(socket, 90);
    rejected.bytes_acked = 30;
    scene.info(rejected, Established);
    // What arrived before is not forgotten, so only now does it prove a session.
    scene.now += 100;
    scene.info(carrying(socket, 90), Established);
    assert!(scene.view().up);
}

#[test]
fn a_wrong_as_is_a_failed_attempt_and_never_a_flap() {
    let mut scene = Scene::started();
    for id in 1..4 {
        let socket = outbound(id, PEER);
        scene.dial(socket);
        scene.state(socket, SynSent, Established);
        scene.now += 1;
        scene.state(carrying(socket, 90), Established, CloseWait);
        scene.state(carrying(socket, 90), CloseWait, Close);
        scene.pass(5_000);
    }
    let story = scene.story();
    let failed = "failed: closed by the peer before Established (FIN received)";
    assert_eq!(
        story.iter().filter(|line| *line == failed).count(),
        1,
        "{story:?}"
    );
    let view = scene.view();
    assert_eq!((view.flaps, view.failed_attempts), (0, 3));
    assert!(scene.flaps().is_empty());
}

#[test]
fn looks_at_a_new_connection_back_off_until_its_bytes_prove_a_session() {
    let mut scene = Scene::started();
    let socket = outbound(1, PEER);
    scene.dial(socket);
    scene.state(socket, SynSent, Established);
    scene.pass(1_000);
    assert_eq!(scene.inspections(), 6);
    scene.pass(10_000);
    assert_eq!(scene.inspections(), 10);
    scene.pass(60_000);
    assert!((20..40).contains(&scene.inspections()));
    scene.info(carrying(socket, 100), Established);
    scene.pass(50_000);
    assert_eq!(scene.inspections(), 10);
}

#[test]
fn a_received_fin_is_a_flap_at_once_and_the_return_completes_its_record() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.pass(10_000);
    scene.story();
    scene.state(carrying(outbound(1, PEER), 200), Established, CloseWait);
    assert_eq!(
        scene.story(),
        ["Established > Active", "down", "flap 1: fin_received"]
    );
    scene.state_by(
        outbound(1, PEER),
        CloseWait,
        TcpState::LastAck,
        Some(bird()),
    );
    scene.state(outbound(1, PEER), TcpState::LastAck, Close);
    let view = scene.view();
    assert!(!view.up && !view.cause_pending);
    assert_eq!(
        view.info,
        "Active: peer closed the connection (FIN received)"
    );
    scene.pass(4_000);
    scene.establish(outbound(2, PEER));
    let flap = &scene.observer.flaps()[0];
    assert!((flap.down_seconds.unwrap() - 4.021).abs() < 1e-6);
    assert!((flap.up_before_seconds.unwrap() - 10.0).abs() < 1e-6);
    assert!(flap.up_at.is_some());
    assert_eq!(scene.view().connections.len(), 1);
}

#[test]
fn a_fin_of_ours_waits_for_its_cause_and_is_counted_once() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.story();
    let socket = carrying(outbound(1, PEER), 200);
    scene.state_by(socket, Established, FinWait1, Some(bird()));
    assert!(scene.view().cause_pending);
    assert_eq!(scene.story(), ["Established > Active", "down"]);
    scene.pass(249);
    assert!(scene.view().cause_pending);
    scene.pass(1);
    assert_eq!(scene.story(), ["flap 1: fin_sent"]);
    scene.pass(10_000);
    assert_eq!(scene.view().flaps, 1);
    assert_eq!(scene.observer.totals().flaps_by_cause["n1"]["fin_sent"], 1);
}

#[test]
fn a_reset_is_named_by_its_direction() {
    let mut scene = Scene::started();
    let socket = carrying(outbound(1, PEER), 200);
    scene.establish(outbound(1, PEER));
    scene.tell(Fact::ResetReceived { socket });
    scene.state(socket, Established, Close);
    let errno = 104;
    scene.tell(Fact::TcpError { socket, errno });
    assert_eq!(scene.flap().cause, Cause::ResetReceived);

    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.tell(Fact::ResetSent { socket });
    scene.state(socket, Established, Close);
    assert!(scene.flaps().is_empty());
    let errno = 103;
    scene.tell(Fact::TcpError { socket, errno });
    assert_eq!(scene.flap().cause, Cause::ResetSent);
}

#[test]
fn a_firewall_is_retransmissions_and_then_a_hold_timer() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.pass(2_000);
    scene.info(carrying(outbound(1, PEER), 219), Established);
    scene.story();
    scene.inspections();
    let stale = carrying(outbound(1, PEER), 219);
    scene.pass(3_200);
    for times in 1..=6 {
        let socket = unanswered(stale, times);
        scene.tell(Fact::Retransmit { socket });
        scene.pass(900);
    }
    assert_eq!(scene.story(), ["unanswered 2", "unanswered 4"]);
    assert!(scene.inspections() >= 6);
    let view = scene.view();
    assert_eq!(view.info, "Established; no answer to 6 retransmissions");
    assert_eq!(view.retransmits, 6);
    scene.state_by(unanswered(stale, 6), Established, FinWait1, Some(bird()));
    scene.pass(250);
    let flap = scene.flap();
    assert_eq!(flap.cause.label(), "hold_timer_expired");
    assert_eq!(
        flap.cause_text,
        "hold timer expired, inferred: nothing received for 8.6 s"
    );
    assert!(
        flap.evidence
            .contains(&"6 retransmissions unanswered".to_owned())
    );
}

#[test]
fn a_speaker_killed_by_someone_is_named_with_signal_and_sender() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.establish(outbound(2, "10.0.0.3"));
    scene.story();
    scene.tell(Fact::SpeakerSignalled {
        netns: NETNS,
        speaker: bird(),
        signal: 9,
        sender: Some(process(7, "bash")),
    });
    scene.tell(Fact::SpeakerExited {
        netns: NETNS,
        speaker: bird(),
        status: None,
        signal: Some(9),
    });
    for (id, peer) in [(1, PEER), (2, "10.0.0.3")] {
        scene.state_by(outbound(id, peer), Established, FinWait1, Some(bird()));
    }
    assert_eq!(
        scene.story(),
        [
            "bird killed by SIGKILL from bash (pid 7)",
            "Established > Active",
            "down",
            "flap 1: local_speaker_gone",
            "Established > Active",
            "down",
            "flap 1: local_speaker_gone",
        ]
    );
}

#[test]
fn a_terminated_speaker_that_exits_late_amends_the_record_and_not_the_counter() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.story();
    scene.tell(Fact::SpeakerSignalled {
        netns: NETNS,
        speaker: bird(),
        signal: 15,
        sender: Some(process(7, "bash")),
    });
    scene.pass(300);
    scene.state_by(outbound(1, PEER), Established, FinWait1, Some(bird()));
    scene.pass(2_000);
    assert_eq!(
        scene.story(),
        ["Established > Active", "down", "flap 1: local_speaker_gone"]
    );
    scene.tell(Fact::SpeakerExited {
        netns: NETNS,
        speaker: bird(),
        status: Some(0),
        signal: None,
    });
    assert_eq!(
        scene.story(),
        [
            "bird exited with status 0 after SIGTERM from bash (pid 7)",
            "amended: local bird (pid 40) exited with status 0 after SIGTERM from bash (pid 7)",
        ]
    );
    assert_eq!(scene.view().flaps, 1);
    let totals = scene.observer.totals();
    assert_eq!(totals.flaps_by_cause["n1"].values().sum::<u64>(), 1);
}

#[test]
fn a_speaker_that_exits_just_after_its_fin_explains_it() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.state_by(outbound(1, PEER), Established, FinWait1, Some(bird()));
    scene.pass(3);
    assert!(scene.flaps().is_empty());
    scene.tell(Fact::SpeakerExited {
        netns: NETNS,
        speaker: bird(),
        status: Some(0),
        signal: None,
    });
    assert_eq!(
        scene.flap().cause_text,
        "local bird (pid 40) exited with status 0"
    );
}

#[test]
fn an_oom_kill_is_named() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    let (netns, speaker) = (NETNS, bird());
    scene.tell(Fact::SpeakerOom {
        netns,
        speaker: speaker.clone(),
    });
    scene.tell(Fact::SpeakerExited {
        netns,
        speaker,
        status: None,
        signal: Some(9),
    });
    // Data that the speaker had not read makes the kernel reset instead of close.
    let socket = outbound(1, PEER);
    scene.state_by(socket, Established, Close, Some(bird()));
    scene.tell(Fact::ResetSent { socket });
    assert_eq!(
        scene.flap().cause_text,
        "local bird (pid 40) killed by the OOM killer"
    );
}

#[test]
fn a_refused_peer_is_told_once_and_counted_always() {
    let mut scene = Scene::started();
    for id in 1..=12 {
        let socket = outbound(id, PEER);
        scene.dial(socket);
        scene.tell(Fact::ResetReceived { socket });
        scene.state(socket, SynSent, Close);
        let errno = 111;
        scene.tell(Fact::TcpError { socket, errno });
        scene.pass(3_000);
    }
    let view = scene.view();
    assert_eq!(view.info, "Active: connection refused, 12 attempts");
    assert_eq!(view.failed_attempts, 12);
    let story = scene.story();
    assert_eq!(
        story
            .iter()
            .filter(|line| line.starts_with("failed"))
            .count(),
        1
    );
    assert!(story.len() < 10, "{story:?}");
    let socket = outbound(99, PEER);
    scene.dial(socket);
    assert_eq!(
        scene.view().info,
        "Connect: connection refused, 12 attempts"
    );
    let errno = 113;
    scene.tell(Fact::TcpError { socket, errno });
    scene.state(socket, SynSent, Close);
    assert!(
        scene
            .story()
            .contains(&"failed: no route to host (EHOSTUNREACH)".to_owned()),
        "a new reason is news"
    );
}

#[test]
fn a_socket_that_is_dialled_with_again_is_a_new_connection() {
    let mut scene = Scene::started();
    let socket = outbound(1, PEER);
    scene.dial(socket);
    scene.state(socket, SynSent, Close);
    scene.now += 100;
    scene.dial(socket);
    scene.state(socket, SynSent, Established);
    assert_eq!(scene.view().state, SessionState::OpenSent);
    assert_eq!(scene.view().failed_attempts, 1);
}

#[test]
fn other_connections_come_and_go_without_touching_the_session() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.story();
    // A collision, a refused dial and a draining stream.
    let second = inbound(2, PEER);
    scene.state(second, SynRecv, Established);
    scene.now += 1;
    scene.state_by(carrying(second, 60), Established, FinWait1, Some(bird()));
    scene.state(second, FinWait1, Close);
    let third = outbound(3, PEER);
    scene.dial(third);
    scene.tell(Fact::ResetReceived { socket: third });
    scene.state(third, SynSent, Close);
    scene.pass(3_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    assert!(scene.view().up);
    assert_eq!(scene.view().failed_attempts, 0);
}

#[test]
fn an_old_stream_that_drains_after_a_heal_does_not_touch_the_new_session() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.state_by(outbound(1, PEER), Established, FinWait1, Some(bird()));
    scene.pass(5_000);
    scene.establish(outbound(2, PEER));
    scene.story();
    assert_eq!(scene.view().connections.len(), 2);
    let socket = carrying(outbound(1, PEER), 300);
    scene.tell(Fact::ResetReceived { socket });
    scene.state(socket, FinWait1, Close);
    scene.pass(3_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    assert!(scene.view().up);
    assert_eq!(scene.view().connections.len(), 1);
}

#[test]
fn the_session_moves_to_a_connection_that_was_proven_before_the_old_one_ended() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.state(inbound(2, PEER), SynRecv, Established);
    scene.now += 50;
    scene.info(carrying(inbound(2, PEER), 100), Established);
    scene.story();
    scene.state_by(outbound(1, PEER), Established, FinWait1, Some(bird()));
    scene.pass(1_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    assert!(
        scene
            .view()
            .connections
            .iter()
            .any(|c| c.carries_session && c.local.port() == 179)
    );
    scene.state(inbound(2, PEER), Established, CloseWait);
    assert_eq!(scene.flap().cause, Cause::FinReceived);
}

#[test]
fn sock_diag_and_its_silence_end_connections_that_nobody_saw_end() {
    for lost_fin in [true, false] {
        let mut scene = Scene::started();
        scene.establish(outbound(1, PEER));
        scene.pass(1_000);
        if lost_fin {
            scene.info(carrying(outbound(1, PEER), 100), CloseWait);
        } else {
            let id = outbound(1, PEER).id;
            scene.tell(Fact::SocketGone { netns: NETNS, id });
        }
        let label = if lost_fin {
            "fin_received"
        } else {
            "unobserved"
        };
        assert_eq!(scene.flap().cause.label(), label);
    }
}

#[test]
fn an_answer_from_before_a_close_does_not_bring_the_session_back() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.state(outbound(1, PEER), Established, CloseWait);
    scene.info(carrying(outbound(1, PEER), 100), Established);
    assert!(!scene.view().up);
    scene.state(outbound(1, PEER), CloseWait, Close);
    scene.info(carrying(outbound(1, PEER), 100), Established);
    assert!(!scene.view().up);
    assert_eq!(scene.flaps().len(), 1);
}

#[test]
fn late_evidence_amends_an_unknown_cause() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    let socket = outbound(1, PEER);
    scene.state(socket, Established, Close);
    scene.pass(260);
    assert_eq!(scene.flap().cause, Cause::Unknown);
    scene.story();
    let errno = 110;
    scene.tell(Fact::TcpError { socket, errno });
    assert_eq!(
        scene.story(),
        ["amended: TCP gave up: timed out (ETIMEDOUT)"]
    );
    assert_eq!(scene.view().flaps, 1);
}

#[test]
fn data_age_is_what_sock_diag_measured() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.tell(Fact::SocketInfo {
        socket: carrying(outbound(1, PEER), 100),
        state: Established,
        last_data_received_millis: Some(700),
        send_queue: 5,
        receive_queue: 6,
        process: Some(bird()),
    });
    scene.pass(300);
    let view = scene.view();
    assert!((view.last_data_age_seconds.unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(view.rtt_seconds, Some(0.0001));
    assert_eq!(view.connections[0].send_queue, 5);
    assert_eq!(view.connections[0].receive_queue, 6);
}

#[test]
fn the_first_flap_is_pending_only_as_long_as_the_configuration_says() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.state_by(outbound(1, PEER), Established, FinWait1, Some(bird()));
    assert_eq!(
        scene.observer.next_deadline(),
        Some(millis(scene.now + 250))
    );
}

#[test]
fn a_probe_that_cannot_read_the_retransmission_counter_does_not_hide_the_silence() {
    let mut scene = Scene::started();
    scene.establish(outbound(1, PEER));
    scene.pass(8_000);
    let socket = unanswered(carrying(outbound(1, PEER), 100), 4);
    scene.info(socket, Established);
    scene.pass(1_000);
    let blind = outbound(1, PEER);
    scene.state_by(blind, Established, FinWait1, Some(bird()));
    scene.state(blind, FinWait1, TcpState::FinWait2);
    scene.pass(250);
    let flap = scene.flap();
    assert_eq!(flap.cause.label(), "hold_timer_expired");
    assert_eq!(
        flap.evidence,
        [
            "FIN sent (FIN_WAIT1)",
            "closed by bird (pid 40)",
            "nothing received for 9.0 s",
            "4 retransmissions unanswered",
        ]
    );
}

#[test]
fn thousands_of_sessions_are_looked_at_in_turn_and_not_at_once() {
    let mut scene = Scene::new();
    for id in 0..5_000_u64 {
        let peer = format!("10.9.{}.{}", id / 250, id % 250);
        scene.info(carrying(inbound(id + 1, &peer), 5_000), Established);
    }
    scene.dumped();
    scene.told.clear();
    scene.inspections();
    scene.pass(5_000);
    scene.inspections();
    let mut most = 0;
    let mut all = 0;
    for _ in 0..50 {
        scene.pass(100);
        let asked = scene.inspections();
        most = most.max(asked);
        all += asked;
    }
    assert_eq!(all, 5_000);
    assert!(most < 200, "{most} at once");
}

#[test]
fn a_reset_of_a_connection_that_was_not_seen_up_is_no_flap_whatever_it_carried() {
    let mut scene = Scene::started();
    let socket = outbound(1, PEER);
    scene.dial(socket);
    scene.state(socket, SynSent, Established);
    scene.now += 15;
    let socket = carrying(socket, 90);
    scene.tell(Fact::ResetReceived { socket });
    scene.state(socket, Established, Close);
    scene.pass(1_000);
    assert!(scene.flaps().is_empty());
    let view = scene.view();
    assert_eq!(
        view.info,
        "Active: reset by the peer before Established (RST received), 1 attempt"
    );
}

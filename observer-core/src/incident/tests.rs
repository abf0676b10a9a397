//! Stories: facts go in, incidents come out. One per row of the table of failures (DOMAIN §3), and
//! what must hold for all.

use super::{
    record::{Affected, Incident, Milestone, MilestoneKind, Proof, SubjectKind, Verdict},
    testing::{BLOCK, Story, prefix},
};
use crate::{
    address::PeerAddress,
    change::Change,
    config::ReachMode,
    event::{Fact, TcpState},
    notice::{Notice, RouteLoss, RouteNotice, RouteOwner, RouteStep},
    testing::{NETNS, PEER, bird, millis, outbound, process, socket},
    testing_wire::{Talk, end_of_rib, notification, update},
};

fn has(incident: &Incident, kind: MilestoneKind) -> bool {
    incident
        .milestones
        .iter()
        .any(|milestone| milestone.kind == kind)
}

#[test]
fn sigterm_and_back_loses_routes_and_pods_for_as_long_as_they_were_gone() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.scene.now += 1;
    story.reachable = false;
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
    let mut talk = story.session(2);
    story.pass(4_000);
    talk.says(&mut story.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.reachable = true;
    story.back();
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::ReachabilityLost);
    assert_eq!(incident.proof, Proof::Proven);
    assert!(incident.cause.contains("Cease"), "{}", incident.cause);
    assert_eq!(
        incident.cause_label.as_deref(),
        Some("notification_received")
    );
    assert_eq!(incident.prefixes.lost, 1);
    assert_eq!(incident.prefixes.deleted_by["bird (pid 40)"], 1);
    let gap = incident.route_gap_seconds.unwrap();
    assert!(
        (gap.min - 7.0).abs() < 0.01 && gap.max == Some(gap.min),
        "{gap:?}"
    );
    let span = incident.unreachable_seconds.unwrap();
    assert!((6.7..=7.3).contains(&span.min), "{span:?}");
    assert!((6.7..=7.3).contains(&span.max.unwrap()), "{span:?}");
    for kind in [
        MilestoneKind::SessionDown,
        MilestoneKind::Cause,
        MilestoneKind::FirstRouteGone,
        MilestoneKind::FirstLoss,
        MilestoneKind::SessionUp,
        MilestoneKind::LastRouteBack,
        MilestoneKind::ReachableAgain,
    ] {
        assert!(has(&incident, kind), "{kind:?} {:#?}", incident.milestones);
    }
    let sorted = incident
        .milestones
        .is_sorted_by_key(|milestone| milestone.latest);
    assert!(sorted, "{:#?}", incident.milestones);
    assert_eq!(incident.impact[0].affected, Affected::Yes);
    let totals = story.scene.observer.totals();
    assert_eq!(totals.incidents["n1"][&Verdict::ReachabilityLost], 1);
    assert!(totals.unreachable[&("n1".to_owned(), PEER.to_owned())] > 6.7);
}

#[test]
fn sigkill_with_graceful_restart_is_graceful_and_proven_so() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
    talk.peer_closes(&mut story.scene);
    story.pass(4_600);
    assert!(story.all()[0].closed_at.is_none());
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::Graceful);
    assert_eq!(incident.proof, Proof::Proven);
    assert_eq!(incident.unreachable_seconds.unwrap().max, Some(0.0));
    assert!(
        has(&incident, MilestoneKind::RestartBegan) && has(&incident, MilestoneKind::RestartEnded)
    );
    assert_eq!(incident.subject.identity, "10.0.0.2");
    assert_eq!(incident.impact[0].affected, Affected::No);
}

#[test]
fn without_probes_graceful_is_inferred_and_says_so() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.peer_closes(&mut story.scene);
    story.pass(2_000);
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    assert_eq!(
        (incident.verdict, incident.proof),
        (Verdict::Graceful, Proof::Inferred)
    );
    assert_eq!(incident.unreachable_seconds, None);
    assert!(
        incident
            .evidence
            .missing
            .iter()
            .any(|missing| missing.contains("nothing was probed"))
    );
}

#[test]
fn sigkill_without_graceful_restart_loses_routes_until_it_is_back() {
    let mut story = Story::new(ReachMode::Off);
    let mut talk = Talk::new(outbound(1, PEER));
    talk.establish(&mut story.scene);
    story.pass(5_000);
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(5_000);
    let mut back = outbound(2, PEER);
    back.local.set_port(40_002);
    Talk::new(back).establish(&mut story.scene);
    story.back();
    let incident = story.closed();
    assert_eq!(
        (incident.verdict, incident.proof),
        (Verdict::RoutesLost, Proof::Inferred)
    );
    assert_eq!(incident.cause_label.as_deref(), Some("fin_received"));
}

#[test]
fn a_peer_that_never_returns_loses_its_routes_when_the_restart_time_is_over() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
    talk.peer_closes(&mut story.scene);
    story.pass(121_000);
    story.reachable = false;
    story.refused = Some(113);
    story.gone(RouteLoss::Deleted);
    story.pass(60_000);
    let open = story.all().pop().unwrap();
    assert!(open.closed_at.is_none());
    assert_eq!(open.verdict, Verdict::ReachabilityLost);
    assert!(open.unreachable_seconds.unwrap().max.is_none());
    assert!(
        open.next_check.contains("calico-node"),
        "{}",
        open.next_check
    );
    story.pass(3_600_000);
    assert!(story.all()[0].closed_at.is_none(), "down is not over");
    assert_eq!(story.all().len(), 1);
}

#[test]
fn a_restart_without_dash_r_is_a_micro_gap_to_the_tables_and_a_loss_to_pods() {
    for (reachable, verdict) in [
        (true, Verdict::MicroGap),
        (false, Verdict::ReachabilityLost),
    ] {
        let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
        talk.peer_closes(&mut story.scene);
        story.reachable = reachable;
        story.pass(1_800);
        let mut talk = story.session(2);
        talk.says(&mut story.scene, false, &end_of_rib());
        story.gone(RouteLoss::Deleted);
        story.back();
        story.reachable = true;
        let incident = story.closed();
        assert_eq!(incident.verdict, verdict);
    }
}

#[test]
fn an_echo_lost_in_a_gap_of_50_ms_is_part_of_the_micro_gap() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
    talk.peer_closes(&mut story.scene);
    story.pass(1_790);
    let sent = story.echoes.len();
    story.reachable = false;
    story.gone(RouteLoss::Deleted);
    story.pass(50);
    story.reachable = true;
    assert_eq!(story.most_asked(sent), 1, "the gap held one echo");
    story.back();
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::MicroGap);
    let span = incident.unreachable_seconds.unwrap();
    assert!(
        span.max.is_some_and(|max| (0.05..=0.45).contains(&max)),
        "{span:?}"
    );
    assert!(
        incident.rests_on.contains("for 0.2 s at most"),
        "{}",
        incident.rests_on
    );
    let way = &incident.impact[0];
    assert!(
        way.affected == Affected::Yes && way.reason.contains("moment"),
        "{way:?}"
    );
    assert!(incident.would_change.contains("gap threshold"));
}

#[test]
fn one_echo_lost_by_accident_makes_no_loss_of_a_graceful_restart_and_three_do() {
    for (silent, verdict) in [(150, Verdict::Graceful), (550, Verdict::ReachabilityLost)] {
        let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
        talk.peer_closes(&mut story.scene);
        story.pass(1_050);
        let before = story.echoes.len();
        story.reachable = false;
        story.pass(silent);
        story.reachable = true;
        let lost = story.most_asked(before);
        assert_eq!(lost, if silent < 200 { 1 } else { 3 });
        let mut talk = story.session(2);
        talk.says(&mut story.scene, false, &end_of_rib());
        let incident = story.closed();
        assert_eq!(incident.verdict, verdict, "{lost} lost");
        assert!(incident.unreachable_seconds.unwrap().max > Some(0.1));
    }
}

#[test]
fn a_firewall_is_told_by_the_hold_timer_and_grouped_by_when_the_peer_was_last_heard() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    story.pass(200_000);
    talk.socket.unanswered_retransmits = 9;
    talk.socket.total_retransmits = 9;
    story.scene.info(talk.socket, TcpState::Established);
    talk.says_unheard(&mut story.scene, true, &notification(4, 0, ""));
    talk.we_close(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(5_000);
    let open = story.all().pop().unwrap();
    assert_eq!(
        open.cause_label.as_deref(),
        Some("hold_timer_expired"),
        "{}",
        open.cause
    );
    assert_eq!(open.verdict, Verdict::RoutesLost);
    assert!(
        open.group_keys[0].contains("/600a/"),
        "{:?}",
        open.group_keys
    );
    assert!(open.next_check.contains("179"), "{}", open.next_check);
}

#[test]
fn a_reset_with_routes_exchanged_at_once_has_no_impact_beyond_a_micro_gap() {
    let (mut story, talk) = Story::graceful(ReachMode::Tunnel);
    story.scene.tell(Fact::ResetReceived {
        socket: talk.socket,
    });
    story
        .scene
        .state(talk.socket, TcpState::Established, TcpState::Close);
    story.gone(RouteLoss::Deleted);
    story.back();
    story.pass(1_800);
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::MicroGap);
    assert_eq!(incident.cause_label.as_deref(), Some("rst_received"));
}

#[test]
fn routes_that_become_unreachable_without_a_session_s_end_are_a_loss() {
    for how in [
        RouteLoss::Unreachable,
        RouteLoss::Silent,
        RouteLoss::Blackhole,
    ] {
        let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
        story.reachable = false;
        story.refused = Some(113);
        story.gone(how);
        story.pass(15_000);
        story.reachable = true;
        story.back();
        let incident = story.closed();
        assert_eq!(incident.verdict, Verdict::ReachabilityLost);
        let span = incident.unreachable_seconds.unwrap();
        assert!((14.7..=15.3).contains(&span.max.unwrap()), "{span:?}");
        assert!(
            incident.cause.contains("removed by bird"),
            "{}",
            incident.cause
        );
        assert!(incident.sessions.is_empty());
    }
}

#[test]
fn a_switch_port_that_goes_dark_is_a_blackhole_found_by_the_baseline() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    story.reachable = false;
    story.pass(15_000);
    story.reachable = true;
    let incident = story.closed();
    assert_eq!(
        (incident.verdict, incident.proof),
        (Verdict::Blackholed, Proof::Proven)
    );
    let span = incident.unreachable_seconds.unwrap();
    assert!(span.min <= 15.0 && span.max.unwrap() >= 15.0, "{span:?}");
    assert!(span.max.unwrap() - span.min <= 12.0, "{span:?}");
    assert!(
        incident.cause.contains("stopped answering"),
        "{}",
        incident.cause
    );
}

#[test]
fn one_lost_echo_of_the_baseline_is_no_incident() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    let before = story.echoes.len();
    story.reachable = false;
    while story.echoes.len() == before {
        story.pass(10);
    }
    story.reachable = true;
    story.pass(60_000);
    assert_eq!(story.all(), []);
    assert_eq!(
        story.scene.observer.totals().incidents["n1"][&Verdict::Blackholed],
        0
    );
}

#[test]
fn a_planned_withdrawal_and_an_exchange_of_next_hops_are_no_incidents() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    for _ in 0..50 {
        story.route(
            BLOCK,
            PEER,
            RouteStep::Gone {
                how: RouteLoss::Deleted,
                planned: true,
            },
        );
        story.pass(100);
        story.back();
        story.gone(RouteLoss::Deleted);
        story.scene.now += 3;
        story.back();
        story.pass(500);
    }
    story.pass(10_000);
    assert_eq!(story.all(), []);
}

#[test]
fn a_foreign_delete_names_who_did_it() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    let at = millis(story.scene.now);
    let notice = |step| {
        Notice::Route(RouteNotice {
            netns: NETNS,
            prefix: prefix(BLOCK),
            earliest: at,
            latest: at,
            owner: RouteOwner::Bird,
            more: 0,
            peers: PeerAddress::parse(PEER).into_iter().collect(),
            writer: Some(process(9, "networkd")),
            step,
        })
    };
    story.reachable = false;
    let how = RouteLoss::Deleted;
    story.notice(notice(RouteStep::Gone {
        how,
        planned: false,
    }));
    story.notice(notice(RouteStep::Foreign));
    story.pass(1_900);
    story.reachable = true;
    story.back();
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::ReachabilityLost);
    assert!(incident.cause.contains("networkd"), "{}", incident.cause);
    assert_eq!(incident.prefixes.deleted_by["networkd (pid 9)"], 1);
}

#[test]
fn a_local_speaker_s_end_is_one_incident_however_many_sessions_it_cost() {
    let mut story = Story::new(ReachMode::Off);
    for host in 2..12_u64 {
        let local = format!("10.0.0.1:{}", 40_000 + host);
        let one = socket(host, &local, &format!("10.0.0.{host}:179"));
        story.scene.establish(one);
    }
    story.pass(5_000);
    story.scene.tell(Fact::SpeakerSignalled {
        netns: NETNS,
        speaker: bird(),
        signal: 9,
        sender: Some(process(7, "kubelet")),
    });
    for host in 2..12_u64 {
        let local = format!("10.0.0.1:{}", 40_000 + host);
        let one = socket(host, &local, &format!("10.0.0.{host}:179"));
        story
            .scene
            .state_by(one, TcpState::Established, TcpState::FinWait1, Some(bird()));
    }
    story.scene.now += 2;
    story.speaker_ends(Some(9));
    story.pass(1_000);
    let all = story.all();
    assert_eq!(all.len(), 1, "{all:#?}");
    let only = &all[0];
    assert_eq!(only.subject.kind, SubjectKind::Local);
    assert_eq!(only.sessions.len(), 10);
    assert!(only.cause.contains("kubelet"), "{}", only.cause);
    let opened = story
        .scene
        .changes
        .iter()
        .filter(|record| matches!(record.change, Change::IncidentOpened { .. }));
    assert_eq!(opened.count(), 1);
}

#[test]
fn a_second_restart_within_the_window_joins_and_drops_what_was_stale() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.peer_closes(&mut story.scene);
    story.pass(3_000);
    let mut talk = story.session(2);
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(4_000);
    let mut talk = story.session(3);
    talk.says(&mut story.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.back();
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::RoutesLost);
    assert_eq!(incident.sessions.len(), 2);
    assert!(
        incident.next_check.contains("crash loop"),
        "{}",
        incident.next_check
    );
}

#[test]
fn routes_that_wait_for_bird_s_recovery_keep_the_incident_open() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    story.pass(200_000);
    let open = story.all().pop().unwrap();
    assert!(open.closed_at.is_none());
    assert!(open.next_check.contains("240 s"), "{}", open.next_check);
    // Counted down from the session's way back, when the timer was running already.
    let up = open.sessions[0].up_at.unwrap();
    let left = open.routes_by.unwrap().duration_since(up);
    assert_eq!(left.as_secs(), 240);
    let said = |one: &Milestone| one.what.contains("1 route is not back");
    let told = open.milestones.iter().find(|one| said(one)).unwrap();
    assert_eq!(told.latest.duration_since(up).as_secs(), 5, "{told:?}");
    story.pass(41_000);
    story.back();
    let incident = story.closed();
    assert!(incident.route_gap_seconds.unwrap().min > 240.0);
    assert_eq!(incident.routes_by, None, "nothing is waited for any more");
}

#[test]
fn what_stays_gone_and_stable_is_over_too() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    story.pass(310_000);
    let incident = story.closed();
    assert_eq!(incident.prefixes.still_gone, 1);
    assert_eq!(incident.verdict, Verdict::RoutesLost);
}

#[test]
fn a_node_that_leaves_the_inventory_is_decommissioned() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    story.inventory("n2");
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(2_000);
    let socket = talk.socket;
    story
        .scene
        .state(socket, TcpState::CloseWait, TcpState::LastAck);
    story
        .scene
        .state(socket, TcpState::LastAck, TcpState::Close);
    story.scene.tell(Fact::Inventory { peers: Vec::new() });
    story.pass(120_000);
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::Decommissioned);
    assert_eq!(incident.subject.name.as_deref(), Some("n2"));
}

#[test]
fn an_incident_outlives_the_agent_and_names_the_absence() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.peer_closes(&mut story.scene);
    story.pass(2_000);
    let stored = story.all();
    let mut later = Story::new(ReachMode::Off);
    later.scene.establish(outbound(1, PEER));
    later.scene.tell(Fact::IncidentsRestored {
        node: "n1".to_owned(),
        incidents: stored.clone(),
        absent_since: None,
    });
    let incident = later.closed();
    assert_eq!(incident.id, stored[0].id);
    assert_eq!(incident.absences.len(), 1);
    assert!(!incident.evidence.complete);
    assert_eq!(incident.verdict, Verdict::Graceful);
}

#[test]
fn lost_evidence_and_an_operator_s_note_are_in_the_record() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.peer_closes(&mut story.scene);
    story.pass(1_000);
    story.scene.tell(Fact::Lost {
        stage: crate::event::LossStage::Ring,
        count: 3,
    });
    let id = story.all()[0].id.clone();
    let note = "planned".to_owned();
    story.scene.tell(Fact::IncidentNote { id, note });
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    assert_eq!(incident.evidence.lost["ring"], 3);
    assert!(!incident.evidence.complete);
    assert_eq!(incident.note.as_deref(), Some("planned"));
}

#[test]
fn the_incident_s_json_reads_back_as_it_was() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
    let incident = story.all().pop().unwrap();
    let text = serde_json::to_string(&incident).unwrap();
    assert_eq!(serde_json::from_str::<Incident>(&text).unwrap(), incident);
}

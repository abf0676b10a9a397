//! What an address that was only guessed at proves by its silence: pods come and go.

use std::net::IpAddr;

use super::{
    record::{Incident, MilestoneKind, Proof, Verdict},
    testing::{BLOCK, Story},
};
use crate::{
    config::ReachMode,
    event::forwarding::NeighbourState,
    notice::{RouteLoss, RouteStep},
    testing::PEER,
    testing_wire::{Talk, end_of_rib, keepalive, notification, update},
    tests_fib::block,
};

const ANNOUNCED: [u8; 5] = [26, 10, 244, 2, 0];

fn ip(host: u8) -> IpAddr {
    [10, 244, 2, host].into()
}

/// Only these addresses of the block are there.
fn inhabited(hosts: &[u8]) -> (Story, Talk) {
    let mut story = Story::new(ReachMode::Tunnel);
    for host in (0..3).filter(|host| !hosts.contains(host)) {
        story.absent.insert(ip(host));
    }
    let talk = story.begin();
    story.pass(60_000);
    (story, talk)
}

/// Time passes in which the peer says that it lives.
fn live(story: &mut Story, talk: &mut Talk, span: u64) {
    for _ in 0..span / 20_000 {
        story.pass(20_000);
        talk.says(&mut story.scene, false, &keepalive());
    }
}

fn withdraw(story: &mut Story) {
    let how = RouteLoss::Deleted;
    story.route(BLOCK, PEER, RouteStep::Gone { how, planned: true });
}

fn remarks(incident: &Incident) -> Vec<&str> {
    let remarks = { incident.milestones.iter() }.filter(|one| one.kind == MilestoneKind::Remark);
    remarks.map(|one| one.what.as_str()).collect()
}

#[test]
fn a_lone_pod_that_is_deleted_is_no_blackhole_and_not_missed_again() {
    for others in [&[][..], &[0, 1]] {
        let (mut story, mut talk) = inhabited(&[others, &[2]].concat());
        story.absent.insert(ip(2));
        live(&mut story, &mut talk, 600_000);
        assert_eq!(story.all(), [], "others: {others:?}");
    }
}

#[test]
fn two_addresses_that_fall_silent_are_a_blackhole_while_it_lasts() {
    let (mut story, _talk) = inhabited(&[1, 2]);
    story.absent.extend([ip(1), ip(2)]);
    story.pass(10_000);
    let open = story.all();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert_eq!(open[0].verdict, Verdict::Blackholed);
    // Nothing fell: however long that is, it is not stable.
    story.pass(900_000);
    assert!(story.all()[0].closed_at.is_none());
}

#[test]
fn a_lone_address_that_answers_again_was_there_all_the_time() {
    let (mut story, _talk) = inhabited(&[2]);
    story.absent.insert(ip(2));
    story.pass(30_000);
    assert_eq!(story.all(), [], "it may be gone");
    story.absent.remove(&ip(2));
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::Blackholed);
    let span = incident.unreachable_seconds.unwrap();
    let max = span.max.unwrap();
    assert!(span.min <= 30.0 && max >= 30.0, "{span:?}");
    assert!(
        max - span.min <= 5.5,
        "no wider than the baseline: {span:?}"
    );
}

#[test]
fn a_lone_address_counts_where_its_node_does_not_answer_on_its_link_either() {
    let (mut story, _talk) = inhabited(&[2]);
    story.absent.insert(ip(2));
    story.pass(8_000);
    assert_eq!(story.all(), []);
    story.neighbour(NeighbourState::Failed);
    story.pass(1_000);
    let open = story.all();
    assert_eq!(open[0].verdict, Verdict::Blackholed);
    let said = [&open[0].cause, &open[0].rests_on, &open[0].next_check];
    assert!(said[0].contains("does not answer on its link"), "{said:?}");
    assert!(said[1].contains("link-layer address"), "{said:?}");
    assert!(said[2].contains("ARP"), "{said:?}");
    // It answered for it again, and was silent before: the record keeps that.
    story.neighbour(NeighbourState::Usable);
    story.absent.clear();
    let incident = story.closed();
    assert!(incident.rests_on.contains("link-layer"), "{incident:#?}");
}

#[test]
fn a_pod_deleted_during_a_restart_does_not_keep_its_incident_open() {
    let (mut story, mut talk) = inhabited(&[1, 2]);
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.absent.extend([ip(1), ip(2)]);
    story.pass(5_000);
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &update(&[], &ANNOUNCED));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.back();
    story.absent.remove(&ip(1));
    story.pass(20_000);
    assert!(story.all()[0].closed_at.is_none(), "it may come back");
    story.pass(60_000);
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::ReachabilityLost, "of the other");
    let max = incident.unreachable_seconds.unwrap().max.unwrap();
    assert!((5.0..=5.6).contains(&max), "{max}");
    let remarks = remarks(&incident);
    assert!(remarks.iter().any(|what| what.contains("10.244.2.2 alone")));
}

#[test]
fn what_is_withdrawn_with_nothing_alive_in_it_is_planned() {
    let (mut story, mut talk) = inhabited(&[]);
    withdraw(&mut story);
    live(&mut story, &mut talk, 120_000);
    assert_eq!(story.all(), []);
    // A pod that went with its block is as good as none.
    let (mut story, mut talk) = inhabited(&[2]);
    story.absent.insert(ip(2));
    withdraw(&mut story);
    live(&mut story, &mut talk, 120_000);
    assert_eq!(story.all(), []);
    // One that is still reached, by another route, suffers nothing.
    let (mut story, mut talk) = inhabited(&[2]);
    withdraw(&mut story);
    live(&mut story, &mut talk, 120_000);
    assert_eq!(story.all(), []);
}

#[test]
fn a_block_withdrawn_from_under_a_living_pod_is_a_loss() {
    // The UPDATE may be read later than the route was seen to go.
    for (alive, late) in [
        (&[2][..], None),
        (&[1, 2], None),
        (&[2], Some(300)),
        (&[1, 2], Some(300)),
    ] {
        let (mut story, _talk) = inhabited(alive);
        let absent = story.absent.clone();
        story.absent.extend([ip(1), ip(2)]);
        if let Some(late) = late {
            story.gone(RouteLoss::Deleted);
            story.pass(late);
        }
        withdraw(&mut story);
        story.pass(20_000);
        // Two are no accident; one may have gone with its block, unless it is back.
        assert_eq!(story.all().len(), alive.len() - 1);
        story.absent = absent;
        story.back();
        let incident = story.closed();
        assert_eq!(
            (incident.verdict, incident.proof),
            (Verdict::ReachabilityLost, Proof::Proven)
        );
        assert!(
            incident.cause.contains("withdrew 10.244.2.0/26"),
            "{}",
            incident.cause
        );
        assert!(incident.cause.contains("still alive"), "{}", incident.cause);
        assert!(incident.sessions.is_empty());
        assert_eq!(incident.prefixes.lost, 1);
        let span = incident.unreachable_seconds.unwrap();
        let max = span.max.unwrap();
        assert!(span.min >= 19.5 && (20.0..=20.6).contains(&max), "{span:?}");
        assert!(incident.next_check.contains("announce"), "{incident:#?}");
    }
}

#[test]
fn a_withdrawal_that_the_tables_show_is_over_when_they_have_the_route_again() {
    let Story { scene, .. } = Story::new(ReachMode::Tunnel);
    let mut story = Story::of(scene.following(&[]));
    for host in [0, 1] {
        story.absent.insert(ip(host));
    }
    let mut talk = story.session(1);
    talk.says(&mut story.scene, false, &update(&[], &ANNOUNCED));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.scene.add(&block());
    story.pass(60_000);
    talk.says(&mut story.scene, false, &update(&ANNOUNCED, &[]));
    story.reachable = false;
    story.scene.del(&block());
    story.pass(6_000);
    assert_eq!(story.all(), []);
    talk.says(&mut story.scene, false, &update(&[], &ANNOUNCED));
    story.scene.add(&block());
    story.reachable = true;
    story.pass(20_000);
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::ReachabilityLost, "{incident:#?}");
    assert_eq!(incident.prefixes.still_gone, 0);
    let gap = incident.route_gap_seconds.unwrap();
    assert!(gap.min <= 6.0 && gap.max >= Some(6.0), "{gap:?}");
}

#[test]
fn what_was_withdrawn_does_not_count_when_the_session_falls_later() {
    let (mut story, mut talk) = inhabited(&[2]);
    withdraw(&mut story);
    story.absent.insert(ip(2));
    story.pass(10_000);
    talk.peer_closes(&mut story.scene);
    story.pass(1_000);
    let open = story.all();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].prefixes.lost, 0, "{:#?}", open[0].prefixes);
    assert!(open[0].cause.contains("FIN"), "{}", open[0].cause);
}

#[test]
fn targets_are_asked_at_once_and_quickly_when_routes_go_late_or_come_back() {
    let (mut story, mut talk) = inhabited(&[1, 2]);
    talk.peer_closes(&mut story.scene);
    story.pass(121_570);
    let before = story.echoes.len();
    story.gone(RouteLoss::Deleted);
    let at = story.scene.now;
    assert_eq!(story.echoes.get(before).map(|(at, _)| *at), Some(at));
    story.reachable = false;
    story.pass(5_000);
    assert!(story.most_asked(before) >= 25, "every 200 ms from then on");
    story.pass(100_300);
    let before = story.echoes.len();
    story.reachable = true;
    story.back();
    let at = story.scene.now;
    assert_eq!(story.echoes.get(before).map(|(at, _)| *at), Some(at));
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    let span = incident.unreachable_seconds.unwrap();
    let max = span.max.unwrap();
    assert!(span.min <= 105.3 && max >= 105.3, "{span:?}");
    assert!(max - span.min <= 2.2, "{span:?}");
}

#[test]
fn a_loss_whose_event_fires_the_echoes_begins_with_it_not_with_the_baseline_s_last_answer() {
    let (mut story, mut talk) = inhabited(&[1, 2]);
    // As long as may be after the baseline asked.
    let before = story.echoes.len();
    while story.echoes.len() == before {
        story.pass(10);
    }
    story.pass(4_900);
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.reachable = false;
    story.gone(RouteLoss::Deleted);
    story.pass(7_000);
    story.reachable = true;
    story.back();
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    let span = incident.unreachable_seconds.unwrap();
    let max = span.max.unwrap();
    assert!(span.min >= 6.7 && max <= 7.3, "{span:?}");
}

#[test]
fn gaps_shorter_than_the_threshold_are_not_lost_prefixes() {
    let (mut story, mut talk) = inhabited(&[]);
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(50);
    story.back();
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::MicroGap);
    let prefixes = &incident.prefixes;
    assert_eq!((prefixes.lost, prefixes.brief), (0, 1), "{prefixes:?}");
    assert_eq!(prefixes.deleted_by["bird (pid 40)"], 1);
    // Once it is gone for longer it is lost, and only that.
    let (mut story, mut talk) = inhabited(&[]);
    talk.peer_closes(&mut story.scene);
    for gap in [50, 3_000, 20] {
        story.gone(RouteLoss::Deleted);
        story.pass(gap);
        story.back();
        story.pass(500);
    }
    let prefixes = &story.all()[0].prefixes;
    assert_eq!((prefixes.lost, prefixes.brief), (1, 0), "{prefixes:?}");
}

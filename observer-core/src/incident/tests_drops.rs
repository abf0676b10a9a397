//! Packets that the kernel drops: what is watched for them, and what they prove.

use super::{
    MAX_WATCHED,
    record::{Affected, Incident, MilestoneKind, Proof, Verdict},
    testing::{BLOCK, Story, prefix},
};
use crate::{
    change::Request,
    config::ReachMode,
    event::{Fact, drops::DropReason},
    notice::{RouteLoss, RouteStep},
    testing::{NETNS, PEER, millis},
    testing_wire::{Talk, end_of_rib, notification, update},
};

/// A session with one block, nothing probed.
fn quiet() -> (Story, Talk) {
    Story::graceful(ReachMode::Off)
}

/// Packets to the block, dropped until now from so many milliseconds ago.
fn dropped(story: &mut Story, reason: DropReason, packets: u64, ago: u64) {
    let (first, last) = (millis(story.scene.now - ago), millis(story.scene.now));
    story.scene.tell(Fact::PacketsDropped {
        netns: NETNS,
        prefix: prefix(BLOCK),
        reason,
        packets,
        first,
        last,
    });
}

/// The session is back with its block, and the incident over.
fn recovered(story: &mut Story) -> Incident {
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.back();
    story.closed()
}

fn losses(incident: &Incident) -> Vec<(MilestoneKind, &str)> {
    let of_loss = [MilestoneKind::FirstLoss, MilestoneKind::LastLoss];
    let all = incident.milestones.iter();
    all.filter(|milestone| of_loss.contains(&milestone.kind))
        .map(|milestone| (milestone.kind, milestone.what.as_str()))
        .collect()
}

#[test]
fn nothing_is_watched_until_something_is_wrong_nor_after_it_is_over() {
    let (mut story, mut talk) = quiet();
    assert_eq!(story.watched, []);
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.pass(10);
    assert_eq!(story.watched, [prefix(BLOCK)], "what the peer announced");
    story.gone(RouteLoss::Deleted);
    story.route(
        "10.244.9.0/26",
        PEER,
        RouteStep::Gone {
            how: RouteLoss::Deleted,
            planned: false,
        },
    );
    assert_eq!(story.watched.len(), 2, "and each route that goes");
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.back();
    let back = RouteStep::Back {
        gap: std::time::Duration::ZERO,
    };
    story.route("10.244.9.0/26", PEER, back);
    story.closed();
    assert_eq!(story.watched, []);
}

#[test]
fn dropped_packets_prove_a_loss_where_nobody_probes() {
    let (mut story, mut talk) = quiet();
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(2_000);
    dropped(&mut story, DropReason::NoRoute, 10, 1_900);
    story.pass(4_000);
    dropped(&mut story, DropReason::NoRoute, 30, 4_000);
    story.pass(1_000);
    let incident = recovered(&mut story);
    assert_eq!(
        (incident.verdict, incident.proof),
        (Verdict::ReachabilityLost, Proof::Proven)
    );
    assert!(
        incident.rests_on.contains("40 packets that this node"),
        "{}",
        incident.rests_on
    );
    assert_eq!(
        losses(&incident),
        [
            (
                MilestoneKind::FirstLoss,
                "first packet to 10.244.2.0/26 dropped: no route"
            ),
            (MilestoneKind::LastLoss, "last of 40 packets dropped")
        ]
    );
    assert_eq!(incident.dropped.len(), 1);
    assert_eq!(incident.dropped[0].packets, 40);
    let span = incident.unreachable_seconds.unwrap();
    assert!((5.89..=5.91).contains(&span.min), "{span:?}");
    assert!((6.9..=7.1).contains(&span.max.unwrap()), "{span:?}");
    assert_eq!(incident.impact[0].affected, Affected::Yes);
    assert_eq!(incident.impact[1].affected, Affected::Unknown);
}

#[test]
fn tcp_that_goes_unanswered_is_told_and_proves_nothing() {
    let (mut story, mut talk) = quiet();
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(4_000);
    dropped(&mut story, DropReason::SentAgain, 12, 3_000);
    dropped(&mut story, DropReason::GivenUp, 1, 0);
    story.pass(1_000);
    let incident = recovered(&mut story);
    assert_eq!(
        (incident.verdict, incident.proof),
        (Verdict::RoutesLost, Proof::Inferred)
    );
    assert_eq!(incident.dropped, []);
    let told = incident.unanswered.iter();
    let told: Vec<_> = told.map(|row| (row.reason.as_str(), row.packets)).collect();
    assert_eq!(
        told,
        [("TCP sent it again", 12), ("TCP gave the connection up", 1)]
    );
    assert!(
        incident.rests_on.contains("unanswered 13 times"),
        "{}",
        incident.rests_on
    );
    assert_eq!(losses(&incident), []);
    let said = incident.milestones.iter();
    let mut said = said.map(|milestone| milestone.what.as_str());
    assert!(said.any(|what| what.contains("13 times in all")));
}

#[test]
fn a_packet_dropped_in_a_micro_gap_makes_no_more_of_it() {
    let (mut story, mut talk) = quiet();
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(100);
    dropped(&mut story, DropReason::NoRoute, 5, 90);
    story.back();
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
    talk.says(&mut story.scene, false, &end_of_rib());
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::MicroGap);
    assert_eq!(incident.dropped[0].packets, 5, "told all the same");
    assert_eq!(losses(&incident).len(), 2);
}

#[test]
fn a_drop_without_a_reason_counts_where_the_route_itself_drops() {
    for (how, verdict) in [
        (RouteLoss::Unreachable, Verdict::ReachabilityLost),
        (RouteLoss::Blackhole, Verdict::ReachabilityLost),
        (RouteLoss::Deleted, Verdict::RoutesLost),
    ] {
        let (mut story, _talk) = quiet();
        story.gone(how);
        story.pass(2_000);
        dropped(&mut story, DropReason::Unspecified, 7, 1_500);
        story.back();
        // Of a time when it did not any more: no evidence.
        story.pass(1_500);
        dropped(&mut story, DropReason::Unspecified, 100, 100);
        let incident = story.closed();
        assert_eq!(incident.verdict, verdict);
        let told: u64 = incident.dropped.iter().map(|row| row.packets).sum();
        assert_eq!(told, if how == RouteLoss::Deleted { 0 } else { 7 });
    }
}

#[test]
fn a_next_hop_that_does_not_answer_is_a_blackhole_to_healthy_tables() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    story.reachable = false;
    while story.watched.is_empty() {
        story.pass(100);
        assert!(story.scene.now < 60_000, "the baseline sees nothing");
    }
    story.pass(3_000);
    dropped(&mut story, DropReason::Neighbour, 9, 3_000);
    story.pass(2_000);
    story.reachable = true;
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::Blackholed);
    assert!(incident.dropped[0].reason.contains("ARP"));
}

#[test]
fn as_many_are_watched_as_there_is_room_for() {
    let (mut story, mut talk) = quiet();
    talk.peer_closes(&mut story.scene);
    for number in 0..3_000_u32 {
        let at = std::net::Ipv4Addr::from(0x0af5_0000 + number * 64);
        story.route(
            &format!("{at}/26"),
            PEER,
            RouteStep::Gone {
                how: RouteLoss::Deleted,
                planned: false,
            },
        );
    }
    assert!((1..=MAX_WATCHED).contains(&story.watched.len()));
}

#[test]
fn what_was_never_asked_for_changes_nothing() {
    let (mut story, _talk) = quiet();
    dropped(&mut story, DropReason::NoRoute, 1_000, 5_000);
    story.pass(10_000);
    assert_eq!(story.all(), []);
    let asks = story.scene.requests.iter();
    assert!(
        !asks
            .into_iter()
            .any(|ask| matches!(ask, Request::Watch { .. }))
    );
}

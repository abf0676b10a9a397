//! Stories that an agent's restart cuts in two.

use super::{
    record::{Incident, MilestoneKind, Verdict},
    testing::Story,
};
use crate::{
    change::Change,
    config::ReachMode,
    event::{Fact, TcpState},
    notice::RouteLoss,
    peer::SavedPeer,
    terms::SavedTerms,
    testing::{PEER, Scene, carrying, outbound, saved},
    testing_wire::{end_of_rib, notification},
    tests_fib::{BLOCK, block},
};

/// The next run of the agent, a minute later: its peers are remembered, its session stood before it.
fn next_run(mut scene: Scene, peers: Vec<SavedPeer>) -> Story {
    scene.now = 100_000;
    // The first dump is over: who was up would count as having fallen before it.
    let peers = peers.into_iter().map(|peer| SavedPeer {
        was_up: false,
        ..peer
    });
    let peers = peers.collect();
    scene.tell(Fact::PeersRestored {
        node: "n1".to_owned(),
        peers,
    });
    scene.info(carrying(outbound(1, PEER), 5_000), TcpState::Established);
    scene.pass(1_000);
    Story::of(scene)
}

#[test]
fn a_fall_right_after_the_agent_s_restart_is_judged_by_what_was_agreed_before() {
    let (story, _talk) = Story::graceful(ReachMode::Off);
    let mut remembered = story.scene.observer.save().remove(0).1;
    let terms = remembered[0].terms.clone().unwrap();
    let kept = terms.peer_restart.clone().unwrap();
    assert_eq!((kept.restart_secs, kept.notification), (120, false));
    assert_eq!(terms.prefixes, Some(1));
    let text = serde_json::to_string(&remembered).unwrap();
    let back: Vec<SavedPeer> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, remembered, "it reads back as it was");
    for known in [true, false] {
        if !known {
            remembered[0].terms = None;
        }
        let mut later = next_run(Scene::started(), remembered.clone());
        let (from, to) = (TcpState::Established, TcpState::CloseWait);
        later.scene.state(outbound(1, PEER), from, to);
        later.pass(2_000);
        let began = { later.scene.changes.iter() }.any(|record| {
            matches!(
                record.change,
                Change::GrStarted {
                    restart_secs: 120,
                    ..
                }
            )
        });
        assert_eq!(began, known);
        let mut talk = later.session(2);
        talk.says(&mut later.scene, false, &end_of_rib());
        let incident = later.closed();
        let verdict = if known {
            Verdict::Graceful
        } else {
            Verdict::NoImpact
        };
        assert_eq!(incident.verdict, verdict);
        let identity = if known { "10.0.0.2" } else { PEER };
        assert_eq!(incident.subject.identity, identity);
    }
}

#[test]
fn a_file_of_an_older_agent_is_understood() {
    let old = r#"{"address":"10.0.0.2","known_by":"dialled","last_heard_at":null}"#;
    let peer: SavedPeer = serde_json::from_str(old).unwrap();
    assert_eq!(peer.terms, None);
}

/// An incident that was open when the agent went, its route gone.
fn stored() -> Vec<Incident> {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
    let stored = story.all();
    assert_eq!(stored[0].prefixes.still_gone, 1);
    stored
}

fn resume(story: &mut Story, incidents: Vec<Incident>) {
    story.scene.tell(Fact::IncidentsRestored {
        node: "n1".to_owned(),
        incidents,
        absent_since: None,
    });
}

#[test]
fn a_resumed_incident_waits_for_the_routes_that_were_still_gone() {
    let peers = vec![saved(PEER, SavedTerms::default())];
    let mut later = next_run(Scene::with_routes(&[]), peers);
    resume(&mut later, stored());
    later.pass(60_000);
    let open = later.all().pop().unwrap();
    assert!(open.closed_at.is_none(), "its route is gone: {open:#?}");
    assert_eq!((open.prefixes.lost, open.prefixes.still_gone), (1, 1));
    later.scene.add(&block());
    let over = later.closed();
    assert_eq!(over.verdict, Verdict::RoutesLost);
    assert_eq!((over.prefixes.lost, over.prefixes.still_gone), (1, 0));
    assert_eq!(over.prefixes.listed[0].prefix, BLOCK);
    let gap = over.prefixes.listed[0].gap_seconds.unwrap();
    assert!(gap > 60.0, "{gap}");
    let has = |kind| over.milestones.iter().any(|found| found.kind == kind);
    assert!(has(MilestoneKind::FirstRouteGone) && has(MilestoneKind::LastRouteBack));
}

#[test]
fn a_route_that_came_back_while_nobody_observed_is_not_waited_for() {
    let peers = vec![saved(PEER, SavedTerms::default())];
    let mut later = next_run(Scene::with_routes(&[block()]), peers);
    resume(&mut later, stored());
    let over = later.closed();
    assert_eq!((over.prefixes.lost, over.prefixes.still_gone), (1, 0));
    let back = { over.milestones.iter() }
        .find(|found| found.kind == MilestoneKind::LastRouteBack)
        .unwrap();
    assert!(back.latest > back.earliest, "nobody saw when: {back:?}");
    assert_eq!(over.absences.len(), 1);
}

//! Stories of route reflectors: what comes by one of them is one event when it goes.

use super::{
    record::{Incident, SubjectKind, Verdict},
    testing::{BLOCK, Story, prefix},
};
use crate::{
    address::PeerAddress,
    config::ReachMode,
    notice::{Notice, RouteLoss, RouteNotice, RouteOwner, RouteStep},
    testing::{NETNS, PEER, bird, millis},
    testing_wire::{Talk, end_of_rib, notification, reflected},
};

/// Nodes behind the reflector.
const CLIENTS: u8 = 6;

/// A session with a reflector, by which the routes of its clients come.
fn session() -> (Story, Talk) {
    let mut story = Story::new(ReachMode::Off);
    let mut talk = story.session(1);
    announce(&mut story, &mut talk);
    story.pass(10_000);
    (story, talk)
}

fn announce(story: &mut Story, talk: &mut Talk) {
    for client in 0..CLIENTS {
        let update = reflected(&[26, 10, 244, 10 + client, 0]);
        talk.says(&mut story.scene, false, &update);
    }
    talk.says(&mut story.scene, false, &end_of_rib());
}

/// What the kernel's routes say of a client's block; of nobody's, once its announcement is forgotten.
fn block(story: &mut Story, client: u8, hangs: bool, step: RouteStep) {
    let at = millis(story.scene.now);
    let peers = PeerAddress::parse(PEER).into_iter();
    story.notice(Notice::Route(RouteNotice {
        netns: NETNS,
        prefix: prefix(&format!("10.244.{}.0/26", 10 + client)),
        earliest: at,
        latest: at,
        owner: RouteOwner::Bird,
        more: 0,
        peers: peers.filter(|_| hangs).collect(),
        writer: Some(bird()),
        step,
    }));
}

fn only(story: &mut Story) -> Incident {
    let incident = story.closed();
    assert_eq!(incident.subject.kind, SubjectKind::RouteReflector);
    assert_eq!(incident.sessions.len(), 1);
    incident
}

#[test]
fn a_reflector_that_is_stopped_takes_all_its_clients_routes_along_in_one_incident() {
    let (mut story, mut talk) = session();
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    let how = RouteLoss::Deleted;
    for client in 0..CLIENTS {
        let planned = false;
        // The last ones are removed when what was announced is long forgotten.
        block(
            &mut story,
            client,
            client < 3,
            RouteStep::Gone { how, planned },
        );
        story.pass(400);
    }
    story.pass(3_000);
    let mut talk = story.session(2);
    announce(&mut story, &mut talk);
    for client in 0..CLIENTS {
        let gap = std::time::Duration::ZERO;
        block(&mut story, client, true, RouteStep::Back { gap });
    }
    let incident = only(&mut story);
    assert_eq!(incident.verdict, Verdict::RoutesLost);
    assert_eq!(incident.prefixes.lost, u64::from(CLIENTS));
    assert!(incident.cause.contains("Cease"), "{}", incident.cause);
    let there = &incident.impact[0].traffic;
    assert!(there.contains("routes that 10.0.0.2 reflects"), "{there}");
}

#[test]
fn a_reflector_that_is_killed_and_comes_back_costs_none() {
    let (mut story, mut talk) = session();
    talk.peer_closes(&mut story.scene);
    story.pass(4_000);
    let mut talk = story.session(2);
    announce(&mut story, &mut talk);
    let incident = only(&mut story);
    assert_eq!(incident.verdict, Verdict::Graceful);
    assert_eq!(incident.prefixes.lost, 0);
}

/// The other reflector withdraws what the one that ended had announced of its own, and may be heard before
/// this node's session with that one ends.
#[test]
fn what_another_reflector_withdraws_of_a_peer_that_fell_is_lost_whichever_is_first() {
    for withdrawn_first in [true, false] {
        let (mut story, mut talk) = session();
        announce(&mut story, &mut talk);
        let planned = RouteStep::Gone {
            how: RouteLoss::Deleted,
            planned: true,
        };
        let fall = |story: &mut Story, talk: &mut Talk| {
            talk.says(&mut story.scene, false, &notification(6, 2, ""));
            talk.peer_closes(&mut story.scene);
        };
        if withdrawn_first {
            story.route(BLOCK, PEER, planned);
            fall(&mut story, &mut talk);
        } else {
            fall(&mut story, &mut talk);
            story.route(BLOCK, PEER, planned);
        }
        story.pass(5_000);
        let open = story.all().pop().unwrap();
        assert_eq!(open.verdict, Verdict::RoutesLost, "{withdrawn_first}");
        assert_eq!(open.prefixes.lost, 1);
    }
}

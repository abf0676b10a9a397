//! What holds however much happens at once: bounded probing, each incident closed exactly once, and a
//! replay that tells the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::testing::{BLOCK, Story};
use crate::{
    change::{Change, ChangeRecord},
    config::{CoreConfig, ReachConfig, ReachMode},
    event::{Socket, SocketId, TcpState},
    incident::record::SubjectKind,
    notice::{RouteLoss, RouteStep},
    replay::replay,
    testing::{PEER, socket},
    testing_wire::{Talk, notification},
};

/// A large full mesh.
const PEERS: u64 = 1_000;

fn to(host: u64) -> Socket {
    let local = format!("10.0.0.1:{}", 20_000 + host);
    let (high, low) = (host % PEERS / 250, host % 250 + 1);
    socket(host, &local, &format!("10.1.{high}.{low}:179"))
}

#[test]
fn many_peers_lost_at_once_cost_bounded_echoes_and_none_is_forgotten() {
    let mut story = Story::with(ReachConfig {
        mode: ReachMode::Tunnel,
        ..ReachConfig::default()
    });
    for host in 0..PEERS {
        story.scene.establish(to(host));
    }
    story.pass(5_000);
    let before = story.echoes.len();
    let falling = story.scene.changes.len();
    // A microsecond-exact kernel tells them one after the other, within 100 ms.
    for host in 0..PEERS {
        story
            .scene
            .state(to(host), TcpState::Established, TcpState::CloseWait);
        if host % 10 == 9 {
            story.pass(1);
        }
    }
    story.pass(3_000);
    let all = story.all();
    assert_eq!(all.len(), 1, "one event is one incident");
    let incident = &all[0];
    assert_eq!(incident.subject.kind, SubjectKind::Local);
    assert!(
        incident.cause.starts_with("1000 sessions fell at once"),
        "{}",
        incident.cause
    );
    assert!(
        incident.sessions.len() <= 64 && incident.milestones.len() <= 96,
        "the record is bounded"
    );
    let told = &story.scene.changes[falling..];
    let opened = told
        .iter()
        .filter(|record| matches!(record.change, Change::IncidentOpened { .. }));
    assert_eq!(opened.count(), 1);
    // All of them: it is over only once every one is back.
    for host in 1..PEERS {
        story.scene.establish(to(PEERS + host));
    }
    story.pass(20_000);
    assert!(story.all()[0].closed_at.is_none(), "one is still down");
    story.scene.establish(to(PEERS));
    story.pass(20_000);
    let over = story.all();
    assert!(over.len() == 1 && over[0].closed_at.is_some());
    let mut by_second: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, _) in story.echoes.iter().skip(before) {
        *by_second.entry(at / 1_000).or_default() += 1;
    }
    assert!(by_second.values().all(|sent| *sent <= 400), "{by_second:?}");
}

fn of(changes: &[ChangeRecord]) -> (Vec<String>, Vec<String>) {
    let mut opened = Vec::new();
    let mut closed = Vec::new();
    for record in changes {
        if let Change::IncidentOpened { incident } = &record.change {
            opened.push(incident.id.clone());
        } else if let Change::IncidentClosed { incident } = &record.change {
            closed.push(incident.id.clone());
        }
    }
    (opened, closed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn incidents_open_and_close_once_and_replay_alike(
        steps in prop::collection::vec((0_u8..8, 0_u64..4_000), 1..40)
    ) {
        let mut story = Story::new(ReachMode::Off);
        let mut sockets = Vec::new();
        let mut next = 1;
        for (step, pause) in steps {
            match step {
                0 | 1 => {
                    let one = to(next);
                    next += 1;
                    story.scene.establish(one);
                    sockets.push(one);
                }
                2 | 3 => {
                    if let Some(one) = sockets.pop() {
                        story.scene.state(one, TcpState::Established, TcpState::Close);
                    }
                }
                4 => {
                    if let Some(one) = sockets.first() {
                        story.scene.tell(crate::event::Fact::ResetReceived { socket: *one });
                    }
                }
                _ => story.scene.pass(pause),
            }
        }
        // Until everything that can end has ended; who is down stays down.
        story.pass(400_000);
        let (opened, closed) = of(&story.scene.changes);
        for id in &opened {
            prop_assert_eq!(opened.iter().filter(|other| *other == id).count(), 1);
            let closings = closed.iter().filter(|other| *other == id).count();
            prop_assert!(closings <= 1);
            let known = story.all().into_iter().find(|incident| incident.id == *id);
            prop_assert!(known.is_some(), "lost: {}", id);
            let over = known.is_some_and(|known| known.closed_at.is_some());
            prop_assert_eq!(over, closings == 1);
        }
        prop_assert!(closed.iter().all(|id| opened.contains(id)));
        let again = replay(CoreConfig::default(), story.scene.told.clone());
        prop_assert_eq!(again, story.scene.changes);
    }
}

#[test]
fn half_an_hour_of_healthy_churn_is_no_incident() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    for round in 0_u64..1_800 {
        let how = RouteLoss::Deleted;
        let planned = round.is_multiple_of(2);
        story.route(BLOCK, PEER, RouteStep::Gone { how, planned });
        story.scene.now += 1 + round % 3;
        story.back();
        story.pass(997);
    }
    assert_eq!(story.all(), []);
}

#[test]
fn only_what_the_network_refuses_is_loss_not_what_this_node_held_back() {
    const EPERM: i32 = 1;
    const EMSGSIZE: i32 = 90;
    const ENETUNREACH: i32 = 101;
    const ENOBUFS: i32 = 105;
    const EHOSTUNREACH: i32 = 113;
    for (errno, evidence) in [
        (EPERM, false),
        (EMSGSIZE, false),
        (ENOBUFS, false),
        (ENETUNREACH, true),
        (EHOSTUNREACH, true),
    ] {
        let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
        (story.reachable, story.refused) = (false, Some(errno));
        talk.peer_closes(&mut story.scene);
        story.pass(3_000);
        story.reachable = true;
        story.pass(3_000);
        let incident = story.all().pop().unwrap();
        let lost = incident
            .unreachable_seconds
            .is_some_and(|span| span.min > 0.0);
        assert_eq!(lost, evidence, "{errno}: {:#?}", incident.targets);
        if errno == ENOBUFS {
            let target = &incident.targets[0];
            assert!(
                target.answered >= 3,
                "held back is not given up: {target:?}"
            );
            assert_eq!(target.sent, target.answered, "what never left is not sent");
        }
    }
}

/// The peers of a small mesh, all reached.
fn small() -> (Story, Vec<Talk>) {
    let mut story = Story::new(ReachMode::Off);
    let mut talks = Vec::new();
    for host in [2_u64, 3] {
        let local = format!("10.0.0.1:{}", 30_000 + host);
        let mut talk = Talk::new(socket(host, &local, &format!("10.0.0.{host}:179")));
        talk.establish(&mut story.scene);
        talks.push(talk);
    }
    story.pass(10_000);
    (story, talks)
}

fn overlaps(story: &Story) -> Vec<Vec<String>> {
    let told = story.scene.changes.iter();
    told.filter_map(|record| {
        if let Change::ConcurrentRestarts { nodes, .. } = &record.change {
            Some(nodes.clone())
        } else {
            None
        }
    })
    .collect()
}

#[test]
fn the_loser_of_a_connection_collision_is_no_restart_that_overlaps() {
    for collides in [true, false] {
        let (mut story, mut talks) = small();
        talks[0].says(&mut story.scene, false, &notification(6, 2, ""));
        talks[0].peer_closes(&mut story.scene);
        story.pass(4_000);
        // Of two connections the other peer closes the one.
        let local = "10.0.0.1:30555";
        let mut winner = Talk::new(socket(33, local, "10.0.0.3:179"));
        if collides {
            winner.connect(&mut story.scene);
        }
        talks[1].peer_closes(&mut story.scene);
        story.pass(3_000);
        let told = overlaps(&story);
        assert_eq!(told.len(), usize::from(!collides), "{told:?}");
    }
}

#[test]
fn restarts_that_overlap_are_said_to_and_a_rolling_restart_does_not() {
    for (pause, back_first, expected) in [(4_000, false, 1), (4_000, true, 0), (0, false, 1)] {
        let (mut story, mut talks) = small();
        for talk in &mut talks {
            talk.says(&mut story.scene, false, &notification(6, 2, ""));
            talk.peer_closes(&mut story.scene);
            story.pass(pause);
            if back_first {
                story.scene.establish(Socket {
                    id: SocketId(talk.socket.id.0 + 10),
                    ..talk.socket
                });
                story.pass(10_000);
            }
        }
        story.pass(5_000);
        let told = overlaps(&story);
        assert_eq!(told.len(), expected, "{pause} {back_first}: {told:?}");
        let counted = &story.scene.observer.totals().concurrent_restarts;
        let counted: u64 = counted.values().sum();
        assert_eq!(usize::try_from(counted), Ok(expected));
        if expected == 1 {
            assert_eq!(told[0], ["10.0.0.2", "10.0.0.3"]);
            let all = story.all();
            assert_eq!(all.len(), 2, "each is its own: {all:#?}");
            for incident in &all {
                let said = incident.milestones.iter();
                let mut said = said.map(|milestone| milestone.what.as_str());
                assert!(
                    said.any(|what| what.contains("restarts overlap")),
                    "{incident:#?}"
                );
                assert_eq!(incident.related.len(), 1);
            }
        }
    }
}

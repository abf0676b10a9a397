//! Stories of what runs out: the restart time that routes are kept for, and BIRD's wait for peers that are
//! away.

use super::{
    record::{MilestoneKind, Verdict},
    testing::Story,
};
use crate::{
    config::ReachMode,
    notice::RouteLoss,
    testing::Scene,
    testing_wire::{end_of_rib, update},
    tests_fib::block,
};

const ANNOUNCED: [u8; 5] = [26, 10, 244, 2, 0];

#[test]
fn a_peer_that_is_back_after_its_restart_time_says_why_its_routes_were_lost() {
    let (mut story, mut talk) = Story::graceful(ReachMode::Off);
    talk.peer_closes(&mut story.scene);
    story.pass(119_000);
    assert_eq!(story.all()[0].verdict, Verdict::Graceful, "so far");
    story.pass(2_000);
    story.gone(RouteLoss::Deleted);
    story.pass(5_000);
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &update(&[], &ANNOUNCED));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.back();
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::RoutesLost);
    assert_eq!(incident.cause_label.as_deref(), Some("fin_received"));
    let ended = { incident.milestones.iter() }
        .find(|found| found.kind == MilestoneKind::RestartEnded)
        .unwrap();
    assert!(ended.what.contains("ran out"), "{ended:?}");
    let next = &incident.next_check;
    assert!(next.contains("longer than the restart time"), "{next}");
}

#[test]
fn a_bird_that_waits_for_another_peer_has_sessions_and_no_routes_for_240_s() {
    let mut story = Story::of(Scene::with_routes(&[]));
    let mut talk = story.session(1);
    talk.says(&mut story.scene, false, &update(&[], &ANNOUNCED));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.pass(20_000);
    let open = story.all().pop().unwrap();
    assert!(
        open.cause.contains("none of its 1 routes programmed"),
        "{}",
        open.cause
    );
    assert_eq!(open.verdict, Verdict::RoutesLost);
    assert!(open.next_check.contains("240 s"), "{}", open.next_check);
    story.pass(220_000);
    assert!(story.all()[0].closed_at.is_none());
    story.scene.add(&block());
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::RoutesLost, "it was missing");
    assert!(incident.sessions.is_empty());
}

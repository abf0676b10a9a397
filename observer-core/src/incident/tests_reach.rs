//! Probes are counted, each once, by what became of them.

use std::collections::BTreeMap;

use super::testing::Story;
use crate::{
    config::ReachMode,
    event::{Fact, NetnsId},
    notice::RouteLoss,
    reach::{ProbeResult, ReachTotals},
    testing::NETNS,
};

fn totals(story: &Story) -> ReachTotals {
    story.scene.observer.totals().reach["n1"].clone()
}

#[test]
fn each_probe_is_counted_once_by_what_became_of_it() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    let calm = totals(&story);
    assert_eq!(calm.probes.len(), ProbeResult::ALL.len());
    let answered = calm.probes[&ProbeResult::Answered];
    assert!(answered > 0 && calm.probes.values().sum::<u64>() == answered);
    assert_eq!(calm.rtt.counts.iter().sum::<u64>(), answered);
    // Lost in silence, then refused, then answered again.
    story.reachable = false;
    story.gone(RouteLoss::Deleted);
    story.pass(5_000);
    story.refused = Some(113);
    story.pass(5_000);
    story.reachable = true;
    story.back();
    story.pass(20_000);
    let all = totals(&story);
    for result in [
        ProbeResult::Answered,
        ProbeResult::Unreachable,
        ProbeResult::Lost,
    ] {
        assert!(all.probes[&result] > calm.probes[&result], "{result:?}");
    }
    let out = u64::try_from(story.echoes.len()).unwrap();
    assert_eq!(all.probes.values().sum::<u64>(), out, "{:?}", all.probes);
}

#[test]
fn what_this_node_held_back_is_told_apart_and_answers_to_nothing_do_not_count() {
    let (mut story, _talk) = Story::graceful(ReachMode::Tunnel);
    story.reachable = false;
    story.refused = Some(105);
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
    let before = totals(&story).probes;
    assert!(before[&ProbeResult::Unsent] > 0);
    let target = "10.244.2.2".parse().unwrap();
    for netns in [NETNS, NetnsId(77)] {
        story.scene.tell(Fact::EchoReplied {
            netns,
            token: u64::MAX,
            target,
            rtt_nanos: 1,
        });
    }
    let same: BTreeMap<ProbeResult, u64> = totals(&story).probes;
    assert_eq!(same, before);
}

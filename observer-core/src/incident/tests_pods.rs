//! Whose lost prefixes were, and which pods lay behind them.

use super::{record::Incident, testing::*};
use crate::{
    config::{CoreConfig, ReachMode},
    event::{
        Fact,
        cluster::{Block, ClusterFact, ClusterKind, ClusterObject, Pod},
    },
    notice::RouteLoss,
    testing_wire::{Talk, end_of_rib, notification, update},
};

fn story(pods: bool) -> (Story, Talk) {
    let mut story = Story::configured(CoreConfig {
        pods,
        ..CoreConfig::default()
    });
    let block = Block {
        name: "n2-block".to_owned(),
        cidr: prefix(BLOCK),
        node: "n2".to_owned(),
    };
    let cluster = ClusterFact::Listed {
        of: ClusterKind::Blocks,
        objects: vec![ClusterObject::Block(block)],
    };
    story.scene.tell(Fact::Cluster { cluster });
    let talk = story.begin();
    (story, talk)
}

/// The session falls and its block with it, for as long as it takes to be told.
fn lose(story: &mut Story, talk: &mut Talk) {
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
}

fn regain(story: &mut Story) -> Incident {
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
    talk.says(&mut story.scene, false, &end_of_rib());
    story.back();
    story.closed()
}

fn pod(name: &str, address: &str, workload: Option<&str>) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        node: "n2".to_owned(),
        addresses: vec![address.parse().unwrap()],
        workload: workload.map(str::to_owned),
    }
}

fn answer(story: &mut Story, missing: Option<&str>) {
    let (incident, nodes) = story.lists.pop().unwrap();
    assert_eq!(nodes, ["n2"]);
    assert!(story.lists.is_empty(), "asked once");
    story.scene.tell(Fact::PodsListed {
        incident,
        pods: vec![
            pod("web-1", "10.244.2.7", Some("Deployment/web")),
            pod("web-2", "10.244.2.8", Some("Deployment/web")),
            pod("alone", "10.244.2.9", None),
            pod("elsewhere", "10.244.9.9", Some("Deployment/other")),
        ],
        missing: missing.map(str::to_owned),
    });
}

#[test]
fn a_lost_prefix_names_its_node_and_the_pods_and_workloads_behind_it() {
    let (mut story, mut talk) = story(true);
    lose(&mut story, &mut talk);
    answer(&mut story, None);
    let incident = regain(&mut story);
    assert_eq!(incident.prefixes.listed[0].node.as_deref(), Some("n2"));
    assert_eq!(incident.prefixes.by_node["n2"], 1);
    let pods = incident.pods.unwrap();
    assert_eq!(pods.count, 3);
    assert_eq!(pods.workloads["shop/Deployment/web"], 2);
    assert_eq!(pods.workloads["shop/alone"], 1);
    assert_eq!(pods.listed[0].pod, "shop/web-1");
    assert_eq!(pods.missing, None);
    assert!(story.lists.is_empty(), "asked once");
}

/// What this node lost, its own pods could not reach, whatever their addresses are.
#[test]
fn where_the_node_itself_lost_routes_its_own_pods_are_named_too() {
    let (mut story, mut talk) = story(true);
    story.speaker_ends(None);
    talk.we_close(&mut story.scene);
    story.gone(RouteLoss::Deleted);
    story.pass(3_000);
    let (incident, nodes) = story.lists.pop().unwrap();
    assert_eq!(nodes, ["n1", "n2"]);
    let own = Pod {
        node: "n1".to_owned(),
        ..pod("own", "10.244.1.5", None)
    };
    story.scene.tell(Fact::PodsListed {
        incident,
        pods: vec![own, pod("elsewhere", "10.244.9.9", None)],
        missing: None,
    });
    story.pass(100);
    let pods = story.all().pop().unwrap().pods.unwrap();
    assert_eq!((pods.count, pods.listed[0].pod.as_str()), (1, "shop/own"));
}

#[test]
fn an_answer_that_comes_when_all_is_over_still_counts() {
    let (mut story, mut talk) = story(true);
    lose(&mut story, &mut talk);
    let incident = regain(&mut story);
    assert_eq!(incident.pods, None);
    answer(&mut story, Some("the API server did not answer in time"));
    let incident = story.all().pop().unwrap();
    let pods = incident.pods.unwrap();
    assert_eq!(pods.count, 4);
    assert!(pods.missing.unwrap().contains("in time"));
}

#[test]
fn nobody_is_asked_where_that_is_not_allowed_or_nothing_was_lost() {
    let (mut without, mut talk) = story(false);
    lose(&mut without, &mut talk);
    let incident = regain(&mut without);
    assert_eq!(without.lists, []);
    assert_eq!(incident.prefixes.by_node["n2"], 1);
    let (mut graceful, mut talk) = story(true);
    talk.peer_closes(&mut graceful.scene);
    graceful.pass(3_000);
    let mut talk = graceful.session(2);
    talk.says(
        &mut graceful.scene,
        false,
        &update(&[], &[26, 10, 244, 2, 0]),
    );
    talk.says(&mut graceful.scene, false, &end_of_rib());
    graceful.closed();
    assert_eq!(graceful.lists, []);
    assert_eq!(CoreConfig::default().reach.mode, ReachMode::Off);
}

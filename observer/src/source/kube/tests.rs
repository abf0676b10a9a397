//! The cluster followed over a real connection to an API server that does what API servers do.

use std::{collections::BTreeMap, time::Duration};

use kube::Config;
use observer_core::{cluster::Cluster, event::circumstances::Circumstances};
use observer_tests::kube_api::{KubeApi, resources};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn pace() -> Pace {
    Pace {
        spread: Duration::ZERO,
        answer: Duration::from_millis(500),
        watch: Duration::from_mins(1),
        first: Duration::from_millis(10),
        longest: Duration::from_millis(80),
        refused: Duration::from_millis(60),
    }
}

/// A server, whoever follows it, and what they said.
struct Scene {
    api: KubeApi,
    health: Health,
    facts: mpsc::Receiver<ClusterFact>,
    told: Vec<ClusterFact>,
    cluster: Cluster,
    _tasks: JoinSet<()>,
}

impl Scene {
    fn start(prepare: impl FnOnce(&KubeApi)) -> Self {
        Self::paced(pace(), prepare)
    }

    fn paced(pace: Pace, prepare: impl FnOnce(&KubeApi)) -> Self {
        let api = KubeApi::start().unwrap();
        prepare(&api);
        let client = client(Config::new(api.url().parse().unwrap())).unwrap();
        let health = Health::default();
        let mut tasks = JoinSet::new();
        let facts = follow_at(&client, &health, pace, &mut tasks);
        Self {
            api,
            health,
            facts,
            told: Vec::new(),
            cluster: Cluster::default(),
            _tasks: tasks,
        }
    }

    /// Takes facts in until something holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: not so; sources {:?}, told {:?}",
                self.health.sources(),
                self.told
            );
            let next = timeout(Duration::from_millis(10), self.facts.recv()).await;
            if let Ok(Some(fact)) = next {
                self.cluster.take(&fact);
                self.told.push(fact);
            }
        }
    }

    fn nodes(&self) -> Vec<String> {
        let standing = self.cluster.standing();
        let objects = standing.iter().filter_map(|fact| {
            if let ClusterFact::Listed { of, objects } = fact {
                (*of == ClusterKind::Nodes).then_some(objects)
            } else {
                None
            }
        });
        let names = objects.flatten().map(|object| object.name().to_owned());
        names.collect()
    }

    /// Why each kind cannot be read.
    fn reasons(&self) -> BTreeMap<String, Option<String>> {
        let sources = self.health.sources().into_iter();
        sources.map(|source| (source.name, source.reason)).collect()
    }

    fn is_failing(&self, kind: ClusterKind, words: &str) -> bool {
        let reasons = self.reasons();
        let reason = reasons.get(kind.name()).cloned().flatten();
        reason.is_some_and(|reason| reason.contains(words))
    }

    fn all_live(&self) -> bool {
        let ages = self.health.cluster_ages();
        ages.len() == ClusterKind::ALL.len() && ages.values().all(Duration::is_zero)
    }

    /// How often the nodes were listed.
    fn lists(&self) -> usize {
        let requests = self.api.requests();
        let of_nodes = requests.iter().filter(|line| line.contains("/nodes"));
        of_nodes.filter(|line| !line.contains("watch")).count()
    }
}

fn node(address: &str) -> serde_json::Value {
    json!({
        "metadata": { "annotations": { "projectcalico.org/IPv4Address": address } },
        "status": { "nodeInfo": "never read" },
    })
}

fn two_nodes(api: &KubeApi) {
    api.put("nodes", "n1", node("10.0.0.1/24"));
    api.put("nodes", "n2", node("10.0.0.2/24"));
}

#[tokio::test]
async fn all_kinds_are_listed_in_pages_and_followed_live() {
    let mut scene = Scene::start(|api| {
        api.page(1);
        two_nodes(api);
        api.put(
            "bgpconfigurations",
            "default",
            json!({ "spec": { "asNumber": 64_600 } }),
        );
        api.put(
            "bgppeers",
            "tor",
            json!({ "spec": { "peerIP": "10.0.0.254" } }),
        );
        api.put(
            "ippools",
            "pool",
            json!({ "spec": { "cidr": "10.244.0.0/16", "vxlanMode": "Never" } }),
        );
        let block = json!({ "cidr": "10.244.2.0/26", "node": "n2", "state": "confirmed" });
        api.put("blockaffinities", "n2-block", json!({ "spec": block }));
    });
    scene
        .until("complete", |scene| scene.cluster.is_complete())
        .await;
    scene.until("live", Scene::all_live).await;
    assert_eq!(scene.nodes(), ["n1", "n2"]);
    assert_eq!(scene.cluster.standing().len(), 5);
    assert!(scene.reasons().values().all(Option::is_none));

    scene.api.put("nodes", "n3", node("10.0.0.3/24"));
    scene
        .until("a new node", |scene| scene.nodes().len() == 3)
        .await;
    let told = scene.told.len();
    // What changes about a node all the time is no news; the next one is.
    for _ in 0..5 {
        scene.api.put("nodes", "n3", node("10.0.0.3/24"));
    }
    scene.api.delete("nodes", "n1");
    scene
        .until("a node left", |scene| scene.nodes().len() == 2)
        .await;
    assert_eq!(scene.told.len(), told + 1, "{:?}", scene.told);
    let requests = scene.api.requests();
    let of_nodes = requests.iter().filter(|line| line.contains("/nodes"));
    assert!(of_nodes.clone().count() > 1);
    assert!({ of_nodes }.all(|line| line.ends_with("(metadata)")));
    let calico = "/apis/crd.projectcalico.org/v1/";
    let expected = [
        "bgpconfigurations",
        "bgppeers",
        "blockaffinities",
        "ippools",
    ];
    let mut expected: Vec<String> = expected.map(|name| format!("{calico}{name}")).into();
    expected.insert(0, "/api/v1/nodes".to_owned());
    let asked: Vec<String> = resources(&requests).into_iter().collect();
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_history_that_was_forgotten_is_made_up_for_by_a_list() {
    let mut scene = Scene::start(two_nodes);
    scene.until("live", Scene::all_live).await;
    let lists = scene.lists();
    scene.api.down(true);
    scene.api.delete("nodes", "n2");
    scene.api.put("nodes", "n3", node("10.0.0.3/24"));
    scene.api.expire();
    scene.api.down(false);
    let caught_up = |scene: &Scene| scene.nodes() == ["n1", "n3"];
    scene.until("what was missed", caught_up).await;
    scene.until("live", Scene::all_live).await;
    assert!(scene.lists() > lists);
}

#[tokio::test]
async fn a_broken_connection_goes_on_where_it_broke() {
    let mut scene = Scene::start(two_nodes);
    scene.until("live", Scene::all_live).await;
    let lists = scene.lists();
    for round in 3..8 {
        scene.api.cut();
        scene
            .api
            .put("nodes", &format!("n{round}"), node("10.0.0.9/24"));
        let more = |scene: &Scene| scene.nodes().len() == round;
        scene.until("what was missed", more).await;
    }
    scene.until("live", Scene::all_live).await;
    assert_eq!(scene.lists(), lists);
}

#[tokio::test]
async fn what_is_forbidden_or_absent_is_said_and_taken_up_when_it_is_there() {
    let mut scene = Scene::start(|api| {
        two_nodes(api);
        api.refuse("ippools", Some(403));
        api.refuse("blockaffinities", Some(404));
    });
    let unavailable = |scene: &Scene, of| {
        let fact = ClusterFact::Unavailable { of };
        scene.told.contains(&fact)
    };
    scene
        .until("both are said", |scene| {
            unavailable(scene, ClusterKind::IpPools) && unavailable(scene, ClusterKind::Blocks)
        })
        .await;
    scene
        .until("complete", |scene| scene.cluster.is_complete())
        .await;
    assert!(scene.is_failing(ClusterKind::IpPools, "forbidden: the test says 403"));
    assert!(scene.is_failing(ClusterKind::Blocks, "the cluster has no blockaffinities"));
    assert_eq!(
        scene.health.cluster_ages().len(),
        3,
        "nothing is known of two"
    );
    scene.api.refuse("ippools", None);
    scene.api.refuse("blockaffinities", None);
    scene.until("live", Scene::all_live).await;
    // A right that is taken away leaves what is known, and its age.
    scene.api.refuse("nodes", Some(403));
    scene.api.cut();
    let forbidden = |scene: &Scene| scene.is_failing(ClusterKind::Nodes, "forbidden");
    scene.until("forbidden", forbidden).await;
    assert_eq!(scene.nodes(), ["n1", "n2"]);
    assert!(!scene.health.cluster_ages()[&ClusterKind::Nodes].is_zero());
}

#[tokio::test]
async fn a_server_that_is_away_leaves_what_is_known_and_its_age() {
    let mut scene = Scene::start(two_nodes);
    scene.until("live", Scene::all_live).await;
    scene.api.down(true);
    let stale = |scene: &Scene| {
        let ages = scene.health.cluster_ages();
        ages.len() == 5 && ages.values().all(|age| *age > Duration::from_millis(100))
    };
    scene.until("stale", stale).await;
    assert_eq!(scene.nodes(), ["n1", "n2"]);
    assert!(scene.reasons().values().all(Option::is_some));
    scene.api.put("nodes", "n3", node("10.0.0.3/24"));
    scene.api.down(false);
    scene.until("back", |scene| scene.nodes().len() == 3).await;
    scene.until("live", Scene::all_live).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_asked_again() {
    let mut scene = Scene::start(|api| {
        two_nodes(api);
        api.stall(true);
    });
    let silent = |scene: &Scene| scene.is_failing(ClusterKind::Nodes, "did not answer in time");
    scene.until("silence is said", silent).await;
    assert!(scene.told.is_empty());
    scene.api.stall(false);
    scene
        .until("complete", |scene| scene.cluster.is_complete())
        .await;
    scene.until("live", Scene::all_live).await;
    assert_eq!(scene.nodes(), ["n1", "n2"]);
}

#[tokio::test]
async fn a_thousand_nodes_are_listed_in_pages_and_each_change_is_told() {
    const NODES: usize = 1_000;
    let name = |number: usize| format!("node-{number:04}");
    let address = |number: usize| {
        let host = u32::try_from(number).unwrap();
        format!("{}/16", std::net::Ipv4Addr::from_bits(0x0a00_0001 + host))
    };
    let begun = Instant::now();
    let mut scene = Scene::start(|api| {
        api.page(500);
        for number in 0..NODES {
            api.put("nodes", &name(number), node(&address(number)));
            let cidr = format!("10.{}.{}.0/26", 64 + number / 256, number % 256);
            let spec = json!({ "cidr": cidr, "node": name(number), "state": "confirmed" });
            api.put("blockaffinities", &name(number), json!({ "spec": spec }));
        }
    });
    scene.until("live", Scene::all_live).await;
    scene
        .until("complete", |scene| scene.cluster.is_complete())
        .await;
    let listed = begun.elapsed();
    assert_eq!(scene.nodes().len(), NODES);
    let told = scene.told.len();
    for number in 0..NODES {
        // Every other one says the same as before.
        let number = number - number % 2;
        scene
            .api
            .put("nodes", &name(number), node(&address(number + 2_000)));
    }
    let half = |scene: &Scene| scene.told.len() >= told + NODES / 2;
    scene.until("every change", half).await;
    assert_eq!(scene.told.len(), told + NODES / 2);
    println!(
        "1,000 nodes and blocks: {listed:?} to list, {:?} with 1,000 changes",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_server_that_comes_up_and_forbids_at_first_is_asked_again_soon() {
    let patient = Pace {
        refused: Duration::from_hours(1),
        ..pace()
    };
    let mut scene = Scene::paced(patient, |api| {
        api.put("nodes", "n1", json!({ "metadata": {} }));
        api.refuse("nodes", Some(403));
        api.refuse("bgppeers", Some(404));
    });
    let refused = |of: ClusterKind| {
        move |scene: &Scene| scene.told.contains(&ClusterFact::Unavailable { of })
    };
    scene.until("forbidden", refused(ClusterKind::Nodes)).await;
    scene.until("absent", refused(ClusterKind::BgpPeers)).await;
    scene.api.refuse("nodes", None);
    scene.api.refuse("bgppeers", None);
    let listed = |kind: ClusterKind| {
        move |scene: &Scene| {
            let is = |fact: &&ClusterFact| fact.kind() == kind;
            let mut all = scene.told.iter().filter(is);
            all.any(|fact| matches!(fact, ClusterFact::Listed { .. }))
        }
    };
    scene.until("listed", listed(ClusterKind::Nodes)).await;
    scene
        .until("listed, too", listed(ClusterKind::BgpPeers))
        .await;
}

/// The answer to one question about a node.
async fn circumstances(api: &KubeApi, node: &str, pods: bool) -> Circumstances {
    let client = client(Config::new(api.url().parse().unwrap())).unwrap();
    circumstances_of(&client, node, pods).await
}

#[tokio::test]
async fn a_node_and_its_speaker_are_asked_for_by_name_and_nothing_else_is() {
    let api = KubeApi::start().unwrap();
    let ready = |status: &str| json!([{ "type": "Ready", "status": status, "reason": "R" }]);
    for (name, status) in [("n1", "True"), ("n2", "Unknown")] {
        let status = json!({ "conditions": ready(status) });
        api.put("nodes", name, json!({ "metadata": {}, "status": status }));
        for (pod, label) in [("calico-node", "calico-node"), ("other", "other")] {
            let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
            let status = json!({ "containerStatuses": [{
                "name": "calico-node", "image": "", "imageID": "", "ready": false,
                "restartCount": 7, "state": waiting,
            }] });
            let meta = json!({ "namespace": "kube-system", "labels": {
                "k8s-app": label, "controller-revision-hash": "abc",
            } });
            let spec = json!({ "nodeName": name, "containers": [] });
            let pod = format!("{pod}-{name}");
            let object = json!({ "metadata": meta, "spec": spec, "status": status });
            api.put("pods", &pod, object);
        }
    }
    let told = circumstances(&api, "n2", true).await;
    let node = told.node.unwrap();
    assert_eq!(
        (node.name.as_str(), node.ready, node.cordoned),
        ("n2", Some(false), false)
    );
    let [pod] = told.speakers.as_slice() else {
        panic!("{:?}", told.speakers);
    };
    assert_eq!(pod.pod, "kube-system/calico-node-n2");
    assert_eq!((pod.restarts, pod.ready), (7, false));
    assert_eq!(pod.waiting.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(pod.revision.as_deref(), Some("abc"));
    assert_eq!(told.missing, None);
    let asked = api.requests();
    let cheap =
        |line: &String| line.contains("fieldSelector") && line.contains("resourceVersion=0");
    assert!(asked.iter().all(cheap), "{asked:?}");

    // Without the right to list pods none is asked for; without any, the answer says so.
    let told = circumstances(&api, "n2", false).await;
    assert!(
        told.speakers.is_empty() && told.missing.is_none(),
        "{told:?}"
    );
    assert_eq!(
        api.requests()
            .iter()
            .filter(|line| line.contains("/pods"))
            .count(),
        1
    );
    api.refuse("nodes", Some(403));
    let told = circumstances(&api, "n2", false).await;
    assert!(told.missing.unwrap().contains("the node could not be read"));
    let told = circumstances(&api, "n9", false).await;
    assert_eq!(told.node, None);
}

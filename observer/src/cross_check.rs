//! What calico-node says of sessions against what the agent says. A difference is told and counted, and
//! changes nothing: the agent saw the kernel, calico-node asked BIRD some seconds ago.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::kube::Client;
use clap::ValueEnum;
use observer_core::peer::PeerView;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    health::{Health, SourceStatus},
    keeper::Keeper,
    source::kube::{self, NodeStatus},
    terminal::plain,
};

/// How often they are compared.
pub const EVERY: Duration = Duration::from_mins(1);
/// What calico-node saw longer ago says nothing about now.
const FRESH: Duration = Duration::from_mins(3);
/// A session that changed this shortly before calico-node looked may have changed after.
const ABOUT: Duration = Duration::from_secs(15);

/// Whether it is done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatusCheck {
    /// Where there is a CalicoNodeStatus of this node.
    On,
    /// Never.
    Off,
}

/// One comparison.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compared {
    /// Peers of which both said something.
    pub peers: u64,
    /// Peers on which they differ, with what each says.
    pub differ: BTreeMap<IpAddr, String>,
}

/// The latest comparison of each node; none of a node of which calico-node says nothing now.
#[derive(Clone, Debug, Default)]
pub struct Comparisons(Arc<Mutex<BTreeMap<String, Compared>>>);

impl Comparisons {
    /// By node.
    pub fn shown(&self) -> BTreeMap<String, Compared> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, now: BTreeMap<String, Compared>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// Holds `status` against the peers of its node; none where it is too old.
fn compare(status: &NodeStatus, peers: &[&PeerView], now: jiff::Timestamp) -> Option<Compared> {
    let age = Duration::try_from(now.duration_since(status.updated)).unwrap_or_default();
    if age > FRESH {
        return None;
    }
    let mut compared = Compared::default();
    for (address, state) in &status.peers {
        let known = { peers.iter() }.find(|peer| ip(peer) == Some(*address));
        let words = match known {
            Some(peer) if changed_since(peer, status.updated) => continue,
            Some(peer) if peer.up == (state == "Established") => None,
            Some(peer) => Some(peer.state.name()),
            None => Some("nothing: it knows no such peer"),
        };
        compared.peers += 1;
        if let Some(here) = words {
            let state = plain(state);
            let told = format!("calico-node says {state}, the agent {here}");
            compared.differ.insert(*address, told);
        }
    }
    Some(compared)
}

fn ip(peer: &PeerView) -> Option<IpAddr> {
    peer.peer.split('%').next()?.parse().ok()
}

fn changed_since(peer: &PeerView, looked: jiff::Timestamp) -> bool {
    // An inherited session is as old as the agent, at least.
    let since = peer.since.filter(|_| !peer.inherited);
    since.is_some_and(|since| {
        since
            .saturating_add(ABOUT)
            .is_ok_and(|until| until > looked)
    })
}

/// Compares now and then, until the agent stops.
pub async fn run(
    client: Client,
    keeper: Keeper,
    health: Health,
    comparisons: Comparisons,
    every: Duration,
) {
    loop {
        let listed = kube::node_statuses(&client).await;
        let reason = listed.as_ref().err().cloned();
        if health.set(SourceStatus::node_status(reason.clone()))
            && let Some(why) = reason
        {
            warn!("CalicoNodeStatus cannot be read: {why}");
        }
        let Ok(snapshot) = keeper.snapshot().await else {
            return;
        };
        let mut now: BTreeMap<String, Compared> = BTreeMap::new();
        for status in listed.unwrap_or_default() {
            let of_node = |peer: &&PeerView| peer.node == status.node;
            let peers: Vec<&PeerView> = snapshot.peers.iter().filter(of_node).collect();
            // Those of other nodes are their own agents' concern.
            if !peers.is_empty()
                && let Some(compared) = compare(&status, &peers, jiff::Timestamp::now())
            {
                now.insert(status.node, compared);
            }
        }
        tell(&comparisons.shown(), &now);
        comparisons.set(now);
        sleep(every).await;
    }
}

/// What is new since the comparison before.
fn tell(before: &BTreeMap<String, Compared>, now: &BTreeMap<String, Compared>) {
    let nodes: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let none = BTreeMap::new();
    for node in nodes {
        let of = |all: &'_ BTreeMap<String, Compared>| all.get(node).map(|of| of.differ.clone());
        let (was, is) = (of(before).unwrap_or_default(), of(now));
        for (peer, words) in is.as_ref().unwrap_or(&none) {
            if was.get(peer) != Some(words) {
                warn!(node, %peer, "{words}");
            }
        }
        for peer in was.keys() {
            if is.as_ref().is_some_and(|is| !is.contains_key(peer)) {
                info!(node, %peer, "calico-node and the agent agree again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ::kube::Config;
    use observer_tests::kube_api::KubeApi;
    use serde_json::json;

    use super::*;
    use crate::{
        sink::api::tests::agent,
        testing::{down, noon, up},
    };

    fn status(peers: &[(&str, &str)]) -> NodeStatus {
        let peer =
            |(address, state): &(&str, &str)| (address.parse().unwrap(), (*state).to_owned());
        NodeStatus {
            node: "a".to_owned(),
            updated: noon(),
            peers: peers.iter().map(peer).collect(),
        }
    }

    fn differ(compared: &Compared) -> Vec<String> {
        let all = compared.differ.iter();
        all.map(|(peer, words)| format!("{peer}: {words}"))
            .collect()
    }

    #[test]
    fn only_what_both_can_know_of_the_same_time_is_a_difference() {
        let (mut one, mut two, mut three) = (
            up("a", "10.0.0.2"),
            down("a", "10.0.0.3"),
            up("a", "10.0.0.4"),
        );
        let long_ago = noon() - Duration::from_hours(1);
        for peer in [&mut one, &mut two, &mut three] {
            peer.since = Some(long_ago);
            peer.inherited = false;
        }
        let said = status(&[
            ("10.0.0.2", "Established"),
            ("10.0.0.3", "Established"),
            ("10.0.0.4", "OpenSent"),
            ("10.0.0.9", "Active"),
        ]);
        let compared = |one: &PeerView, two: &PeerView, three: &PeerView, later| {
            compare(
                &said,
                &[one, two, three],
                noon() + Duration::from_secs(later),
            )
        };
        let found = compared(&one, &two, &three, 30).unwrap();
        let idle = two.state.name();
        assert_eq!(found.peers, 4);
        assert_eq!(
            differ(&found),
            [
                format!("10.0.0.3: calico-node says Established, the agent {idle}"),
                "10.0.0.4: calico-node says OpenSent, the agent Established".to_owned(),
                "10.0.0.9: calico-node says Active, the agent nothing: it knows no such peer"
                    .to_owned(),
            ]
        );
        // What changed about when calico-node looked, or since, is no difference.
        two.since = Some(noon() - Duration::from_secs(5));
        three.since = Some(noon() + Duration::from_secs(5));
        let found = compared(&one, &two, &three, 30).unwrap();
        assert_eq!((found.peers, found.differ.len()), (2, 1));
        assert_eq!(compared(&one, &two, &three, 300), None, "too old");
    }

    #[tokio::test]
    async fn a_difference_is_there_as_long_as_calico_says_so() {
        let api = KubeApi::start().unwrap();
        let put = |state: &str| {
            let peers = json!([{ "peerIP": "10.0.0.2", "state": state, "type": "NodeMesh" }]);
            api.put(
                "caliconodestatuses",
                "anything",
                json!({
                    "spec": { "node": "a", "classes": ["BGP"] },
                    "status": { "lastUpdated": jiff::Timestamp::now(), "bgp": { "peersV4": peers } },
                }),
            );
        };
        put("Established");
        let client = Client::try_from(Config::new(api.url().parse().unwrap())).unwrap();
        let (answers, _queue) = agent();
        let comparisons = Comparisons::default();
        let every = Duration::from_millis(20);
        let (keeper, health) = (answers.keeper.clone(), answers.health.clone());
        let task = tokio::spawn(run(client, keeper, health, comparisons.clone(), every));
        let until = async |wanted: Option<usize>| {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            loop {
                let found = comparisons.shown().get("a").map(|one| one.differ.len());
                if found == wanted {
                    return;
                }
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "{found:?}, not {wanted:?}"
                );
                sleep(every).await;
            }
        };
        until(Some(1)).await;
        put("Active");
        until(Some(0)).await;
        api.refuse("caliconodestatuses", Some(403));
        until(None).await;
        let sources = answers.health.sources();
        assert!(
            sources
                .iter()
                .any(|one| !one.running && one.name == "caliconodestatuses")
        );
        task.abort();
    }
}

//! The cluster as Kubernetes' API describes it: nodes by their metadata, and Calico's objects where it
//! has any. It reads and watches, and writes nothing; what follows is the core's.

mod circumstances;
mod follow;
mod node_status;
mod objects;
mod once;
mod pods;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta},
};
use observer_core::event::cluster::{ClusterFact, ClusterKind, ClusterObject};
use tokio::{sync::mpsc, task::JoinSet};

use self::follow::{Follower, Pace};
pub use self::{
    circumstances::circumstances_of,
    follow::chain,
    node_status::{NodeStatus, node_statuses},
    pods::pods_of,
};
use crate::health::{Health, SourceStatus};

/// Facts that can wait for the core.
const QUEUE: usize = 64;

/// Set by the kubelet in every container.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Whether this process runs in a pod, which has an account with the API.
pub fn in_cluster() -> bool {
    std::env::var_os(IN_CLUSTER).is_some_and(|host| !host.is_empty())
}

/// A client for the API: the pod's account, or what `$KUBECONFIG` or `~/.kube/config` says.
pub async fn connect() -> Result<Client> {
    let config = if in_cluster() {
        Config::incluster().context("the pod has no account with the API")?
    } else {
        Config::infer()
            .await
            .context("no way to the API is configured")?
    };
    client(config)
}

fn client(mut config: Config) -> Result<Client> {
    config.connect_timeout = Some(Pace::default().answer);
    Client::try_from(config).context("cannot speak to the API")
}

/// Follows the cluster; the tasks end with the set, or when the receiver is dropped.
pub fn follow(
    client: &Client,
    health: &Health,
    tasks: &mut JoinSet<()>,
) -> mpsc::Receiver<ClusterFact> {
    follow_at(client, health, Pace::default(), tasks)
}

fn follow_at(
    client: &Client,
    health: &Health,
    pace: Pace,
    tasks: &mut JoinSet<()>,
) -> mpsc::Receiver<ClusterFact> {
    let (facts, out) = mpsc::channel(QUEUE);
    let nodes = Follower {
        api: Api::<PartialObjectMeta<Node>>::all(client.clone()),
        kind: ClusterKind::Nodes,
        read: objects::node,
        facts: facts.clone(),
        health: health.clone(),
        pace,
    };
    tasks.spawn(nodes.run());
    for (kind, api_kind, read) in CALICO {
        let follower = Follower {
            api: Api::<DynamicObject>::all_with(client.clone(), &calico(kind, api_kind)),
            kind,
            read,
            facts: facts.clone(),
            health: health.clone(),
            pace,
        };
        tasks.spawn(follower.run());
    }
    out
}

/// Asks once for one object of each kind: whether they can be read.
pub async fn look(client: &Client) -> Vec<SourceStatus> {
    let nodes = Api::<PartialObjectMeta<Node>>::all(client.clone());
    let mut sources = vec![follow::look(&nodes, ClusterKind::Nodes).await];
    for (kind, api_kind, _) in CALICO {
        let api = Api::<DynamicObject>::all_with(client.clone(), &calico(kind, api_kind));
        sources.push(follow::look(&api, kind).await);
    }
    sources
}

type Read = fn(&DynamicObject) -> Option<ClusterObject>;

/// Calico's kinds, as the API calls them.
const CALICO: [(ClusterKind, &str, Read); 4] = [
    (
        ClusterKind::BgpConfigurations,
        "BGPConfiguration",
        objects::bgp_configuration,
    ),
    (ClusterKind::BgpPeers, "BGPPeer", objects::bgp_peer),
    (ClusterKind::IpPools, "IPPool", objects::ip_pool),
    (ClusterKind::Blocks, "BlockAffinity", objects::block),
];

fn calico(kind: ClusterKind, api_kind: &str) -> ApiResource {
    of_calico(api_kind, kind.name())
}

fn of_calico(api_kind: &str, plural: &str) -> ApiResource {
    let gvk = GroupVersionKind::gvk("crd.projectcalico.org", "v1", api_kind);
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

#[cfg(test)]
mod tests;

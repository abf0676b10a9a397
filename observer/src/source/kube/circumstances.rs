//! How one node fares, asked once: whether it takes work, and its calico-node pod.
//!
//! The rights are those that there are anyway: a list of nodes with a field selector for one, and, where
//! pods may be listed, one of a node's pods with Calico's label.

use k8s_openapi::{
    api::core::v1::{ContainerStatus, Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, api::ListParams};
use observer_core::event::circumstances::{Circumstances, ContainerEnd, NodeCondition, SpeakerPod};
use serde::de::DeserializeOwned;

use super::once;

/// What every manifest of Calico gives the pods that run BIRD.
const SPEAKERS: &str = "k8s-app=calico-node";
/// Their container; there may be others beside it.
const CONTAINER: &str = "calico-node";

/// How `node` fares; of its pods only where `pods` may be listed.
pub async fn circumstances_of(client: &Client, node: &str, pods: bool) -> Circumstances {
    once::turn().await;
    let mut told = Circumstances::default();
    let mut missing = Vec::new();
    let itself = ListParams::default().fields(&format!("metadata.name={node}"));
    match list::<Node>(client, itself).await {
        Ok(nodes) => told.node = nodes.iter().find_map(condition),
        Err(why) => missing.push(format!("the node could not be read: {why}")),
    }
    if pods {
        let speakers = ListParams::default()
            .fields(&format!("spec.nodeName={node}"))
            .labels(SPEAKERS);
        match list::<Pod>(client, speakers).await {
            Ok(pods) => told.speakers = pods.iter().filter_map(speaker).collect(),
            Err(why) => missing.push(format!("calico-node's pod could not be read: {why}")),
        }
    }
    told.missing = (!missing.is_empty()).then(|| missing.join("; "));
    told
}

async fn list<K>(client: &Client, of: ListParams) -> Result<Vec<K>, String>
where
    K: Clone + DeserializeOwned + std::fmt::Debug + kube::Resource<DynamicType = ()>,
{
    // From the server's cache: a moment ago is soon enough. With a limit the server would read its whole
    // database instead.
    let params = of.match_any();
    let api: Api<K> = Api::all(client.clone());
    Ok(once::answer(api.list(&params)).await?.items)
}

fn condition(node: &Node) -> Option<NodeCondition> {
    let status = node.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    let spec = node.spec.as_ref();
    Some(NodeCondition {
        name: node.metadata.name.clone()?,
        cordoned: spec.and_then(|spec| spec.unschedulable) == Some(true),
        // `Unknown` is what the API says of a kubelet that it has not heard of.
        ready: ready.map(|ready| ready.status == "True"),
        reason: ready.and_then(|ready| ready.reason.clone()),
        since: ready.and_then(|ready| moment(ready.last_transition_time.as_ref())),
    })
}

fn speaker(pod: &Pod) -> Option<SpeakerPod> {
    let (meta, status) = (&pod.metadata, pod.status.as_ref()?);
    let label = |key: &str| meta.labels.as_ref()?.get(key).cloned();
    let containers = status.container_statuses.iter().flatten();
    let container = { containers }.find(|container| container.name == CONTAINER);
    let state = container.and_then(|container| container.state.as_ref());
    let running = state.and_then(|state| state.running.as_ref());
    let waiting = state.and_then(|state| state.waiting.as_ref());
    Some(SpeakerPod {
        pod: format!("{}/{}", meta.namespace.as_ref()?, meta.name.as_ref()?),
        made_at: moment(meta.creation_timestamp.as_ref()),
        leaving: meta.deletion_timestamp.is_some(),
        revision: label("controller-revision-hash"),
        ready: container.is_some_and(|container| container.ready),
        restarts: container.map_or(0, |container| {
            u32::try_from(container.restart_count).unwrap_or_default()
        }),
        waiting: waiting.and_then(|waiting| waiting.reason.clone()),
        started_at: running.and_then(|running| moment(running.started_at.as_ref())),
        last_end: container.and_then(last_end),
    })
}

/// The end that it is in, else the one before.
fn last_end(container: &ContainerStatus) -> Option<ContainerEnd> {
    let states = [&container.state, &container.last_state];
    let end = { states.into_iter() }.find_map(|state| state.as_ref()?.terminated.as_ref())?;
    Some(ContainerEnd {
        reason: end.reason.clone(),
        exit_code: end.exit_code,
        at: moment(end.finished_at.as_ref()),
    })
}

fn moment(time: Option<&Time>) -> Option<jiff::Timestamp> {
    time.map(|time| time.0)
}

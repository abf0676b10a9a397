//! A cluster's objects, in bulk: nodes, pods, and Calico's custom resources.

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use observer_tests::lab::Lab;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Requests under way at once.
const AT_ONCE: usize = 32;

/// Kinds that others than Kubernetes define, of which only the name matters here.
const FOREIGN: [(&str, &str, &str, &str); 7] = [
    (
        "crd.projectcalico.org",
        "BGPConfiguration",
        "bgpconfigurations",
        "Cluster",
    ),
    ("crd.projectcalico.org", "BGPPeer", "bgppeers", "Cluster"),
    ("crd.projectcalico.org", "IPPool", "ippools", "Cluster"),
    (
        "crd.projectcalico.org",
        "BlockAffinity",
        "blockaffinities",
        "Cluster",
    ),
    (
        "monitoring.coreos.com",
        "PodMonitor",
        "podmonitors",
        "Namespaced",
    ),
    (
        "monitoring.coreos.com",
        "PrometheusRule",
        "prometheusrules",
        "Namespaced",
    ),
    (
        "security.openshift.io",
        "SecurityContextConstraints",
        "securitycontextconstraints",
        "Cluster",
    ),
];

/// Defines [`FOREIGN`]: any object will do.
pub async fn define_foreign_kinds(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (group, kind, plural, scope) in FOREIGN {
        let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let definition = json!({
            "metadata": { "name": format!("{plural}.{group}") },
            "spec": {
                "group": group, "scope": scope,
                "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": any },
                }],
            },
        });
        let definition = serde_json::from_value(definition)?;
        api.create(&PostParams::default(), &definition).await?;
    }
    Ok(())
}

/// A node that pods can be scheduled to.
pub async fn add_node(client: &Client, name: &str, address: &str) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let node = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" }, "annotations": {
            "projectcalico.org/IPv4Address": format!("{address}/16"),
        } },
    });
    create(&api, node).await?;
    let has = json!({ "cpu": "8", "memory": "32Gi", "pods": "110" });
    let status = json!({ "status": {
        "capacity": has, "allocatable": has,
        "conditions": [{ "type": "Ready", "status": "True" }],
        "addresses": [{ "type": "InternalIP", "address": address }],
    } });
    let patch = Patch::Merge(&status);
    api.patch_status(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// The block that a node hands addresses out of.
pub async fn add_block(client: &Client, node: &str, cidr: &str) -> Result<()> {
    let gvk = GroupVersionKind::gvk("crd.projectcalico.org", "v1", "BlockAffinity");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "blockaffinities");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let block = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
        "metadata": { "name": format!("of-{node}") },
        "spec": { "cidr": cidr, "node": node, "state": "confirmed" },
    });
    create(&api, block).await
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let name = object.pointer("/metadata/name").map(Value::to_string);
    let object = serde_json::from_value(object)?;
    let made = api.create(&PostParams::default(), &object).await;
    made.with_context(|| format!("cannot create {name:?}"))?;
    Ok(())
}

/// A pod on a node; with an address when it matters.
async fn add_pod(client: &Client, node: &str, name: &str, address: Option<String>) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = json!({
        "metadata": { "name": name, "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "shop", "controller": true,
            "uid": "00000000-0000-0000-0000-000000000001",
        }] },
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false,
            "containers": [{ "name": "shop", "image": "shop" }],
        },
    });
    create(&api, pod).await?;
    if let Some(address) = address {
        let status = json!({ "status": { "podIP": address, "podIPs": [{ "ip": address }] } });
        let patch = Patch::Merge(&status);
        api.patch_status(name, &PatchParams::default(), &patch)
            .await?;
    }
    Ok(())
}

/// Nodes beyond the lab's, with a block each.
pub async fn fill_with_nodes(client: &Client, from: usize, to: usize) -> Result<()> {
    stream::iter(from..to)
        .map(|number| async move {
            let name = format!("worker-{number}");
            let [_, _, high, low] = number.to_be_bytes().last_chunk().copied().unwrap_or([0; 4]);
            add_node(client, &name, &format!("10.1.{high}.{low}")).await?;
            add_block(client, &name, &format!("10.2.{high}.{low}/32")).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// `each` pods on every node; those of the lab's nodes have addresses of their node's block.
pub async fn fill_with_pods(client: &Client, lab: &Lab, others: &[String], each: u8) -> Result<()> {
    let of_lab = lab.nodes().iter().flat_map(|node| {
        let [a, b, c, d] = node.pod.octets();
        (0..each).map(move |number| {
            let address = format!("{a}.{b}.{c}.{}", d.wrapping_add(number));
            (node.name.clone(), number, Some(address))
        })
    });
    let of_others = others
        .iter()
        .flat_map(|node| (0..each).map(move |number| (node.clone(), number, None)));
    stream::iter(of_lab.chain(of_others))
        .map(|(node, number, address)| async move {
            let name = format!("shop-{number}-of-{node}");
            add_pod(client, &node, &name, address).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// What every kubelet does now and then: an annotation, or a status, that says nothing new of BGP.
pub async fn touch_nodes(client: &Client, nodes: &[String]) -> Result<()> {
    let api: &Api<Node> = &Api::all(client.clone());
    stream::iter(nodes)
        .map(|name| async move {
            let touched = json!({ "metadata": { "annotations": { "touched": name } } });
            let (how, patch) = (PatchParams::default(), Patch::Merge(&touched));
            let patched = api.patch_metadata(name, &how, &patch).await;
            patched
                .map(drop)
                .with_context(|| format!("cannot touch {name}"))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

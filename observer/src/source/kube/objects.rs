//! Objects of the API, reduced to what the core is told. What makes no sense is left out: a name less
//! is better than a wrong one.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{self as api, Node};
use kube::core::{DynamicObject, PartialObjectMeta};
use observer_core::{
    bgp::Prefix,
    event::cluster::{BgpConfiguration, BgpPeer, Block, ClusterNode, ClusterObject, IpPool, Pod},
};
use serde_json::Value;

/// What calico-node writes to its node's annotations: addresses with which it speaks BGP.
const ADDRESSES: [&str; 2] = [
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
];
/// And addresses of its tunnel devices.
const TUNNELS: [&str; 5] = [
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
];
const ASN: &str = "projectcalico.org/ASNumber";
const REFLECTOR: &str = "projectcalico.org/RouteReflectorClusterID";

/// A node, of which only the metadata is read.
pub(super) fn node(meta: &PartialObjectMeta<Node>) -> Option<ClusterObject> {
    let none = BTreeMap::new();
    let annotations = meta.metadata.annotations.as_ref().unwrap_or(&none);
    let address = |key: &str| annotations.get(key).and_then(|text| host(text));
    let text = |key: &str| annotations.get(key).filter(|text| !text.is_empty());
    Some(ClusterObject::Node(ClusterNode {
        name: meta.metadata.name.clone()?,
        addresses: ADDRESSES.iter().filter_map(|key| address(key)).collect(),
        tunnels: TUNNELS.iter().filter_map(|key| address(key)).collect(),
        asn: text(ASN).and_then(|text| asn(text)),
        reflector: text(REFLECTOR).cloned(),
        labels: meta.metadata.labels.clone().unwrap_or_default(),
    }))
}

pub(super) fn bgp_configuration(object: &DynamicObject) -> Option<ClusterObject> {
    let spec = object.data.get("spec")?;
    Some(ClusterObject::BgpConfiguration(BgpConfiguration {
        name: object.metadata.name.clone()?,
        mesh: spec.get("nodeToNodeMeshEnabled").and_then(Value::as_bool),
        asn: spec.get("asNumber").and_then(number),
    }))
}

pub(super) fn bgp_peer(object: &DynamicObject) -> Option<ClusterObject> {
    let spec = object.data.get("spec")?;
    // A workload's session is between the node and a pod: neither mesh nor fabric.
    if text(spec, "localWorkloadSelector").is_some() {
        return None;
    }
    let address = text(spec, "peerIP");
    Some(ClusterObject::BgpPeer(BgpPeer {
        name: object.metadata.name.clone()?,
        node: text(spec, "node"),
        node_selector: text(spec, "nodeSelector"),
        // An address that cannot be read must not become "no address".
        address: match &address {
            Some(address) => Some(host(address)?),
            None => None,
        },
        peer_selector: text(spec, "peerSelector"),
        asn: spec.get("asNumber").and_then(number),
    }))
}

pub(super) fn ip_pool(object: &DynamicObject) -> Option<ClusterObject> {
    let spec = object.data.get("spec")?;
    if spec.get("disabled").and_then(Value::as_bool) == Some(true) {
        return None;
    }
    let mode = text(spec, "vxlanMode");
    Some(ClusterObject::IpPool(IpPool {
        name: object.metadata.name.clone()?,
        cidr: prefix(&text(spec, "cidr")?)?,
        vxlan: mode.is_some_and(|mode| mode != "Never"),
    }))
}

/// Only a block that its node has claimed for good, and is not about to give up.
pub(super) fn block(object: &DynamicObject) -> Option<ClusterObject> {
    let spec = object.data.get("spec")?;
    if text(spec, "state").is_some_and(|state| state != "confirmed") {
        return None;
    }
    // Calico keeps this one as text.
    if text(spec, "deleted").is_some_and(|deleted| deleted == "true") {
        return None;
    }
    Some(ClusterObject::Block(Block {
        name: object.metadata.name.clone()?,
        cidr: prefix(&text(spec, "cidr")?)?,
        node: text(spec, "node")?,
    }))
}

/// Why a pod runs is told by what owns it; of a ReplicaSet, which a Deployment makes, the Deployment.
pub(super) fn pod(pod: &api::Pod) -> Option<Pod> {
    const REPLICA_SET: &str = "ReplicaSet";
    const HASH: &str = "pod-template-hash";
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let meta = &pod.metadata;
    let owners = meta.owner_references.iter().flatten();
    let owner = { owners }.find(|owner| owner.controller == Some(true));
    let workload = owner.map(|owner| {
        let hash = meta.labels.as_ref().and_then(|labels| labels.get(HASH));
        let deployment = hash
            .and_then(|hash| owner.name.strip_suffix(hash.as_str()))
            .and_then(|name| name.strip_suffix('-'))
            .filter(|_| owner.kind == REPLICA_SET);
        match deployment {
            Some(name) => format!("Deployment/{name}"),
            None => format!("{}/{}", owner.kind, owner.name),
        }
    });
    // A pod in its node's network has the node's address, which is behind no block.
    let addresses = if spec.host_network == Some(true) {
        Vec::new()
    } else {
        let ips = status.pod_ips.iter().flatten();
        ips.filter_map(|ip| ip.ip.parse().ok()).collect()
    };
    Some(Pod {
        namespace: meta.namespace.clone()?,
        name: meta.name.clone()?,
        node: spec.node_name.clone()?,
        addresses,
        workload,
    })
}

fn text(spec: &Value, key: &str) -> Option<String> {
    let text = spec.get(key).and_then(Value::as_str);
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The address of `ADDRESS`, `ADDRESS/LENGTH`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
fn host(text: &str) -> Option<IpAddr> {
    let address = text.split('/').next().unwrap_or(text);
    let socket = || address.parse().ok().map(|at: std::net::SocketAddr| at.ip());
    let ip: IpAddr = address.parse().ok().or_else(socket)?;
    let ip = ip.to_canonical();
    (!ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

fn prefix(text: &str) -> Option<Prefix> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (length <= most).then(|| Prefix::masked(address, length))
}

/// An AS number as a number, or as text in either notation.
fn number(value: &Value) -> Option<u32> {
    let plain = value.as_u64().and_then(|number| u32::try_from(number).ok());
    plain.or_else(|| asn(value.as_str()?))
}

/// RFC 5396: `64512`, or `1.5` for 65541.
fn asn(text: &str) -> Option<u32> {
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((high, low)) => {
            let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
            Some(u32::from(high) << 16 | u32::from(low))
        }
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;

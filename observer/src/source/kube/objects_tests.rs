//! Objects as Calico 3.2x writes them.

use serde_json::{Value, json};

use super::*;

fn object(name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
}

#[test]
fn a_node_is_what_calico_node_annotates() {
    let meta = serde_json::from_value(json!({
        "metadata": {
            "name": "worker-1",
            "labels": { "rack": "r1" },
            "annotations": {
                "projectcalico.org/IPv4Address": "10.0.0.1/24",
                "projectcalico.org/IPv6Address": "fd00::1/64",
                "projectcalico.org/IPv4IPIPTunnelAddr": "10.244.1.0",
                "projectcalico.org/ASNumber": "1.5",
                "projectcalico.org/RouteReflectorClusterID": "244.0.0.1",
                "other": "x",
            },
        },
    }));
    let Some(ClusterObject::Node(read)) = node(&meta.unwrap()) else {
        panic!("no node");
    };
    assert_eq!(read.name, "worker-1");
    let shown: Vec<String> = { read.addresses.iter().chain(&read.tunnels) }
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["10.0.0.1", "fd00::1", "10.244.1.0"]);
    assert_eq!(read.asn, Some(65_541));
    assert_eq!(read.reflector.as_deref(), Some("244.0.0.1"));
    assert_eq!(read.labels["rack"], "r1");
    let bare = serde_json::from_value(json!({ "metadata": { "name": "bare" } }));
    let Some(ClusterObject::Node(bare)) = node(&bare.unwrap()) else {
        panic!("no node");
    };
    assert!(bare.addresses.is_empty());
}

#[test]
fn peers_keep_address_selectors_and_number_and_an_unreadable_address_makes_none() {
    let read = |spec: Value| match bgp_peer(&object("p", &spec)) {
        Some(ClusterObject::BgpPeer(peer)) => Some(peer),
        _ => None,
    };
    let peer = read(json!({ "peerIP": "10.0.0.254:1790", "asNumber": 64_600, "node": "a" }));
    let peer = peer.unwrap();
    assert_eq!(peer.address, Some("10.0.0.254".parse().unwrap()));
    assert_eq!((peer.asn, peer.node.as_deref()), (Some(64_600), Some("a")));
    let peer = read(json!({ "peerIP": "[fd00::fe]:179", "nodeSelector": "all()" })).unwrap();
    assert_eq!(peer.address, Some("fd00::fe".parse().unwrap()));
    assert_eq!(peer.node_selector.as_deref(), Some("all()"));
    let peer = read(json!({ "peerSelector": "has(rr)", "peerIP": "" })).unwrap();
    assert_eq!((peer.address, peer.node), (None, None));
    for wrong in [
        json!({ "peerIP": "ten" }),
        json!({ "peerIP": "0.0.0.0" }),
        json!({ "localWorkloadSelector": "has(x)" }),
    ] {
        assert_eq!(read(wrong.clone()), None, "{wrong}");
    }
}

#[test]
fn only_blocks_and_pools_that_are_in_use_count() {
    let read = |spec: Value| match block(&object("b", &spec)) {
        Some(ClusterObject::Block(block)) => Some(block.cidr.to_string()),
        _ => None,
    };
    let of = |cidr: &str, state: &str, deleted: &str| {
        read(json!({ "cidr": cidr, "node": "n", "state": state, "deleted": deleted }))
    };
    assert_eq!(
        of("10.244.1.0/26", "confirmed", "false").as_deref(),
        Some("10.244.1.0/26")
    );
    assert_eq!(of("10.244.1.0/26", "pending", "false"), None);
    assert_eq!(of("10.244.1.0/26", "confirmed", "true"), None);
    assert_eq!(of("10.244.1.0/33", "confirmed", "false"), None);
    assert_eq!(of("10.244.1.0", "confirmed", "false"), None);
    let pool = |spec: Value| match ip_pool(&object("p", &spec)) {
        Some(ClusterObject::IpPool(pool)) => Some(pool.vxlan),
        _ => None,
    };
    let cidr = "10.244.0.0/16";
    for (spec, vxlan) in [
        (json!({ "cidr": cidr, "vxlanMode": "Always" }), Some(true)),
        (
            json!({ "cidr": cidr, "vxlanMode": "CrossSubnet" }),
            Some(true),
        ),
        (json!({ "cidr": cidr, "vxlanMode": "Never" }), Some(false)),
        (json!({ "cidr": cidr }), Some(false)),
        (json!({ "cidr": cidr, "disabled": true }), None),
        (json!({}), None),
    ] {
        assert_eq!(pool(spec.clone()), vxlan, "{spec}");
    }
}

#[test]
fn a_configuration_says_mesh_and_number_or_nothing() {
    let read = |spec: Value| match bgp_configuration(&object("default", &spec)) {
        Some(ClusterObject::BgpConfiguration(read)) => (read.mesh, read.asn),
        _ => panic!("{spec}"),
    };
    let both = json!({ "nodeToNodeMeshEnabled": false, "asNumber": "64600" });
    assert_eq!(read(both), (Some(false), Some(64_600)));
    assert_eq!(read(json!({})), (None, None));
    assert_eq!(read(json!({ "asNumber": -1 })), (None, None));
}

#[test]
fn a_pod_has_its_addresses_and_what_keeps_it_running() {
    let read = |owner: Value, host_network: bool| {
        let pod = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "web-7d9-x2",
                "labels": { "pod-template-hash": "7d9" },
                "ownerReferences": owner,
            },
            "spec": { "nodeName": "n2", "hostNetwork": host_network, "containers": [] },
            "status": { "podIPs": [{ "ip": "10.244.2.7" }, { "ip": "fd00:2::7" }] },
        }));
        super::pod(&pod.unwrap()).unwrap()
    };
    let owner = |kind: &str, name: &str| {
        let version = "apps/v1";
        json!([{
            "apiVersion": version, "kind": kind, "name": name, "uid": "", "controller": true,
        }])
    };
    let web = read(owner("ReplicaSet", "web-7d9"), false);
    assert_eq!((web.namespace.as_str(), web.node.as_str()), ("shop", "n2"));
    assert_eq!(web.addresses.len(), 2);
    assert_eq!(web.workload.as_deref(), Some("Deployment/web"));
    for (owner, workload) in [
        (owner("ReplicaSet", "bare"), Some("ReplicaSet/bare")),
        (owner("StatefulSet", "db"), Some("StatefulSet/db")),
        (json!([]), None),
    ] {
        assert_eq!(read(owner, false).workload.as_deref(), workload);
    }
    assert!(read(json!([]), true).addresses.is_empty());
}

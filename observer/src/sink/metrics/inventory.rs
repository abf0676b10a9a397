//! How old what was read of the cluster's API is, and whether calico-node says the same of sessions.

use std::{collections::BTreeMap, time::Duration};

use observer_core::event::cluster::ClusterKind;

use super::page::{Page, float};
use crate::cross_check::Compared;

/// Adds it; nothing where the API is not read.
pub(super) fn add(page: &mut Page, node: &str, ages: &BTreeMap<ClusterKind, Duration>) {
    page.gauge(
        "bgp_observer_inventory_age_seconds",
        "How long the Kubernetes API server has not said whether what is known of a resource still holds; 0 while it is watched.",
        ages.iter().map(|(kind, age)| {
            let labels = vec![
                ("node", node.to_owned()),
                ("resource", kind.name().to_owned()),
            ];
            (labels, age.as_secs_f64())
        }),
    );
}

/// Adds what comparing with CalicoNodeStatus came to.
pub(super) fn compared<'a>(
    page: &mut Page,
    of_nodes: impl Iterator<Item = (&'a String, &'a Compared)> + Clone,
) {
    let of = |node: &String| vec![("node", node.clone())];
    page.gauge(
        "bgp_observer_calico_compared_peers",
        "Peers of which CalicoNodeStatus says something that can be held against what is seen, with `kubernetes_node_status` on.",
        of_nodes.clone().map(|(node, one)| (of(node), float(one.peers))),
    );
    page.gauge(
        "bgp_observer_calico_disagreements",
        "Peers of which CalicoNodeStatus says something else than what is seen; the log says what.",
        of_nodes.map(|(node, one)| {
            (
                of(node),
                float(u64::try_from(one.differ.len()).unwrap_or(u64::MAX)),
            )
        }),
    );
}

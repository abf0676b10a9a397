//! How old what was read of the cluster's API is.

use std::{collections::BTreeMap, time::Duration};

use observer_core::event::cluster::ClusterKind;

use super::page::Page;

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

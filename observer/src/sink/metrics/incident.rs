//! The metrics of incidents. Every verdict and every known peer has its counter from the start.

use std::collections::BTreeSet;

use observer_core::{incident::record::Verdict, safety::Safe};

use super::page::{Labels, Page, float};
use crate::keeper::Snapshot;

/// Adds them to a scrape.
pub fn add(page: &mut Page, snapshot: &Snapshot) {
    let totals = &snapshot.totals;
    let by_verdict = |node: &str, verdict: Verdict| -> Labels {
        vec![
            ("node", node.to_owned()),
            ("verdict", verdict.name().to_owned()),
        ]
    };
    page.counter(
        "bgp_observer_incidents_total",
        "Incidents that are over, by what they came to.",
        totals.incidents.iter().flat_map(|(node, verdicts)| {
            Verdict::ALL.map(|verdict| {
                let count = verdicts.get(&verdict).copied().unwrap_or_default();
                (by_verdict(node, verdict), float(count))
            })
        }),
    );
    page.gauge(
        "bgp_observer_incidents_open",
        "Incidents that are open, by what they have come to so far.",
        totals.incidents.keys().flat_map(|node| {
            Verdict::ALL.map(|verdict| {
                let key = (node.clone(), verdict);
                let count = snapshot.open_incidents.get(&key).copied();
                (by_verdict(node, verdict), float(count.unwrap_or_default()))
            })
        }),
    );
    page.counter(
        "bgp_observer_concurrent_restarts_total",
        "BGP daemons whose end this node saw while another one's restart was not over.",
        totals.concurrent_restarts.iter().map(|(node, count)| {
            let labels = vec![("node", node.clone())];
            (labels, float(*count))
        }),
    );
    page.some_gauge(
        "bgp_observer_safe_to_restart",
        "Whether the node's BGP daemon may be restarted now: 1 yes, 0 no; absent when unknown.",
        snapshot.safety.iter().map(|safety| {
            let value = match safety.answer {
                Safe::Yes => Some(1.0),
                Safe::No => Some(0.0),
                Safe::Unknown => None,
            };
            (vec![("node", safety.node.clone())], value)
        }),
    );
    page.gauge(
        "bgp_observer_route_reflectors",
        "Peers that reflect others' routes, by whether their session is Established.",
        snapshot.topology.iter().flat_map(|topology| {
            [("up", true), ("down", false)].map(|(state, up)| {
                let reflectors = topology.reflectors.iter();
                let count = reflectors.filter(|reflector| reflector.up == up).count();
                let labels = vec![("node", topology.node.clone()), ("state", state.to_owned())];
                (labels, float(u64::try_from(count).unwrap_or(u64::MAX)))
            })
        }),
    );
    let known = snapshot
        .peers
        .iter()
        .map(|peer| (peer.node.clone(), peer.peer.clone()));
    let peers: BTreeSet<(String, String)> = known.collect();
    page.counter(
        "bgp_observer_unreachable_seconds_total",
        "For how long targets behind a peer were unreachable at least, in incidents that are over.",
        peers.into_iter().map(|key| {
            let seconds = totals.unreachable.get(&key).copied().unwrap_or_default();
            (vec![("node", key.0), ("peer", key.1)], seconds)
        }),
    );
}

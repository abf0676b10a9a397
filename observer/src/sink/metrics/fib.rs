//! Series of the kernel's routes.

use std::collections::{BTreeMap, BTreeSet};

use observer_core::{
    event::forwarding::{RouteOp, RouteOrigin},
    fib::totals::FibTotals,
    observer::Histogram,
    peer::PeerView,
    route_view::{FibView, LatencyView},
};

use super::page::{Labels, Page, float};
use crate::keeper::Snapshot;

/// Which of a node's histograms a series shows.
type Pick = fn(&FibTotals) -> &Histogram;

/// Protocols whose names the label may have; all else is `other`.
const PROTOCOLS: [&str; 5] = ["bird", "felix", "kernel", "boot", "static"];

/// All of them. A node whose routes nobody tells of has none.
pub fn nodes(page: &mut Page, snapshot: &Snapshot) {
    let read = || {
        snapshot
            .forwarding
            .iter()
            .filter(|node| node.source.is_some())
    };
    page.gauge(
        "bgp_observer_fib_routes",
        "Routes in the kernel's tables.",
        read().flat_map(counts),
    );
    let totals = || {
        read().filter_map(|node| {
            let totals = snapshot.totals.fib.get(&node.node)?;
            Some((node.node.as_str(), totals))
        })
    };
    page.counter(
        "bgp_observer_fib_changes_total",
        "Changes of the kernel's routes; a delete that an add follows within a second is one replace.",
        totals().flat_map(|(node, totals)| {
            totals.changes.iter().map(move |((op, protocol, origin), count)| {
                let labels = vec![
                    ("node", node.to_owned()),
                    ("op", op_label(*op).to_owned()),
                    ("protocol", (*protocol).to_owned()),
                    ("origin", origin_label(*origin).to_owned()),
                ];
                (labels, float(*count))
            })
        }),
    );
    page.histogram(
        "bgp_observer_fib_gap_seconds",
        "Time for which routes of BIRD or Felix were gone that came back.",
        totals().flat_map(|(node, totals)| {
            totals.gap.iter().map(move |(protocol, gap)| {
                let labels = vec![
                    ("node", node.to_owned()),
                    ("protocol", (*protocol).to_owned()),
                ];
                (labels, gap)
            })
        }),
    );
    page.counter(
        "bgp_observer_foreign_route_deletes_total",
        "Routes of BIRD or Felix that somebody else deleted, by who; other where nobody knows.",
        totals().flat_map(|(node, totals)| {
            totals.foreign_deletes.iter().map(move |(writer, count)| {
                let labels = vec![("node", node.to_owned()), ("writer", (*writer).to_owned())];
                (labels, float(*count))
            })
        }),
    );
    let each: [(&str, &str, Pick); 3] = [
        (
            "bgp_observer_update_to_fib_seconds",
            "Time from an UPDATE that announces a prefix to its route, both stamped by the kernel.",
            |totals| &totals.update_to_fib,
        ),
        (
            "bgp_observer_withdraw_to_fib_seconds",
            "Time from an UPDATE that withdraws a prefix to the end of its route, both stamped by the kernel.",
            |totals| &totals.withdraw_to_fib,
        ),
        (
            "bgp_observer_down_to_withdraw_seconds",
            "Time from the end of a session to the end of its routes, both stamped by the kernel.",
            |totals| &totals.down_to_withdraw,
        ),
    ];
    for (name, help, of) in each {
        let series = totals().map(|(node, totals)| (vec![("node", node.to_owned())], of(totals)));
        page.histogram(name, help, series);
    }
}

/// Prefixes that a session announces of which none is in the tables: of the peers that are shown, and of
/// whoever has any.
pub fn unprogrammed(page: &mut Page, snapshot: &Snapshot, shown: &[PeerView]) {
    let read = snapshot.forwarding.iter();
    let read: BTreeSet<&str> = read
        .filter(|node| node.source.is_some())
        .map(|node| node.node.as_str())
        .collect();
    let key = |peer: &PeerView| (peer.node.clone(), peer.peer.clone());
    let mut counts: BTreeMap<(String, String), u64> =
        shown.iter().map(|peer| (key(peer), 0)).collect();
    for node in &snapshot.forwarding {
        for missing in &node.unprogrammed {
            let key = (node.node.clone(), missing.peer.clone());
            counts.insert(key, missing.announced);
        }
    }
    counts.retain(|(node, _), _| read.contains(node.as_str()));
    page.gauge(
        "bgp_observer_unprogrammed_prefixes",
        "Prefixes announced by a session that is Established while none of them is in the kernel's tables.",
        counts
            .into_iter()
            .map(|((node, peer), count)| (vec![("node", node), ("peer", peer)], float(count))),
    );
}

/// What a series of latencies shows.
type Latency = fn(&LatencyView) -> Option<f64>;

/// The latest time of each kind, of peers that are shown.
pub fn peers(page: &mut Page, snapshot: &Snapshot, shown: &[PeerView]) {
    let shown: BTreeSet<(&str, &str)> = { shown.iter() }
        .map(|peer| (peer.node.as_str(), peer.peer.as_str()))
        .collect();
    let each: [(&str, &str, Latency); 3] = [
        (
            "bgp_observer_update_to_fib_last_seconds",
            "Time from the peer's latest announcement to its route; with rtnetlink as source, until it was noticed.",
            |latency| latency.update_to_fib_seconds,
        ),
        (
            "bgp_observer_withdraw_to_fib_last_seconds",
            "Time from the peer's latest withdrawal to the end of its route; with rtnetlink as source, until it was noticed.",
            |latency| latency.withdraw_to_fib_seconds,
        ),
        (
            "bgp_observer_down_to_withdraw_last_seconds",
            "Time from the session's latest end to the end of a route of it; with rtnetlink as source, until it was noticed.",
            |latency| latency.down_to_withdraw_seconds,
        ),
    ];
    for (name, help, of) in each {
        let series = snapshot.forwarding.iter().flat_map(|node| {
            let shown = &shown;
            let is_shown = move |latency: &&LatencyView| {
                shown.contains(&(node.node.as_str(), latency.peer.as_str()))
            };
            node.latencies.iter().filter(is_shown).map(move |latency| {
                let labels = vec![("node", node.node.clone()), ("peer", latency.peer.clone())];
                (labels, of(latency))
            })
        });
        page.some_gauge(name, help, series.collect::<Vec<_>>());
    }
}

/// Routes of a node; the protocols that share a label are summed, and those that matter are there at 0.
fn counts(node: &FibView) -> Vec<(Labels, f64)> {
    let mut sums: BTreeMap<(&str, u8), u64> = BTreeMap::new();
    for protocol in ["bird", "felix"] {
        for version in [4, 6] {
            sums.insert((protocol, version), 0);
        }
    }
    for routes in &node.routes {
        let known = PROTOCOLS
            .into_iter()
            .find(|known| *known == routes.protocol);
        *sums
            .entry((known.unwrap_or("other"), routes.ip_version))
            .or_default() += routes.count;
    }
    let series = sums.into_iter().map(|((protocol, version), count)| {
        let labels = vec![
            ("node", node.node.clone()),
            ("protocol", protocol.to_owned()),
            ("ip_version", version.to_string()),
        ];
        (labels, float(count))
    });
    series.collect()
}

const fn op_label(op: RouteOp) -> &'static str {
    match op {
        RouteOp::Added | RouteOp::Appended => "add",
        RouteOp::Replaced => "replace",
        RouteOp::Removed => "delete",
    }
}

const fn origin_label(origin: RouteOrigin) -> &'static str {
    match origin {
        RouteOrigin::Explicit => "explicit",
        // A namespace that is torn down takes its routes with it as silently as a device.
        RouteOrigin::Silent | RouteOrigin::Teardown => "silent",
    }
}

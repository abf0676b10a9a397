//! The Prometheus text of `/metrics`, built anew for each scrape from one snapshot.
//!
//! Names and labels are DESIGN §4's. The alert of every Calico guide reads
//! `calico_bgp_peers_state`, so that one comes first.

mod fib;
mod incident;
mod inventory;
mod page;
mod reach;
mod visible;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    time::Duration,
};

use anyhow::{Context, Result};
use observer_core::{
    cause::Cause,
    event::{Fact, LossStage, cluster::ClusterKind, forwarding::Forwarding},
    peer::PeerView,
};
use prometheus::TextEncoder;

use self::page::{Labels, Page, float};
pub use self::visible::{PeerMetrics, Visibility};
use crate::{cross_check::Compared, health::SourceStatus, keeper::Snapshot};

/// Value of `kind` in `bgp_observer_events_total` for each fact.
const EVENT_KINDS: [&str; 35] = [
    "tick",
    "wall_clock",
    "node_observed",
    "node_gone",
    "peers_restored",
    "inventory",
    "peers_configured",
    "cluster",
    "pods_listed",
    "circumstances",
    "peer_forget",
    "tcp_state",
    "tcp_error",
    "reset_received",
    "reset_sent",
    "retransmit",
    "segment",
    "tap_attached",
    "tap_detached",
    "tap_fragments",
    "tap_checksums",
    "tap_strangers",
    "socket_info",
    "socket_gone",
    "sockets_dumped",
    "speaker_exited",
    "speaker_signalled",
    "speaker_oom",
    "strangers",
    "echo_replied",
    "echo_failed",
    "packets_dropped",
    "incidents_restored",
    "incident_note",
    "versions",
];
/// Facts that tell of losses have their own metric; as events they are of this kind.
const KIND_LOST: &str = "lost";

/// The `kind` of `fact`.
pub const fn event_kind(fact: &Fact) -> &'static str {
    match fact {
        Fact::Tick => "tick",
        Fact::WallClock { .. } => "wall_clock",
        Fact::NodeObserved { .. } => "node_observed",
        Fact::NodeGone { .. } => "node_gone",
        Fact::PeersRestored { .. } => "peers_restored",
        Fact::Inventory { .. } => "inventory",
        Fact::PeersConfigured { .. } => "peers_configured",
        Fact::Cluster { .. } => "cluster",
        Fact::PodsListed { .. } => "pods_listed",
        Fact::Circumstances { .. } => "circumstances",
        Fact::PeerForget { .. } => "peer_forget",
        Fact::TcpState { .. } => "tcp_state",
        Fact::TcpError { .. } => "tcp_error",
        Fact::ResetReceived { .. } => "reset_received",
        Fact::ResetSent { .. } => "reset_sent",
        Fact::Retransmit { .. } => "retransmit",
        Fact::SocketInfo { .. } => "socket_info",
        Fact::SocketGone { .. } => "socket_gone",
        Fact::SocketsDumped { .. } => "sockets_dumped",
        Fact::Segment { .. } => "segment",
        Fact::TapAttached { .. } => "tap_attached",
        Fact::TapDetached { .. } => "tap_detached",
        Fact::TapFragments { .. } => "tap_fragments",
        Fact::TapChecksums { .. } => "tap_checksums",
        Fact::TapStrangers { .. } => "tap_strangers",
        Fact::SpeakerExited { .. } => "speaker_exited",
        Fact::SpeakerSignalled { .. } => "speaker_signalled",
        Fact::SpeakerOom { .. } => "speaker_oom",
        Fact::Strangers { .. } => "strangers",
        Fact::Forwarding { forwarding, .. } => forwarding.kind(),
        Fact::EchoReplied { .. } => "echo_replied",
        Fact::EchoFailed { .. } => "echo_failed",
        Fact::PacketsDropped { .. } => "packets_dropped",
        Fact::IncidentsRestored { .. } => "incidents_restored",
        Fact::IncidentNote { .. } => "incident_note",
        Fact::Versions { .. } => "versions",
        Fact::Lost { .. } => KIND_LOST,
    }
}

/// Every kind, none seen: counters exist from the start.
pub fn no_events() -> BTreeMap<&'static str, u64> {
    EVENT_KINDS
        .into_iter()
        .chain(Forwarding::KINDS)
        .chain([KIND_LOST])
        .map(|kind| (kind, 0))
        .collect()
}

/// What a scrape shows beside the snapshot.
#[derive(Clone, Debug)]
pub struct Scene<'a> {
    /// The node that agent-wide series are of.
    pub node: &'a str,
    /// Probes and sources.
    pub sources: &'a [SourceStatus],
    /// Nothing is seen: no series of peers.
    pub blind: bool,
    /// The agent's version.
    pub version: &'a str,
    /// How old what is known of each kind of the cluster's objects is.
    pub ages: &'a BTreeMap<ClusterKind, Duration>,
    /// What calico-node said against what is seen, by node, where that is compared.
    pub compared: Option<BTreeMap<String, Compared>>,
    /// How asking BIRD ended, where it is asked.
    pub bird: Option<Vec<(&'static str, u64)>>,
    /// What became of what Kubernetes was to be told, where it is.
    pub node_events: Option<Vec<(&'static str, u64)>>,
    /// Which peers have all their series.
    pub peer_metrics: PeerMetrics,
    /// Wall time.
    pub now: jiff::Timestamp,
}

/// The text of a scrape.
pub fn render(snapshot: &Snapshot, scene: &Scene<'_>) -> Result<String> {
    let mut page = Page::default();
    if !scene.blind {
        let shown = scene.peer_metrics.of(&snapshot.peers, scene.now);
        watched(&mut page, &snapshot.peers);
        peers(&mut page, &shown);
        wire::peers(&mut page, &shown);
        visible::add(&mut page, &snapshot.peers, &shown, scene.peer_metrics);
        nodes(&mut page, snapshot);
        incident::add(&mut page, snapshot);
        reach::add(&mut page, &snapshot.totals);
        wire::nodes(&mut page, &snapshot.totals);
        fib::peers(&mut page, snapshot, &shown);
        fib::nodes(&mut page, snapshot);
        fib::unprogrammed(&mut page, snapshot, &shown);
    }
    agent(&mut page, snapshot, scene);
    TextEncoder::new()
        .encode_to_string(&page.families)
        .context("cannot write metrics")
}

/// What alerts read: every peer has it, whoever is shown. A peer that all have lost cannot be told from
/// one that some have lost without those who have not, and a counter must be there before it counts.
fn watched(page: &mut Page, peers: &[PeerView]) {
    page.gauge(
        "calico_bgp_peers_state",
        "Whether a known BGP peer's session is in this state: up is Established, down is anything else.",
        peers.iter().flat_map(|peer| {
            let version = peer.ip_version.to_string();
            [("up", peer.up), ("down", !peer.up)].map(|(state, is)| {
                let mut labels = of(peer);
                labels.push(("ip_version", version.clone()));
                labels.push(("state", state.to_owned()));
                (labels, f64::from(u8::from(is)))
            })
        }),
    );
    page.gauge(
        "bgp_observer_peer_info",
        "What is known of a peer, in labels.",
        peers.iter().map(|peer| {
            let mut labels = of(peer);
            labels.push(("peer_node", peer.peer_node.clone().unwrap_or_default()));
            let peer_type = peer.peer_type.map_or("", |of_type| of_type.name());
            labels.push(("peer_type", peer_type.to_owned()));
            let asn = peer.asn.map(|asn| asn.to_string());
            labels.push(("asn", asn.unwrap_or_default()));
            (labels, 1.0)
        }),
    );
    page.counter(
        "bgp_observer_session_flaps_total",
        "Times an Established session was lost, since the peer is known.",
        peers.iter().map(|peer| (of(peer), float(peer.flaps))),
    );
    page.counter(
        "bgp_observer_tcp_retransmits_total",
        "TCP segments sent again to the peer, since it is known.",
        peers.iter().map(|peer| (of(peer), float(peer.retransmits))),
    );
}

/// The rest, of those that are shown.
fn peers(page: &mut Page, peers: &[PeerView]) {
    page.gauge(
        "bgp_observer_session_state",
        "State of the session, RFC 4271: 1 Idle, 2 Connect, 3 Active, 4 OpenSent, 5 OpenConfirm, 6 Established.",
        peers.iter().map(|peer| (of(peer), f64::from(peer.state.number()))),
    );
    let moment = |time: Option<jiff::Timestamp>| time.map(seconds);
    page.some_gauge(
        "bgp_observer_session_established_timestamp_seconds",
        "When the session last became Established, Unix time.",
        peers
            .iter()
            .map(|peer| (of(peer), moment(peer.established_at))),
    );
    page.some_gauge(
        "bgp_observer_session_last_down_timestamp_seconds",
        "When the session was last lost, Unix time.",
        peers
            .iter()
            .map(|peer| (of(peer), moment(peer.last_down_at))),
    );
    page.some_gauge(
        "bgp_observer_tcp_rtt_seconds",
        "Smoothed TCP round-trip time to the peer.",
        peers.iter().map(|peer| (of(peer), peer.rtt_seconds)),
    );
    page.some_gauge(
        "bgp_observer_establish_last_seconds",
        "Time from SYN to an established TCP connection, latest connection seen to begin.",
        peers.iter().map(|peer| (of(peer), peer.establish_seconds)),
    );
}

fn nodes(page: &mut Page, snapshot: &Snapshot) {
    let totals = &snapshot.totals;
    let nodes: BTreeSet<&str> = snapshot
        .peers
        .iter()
        .map(|peer| peer.node.as_str())
        .chain(totals.flaps_by_cause.keys().map(String::as_str))
        .collect();
    page.counter(
        "bgp_observer_session_flaps_by_cause_total",
        "Lost sessions of the node by what ended them.",
        nodes.iter().flat_map(|node| {
            let counted = totals.flaps_by_cause.get(*node);
            Cause::LABELS.map(|cause| {
                let count = counted.and_then(|causes| causes.get(cause)).copied();
                let labels = vec![("node", (*node).to_owned()), ("cause", cause.to_owned())];
                (labels, float(count.unwrap_or_default()))
            })
        }),
    );
    page.histogram(
        "bgp_observer_establish_seconds",
        "Time from SYN to an established TCP connection, both stamped by the kernel.",
        totals
            .establish
            .iter()
            .map(|(node, histogram)| (vec![("node", node.clone())], histogram)),
    );
}

fn agent(page: &mut Page, snapshot: &Snapshot, scene: &Scene<'_>) {
    let totals = &snapshot.totals;
    let here = |more: Vec<(&'static str, String)>| {
        let mut labels = vec![("node", scene.node.to_owned())];
        labels.extend(more);
        labels
    };
    page.counter(
        "bgp_observer_strangers_total",
        "Completed inbound connections to a BGP port from addresses that are no known peer.",
        [(here(vec![]), float(totals.strangers))],
    );
    // A source that every node has counts as attached when it works for all of them.
    let mut attached = BTreeMap::new();
    for source in scene.sources {
        let all = attached
            .entry((source.name.clone(), source.kind.clone()))
            .or_insert(true);
        *all &= source.running;
    }
    page.gauge(
        "bgp_observer_probe_attached",
        "Whether a probe or source runs; `bgp-observer check` says why not.",
        attached.into_iter().map(|((probe, kind), all)| {
            let labels = here(vec![("probe", probe), ("kind", kind)]);
            (labels, f64::from(u8::from(all)))
        }),
    );
    page.counter(
        "bgp_observer_events_total",
        "Events that the core was told.",
        snapshot
            .events
            .iter()
            .map(|(kind, count)| (here(vec![("kind", (*kind).to_owned())]), float(*count))),
    );
    let lost = |stage| totals.lost.get(&stage).copied().unwrap_or_default();
    page.counter(
        "bgp_observer_events_lost_total",
        "Events that never reached the core, by where they were lost.",
        LossStage::ALL.map(|stage| {
            let labels = here(vec![("stage", stage.name().to_owned())]);
            (labels, float(lost(stage)))
        }),
    );
    page.counter(
        "bgp_observer_resyncs_total",
        "Dumps that repaired what a loss may have hidden.",
        [
            ("sock_diag", totals.resyncs),
            (
                "rtnetlink",
                totals.fib.values().map(|fib| fib.resyncs).sum(),
            ),
        ]
        .map(|(source, count)| (here(vec![("source", source.to_owned())]), float(count))),
    );
    page.counter(
        "bgp_observer_decode_errors_total",
        "Kernel records and BGP messages that made no sense, by what is wrong.",
        iter::once((
            here(vec![("kind", "ring_record".to_owned())]),
            float(lost(LossStage::Decode)),
        ))
        .chain(wire::decode_errors(totals)),
    );
    inventory::add(page, scene.node, scene.ages);
    inventory::compared(page, scene.compared.iter().flatten());
    page.counter(
        "bgp_observer_bird_answers_total",
        "How asking BIRD for its peers ended, with `bird_socket` set.",
        { scene.bird.iter().flatten() }
            .map(|(result, count)| (here(vec![("result", (*result).to_owned())]), float(*count))),
    );
    page.counter(
        "bgp_observer_kubernetes_events_total",
        "What was to be told as Events of the node, with `kubernetes_events` on, by what became of it.",
        { scene.node_events.iter().flatten() }.map(|(result, count)| {
            (here(vec![("result", (*result).to_owned())]), float(*count))
        }),
    );
    page.gauge(
        "bgp_observer_build_info",
        "The agent's version, in labels.",
        [(here(vec![("version", scene.version.to_owned())]), 1.0)],
    );
}

/// The labels of a peer's series.
fn of(peer: &PeerView) -> Labels {
    vec![("node", peer.node.clone()), ("peer", peer.peer.clone())]
}

fn seconds(time: jiff::Timestamp) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds are exact for 285,000 years"
    )]
    let millis = time.as_millisecond() as f64;
    millis / 1_000.0
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "metrics_reference.rs"]
mod reference;

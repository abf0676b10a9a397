//! What runs and what does not: told by the sources, read by `check`, `/readyz`, `/metrics` and the
//! API.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use observer_core::{event::cluster::ClusterKind, time::Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    source::{clock::boottime_now, kernel::ProbeStatus},
    taps::Tapped,
};

/// The probe without which no session is seen as it changes.
const STATE_PROBE: &str = "tcp_state";
/// The source that can stand in for it, by looking again and again.
const SOCK_DIAG: &str = "sock_diag";

/// What sees nothing by itself.
const ECHO: &str = "echo";
const STORE: &str = "store";
/// The kind of what is read from the cluster's API.
const KUBERNETES: &str = "kubernetes";
/// The kind of what BIRD itself is asked.
const BIRD: &str = "control socket";

/// What tells of routes, or checks what the probes tell.
const RTNETLINK: &str = "rtnetlink";

/// One probe or source: the JSON of `/api/v1/sources`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// How it is attached: `tp_btf`, `netlink` …
    pub kind: String,
    /// The observed node, for a source of which every node has one.
    pub node: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// It runs; this is why it does not in a better way, where there is one.
    #[serde(default)]
    pub instead_because: Option<String>,
    /// What cannot be seen without it.
    pub lost_without: String,
}

impl From<&ProbeStatus> for SourceStatus {
    fn from(probe: &ProbeStatus) -> Self {
        Self {
            name: probe.name.to_owned(),
            kind: probe.kind.to_owned(),
            node: None,
            running: probe.attached,
            reason: probe.reason.clone(),
            instead_because: None,
            lost_without: probe.lost_without.to_owned(),
        }
    }
}

impl SourceStatus {
    /// `sock_diag` in a node's namespace; `reason` is why it does not work.
    pub fn sock_diag(node: &str, reason: Option<String>) -> Self {
        Self {
            name: SOCK_DIAG.to_owned(),
            kind: "netlink".to_owned(),
            node: Some(node.to_owned()),
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without:
                "sessions that are older than the agent, RTT, queues, repair after losses"
                    .to_owned(),
        }
    }

    /// The store of the agent; `reason` is why it does not work.
    pub fn store(reason: Option<String>) -> Self {
        Self {
            name: STORE.to_owned(),
            kind: "sqlite".to_owned(),
            node: None,
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without: "incidents, flaps and changes from before the agent's start".to_owned(),
        }
    }

    /// Echoes out of a node's namespace; `reason` is why they cannot be sent.
    pub fn echo(node: &str, reason: Option<String>) -> Self {
        Self {
            name: ECHO.to_owned(),
            kind: "icmp".to_owned(),
            node: Some(node.to_owned()),
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without: "proof of what could not be reached, and for how long".to_owned(),
        }
    }

    /// Objects of the cluster's API; `reason` is why they cannot be read.
    pub fn cluster(kind: ClusterKind, reason: Option<String>) -> Self {
        let lost = match kind {
            ClusterKind::Nodes => "peers' names, and all that follows from the cluster",
            ClusterKind::BgpConfigurations | ClusterKind::BgpPeers => {
                "peers' types, and peers that never connected"
            }
            ClusterKind::IpPools => "whether BGP is in use at all",
            ClusterKind::Blocks => "whose lost prefixes were",
        };
        Self {
            name: kind.name().to_owned(),
            kind: KUBERNETES.to_owned(),
            node: None,
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without: lost.to_owned(),
        }
    }

    /// What calico-node says of sessions; `reason` is why it cannot be read.
    pub fn node_status(reason: Option<String>) -> Self {
        Self {
            name: "caliconodestatuses".to_owned(),
            kind: KUBERNETES.to_owned(),
            node: None,
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without: "whether calico-node says the same of sessions".to_owned(),
        }
    }

    /// A control socket of a node's BIRD; `reason` is why it does not answer.
    pub fn bird(node: &str, socket: &Path, reason: Option<String>) -> Self {
        let name = socket.file_name().unwrap_or(socket.as_os_str());
        Self {
            name: name.to_string_lossy().into_owned(),
            kind: BIRD.to_owned(),
            node: Some(node.to_owned()),
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without: "passive peers that never connected, and protocols that are disabled"
                .to_owned(),
        }
    }

    /// Events of this node in the cluster's API; `reason` is why they cannot be written.
    pub fn node_events(reason: Option<String>) -> Self {
        Self {
            name: "node_events".to_owned(),
            kind: KUBERNETES.to_owned(),
            node: None,
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without: "incidents as Events of the node".to_owned(),
        }
    }

    /// Whether it is one of the probes of routes, for which rtnetlink stands in.
    pub fn tells_routes(&self) -> bool {
        self.node.is_none() && self.name.starts_with("route")
    }

    /// Whether it sees sessions: the store, echoes and the cluster's API do not.
    pub fn observes(&self) -> bool {
        self.name != ECHO && self.name != STORE && self.kind != KUBERNETES && self.kind != BIRD
    }

    /// The tap in a node's namespace.
    pub fn tap(node: &str, tapped: Tapped) -> Self {
        let reason = tapped.outcome.err().map(|error| format!("{error:#}"));
        Self {
            name: "tap".to_owned(),
            kind: tapped.kind.to_owned(),
            node: Some(node.to_owned()),
            running: reason.is_none(),
            reason,
            instead_because: tapped.instead_because,
            lost_without: "why a session fell in BGP's words, timers, prefixes, message counts"
                .to_owned(),
        }
    }
}

impl SourceStatus {
    /// rtnetlink in a node's namespace; `reason` is why it does not work.
    pub fn rtnetlink(node: &str, reason: Option<String>) -> Self {
        Self {
            name: RTNETLINK.to_owned(),
            kind: "netlink".to_owned(),
            node: Some(node.to_owned()),
            running: reason.is_none(),
            reason,
            instead_because: None,
            lost_without: "routes: which were lost, from when to when, and what a packet does"
                .to_owned(),
        }
    }
}

/// Who tells of route changes here.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RoutesFrom {
    /// `probes`, `rtnetlink` or `none`.
    pub source: &'static str,
    /// How the probes are attached.
    pub kinds: Vec<String>,
    /// Why the probes are not the source.
    pub reason: Option<String>,
}

impl RoutesFrom {
    /// What follows from these.
    pub fn of(sources: &[SourceStatus]) -> Self {
        let probes = || sources.iter().filter(|source| source.tells_routes());
        let rtnetlink = sources.iter().any(|it| it.name == RTNETLINK && it.running);
        let attached = probes().count() > 0 && probes().all(|probe| probe.running);
        let mut kinds: Vec<String> = { probes() }
            .filter(|_| attached)
            .map(|probe| probe.kind.clone())
            .collect();
        kinds.sort();
        kinds.dedup();
        Self {
            source: match (attached, rtnetlink) {
                (true, _) => "probes",
                (false, true) => "rtnetlink",
                (false, false) => "none",
            },
            kinds,
            reason: probes().find_map(|probe| probe.reason.clone()),
        }
    }
}

impl fmt::Display for RoutesFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            "probes" => write!(
                f,
                "Route changes come from kernel probes ({}), with their times and writers; rtnetlink is \
                 the cross-check",
                self.kinds.join(", ")
            ),
            "rtnetlink" => f.write_str(
                "Route changes come from rtnetlink, within an interval and without their writers; no \
                 kernel probe tells of them",
            ),
            _ => f.write_str("Nothing tells of route changes"),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    probes: Vec<SourceStatus>,
    /// Those that every node has one of, by node and name.
    by_node: BTreeMap<String, BTreeMap<String, SourceStatus>>,
    /// The core has seen the first dump of every namespace there is.
    started: bool,
    /// Kinds of the cluster's API that were read: since when what is known is not confirmed any more.
    cluster: BTreeMap<ClusterKind, Option<Timestamp>>,
}

/// Shared by whoever tells and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

impl Health {
    /// Of these probes, before anything else is known.
    pub fn new(probes: &[ProbeStatus]) -> Self {
        let health = Self::default();
        health.lock().probes = probes.iter().map(SourceStatus::from).collect();
        health
    }

    /// How a source of a node does now. Whether that is new.
    pub fn set(&self, status: SourceStatus) -> bool {
        let mut state = self.lock();
        let node = status.node.clone().unwrap_or_default();
        let sources = state.by_node.entry(node).or_default();
        sources.insert(status.name.clone(), status.clone()) != Some(status)
    }

    /// The probes no longer run, because of `reason`.
    pub fn set_probes_failed(&self, reason: &str) {
        for probe in &mut self.lock().probes {
            probe.running = false;
            probe.reason = Some(reason.to_owned());
        }
    }

    /// `node` is no longer observed.
    pub fn forget_node(&self, node: &str) {
        self.lock().by_node.remove(node);
    }

    /// What is known of a kind is what the API server says now.
    pub fn cluster_live(&self, kind: ClusterKind) {
        self.lock().cluster.insert(kind, None);
    }

    /// The API server does not say any more whether what is known of a kind still holds.
    pub fn cluster_stale(&self, kind: ClusterKind) {
        if let Some(since) = self.lock().cluster.get_mut(&kind) {
            since.get_or_insert_with(boottime_now);
        }
    }

    /// How old what is known of each kind is; of a kind that was never read nothing is.
    pub fn cluster_ages(&self) -> BTreeMap<ClusterKind, Duration> {
        let now = boottime_now();
        let age = |since: &Option<Timestamp>| since.map_or(Duration::ZERO, |at| now.since(at));
        let state = self.lock();
        let ages = state.cluster.iter();
        ages.map(|(kind, since)| (*kind, age(since))).collect()
    }

    /// The first dumps are in the core.
    pub fn set_started(&self) {
        self.lock().started = true;
    }

    /// Every probe and source.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let state = self.lock();
        state
            .probes
            .iter()
            .chain(state.by_node.values().flat_map(BTreeMap::values))
            .cloned()
            .collect()
    }

    /// Sessions are seen as they change, not only when somebody looks.
    pub fn sees_changes(&self) -> bool {
        let state = self.lock();
        state
            .probes
            .iter()
            .any(|p| p.name == STATE_PROBE && p.running)
    }

    /// Neither probes nor `sock_diag` see any session: what is known of peers may all be wrong.
    pub fn blind(&self) -> bool {
        let state = self.lock();
        let sees = |source: &SourceStatus, name| source.name == name && source.running;
        let sock_diag = state.by_node.values().flat_map(BTreeMap::values);
        !state.probes.iter().any(|probe| sees(probe, STATE_PROBE))
            && !{ sock_diag }.any(|source| sees(source, SOCK_DIAG))
    }

    /// Why the agent is not ready, if it is not.
    pub fn unready(&self) -> Option<&'static str> {
        if self.blind() {
            return Some(
                "blind: neither the kernel probes nor sock_diag work; run `bgp-observer check`",
            );
        }
        (!self.lock().started).then_some("starting: the first dump of sockets is not complete")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(name: &str, kind: &str, reason: Option<&str>) -> SourceStatus {
        SourceStatus {
            name: name.to_owned(),
            kind: kind.to_owned(),
            node: None,
            running: reason.is_none(),
            reason: reason.map(str::to_owned),
            instead_because: None,
            lost_without: String::new(),
        }
    }

    #[test]
    fn routes_come_from_the_probes_where_all_of_them_run() {
        let netlink =
            |reason: Option<&str>| SourceStatus::rtnetlink("n", reason.map(str::to_owned));
        let both = [
            probe("route_removed", "fentry", None),
            probe("route_written", "fexit", None),
            probe("tcp_state", "tp_btf", None),
            netlink(None),
        ];
        let from = RoutesFrom::of(&both);
        assert_eq!((from.source, from.reason.as_deref()), ("probes", None));
        assert!(from.to_string().contains("(fentry, fexit)"), "{from}");

        let refused = [
            probe("route_removed", "fentry", None),
            probe("route_written", "off", Some("EPERM")),
            netlink(None),
        ];
        let from = RoutesFrom::of(&refused);
        assert_eq!((from.source, from.kinds.len()), ("rtnetlink", 0));
        assert_eq!(from.reason.as_deref(), Some("EPERM"));
        assert_eq!(RoutesFrom::of(&[netlink(None)]).source, "rtnetlink");
        assert_eq!(RoutesFrom::of(&[netlink(Some("no"))]).source, "none");
    }
}

//! The agent's settings: defaults, then the TOML file, then `BGP_OBSERVER_*`, then flags.
//!
//! [`Settings`] is what one of those places says; a key of the file is the flag's name with `_` for
//! `-`. [`Config`] is what follows from all of them.

mod values;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use observer_abi::{MAX_PORTS, MAX_TABLES};
use observer_core::config::{Canary, CoreConfig, ReachConfig};
use serde::{Deserialize, Serialize};

pub use self::values::{Listen, LogFormat, NetnsSpec, RouteProtocol, Size, Span};
use crate::{
    cli::BadUsage,
    cluster::{Kubernetes, KubernetesPods},
    cross_check::NodeStatusCheck,
    reach::{Reach, ReachBy},
    sink::{metrics::PeerMetrics, node_events::KubernetesEvents},
    source::{bird::BirdSocket, kernel::RouteProbes, rtnetlink::filter::Followed},
    store::Limits,
    taps::TapKind,
};

/// Where the unix socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bgp-observer/api.sock";
/// How much the store keeps unless told otherwise.
const RETENTION: Span = Span(Duration::from_hours(90 * 24));
const STORE_MAX_SIZE: Size = Size(256 << 20);
/// The port that always means BGP.
const BGP_PORT: u16 = 179;

/// What a configuration file, the environment or the command line says; nothing where it is silent.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Set by the global flag and the file.
    #[arg(skip)]
    pub socket: Option<PathBuf>,

    /// Observe the named network namespace (`ip netns`) as a node of its own; repeatable. With it,
    /// the agent's own namespace is observed only if --node names it
    #[arg(
        long,
        env = "BGP_OBSERVER_NETNS",
        value_name = "NAME[=NODE]",
        value_delimiter = ','
    )]
    pub netns: Vec<NetnsSpec>,

    /// Name of the node that the agent's own network namespace is [default: the host's name]
    #[arg(long, env = "BGP_OBSERVER_NODE", value_name = "NAME")]
    pub node: Option<String>,

    /// TCP port that means BGP, in addition to 179; repeatable
    #[arg(
        long,
        env = "BGP_OBSERVER_PORT",
        value_name = "PORT",
        value_delimiter = ','
    )]
    pub port: Vec<u16>,

    /// Follow only routes of this protocol, like bird, kernel or 80; repeatable [default: all]. What
    /// is left out does not reach the agent, and `path` says that it may be wrong
    #[arg(
        long,
        env = "BGP_OBSERVER_ROUTE_PROTOCOL",
        value_name = "PROTOCOL",
        value_delimiter = ','
    )]
    pub route_protocol: Vec<RouteProtocol>,

    /// Follow only routes of this table, by number; main is 254, local 255; repeatable
    /// [default: all]
    #[arg(
        long,
        env = "BGP_OBSERVER_ROUTE_TABLE",
        value_name = "TABLE",
        value_delimiter = ','
    )]
    pub route_table: Vec<u32>,

    /// Where known peers are remembered [default: /var/lib/bgp-observer]
    #[arg(long, env = "BGP_OBSERVER_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// How long changes and closed incidents are kept, like 90d [default: 90d]
    #[arg(long, env = "BGP_OBSERVER_RETENTION", value_name = "DURATION")]
    pub retention: Option<Span>,

    /// How big the store may grow before its oldest records are deleted, like 256MiB
    /// [default: 256MiB]
    #[arg(long, env = "BGP_OBSERVER_STORE_MAX_SIZE", value_name = "SIZE")]
    pub store_max_size: Option<Size>,

    /// What is probed when something is wrong, and slowly while nothing is
    /// [default: tunnel]
    #[arg(long, env = "BGP_OBSERVER_REACH", value_name = "MODE")]
    pub reach: Option<Reach>,

    /// How it is probed: icmp, or tcp:PORT (a connection that may be refused) [default: icmp]
    #[arg(long, env = "BGP_OBSERVER_REACH_PROBE", value_name = "icmp|tcp:PORT")]
    pub reach_probe: Option<ReachBy>,

    /// Address to probe with --reach canary; may be given again
    #[arg(
        long,
        env = "BGP_OBSERVER_REACH_CANARY",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub reach_canary: Vec<IpAddr>,

    /// Address of /metrics, /healthz and /readyz, or off [default: [::]:9742, IPv4 included]
    #[arg(long, env = "BGP_OBSERVER_METRICS_LISTEN", value_name = "ADDR|off")]
    pub metrics_listen: Option<Listen>,

    /// Loopback address of the read-only API, or off [default: 127.0.0.1:9743]
    #[arg(long, env = "BGP_OBSERVER_API_LISTEN", value_name = "ADDR|off")]
    pub api_listen: Option<Listen>,

    /// Serve the metrics listener over TLS with this certificate chain (PEM)
    #[arg(long, env = "BGP_OBSERVER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key for --tls-cert (PEM)
    #[arg(long, env = "BGP_OBSERVER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Serve metrics only to clients whose certificate one of these authorities signed (PEM)
    #[arg(long, env = "BGP_OBSERVER_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// TOML file that names the peers that ought to exist; read again on SIGHUP
    #[arg(long, env = "BGP_OBSERVER_INVENTORY", value_name = "FILE")]
    pub inventory: Option<PathBuf>,

    /// Whether peers' names, types and blocks are read from Kubernetes' API [default: auto]
    #[arg(long, env = "BGP_OBSERVER_KUBERNETES", value_name = "MODE")]
    pub kubernetes: Option<Kubernetes>,

    /// Whether pods behind lost routes are named, which needs a right to list all pods [default: off]
    #[arg(long, env = "BGP_OBSERVER_KUBERNETES_PODS", value_name = "MODE")]
    pub kubernetes_pods: Option<KubernetesPods>,

    /// Whether incidents of this node become Events of it in Kubernetes, which needs a right to write
    /// them [default: off]
    #[arg(long, env = "BGP_OBSERVER_KUBERNETES_EVENTS", value_name = "MODE")]
    pub kubernetes_events: Option<KubernetesEvents>,

    /// Whether calico-node's own word on sessions (CalicoNodeStatus) is held against what is seen [default: off]
    #[arg(long, env = "BGP_OBSERVER_KUBERNETES_NODE_STATUS", value_name = "MODE")]
    pub kubernetes_node_status: Option<NodeStatusCheck>,

    /// Control socket of the local BIRD, which is asked who its peers are (`show protocols all`, nothing is
    /// changed); repeatable [default: none]
    #[arg(
        long,
        env = "BGP_OBSERVER_BIRD_SOCKET",
        value_name = "[NODE=]PATH",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub bird_socket: Vec<BirdSocket>,

    /// Which peers have all their metrics [default: auto]
    #[arg(long, env = "BGP_OBSERVER_PEER_METRICS", value_name = "MODE")]
    pub peer_metrics: Option<PeerMetrics>,

    /// Write every event to this file, for `bgp-observer replay`; an older one is kept as FILE.old
    #[arg(long, env = "BGP_OBSERVER_RECORD", value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Type information (BTF) to use instead of /sys/kernel/btf/vmlinux
    #[arg(long, env = "BGP_OBSERVER_BTF", value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// How the kernel's functions are asked for route changes, where they can be [default: auto]
    #[arg(long, env = "BGP_OBSERVER_ROUTE_PROBES", value_name = "KIND")]
    pub route_probes: Option<RouteProbes>,

    /// Where BGP's segments are looked for [default: auto]
    #[arg(long, env = "BGP_OBSERVER_TAP", value_name = "KIND")]
    pub tap: Option<TapKind>,

    /// Form of the log on standard error [default: text]
    #[arg(long, env = "BGP_OBSERVER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What is logged: error, warn, info, debug, trace, or a filter like info,observer=debug
    /// [default: info]; read again on SIGHUP
    #[arg(long, env = "BGP_OBSERVER_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// Forget a peer that has been silent for this long, like 24h or 7d [default: 24h]
    #[arg(long, env = "BGP_OBSERVER_FORGET_AFTER", value_name = "DURATION")]
    pub forget_after: Option<Span>,
}

impl Settings {
    /// Reads a configuration file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read configuration file {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            BadUsage(format!(
                "configuration file {}: {}",
                path.display(),
                error.to_string().trim_end()
            ))
            .into()
        })
    }

    /// These settings, and where they are silent, `under`'s.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        Self {
            socket: self.socket.or(under.socket),
            netns: listed(self.netns, under.netns),
            node: self.node.or(under.node),
            port: listed(self.port, under.port),
            route_protocol: listed(self.route_protocol, under.route_protocol),
            route_table: listed(self.route_table, under.route_table),
            state_dir: self.state_dir.or(under.state_dir),
            retention: self.retention.or(under.retention),
            store_max_size: self.store_max_size.or(under.store_max_size),
            reach: self.reach.or(under.reach),
            reach_probe: self.reach_probe.or(under.reach_probe),
            reach_canary: listed(self.reach_canary, under.reach_canary),
            metrics_listen: self.metrics_listen.or(under.metrics_listen),
            api_listen: self.api_listen.or(under.api_listen),
            tls_cert: self.tls_cert.or(under.tls_cert),
            tls_key: self.tls_key.or(under.tls_key),
            tls_client_ca: self.tls_client_ca.or(under.tls_client_ca),
            inventory: self.inventory.or(under.inventory),
            kubernetes: self.kubernetes.or(under.kubernetes),
            kubernetes_pods: self.kubernetes_pods.or(under.kubernetes_pods),
            kubernetes_events: self.kubernetes_events.or(under.kubernetes_events),
            kubernetes_node_status: self.kubernetes_node_status.or(under.kubernetes_node_status),
            bird_socket: listed(self.bird_socket, under.bird_socket),
            peer_metrics: self.peer_metrics.or(under.peer_metrics),
            record: self.record.or(under.record),
            btf: self.btf.or(under.btf),
            route_probes: self.route_probes.or(under.route_probes),
            tap: self.tap.or(under.tap),
            log_format: self.log_format.or(under.log_format),
            log: self.log.or(under.log),
            forget_after: self.forget_after.or(under.forget_after),
        }
    }
}

/// Everything the agent was told, with defaults filled in. Serialized, it is a configuration file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Config {
    /// Path of the unix socket.
    pub socket: PathBuf,
    /// Name of the own namespace's node; none when the own namespace is not observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Other namespaces to observe.
    pub netns: Vec<NetnsSpec>,
    /// BGP ports other than 179.
    pub port: Vec<u16>,
    /// Protocols whose routes are followed; all where empty.
    pub route_protocol: Vec<RouteProtocol>,
    /// Tables whose routes are followed; all where empty.
    pub route_table: Vec<u32>,
    /// Where known peers are remembered.
    pub state_dir: PathBuf,
    /// How long changes and closed incidents are kept.
    pub retention: Span,
    /// How big the store may grow.
    pub store_max_size: Size,
    /// What is probed.
    pub reach: Reach,
    /// And how.
    pub reach_probe: ReachBy,
    /// Addresses that are, in mode canary.
    pub reach_canary: Vec<IpAddr>,
    /// The metrics listener.
    pub metrics_listen: Listen,
    /// The API listener.
    pub api_listen: Listen,
    /// Certificate chain of the metrics listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Who may sign its clients' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca: Option<PathBuf>,
    /// Static inventory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inventory: Option<PathBuf>,
    /// Whether Kubernetes' API is read.
    pub kubernetes: Kubernetes,
    /// Whether pods are.
    pub kubernetes_pods: KubernetesPods,
    /// Whether Events are written.
    pub kubernetes_events: KubernetesEvents,
    /// Whether CalicoNodeStatus is compared.
    pub kubernetes_node_status: NodeStatusCheck,
    /// Where BIRD is asked who its peers are.
    pub bird_socket: Vec<BirdSocket>,
    /// Which peers have all their metrics.
    pub peer_metrics: PeerMetrics,
    /// Events file to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<PathBuf>,
    /// BTF to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub btf: Option<PathBuf>,
    /// How route changes are asked for.
    pub route_probes: RouteProbes,
    /// Where segments are looked for.
    pub tap: TapKind,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Filter of the log.
    pub log: String,
    /// When a silent peer is forgotten.
    pub forget_after: Span,
}

impl Config {
    /// Fills in the defaults and checks what belongs together.
    pub fn from_settings(settings: Settings) -> Result<Self> {
        let own = settings.node.is_some() || settings.netns.is_empty();
        let config = Self {
            socket: settings.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            node: own.then(|| settings.node.unwrap_or_else(host_name)),
            netns: settings.netns,
            port: sorted(settings.port.into_iter().filter(|port| *port != BGP_PORT)),
            route_protocol: sorted(settings.route_protocol),
            route_table: sorted(settings.route_table),
            state_dir: settings
                .state_dir
                .unwrap_or_else(|| "/var/lib/bgp-observer".into()),
            retention: settings.retention.unwrap_or(RETENTION),
            store_max_size: settings.store_max_size.unwrap_or(STORE_MAX_SIZE),
            reach: settings.reach.unwrap_or(Reach::Tunnel),
            reach_probe: settings.reach_probe.unwrap_or_default(),
            reach_canary: settings.reach_canary,
            metrics_listen: settings
                .metrics_listen
                .unwrap_or(Listen::At(SocketAddr::new(
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    9742,
                ))),
            api_listen: settings.api_listen.unwrap_or(Listen::At(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                9743,
            ))),
            tls_cert: settings.tls_cert,
            tls_key: settings.tls_key,
            tls_client_ca: settings.tls_client_ca,
            inventory: settings.inventory,
            kubernetes: settings.kubernetes.unwrap_or(Kubernetes::Auto),
            kubernetes_pods: settings.kubernetes_pods.unwrap_or(KubernetesPods::Off),
            kubernetes_events: settings.kubernetes_events.unwrap_or(KubernetesEvents::Off),
            kubernetes_node_status: settings
                .kubernetes_node_status
                .unwrap_or(NodeStatusCheck::Off),
            bird_socket: sorted(settings.bird_socket),
            peer_metrics: settings.peer_metrics.unwrap_or(PeerMetrics::Auto),
            record: settings.record,
            btf: settings.btf,
            route_probes: settings.route_probes.unwrap_or_default(),
            tap: settings.tap.unwrap_or_default(),
            log_format: settings.log_format.unwrap_or(LogFormat::Text),
            log: settings.log.unwrap_or_else(|| "info".to_owned()),
            forget_after: settings
                .forget_after
                .unwrap_or(Span(CoreConfig::default().forget_after())),
        };
        config.verify()?;
        Ok(config)
    }

    fn verify(&self) -> Result<()> {
        let bad = |what: String| Err(BadUsage(what).into());
        if self.port.contains(&0) {
            return bad("--port 0: a BGP port is between 1 and 65535".to_owned());
        }
        if self.port.len() >= MAX_PORTS {
            return bad(format!(
                "--port: at most {} ports in addition to 179, not {}",
                MAX_PORTS - 1,
                self.port.len()
            ));
        }
        if let ReachBy::Tcp(port) = self.reach_probe
            && self.ports().contains(&port.get())
        {
            return bad(format!(
                "--reach-probe tcp:{port}: that is a BGP port, on which nothing is ever sent"
            ));
        }
        if self.route_table.contains(&0) {
            return bad("--route-table 0: no table has that number; main is 254".to_owned());
        }
        if self.route_table.len() > MAX_TABLES {
            return bad(format!(
                "--route-table: at most {MAX_TABLES} tables, not {}",
                self.route_table.len()
            ));
        }
        if self.kubernetes == Kubernetes::Off && self.kubernetes_events == KubernetesEvents::On {
            return bad("--kubernetes-events on: not with --kubernetes off".to_owned());
        }
        let mut nodes: BTreeSet<&str> = self.node.as_deref().into_iter().collect();
        for spec in &self.netns {
            if !nodes.insert(&spec.node) {
                return bad(format!(
                    "--netns {spec}: the node name {} is already taken; give it another with \
                     --netns {}=NODE",
                    spec.node, spec.netns
                ));
            }
        }
        let observed = |name: &str| nodes.contains(name);
        for socket in &self.bird_socket {
            match &socket.node {
                Some(node) if !observed(node) => {
                    return bad(format!(
                        "--bird-socket {socket}: no node {node} is observed"
                    ));
                }
                None if nodes.len() > 1 => {
                    return bad(format!(
                        "--bird-socket {socket}: of which node? NODE={socket}"
                    ));
                }
                _ => {}
            }
        }
        if let Listen::At(address) = self.api_listen
            && !address.ip().is_loopback()
        {
            return bad(format!(
                "--api-listen {address}: the API knows no users, so it listens on loopback \
                 addresses only"
            ));
        }
        match (&self.tls_cert, &self.tls_key, &self.tls_client_ca) {
            (Some(_), Some(_), _) | (None, None, None) => Ok(()),
            (Some(_), None, _) => bad("--tls-cert needs --tls-key".to_owned()),
            (None, Some(_), _) => bad("--tls-key needs --tls-cert".to_owned()),
            (None, None, Some(_)) => bad("--tls-client-ca needs --tls-cert".to_owned()),
        }
    }

    /// All ports that mean BGP.
    pub fn ports(&self) -> Vec<u16> {
        std::iter::once(BGP_PORT)
            .chain(self.port.iter().copied())
            .collect()
    }

    /// The first node that is observed.
    fn first_node(&self) -> Option<&str> {
        let of_netns = self.netns.first().map(|spec| spec.node.as_str());
        self.node.as_deref().or(of_netns)
    }

    /// A node of which Events are written, where they are.
    pub fn events_of(&self) -> Option<&str> {
        self.first_node()
            .filter(|_| self.kubernetes_events == KubernetesEvents::On)
    }

    /// Where BIRD is asked, each with its node.
    pub fn bird_sockets(&self) -> Vec<(String, PathBuf)> {
        let node = |socket: &BirdSocket| {
            let node = socket.node.as_deref().or_else(|| self.first_node());
            node.unwrap_or_default().to_owned()
        };
        let sockets = self.bird_socket.iter();
        sockets
            .map(|socket| (node(socket), socket.path.clone()))
            .collect()
    }

    /// Which routes are followed.
    pub fn followed_routes(&self) -> Followed {
        let protocols = self.route_protocol.iter();
        Followed {
            protocols: protocols.map(|protocol| protocol.0).collect(),
            tables: self.route_table.clone(),
        }
    }

    /// What of this the core is told.
    pub fn core(&self) -> CoreConfig {
        CoreConfig {
            ports: self.ports(),
            forget_after_secs: self.forget_after.0.as_secs(),
            kubernetes: self.kubernetes.is_wanted(),
            pods: self.kubernetes.is_wanted() && self.kubernetes_pods == KubernetesPods::On,
            all_routes: self.followed_routes().is_all(),
            reach: ReachConfig {
                mode: self.reach.mode(),
                probe: self.reach_probe.probe(),
                canaries: self
                    .reach_canary
                    .iter()
                    .map(|address| Canary {
                        address: *address,
                        peer: None,
                    })
                    .collect(),
                ..ReachConfig::default()
            },
            ..CoreConfig::default()
        }
    }

    /// How much of it the store keeps.
    pub const fn store_limits(&self) -> Limits {
        Limits {
            retention: self.retention.0,
            max_size: self.store_max_size.0,
        }
    }

    /// The keys in which `other` is different.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let keys = |config: &Self| match toml::Value::try_from(config) {
            Ok(toml::Value::Table(table)) => table,
            _ => toml::Table::new(),
        };
        let (ours, theirs) = (keys(self), keys(other));
        let all: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        all.into_iter()
            .filter(|key| ours.get(*key) != theirs.get(*key))
            .cloned()
            .collect()
    }

    /// As a configuration file, with a comment for each key that is not set.
    pub fn to_toml(&self) -> Result<String> {
        let mut text = toml::to_string(self).context("cannot show the configuration")?;
        for (key, set) in [
            ("node", self.node.is_some()),
            ("tls_cert", self.tls_cert.is_some()),
            ("tls_key", self.tls_key.is_some()),
            ("tls_client_ca", self.tls_client_ca.is_some()),
            ("inventory", self.inventory.is_some()),
            ("record", self.record.is_some()),
            ("btf", self.btf.is_some()),
        ] {
            if !set {
                text.push_str("# ");
                text.push_str(key);
                text.push_str(" is not set\n");
            }
        }
        Ok(text)
    }
}

/// The kernel's name of this host, or `localhost`.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Each once, in order.
fn sorted<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let all: BTreeSet<T> = all.into_iter().collect();
    all.into_iter().collect()
}

/// What the more important of two sources says, if it says anything.
fn listed<T>(over: Vec<T>, under: Vec<T>) -> Vec<T> {
    if over.is_empty() { under } else { over }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

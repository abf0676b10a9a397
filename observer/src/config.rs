//! The agent's settings: defaults, then the TOML file, then `BGP_OBSERVER_*`, then flags.
//!
//! [`Settings`] is what one of those places says; a key of the file is the flag's name with `_` for
//! `-`. [`Config`] is what follows from all of them.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use observer_abi::MAX_PORTS;
use observer_core::config::{Canary, CoreConfig, ReachConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{cli::BadUsage, cluster::Kubernetes, reach::Reach, store::Limits};

/// Where the unix socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bgp-observer/api.sock";
/// How much the store keeps unless told otherwise.
const RETENTION: Span = Span(Duration::from_hours(90 * 24));
const STORE_MAX_SIZE: Size = Size(256 << 20);
/// Smaller than this a store holds nothing worth having.
const STORE_MIN_SIZE: u64 = 1 << 20;
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

    /// What is probed (ICMP echo) when something is wrong, and slowly while nothing is
    /// [default: tunnel]
    #[arg(long, env = "BGP_OBSERVER_REACH", value_name = "MODE")]
    pub reach: Option<Reach>,

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

    /// Write every event to this file, for `bgp-observer replay`; an older one is kept as FILE.old
    #[arg(long, env = "BGP_OBSERVER_RECORD", value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Type information (BTF) to use instead of /sys/kernel/btf/vmlinux
    #[arg(long, env = "BGP_OBSERVER_BTF", value_name = "FILE")]
    pub btf: Option<PathBuf>,

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
            netns: if self.netns.is_empty() {
                under.netns
            } else {
                self.netns
            },
            node: self.node.or(under.node),
            port: listed(self.port, under.port),
            state_dir: self.state_dir.or(under.state_dir),
            retention: self.retention.or(under.retention),
            store_max_size: self.store_max_size.or(under.store_max_size),
            reach: self.reach.or(under.reach),
            reach_canary: listed(self.reach_canary, under.reach_canary),
            metrics_listen: self.metrics_listen.or(under.metrics_listen),
            api_listen: self.api_listen.or(under.api_listen),
            tls_cert: self.tls_cert.or(under.tls_cert),
            tls_key: self.tls_key.or(under.tls_key),
            tls_client_ca: self.tls_client_ca.or(under.tls_client_ca),
            inventory: self.inventory.or(under.inventory),
            kubernetes: self.kubernetes.or(under.kubernetes),
            record: self.record.or(under.record),
            btf: self.btf.or(under.btf),
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
    /// Where known peers are remembered.
    pub state_dir: PathBuf,
    /// How long changes and closed incidents are kept.
    pub retention: Span,
    /// How big the store may grow.
    pub store_max_size: Size,
    /// What is probed.
    pub reach: Reach,
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
    /// Events file to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<PathBuf>,
    /// BTF to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub btf: Option<PathBuf>,
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
            port: settings
                .port
                .into_iter()
                .filter(|port| *port != BGP_PORT)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            state_dir: settings
                .state_dir
                .unwrap_or_else(|| "/var/lib/bgp-observer".into()),
            retention: settings.retention.unwrap_or(RETENTION),
            store_max_size: settings.store_max_size.unwrap_or(STORE_MAX_SIZE),
            reach: settings.reach.unwrap_or(Reach::Tunnel),
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
            record: settings.record,
            btf: settings.btf,
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

    /// What of this the core is told.
    pub fn core(&self) -> CoreConfig {
        CoreConfig {
            ports: self.ports(),
            forget_after_secs: self.forget_after.0.as_secs(),
            reach: ReachConfig {
                mode: self.reach.mode(),
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

/// A named namespace and the node it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetnsSpec {
    /// Name as in `ip netns`.
    pub netns: String,
    /// Name of the node; the namespace's unless given.
    pub node: String,
}

impl FromStr for NetnsSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (netns, node) = text.split_once('=').unwrap_or((text, text));
        if netns.is_empty() || netns.contains('/') || netns.starts_with('.') {
            return Err(format!("'{netns}' is no name of a network namespace"));
        }
        if node.is_empty() {
            return Err("the node's name after '=' is empty".to_owned());
        }
        Ok(Self {
            netns: netns.to_owned(),
            node: node.to_owned(),
        })
    }
}

impl fmt::Display for NetnsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.netns == self.node {
            f.write_str(&self.netns)
        } else {
            write!(f, "{}={}", self.netns, self.node)
        }
    }
}

/// Where a listener listens, if at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().or_else(|_| bracketed(text).ok_or(())).map(Self::At).map_err(|()| {
            format!("'{text}' is neither off nor an address with a port, like 127.0.0.1:9743 or [::]:9742")
        })
    }
}

/// `[10.0.0.1]:9742`: brackets around IPv4 too, so that a manifest can put them around an address of
/// which it does not know the version.
fn bracketed(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.strip_prefix('[')?.split_once("]:")?;
    let ip: Ipv4Addr = ip.parse().ok()?;
    Some(SocketAddr::new(ip.into(), port.parse().ok()?))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// A length of time as people write it: `24h`, `1h 30m`, `7d`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_span = || format!("'{text}' is no length of time; write it like 24h, 90m or 7d");
        // Days are not of one length to jiff, but they are to whoever writes 7d here.
        let days = text
            .trim()
            .strip_suffix('d')
            .and_then(|days| days.trim().parse::<u64>().ok());
        let span = match days {
            Some(days) => days.checked_mul(86_400).map(Duration::from_secs),
            None => text
                .parse::<jiff::SignedDuration>()
                .ok()
                .and_then(|span| Duration::try_from(span).ok()),
        }
        .ok_or_else(no_span)?;
        if span < Duration::from_secs(1) {
            return Err(format!("'{text}' is shorter than a second"));
        }
        Ok(Self(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

/// A number of octets as people write it: `256MiB`, `1 GB`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse::<ByteSize>();
        let ByteSize(octets) =
            size.map_err(|_| format!("'{text}' is no size; write it like 256MiB or 1GB"))?;
        if octets < STORE_MIN_SIZE {
            return Err(format!("'{text}' is less than 1MiB"));
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for Size {
    /// In the largest unit in which it is a whole number, for it is read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = units
            .iter()
            .find(|(shift, _)| self.0.trailing_zeros() >= *shift);
        match whole {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// What the more important of two sources says, if it says anything.
fn listed<T>(over: Vec<T>, under: Vec<T>) -> Vec<T> {
    if over.is_empty() { under } else { over }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// These types are strings in the file, parsed as on the command line.
macro_rules! string_in_file {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

string_in_file!(NetnsSpec, Listen, Size, Span);

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

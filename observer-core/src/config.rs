//! What the core is told once, at the start; part of every recording.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// The core's own settings.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoreConfig {
    /// TCP ports that mean BGP.
    pub ports: Vec<u16>,
    /// How long a flap's cause may stay pending, milliseconds (DESIGN §3: 250).
    pub cause_wait_millis: u64,
    /// A peer not heard of for this long is forgotten, seconds (DESIGN §3: 24 h).
    pub forget_after_secs: u64,
    /// How long an unknown inbound connection must live before it can become a session, milliseconds.
    pub stranger_age_millis: u64,
    /// How many payload bytes it must have carried each way: an OPEN and a KEEPALIVE are 29 + 19.
    pub stranger_bytes: u64,
    /// How often sockets of known peers are inspected, milliseconds.
    pub inspect_every_millis: u64,
    /// Whether targets behind peers are probed.
    pub reach: ReachConfig,
    /// A route gone for at most this long is a micro gap, milliseconds (DESIGN §3: 1 s).
    pub gap_millis: u64,
    /// Whether pods of the nodes whose routes an incident lost are asked for, once.
    pub pods: bool,
    /// Whether Kubernetes' API can be asked about an incident's node.
    pub kubernetes: bool,
    /// Routes of every protocol and table are told of; else what is missing may exist all the same.
    pub all_routes: bool,
}

/// How reachability is probed (DESIGN §3).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReachConfig {
    /// Which targets.
    pub mode: ReachMode,
    /// How they are asked.
    pub probe: ReachProbe,
    /// Targets named by the configuration, for `canary`.
    pub canaries: Vec<Canary>,
    /// Between two echoes to one target while an incident is young, milliseconds.
    pub every_millis: u64,
    /// An echo without answer for this long is lost, milliseconds.
    pub timeout_millis: u64,
    /// Targets probed at most for one incident.
    pub targets_per_incident: u32,
    /// Echoes a second at most, over all incidents and the baseline.
    pub per_second: u32,
    /// No echoes for an incident after this many seconds, but once a minute for proof of recovery.
    pub give_up_secs: u64,
    /// Seconds between two echoes to one target per peer while nothing is wrong; 0 is off.
    pub baseline_secs: u64,
    /// No baseline with more peers than this.
    pub baseline_peers: u32,
}

/// Which targets are probed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReachMode {
    /// None.
    #[default]
    Off,
    /// The peer node's tunnel address, or another address in its blocks known to answer.
    Tunnel,
    /// Those that the configuration names.
    Canary,
    /// Pods of namespaces that opted in, as the inventory names them.
    Pods,
}

/// What a target is asked by. Whatever it is, the rest calls it an echo.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReachProbe {
    /// ICMP and ICMPv6 echo.
    #[default]
    Icmp,
    /// A TCP connection to this port, which need not be open.
    Tcp(u16),
}

impl fmt::Display for ReachProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("ICMP echo"),
            Self::Tcp(port) => write!(f, "TCP connection to port {port}"),
        }
    }
}

/// A target that the configuration names.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// What is probed.
    pub address: std::net::IpAddr,
    /// The peer behind which it lies: its address or its node's name; none is found by prefix.
    #[serde(default)]
    pub peer: Option<String>,
}

impl Default for ReachConfig {
    fn default() -> Self {
        Self {
            probe: ReachProbe::Icmp,
            mode: ReachMode::default(),
            canaries: Vec::new(),
            every_millis: 200,
            timeout_millis: 1_000,
            targets_per_incident: 8,
            per_second: 200,
            give_up_secs: 600,
            baseline_secs: 5,
            baseline_peers: 100,
        }
    }
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            ports: vec![179],
            cause_wait_millis: 250,
            forget_after_secs: 24 * 60 * 60,
            stranger_age_millis: 1_000,
            stranger_bytes: 48,
            inspect_every_millis: 5_000,
            reach: ReachConfig::default(),
            gap_millis: 1_000,
            pods: false,
            kubernetes: false,
            all_routes: true,
        }
    }
}

impl CoreConfig {
    /// As a duration.
    pub const fn cause_wait(&self) -> Duration {
        Duration::from_millis(self.cause_wait_millis)
    }

    /// As a duration.
    pub const fn forget_after(&self) -> Duration {
        Duration::from_secs(self.forget_after_secs)
    }

    /// As a duration.
    pub const fn stranger_age(&self) -> Duration {
        Duration::from_millis(self.stranger_age_millis)
    }

    /// As a duration.
    pub const fn gap(&self) -> Duration {
        Duration::from_millis(self.gap_millis)
    }

    /// As a duration.
    pub const fn inspect_every(&self) -> Duration {
        Duration::from_millis(self.inspect_every_millis)
    }
}

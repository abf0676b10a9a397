//! Whether and what the agent probes, as people write it.

use std::{fmt, num::NonZero, str::FromStr};

use clap::ValueEnum;
use observer_core::config::{ReachMode, ReachProbe};
use serde::{Deserialize, Serialize};

/// Which targets are probed when something is wrong, and slowly while nothing is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// None: nothing is sent, and reachability is inferred.
    Off,
    /// The peer node's tunnel address, or another address in its blocks that is known to answer.
    Tunnel,
    /// The addresses of `reach_canary` only.
    Canary,
    /// The targets that the inventory names only.
    Pods,
}

impl Reach {
    /// As the core knows it.
    pub const fn mode(self) -> ReachMode {
        match self {
            Self::Off => ReachMode::Off,
            Self::Tunnel => ReachMode::Tunnel,
            Self::Canary => ReachMode::Canary,
            Self::Pods => ReachMode::Pods,
        }
    }
}

/// How targets are asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ReachBy {
    /// By ICMP echo.
    #[default]
    Icmp,
    /// By a TCP connection to this port; who refuses it is reached, too.
    Tcp(NonZero<u16>),
}

impl ReachBy {
    /// As the core knows it.
    pub const fn probe(self) -> ReachProbe {
        match self {
            Self::Icmp => ReachProbe::Icmp,
            Self::Tcp(port) => ReachProbe::Tcp(port.get()),
        }
    }
}

impl FromStr for ReachBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |port: &str| port.parse().ok().map(Self::Tcp);
        match text.split_once(':') {
            None if text == "icmp" => Some(Self::Icmp),
            Some(("tcp", number)) => port(number),
            _ => None,
        }
        .ok_or_else(|| format!("'{text}' is neither icmp nor tcp:PORT, like tcp:80"))
    }
}

impl fmt::Display for ReachBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("icmp"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
        }
    }
}

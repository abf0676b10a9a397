//! Whether and what the agent probes, as people write it.

use clap::ValueEnum;
use observer_core::config::ReachMode;
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

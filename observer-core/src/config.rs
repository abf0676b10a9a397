//! What the core is told once, at the start; part of every recording.

use std::time::Duration;

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
    pub const fn inspect_every(&self) -> Duration {
        Duration::from_millis(self.inspect_every_millis)
    }
}

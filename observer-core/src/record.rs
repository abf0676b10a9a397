//! The events file: JSON lines that hold what the core was told, in the order and at the times it
//! was told, so that a replay reproduces the same changes bit for bit.
//!
//! The first line is a [`Header`], every other line an [`Entry`].

use serde::{Deserialize, Serialize};

use crate::{config::CoreConfig, event::Event, time::Timestamp};

/// The value of [`Header::format`].
pub const FORMAT: &str = "bgp-observer-events";
/// The version this code writes and reads.
pub const VERSION: u32 = 1;

/// First line of an events file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of the agent that wrote it.
    pub agent: String,
    /// The core's configuration.
    pub config: CoreConfig,
}

/// One call of `apply`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    /// The `now` of the call.
    pub now: Timestamp,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

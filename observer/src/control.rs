//! What the core asks of the task that reads the sources.

use std::net::IpAddr;

use observer_core::{bgp::Prefix, event::NetnsId, time::Timestamp};

/// What the core wants of the sources.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Control {
    /// This peer's events go through the main ring.
    Trust(NetnsId, IpAddr),
    /// They no longer do.
    Distrust(NetnsId, IpAddr),
    /// Something of this namespace was lost: dump it.
    Dump(NetnsId),
    /// Its routes of a family, IPv6 or IPv4, may have gone without a word since then: dump them.
    DumpRoutes(NetnsId, bool, Timestamp),
    /// Packets dropped on their way to this prefix count from now on.
    Watch(NetnsId, Prefix),
    /// No longer.
    Unwatch(NetnsId, Prefix),
    /// Send an echo from this namespace to this target, with this token.
    Echo(NetnsId, IpAddr, u64),
}

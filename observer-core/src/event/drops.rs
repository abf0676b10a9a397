//! Why the kernel drops a packet that nobody can get to its destination.

use serde::{Deserialize, Serialize};

/// The kernel's reason (`enum skb_drop_reason`), as far as it bears on a lost route.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// No route leads there.
    NoRoute,
    /// A route says that the host cannot be reached.
    HostUnreachable,
    /// The next hop's neighbour entry (ARP, ND) failed, or waits for an answer that does not come.
    Neighbour,
    /// The kernel does not say. It does not where an `unreachable` or `blackhole` route took the
    /// packet, nor in many other cases.
    Unspecified,
}

impl DropReason {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoRoute => "no route",
            Self::HostUnreachable => "host unreachable",
            Self::Neighbour => "next hop does not answer (ARP or ND)",
            Self::Unspecified => "route of type unreachable or blackhole",
        }
    }
}

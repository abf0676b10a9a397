//! Why a packet does not get to its destination: the kernel drops it, or TCP has to send it again.

use serde::{Deserialize, Serialize};

/// The kernel's reason (`enum skb_drop_reason`), as far as it bears on a lost route; or what TCP of this
/// host's own processes does that gets no answer.
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
    /// TCP sent a segment again: the first one may have been lost anywhere, and both ways count.
    SentAgain,
    /// TCP gave a connection up, or was told that nothing leads there.
    GivenUp,
}

impl DropReason {
    /// Whether a packet was dropped on this node, which proves that it did not arrive. That TCP has no
    /// answer may have other reasons: a pod that is gone, a busy host.
    pub const fn proves(self) -> bool {
        !matches!(self, Self::SentAgain | Self::GivenUp)
    }

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoRoute => "no route",
            Self::HostUnreachable => "host unreachable",
            Self::Neighbour => "next hop does not answer (ARP or ND)",
            Self::Unspecified => "route of type unreachable or blackhole",
            Self::SentAgain => "TCP sent it again",
            Self::GivenUp => "TCP gave the connection up",
        }
    }
}

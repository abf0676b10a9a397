//! A fact that bears on how a connection ended, and on which end.

use std::{fmt, time::Duration};

use crate::{
    bgp::NotificationFacts,
    cause::Errno,
    event::TcpState,
    evidence::{End, Way},
    time::Timestamp,
};

/// A received NOTIFICATION ends its connection at once (RFC 4271 §6): one that the kernel's close does
/// not follow within this was not believed by the local speaker.
const NOTIFICATION_EXPLAINS: Duration = Duration::from_secs(1);

/// A RST ends its connection at once, where the kernel takes it.
const RESET_EXPLAINS: Duration = Duration::from_secs(1);

/// A fact that bears on how a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Clue {
    /// A valid RST arrived.
    ResetReceived,
    /// The kernel sent a RST.
    ResetSent,
    /// The kernel told the owner an error.
    Error(i32),
    /// It went to this state.
    Went(TcpState),
    /// It is not among the sockets any more.
    Missing,
    /// The tap saw a FIN, all before it being there.
    FinSeen {
        /// This node sent it.
        sent: bool,
    },
    /// The tap saw a RST that the other end expected.
    ResetSeen {
        /// This node sent it.
        sent: bool,
    },
    /// A NOTIFICATION was read.
    Notification {
        /// This node sent it.
        sent: bool,
        /// What it says.
        notification: NotificationFacts,
    },
}

impl Clue {
    /// Whether it is TCP as the tap saw it: what stands in where the kernel said nothing of the end.
    pub const fn is_seen(&self) -> bool {
        matches!(self, Self::FinSeen { .. } | Self::ResetSeen { .. })
    }

    /// Whether a clue of `at` has to do with `end`. A NOTIFICATION comes before it, give or take the
    /// merging of sources: what an old stream delivers long after is no cause any more.
    pub fn bears_on(&self, at: Timestamp, end: &End, wait: Duration) -> bool {
        match self {
            Self::Notification { sent, .. } => {
                let explains = *sent || end.at.since(at) <= NOTIFICATION_EXPLAINS;
                explains && at.since(end.at) <= wait
            }
            Self::FinSeen { .. } => at.since(end.at) <= wait,
            Self::ResetSeen { .. } => {
                end.at.since(at) <= RESET_EXPLAINS && at.since(end.at) <= wait
            }
            Self::ResetReceived
            | Self::ResetSent
            | Self::Error(_)
            | Self::Went(_)
            | Self::Missing => at >= end.at.before(wait),
        }
    }
}

impl fmt::Display for Clue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResetReceived => f.write_str("RST received"),
            Self::ResetSent => f.write_str("RST sent"),
            Self::Error(errno) => write!(f, "TCP error: {}", Errno(*errno)),
            Self::Went(state) => match Way::of(*state) {
                Way::FinReceived => write!(f, "FIN received ({})", state.name()),
                Way::FinSent => write!(f, "FIN sent ({})", state.name()),
                Way::Closed | Way::Missing => write!(f, "socket went to {}", state.name()),
            },
            Self::Missing => f.write_str("socket found gone"),
            Self::FinSeen { sent } => write!(f, "FIN {} (seen on the wire)", way(*sent)),
            Self::ResetSeen { sent } => write!(f, "RST {} (seen on the wire)", way(*sent)),
            Self::Notification { sent, notification } => {
                write!(f, "NOTIFICATION {}: {notification}", way(*sent))
            }
        }
    }
}

const fn way(sent: bool) -> &'static str {
    if sent { "sent" } else { "received" }
}

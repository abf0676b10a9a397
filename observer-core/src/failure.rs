//! Why an attempt to bring a session up failed, in the words an operator reads.

use crate::{bgp::NotificationFacts, cause::Errno};

/// Why an attempt to connect failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// One side said why.
    Notified {
        /// This node did.
        sent: bool,
        /// What it said.
        notification: NotificationFacts,
    },
    /// RST in answer to a SYN, or before a session.
    Refused,
    /// TCP gave up.
    Error(i32),
    /// The dialling speaker stopped waiting, or the socket closed for no visible reason.
    GivenUp,
    /// FIN from the peer before a session.
    ClosedByPeer,
    /// FIN from our side before a session.
    ClosedByUs,
    /// RST from our side before a session.
    ResetByUs,
    /// Gone when we looked.
    Unobserved,
}

impl Failure {
    /// Whether later evidence could still name it better.
    pub const fn is_settled(&self) -> bool {
        match self {
            Self::Notified { .. } | Self::Refused | Self::Error(_) | Self::Unobserved => true,
            Self::GivenUp | Self::ClosedByPeer | Self::ClosedByUs | Self::ResetByUs => false,
        }
    }

    /// In words; `connected` when TCP had come up.
    pub fn words(&self, connected: bool) -> String {
        let words = match (self, connected) {
            (Self::Notified { sent, notification }, _) => {
                let way = if *sent { "sent" } else { "received" };
                return format!("{notification} {way}");
            }
            (Self::Refused, false) => "connection refused",
            (Self::Refused, true) => "reset by the peer before Established (RST received)",
            (Self::Error(errno), _) => return Errno(*errno).to_string(),
            (Self::GivenUp, false) => "no answer until the local speaker gave up",
            (Self::GivenUp, true) => "closed before Established",
            (Self::ClosedByPeer, _) => "closed by the peer before Established (FIN received)",
            (Self::ClosedByUs, _) => "closed by the local speaker before Established (FIN sent)",
            (Self::ResetByUs, _) => "reset by this node before Established (RST sent)",
            (Self::Unobserved, _) => "ended while the agent was not looking",
        };
        words.to_owned()
    }
}

//! What both sides of a session had agreed on, as it outlives the agent.
//!
//! A session that stood before the agent did shows no OPENs. What an earlier run read of them still
//! holds for it, and says what its end means; what this run reads takes precedence.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    bgp::{Family, OpenFacts},
    conversation::Direction,
    exchange::Exchange,
    restart::{Agreed, agreed},
    wire::Wire,
};

/// What a session's OPENs said, and what it carried.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SavedTerms {
    /// What this node does when the peer restarts; none when it does not keep routes (RFC 4724).
    #[serde(default)]
    pub peer_restart: Option<RestartTerms>,
    /// What the peer does when this node's speaker restarts.
    #[serde(default)]
    pub own_restart: Option<RestartTerms>,
    /// The peer's BGP identifier, and this node's.
    #[serde(default)]
    pub peer_id: Option<Ipv4Addr>,
    /// Likewise.
    #[serde(default)]
    pub own_id: Option<Ipv4Addr>,
    /// The peer reflects others' routes (RFC 4456).
    #[serde(default)]
    pub reflects: bool,
    /// Prefixes that the peer announced, where all of them were read.
    #[serde(default)]
    pub prefixes: Option<u64>,
}

/// Graceful restart of one side, as both sides agreed on it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RestartTerms {
    /// Seconds that its routes are kept.
    pub restart_secs: u16,
    /// Of these families.
    pub families: Vec<Family>,
    /// Over a NOTIFICATION, too: both set the N bit (RFC 8538).
    #[serde(default)]
    pub notification: bool,
    /// It set the R bit in its latest OPEN: it had just restarted.
    #[serde(default)]
    pub restarted: bool,
}

impl RestartTerms {
    fn of(restarting: Option<&OpenFacts>, agreed: Agreed) -> Self {
        let restart = restarting.and_then(|open| open.restart.as_ref());
        Self {
            restart_secs: agreed.restart_secs,
            families: agreed.families.into_iter().collect(),
            notification: agreed.notification,
            restarted: restart.is_some_and(|restart| restart.restarted),
        }
    }

    fn agreed(&self) -> Agreed {
        Agreed {
            restart_secs: self.restart_secs,
            families: self.families.iter().copied().collect(),
            notification: self.notification,
        }
    }
}

impl Exchange {
    /// What was agreed on for a restart of one side of the connection of `wire`: of the peer, whose OPEN
    /// came this way (`BToA`), or of this node.
    pub(crate) fn agreed(&self, wire: Option<&Wire>, restarting: Direction) -> Option<Agreed> {
        let other = match restarting {
            Direction::AToB => Direction::BToA,
            Direction::BToA => Direction::AToB,
        };
        let ours = wire.and_then(|wire| wire.open(other));
        let theirs = wire.and_then(|wire| wire.open(restarting));
        if ours.is_some() || theirs.is_some() {
            return agreed(ours, theirs);
        }
        let remembered = self.remembered.as_ref()?;
        let terms = match restarting {
            Direction::AToB => remembered.own_restart.as_ref(),
            Direction::BToA => remembered.peer_restart.as_ref(),
        };
        terms.map(RestartTerms::agreed)
    }

    /// The peer reflects others' routes, as far as it was ever seen to.
    pub(crate) fn reflects(&self) -> bool {
        self.reflects || self.remembered.as_ref().is_some_and(|terms| terms.reflects)
    }

    /// The BGP identifier of one side.
    pub(crate) fn bgp_id(&self, direction: Direction) -> Option<Ipv4Addr> {
        let open = self.opens.of(direction).as_ref();
        let remembered = self.remembered.as_ref();
        open.and_then(|open| open.bgp_id)
            .or_else(|| match direction {
                Direction::AToB => remembered?.own_id,
                Direction::BToA => remembered?.peer_id,
            })
    }

    /// What is to be remembered; `whole` says that all that the peer announced was read.
    pub(crate) fn terms(&self, whole: bool) -> Option<SavedTerms> {
        let (sent, received) = (self.opens.sent.as_ref(), self.opens.received.as_ref());
        if sent.is_none() && received.is_none() {
            return self.remembered.clone();
        }
        let of = |ours, theirs| Some(RestartTerms::of(theirs, agreed(ours, theirs)?));
        Some(SavedTerms {
            peer_restart: of(sent, received),
            own_restart: of(received, sent),
            peer_id: self.bgp_id(Direction::BToA),
            own_id: self.bgp_id(Direction::AToB),
            reflects: self.reflects(),
            prefixes: whole.then(|| u64::try_from(self.rib.len()).unwrap_or(u64::MAX)),
        })
    }
}

//! Graceful restart (RFC 4724) of this node's own speaker, its peers being the receiving speakers:
//! which of them hold this node's routes as stale, and until when.
//!
//! What a peer does is not seen; it is concluded from the OPENs, from how the session ended and from
//! what this node sends after it. A NOTIFICATION or an expired hold timer drops routes unless both
//! sides set the N bit (RFC 8538). A peer that closed the connection itself without a word has most
//! likely ended, and holds nothing.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    address::PeerAddress,
    bgp::{Family, OpenFacts},
    bgp_view::HeldView,
    cause::Cause,
    conversation::Direction,
    deadline::Due,
    event::SocketId,
    exchange::Exchange,
    node::Node,
    restart::{Agreed, Window},
    time::Timestamp,
    turn::{Moment, Turn},
};

impl Agreed {
    /// Whether the peer keeps this node's routes after an end of this cause.
    fn peer_keeps(&self, cause: &Cause) -> bool {
        match cause {
            Cause::FinSent
            | Cause::ResetSent
            | Cause::TcpError { .. }
            | Cause::Unobserved
            | Cause::Unknown
            | Cause::LocalSpeakerGone {
                notification: None, ..
            } => true,
            Cause::NotificationReceived(notification)
            | Cause::NotificationSent(notification)
            | Cause::LocalSpeakerGone {
                notification: Some(notification),
                ..
            } => self.survives(notification),
            Cause::HoldTimerExpired { .. } => self.notification,
            Cause::FinReceived | Cause::ResetReceived => false,
        }
    }
}

impl Exchange {
    /// This node's End-of-RIB of a family was seen: the peer drops what was not announced again.
    pub(crate) fn complete_held(&mut self, family: Family) {
        self.advertised.sweep(family);
        let window = self.held.as_mut();
        if window.is_some_and(|window| window.complete(family)) {
            self.held = None;
        }
    }
}

impl Node {
    /// The session with a peer ended for good, on connection `id`: what it was told is stale there, or
    /// gone.
    pub fn end_advertised(
        &mut self,
        turn: &mut Turn<'_>,
        address: PeerAddress,
        id: SocketId,
        down: Moment,
        cause: &Cause,
    ) {
        let due = Due::Held(self.netns, address);
        turn.deadlines.clear(due);
        let wire = self.connections.get(&id).map(|connection| &connection.wire);
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let agreed = peer.exchange.agreed(wire, Direction::AToB);
        let agreed = agreed.filter(|agreed| agreed.peer_keeps(cause));
        let exchange = &mut peer.exchange;
        // RFC 4724 §4.2: a second end before End-of-RIB drops what was stale from the first.
        exchange.held = None;
        exchange.advertised.sweep_all();
        exchange.advertised.owner = None;
        let Some(agreed) = agreed else {
            exchange.advertised.clear();
            return;
        };
        exchange.advertised.mark_stale(&agreed.families);
        let kept = Duration::from_secs(u64::from(agreed.restart_secs));
        let until = down.at.unwrap_or(turn.at).after(kept);
        turn.deadlines.set(due, until);
        exchange.held = Some(Window {
            since: down,
            until: Some(until),
            awaited: agreed.families,
        });
    }

    /// The session is up again, on connection `id`: the peer drops what this node did not preserve.
    pub fn resume_advertised(&mut self, turn: &mut Turn<'_>, address: PeerAddress, id: SocketId) {
        turn.deadlines.clear(Due::Held(self.netns, address));
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let exchange = &mut peer.exchange;
        if exchange.advertised.owner != Some(id) {
            exchange.advertised.begin(id);
        }
        let Some(window) = &mut exchange.held else {
            return;
        };
        window.until = None;
        let open = self
            .connections
            .get(&id)
            .and_then(|connection| connection.wire.open(Direction::AToB));
        // An OPEN that was not seen says nothing: End-of-RIB, if it is seen, decides.
        let Some(open) = open else {
            return;
        };
        let dropped: BTreeSet<Family> = window
            .awaited
            .iter()
            .copied()
            .filter(|family| !preserves(open, *family))
            .collect();
        for family in dropped {
            exchange.complete_held(family);
        }
    }

    /// The peer's restart timer expired: it holds nothing any more.
    pub fn held_due(&mut self, address: PeerAddress) {
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.exchange.held = None;
            peer.exchange.advertised.sweep_all();
        }
    }
}

/// Whether the sender says that it has kept forwarding for a family (RFC 4724 §3, F bit).
fn preserves(open: &OpenFacts, family: Family) -> bool {
    open.restart.as_ref().is_some_and(|restart| {
        let mut families = restart.families.iter();
        families.any(|kept| kept.family == family && kept.forwarding)
    })
}

/// As users see it; none when the peer holds nothing stale.
pub(crate) fn view(exchange: &Exchange, now: Timestamp) -> Option<HeldView> {
    let window = exchange.held.as_ref()?;
    Some(HeldView {
        since: window.since.wall,
        expires_in_seconds: window.until.map(|until| until.since(now).as_secs_f64()),
        awaited: window.awaited.iter().copied().collect(),
        routes: exchange.advertised.stale().values().sum(),
    })
}

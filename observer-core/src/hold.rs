//! The hold timer (RFC 4271 §6.5) of this node for a peer, foretold: less than a third of the hold
//! time is left, where a healthy peer sends three KEEPALIVEs in it.

use std::time::Duration;

use crate::{
    address::PeerAddress,
    change::Change,
    connection::Connection,
    deadline::Due,
    event::SocketId,
    node::{Node, Peer},
    time::Timestamp,
    turn::Turn,
};

/// The kernel having received something this much later than the tap means that the tap missed it.
const TAP_BEHIND: Duration = Duration::from_secs(1);

/// How a connection's hold timer stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldTimer {
    pub hold: Duration,
    /// When it last started again.
    pub heard: Timestamp,
}

impl HoldTimer {
    /// None when there is none, or it is not known.
    pub fn of(connection: &Connection) -> Option<Self> {
        let hold = connection.wire.hold().filter(|hold| !hold.is_zero())?;
        let heard = connection.wire.signs.heard_at?;
        Some(Self { hold, heard })
    }

    /// When a third is left.
    pub fn low_at(&self) -> Timestamp {
        self.heard.after(self.hold.mul_f64(2.0 / 3.0))
    }

    /// Fraction that is left.
    pub fn margin(&self, now: Timestamp) -> f64 {
        let spent = now.since(self.heard).as_secs_f64() / self.hold.as_secs_f64();
        (1.0 - spent).max(0.0)
    }
}

impl Node {
    /// The hold timer of the session that rides on connection `id` is watched.
    pub fn watch_hold(&self, turn: &mut Turn<'_>, id: SocketId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let address = connection.peer;
        let carries = |peer: &Peer| peer.session.carrier == Some(id);
        if connection.wire.signs.margin_told || !self.peers.get(&address).is_some_and(carries) {
            return;
        }
        if let Some(timer) = HoldTimer::of(connection) {
            let due = Due::Hold(self.netns, address);
            turn.deadlines.hasten(due, timer.low_at());
        }
    }

    /// Less than a third of the hold time may be left.
    pub fn hold_due(&mut self, turn: &mut Turn<'_>, address: PeerAddress) {
        let carrier = self
            .peers
            .get(&address)
            .and_then(|peer| peer.session.carrier);
        let Some(connection) = carrier.and_then(|id| self.connections.get_mut(&id)) else {
            return;
        };
        let Some(timer) = HoldTimer::of(connection) else {
            return;
        };
        if turn.at < timer.low_at() {
            let due = Due::Hold(self.netns, address);
            turn.deadlines.set(due, timer.low_at());
            return;
        }
        let behind = connection
            .last_data
            .is_some_and(|data| data > timer.heard.after(TAP_BEHIND));
        if behind || std::mem::replace(&mut connection.wire.signs.margin_told, true) {
            return;
        }
        let change = Change::HoldMarginLow {
            peer: address.to_string(),
            hold_secs: timer.hold.as_secs(),
            silent_seconds: turn.at.since(timer.heard).as_secs_f64(),
        };
        turn.tell(&self.name, change);
    }
}

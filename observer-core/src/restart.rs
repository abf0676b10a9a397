//! Graceful restart (RFC 4724) of a peer, this node being the receiving speaker: routes stay stale
//! from the session's end until End-of-RIB on the next one, or until the restart timer expires.
//!
//! What the local speaker does is concluded from the OPENs and the RFCs, as BIRD does it: a
//! NOTIFICATION or an expired hold timer drops routes unless both sides set the N bit (RFC 8538), and
//! a second end while routes are stale drops those. When this node's own speaker restarts, its peers
//! keep routes (`held`), and nothing is stale here.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    address::PeerAddress,
    bgp::{Family, NotificationFacts, OpenFacts, iana},
    bgp_view::GracefulRestartView,
    cause::Cause,
    change::{Change, RestartEnd},
    conversation::Direction,
    deadline::Due,
    event::SocketId,
    exchange::Exchange,
    node::Node,
    time::Timestamp,
    turn::{Moment, Turn},
    wire::Wire,
};

/// Stale routes are waited for.
#[derive(Debug)]
pub(crate) struct Window {
    pub since: Moment,
    /// When the restart timer expires; none while the session is up again (RFC 4724 §4.2 leaves the
    /// time to End-of-RIB to the implementation; BIRD sets no limit).
    pub until: Option<Timestamp>,
    pub awaited: BTreeSet<Family>,
}

/// What both OPENs agreed on for a restart of one side.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// What the restarting side asked for.
    pub restart_secs: u16,
    pub families: BTreeSet<Family>,
    /// RFC 8538 §2: both set the N bit.
    pub notification: bool,
}

/// For a restart of the one whose OPEN is `theirs`, while the sender of `ours` keeps its routes. None
/// when it was not negotiated, or the OPENs were not seen.
pub(crate) fn agreed(ours: Option<&OpenFacts>, theirs: Option<&OpenFacts>) -> Option<Agreed> {
    let (ours, theirs) = (ours?, theirs?);
    let (own, peer) = (ours.restart.as_ref()?, theirs.restart.as_ref()?);
    let families: BTreeSet<Family> = peer
        .families
        .iter()
        .map(|kept| kept.family)
        .filter(|family| ours.speaks(*family))
        .collect();
    (!families.is_empty()).then_some(Agreed {
        restart_secs: peer.restart_secs,
        families,
        notification: own.notification && peer.notification,
    })
}

impl Agreed {
    /// Whether routes are kept in spite of a NOTIFICATION (RFC 8538 §3).
    pub fn survives(&self, notification: &NotificationFacts) -> bool {
        let hard = (iana::error_code::CEASE, iana::cease::HARD_RESET);
        self.notification && (notification.code, notification.subcode) != hard
    }

    /// Whether an end of this cause keeps routes.
    fn keeps(&self, cause: &Cause) -> bool {
        match cause {
            Cause::ResetReceived
            | Cause::ResetSent
            | Cause::FinReceived
            | Cause::TcpError { .. }
            | Cause::Unobserved
            | Cause::Unknown => true,
            Cause::NotificationReceived(notification) | Cause::NotificationSent(notification) => {
                self.survives(notification)
            }
            Cause::HoldTimerExpired { .. } => self.notification,
            Cause::FinSent | Cause::LocalSpeakerGone { .. } => false,
        }
    }
}

impl Window {
    /// A family's End-of-RIB came; true when it was the last that was awaited.
    pub fn complete(&mut self, family: Family) -> bool {
        self.awaited.remove(&family) && self.awaited.is_empty()
    }
}

impl Node {
    /// The session with a peer ended for good, on connection `id`: its routes are stale or gone.
    pub fn end_routes(
        &mut self,
        turn: &mut Turn<'_>,
        address: PeerAddress,
        id: SocketId,
        down: Moment,
        cause: &Cause,
    ) {
        self.end_restart(turn, address, RestartEnd::SecondRestart);
        let wire = self.connections.get(&id).map(|connection| &connection.wire);
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let agreed = peer.exchange.agreed(wire, Direction::BToA);
        let agreed = agreed.filter(|agreed| agreed.keeps(cause));
        let Exchange { rib, restart, .. } = &mut peer.exchange;
        rib.owner = None;
        let Some(agreed) = agreed else {
            rib.clear();
            return;
        };
        rib.mark_stale(&agreed.families);
        let stale = rib.stale().values().sum();
        let until = down
            .at
            .unwrap_or(turn.at)
            .after(Duration::from_secs(u64::from(agreed.restart_secs)));
        let families = agreed.families.iter().copied().collect();
        *restart = Some(Window {
            since: down,
            until: Some(until),
            awaited: agreed.families,
        });
        turn.deadlines.set(Due::Restart(self.netns, address), until);
        let change = Change::GrStarted {
            peer: address.to_string(),
            restart_secs: agreed.restart_secs,
            families,
            stale,
        };
        turn.tell(&self.name, change);
    }

    /// The session is up again, on connection `id`: what the peer did not preserve goes (RFC 4724
    /// §4.2).
    pub fn resume_routes(&mut self, turn: &mut Turn<'_>, address: PeerAddress, id: SocketId) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let Exchange { rib, restart, .. } = &mut peer.exchange;
        if rib.owner != Some(id) {
            rib.begin(id);
        }
        let Some(window) = restart else {
            return;
        };
        window.until = None;
        turn.deadlines.clear(Due::Restart(self.netns, address));
        let open = self
            .connections
            .get(&id)
            .and_then(|connection| connection.wire.open(Direction::BToA));
        // An OPEN that was not seen says nothing: End-of-RIB, if it is seen, decides.
        let Some(open) = open else {
            return;
        };
        let preserved = |family: &Family| {
            open.restart.as_ref().is_some_and(|restart| {
                let kept = |kept: &&crate::bgp::RestartFamily| kept.family == *family;
                restart
                    .families
                    .iter()
                    .find(kept)
                    .is_some_and(|kept| kept.forwarding)
            })
        };
        if window.awaited.iter().all(|family| !preserved(family)) {
            self.end_restart(turn, address, RestartEnd::NotPreserved);
            return;
        }
        window.awaited.retain(|family| {
            let keep = preserved(family);
            if !keep {
                rib.sweep(*family);
            }
            keep
        });
    }

    /// The restart timer expired.
    pub fn restart_due(&mut self, turn: &mut Turn<'_>, address: PeerAddress) {
        self.end_restart(turn, address, RestartEnd::Expired);
    }

    /// Nothing is stale any more, if anything was.
    pub fn end_restart(&mut self, turn: &mut Turn<'_>, address: PeerAddress, how: RestartEnd) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let Some(window) = peer.exchange.restart.take() else {
            return;
        };
        turn.deadlines.clear(Due::Restart(self.netns, address));
        let swept = peer.exchange.rib.sweep_all();
        let swept = std::mem::take(&mut peer.exchange.swept) + u64::try_from(swept).unwrap_or(0);
        let change = Change::GrEnded {
            peer: address.to_string(),
            how,
            seconds: window.since.until(turn.moment()).as_secs_f64(),
            dropped: swept,
        };
        turn.tell(&self.name, change);
    }
}

/// As users see it: what the peer's latest OPEN offers, and what goes on.
pub(crate) fn view(
    exchange: &Exchange,
    wire: Option<&Wire>,
    now: Timestamp,
) -> Option<GracefulRestartView> {
    let opens = &exchange.opens;
    let offered = opens.received.as_ref()?.restart.as_ref()?;
    let window = exchange.restart.as_ref();
    let (ours, theirs) = match wire {
        Some(wire) => (wire.open(Direction::AToB), wire.open(Direction::BToA)),
        None => (opens.sent.as_ref(), opens.received.as_ref()),
    };
    Some(GracefulRestartView {
        negotiated: agreed(ours, theirs).is_some(),
        restart_secs: offered.restart_secs,
        restarted: offered.restarted,
        notification: offered.notification,
        families: offered
            .families
            .iter()
            .map(|kept| (kept.family, kept.forwarding))
            .collect(),
        active: window.is_some(),
        active_since: window.map(|window| window.since.wall),
        expires_in_seconds: window
            .and_then(|window| window.until)
            .map(|until| until.since(now).as_secs_f64()),
        awaited: window
            .map(|window| window.awaited.iter().copied().collect())
            .unwrap_or_default(),
    })
}

//! Whether a peer fell silent, or this node is cut off from all of them.
//!
//! Hold timers do not run out together: each peer was last heard up to a keepalive interval before
//! the cut. But when the first of them runs out, the others have been silent for longer than a healthy
//! peer is, too, or do not acknowledge what they are sent. So the first flap tells already.

use std::collections::BTreeSet;

use super::{Incidents, group::local_subject, open::Open, verdict::Cut};
use crate::{
    address::PeerAddress,
    cause::Cause,
    connection::UNANSWERED,
    hold::HoldTimer,
    node::{Node, Peer},
    peer::Flap,
    time::Timestamp,
    turn::Turn,
};

/// A peer with less than this fraction of its hold time left has missed at least one KEEPALIVE of
/// three.
const OVERDUE: f64 = 0.5;
/// One peer that is still heard (on this very host, say) does not disprove it where there are so many.
const TO_ONE: usize = 4;

impl Incidents {
    /// The session of `peer` ended because nothing was heard. If almost nobody is heard, that is one
    /// event of this node, and the sessions that are about to end belong to it.
    pub(super) fn suspect_silence(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        number: u64,
        peer: PeerAddress,
        flap: &Flap,
    ) {
        let fit = |open: &Open| !open.told && open.cut.is_none() && !open.mass;
        if !is_silence(&flap.cause) || !self.open.get(&number).is_some_and(fit) {
            return;
        }
        let mut silent = vec![peer];
        let mut heard = 0;
        for (address, other) in &node.peers {
            if *address == peer {
                continue;
            }
            if is_overdue(node, other, turn.at) || self.fell_silent(node, *address, number) {
                silent.push(*address);
            } else if other.session.is_up() {
                heard += 1;
            }
        }
        if silent.len() < 2 || heard * TO_ONE > silent.len() {
            return;
        }
        let whom = if heard == 0 {
            format!("any of {} peers", silent.len())
        } else {
            format!("{} of {} peers", silent.len(), silent.len() + heard)
        };
        let words = format!(
            "nothing is heard from {whom}, so look at this node; the first: {}",
            flap.cause_text
        );
        if let Some(open) = self.open.get_mut(&number) {
            open.record.subject = local_subject(node);
            open.cut = Some((Cut::Silence, words));
            open.peers.extend(silent.iter().copied());
        }
        let untold: BTreeSet<u64> = silent
            .iter()
            .filter_map(|peer| self.by_peer.get(&(node.netns, *peer)).copied())
            .filter(|other| self.open.get(other).is_some_and(|open| !open.told))
            .collect();
        self.merge(turn, &untold, number);
        for peer in silent {
            self.by_peer.entry((node.netns, peer)).or_insert(number);
        }
        self.begin_probing(turn, node, number);
    }

    /// Whether a session that is down ended in an open incident that began in silence, too.
    fn fell_silent(&self, node: &Node, peer: PeerAddress, besides: u64) -> bool {
        let number = self.by_peer.get(&(node.netns, peer));
        let open = number
            .filter(|number| **number != besides)
            .and_then(|number| self.open.get(number));
        open.is_some_and(|open| {
            let down = |member: &super::open::Member| member.up.is_none() && !member.forgotten;
            let label = open.record.cause_label.as_deref();
            open.members.get(&peer).is_some_and(down)
                && matches!(label, Some("hold_timer_expired" | "tcp_error"))
        })
    }
}

/// Whether a session ended because nothing came any more.
const fn is_silence(cause: &Cause) -> bool {
    const ENETDOWN: i32 = 100;
    const ENETUNREACH: i32 = 101;
    const ETIMEDOUT: i32 = 110;
    const EHOSTDOWN: i32 = 112;
    const EHOSTUNREACH: i32 = 113;
    match cause {
        Cause::HoldTimerExpired { .. } => true,
        Cause::TcpError { errno } => matches!(
            *errno,
            ENETDOWN | ENETUNREACH | ETIMEDOUT | EHOSTDOWN | EHOSTUNREACH
        ),
        Cause::NotificationReceived(_)
        | Cause::NotificationSent(_)
        | Cause::ResetReceived
        | Cause::ResetSent
        | Cause::FinReceived
        | Cause::FinSent
        | Cause::LocalSpeakerGone { .. }
        | Cause::Unobserved
        | Cause::Unknown => false,
    }
}

/// Whether a session is up or has just fallen, and its peer was late with a KEEPALIVE or did not
/// acknowledge.
pub(super) fn is_overdue(node: &Node, peer: &Peer, now: Timestamp) -> bool {
    let session = &peer.session;
    let pending = session.pending.as_ref().map(|pending| pending.carrier);
    let carrier = session.carrier.or(pending);
    let connection = carrier.and_then(|id| node.connections.get(&id));
    connection.is_some_and(|connection| {
        let late = HoldTimer::of(connection).is_some_and(|timer| timer.margin(now) < OVERDUE);
        late || connection.socket.unanswered_retransmits >= UNANSWERED
    })
}

//! Restarts of several nodes that overlap: graceful restart covers one at a time, and a BIRD that comes
//! back waits for every peer that is away.

use std::time::Duration;

use super::{Incidents, milestones::Within, open::Open, record::MilestoneKind};
use crate::{
    address::PeerAddress,
    bgp::iana,
    cause::Cause,
    change::Change,
    event::{NetnsId, TcpState},
    node::Node,
    time::Timestamp,
    turn::Turn,
};

/// A restart that began this long before another one does not overlap with it: it lasts, or is over.
const WINDOW: Duration = Duration::from_mins(2);
/// Nodes that are named.
const NAMED: usize = 8;

impl Incidents {
    /// A flap of incident `number` has its cause. If a speaker ended, and another one's restart is not
    /// over, that is said, once for each two.
    pub(super) fn look_for_overlap(
        &mut self,
        turn: &mut Turn<'_>,
        (node, peer): (&Node, PeerAddress),
        number: u64,
        (cause, within): (&Cause, Within),
    ) {
        if !ends_a_speaker(cause) || (*cause == Cause::FinReceived && still_speaks(node, peer)) {
            return;
        }
        let (netns, now) = (node.netns, turn.at);
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        open.restarted.get_or_insert(within.latest);
        let others: Vec<u64> = { self.open.iter() }
            .filter(|(other, open)| **other != number && overlaps(open, netns, now))
            .map(|(other, _)| *other)
            .collect();
        let news = self.open.get_mut(&number).is_some_and(|open| {
            let before = open.overlaps.len();
            open.overlaps.extend(&others);
            open.overlaps.len() > before
        });
        if !news {
            return;
        }
        let all = || others.iter().chain([&number]);
        let nodes: Vec<String> = all()
            .filter_map(|number| self.open.get(number))
            .map(name)
            .take(NAMED)
            .collect();
        let first = all()
            .filter_map(|number| self.open.get(number)?.restarted)
            .min();
        let seconds = first.map_or(0.0, |first| within.latest.since(first).as_secs_f64());
        let what = format!(
            "restarts overlap: the speakers of {} ended within {seconds:.1} s",
            nodes.join(", ")
        );
        for number in all() {
            if let Some(open) = self.open.get_mut(number) {
                let evidence = "the causes of their sessions' ends";
                open.note(turn, MilestoneKind::Remark, within, what.clone(), evidence);
            }
        }
        if let Some(open) = self.open.get(&number) {
            let node = open.record.node.clone();
            turn.totals.count_concurrent_restarts(&node);
            turn.tell(&node, Change::ConcurrentRestarts { nodes, seconds });
        }
    }
}

fn overlaps(open: &Open, netns: NetnsId, now: Timestamp) -> bool {
    let lately = |at: Timestamp| now.since(at) <= WINDOW;
    open.netns == netns && open.restarted.is_some_and(lately) && !open.is_well(now)
}

fn name(open: &Open) -> String {
    let subject = &open.record.subject;
    subject
        .name
        .clone()
        .unwrap_or_else(|| subject.identity.clone())
}

/// Whether a peer has another connection than that which it closed: of two that collided (RFC 4271 §6.8)
/// it closes one, and its speaker lives.
fn still_speaks(node: &Node, peer: PeerAddress) -> bool {
    let of = node.peers.get(&peer).map(|peer| &peer.connections);
    let mut connections = of.into_iter().flatten();
    connections.any(|id| {
        let connection = node.connections.get(id);
        connection.is_some_and(|connection| connection.tcp == TcpState::Established)
    })
}

/// Whether a session's end says that a speaker ended, the peer's or this node's: not that somebody
/// restarted one session, nor that nothing was heard.
fn ends_a_speaker(cause: &Cause) -> bool {
    match cause {
        Cause::NotificationReceived(notification) => {
            (notification.code, notification.subcode)
                == (
                    iana::error_code::CEASE,
                    iana::cease::ADMINISTRATIVE_SHUTDOWN,
                )
        }
        Cause::FinReceived | Cause::LocalSpeakerGone { .. } => true,
        Cause::NotificationSent(_)
        | Cause::ResetReceived
        | Cause::ResetSent
        | Cause::FinSent
        | Cause::TcpError { .. }
        | Cause::HoldTimerExpired { .. }
        | Cause::Unobserved
        | Cause::Unknown => false,
    }
}

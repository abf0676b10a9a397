//! Which sessions fell for one reason: this node's own speaker ended, or most of its sessions fell at
//! once. What could be the first of many is held back for a moment, so that one event is one incident.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Incidents, Nodes,
    group::local_subject,
    milestones::Within,
    open::{Open, is_local},
    record::MilestoneKind,
};
use crate::{cause::Cause, deadline::Due, node::Node, turn::Turn};

/// Sessions that fell within this of one another may have one reason.
const TOGETHER: Duration = Duration::from_secs(1);
/// So many at once, and at least half of all, are no accident of each.
const MANY: usize = 3;
/// Where no BGP daemon is seen: so many that this side ended at once, being all there are, were its.
const ALL_OURS: usize = 2;
/// A session that this side ended, this soon after the local speaker's other sessions, belongs to them.
const LOCAL_WITHIN: Duration = Duration::from_secs(5);

impl Incidents {
    /// Which incident a flap of `number` belongs to, now that its cause is known.
    pub(super) fn group(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        number: u64,
        cause: &Cause,
    ) -> u64 {
        let Some(begun) = self.open.get(&number).filter(|open| !open.told) else {
            return number;
        };
        let begun = begun.begun;
        let gone = matches!(cause, Cause::LocalSpeakerGone { .. });
        let ours = gone
            || matches!(
                cause,
                Cause::FinSent | Cause::ResetSent | Cause::NotificationSent(_)
            );
        let now = turn.at;
        let belongs = |open: &Open| {
            let lately = gone || now.since(open.begun) <= LOCAL_WITHIN;
            (ours && lately) || (open.mass && begun.since(open.begun) <= TOGETHER)
        };
        let local = self.open.iter().find(|(_, open)| {
            open.netns == node.netns && is_local(&open.record.subject) && belongs(open)
        });
        if let Some((local, _)) = local {
            let local = *local;
            self.merge(turn, &BTreeSet::from([number]), local);
            return local;
        }
        if gone {
            let together = self.fell_together(node, number);
            if let Some(open) = self.open.get_mut(&number) {
                open.record.subject = local_subject(node);
                if let Some((at, words)) = self.ended.get(&node.netns) {
                    let (within, words) = (Within::exactly(*at), words.clone());
                    open.note(turn, MilestoneKind::SpeakerEnded, within, words, "its exit");
                }
            }
            self.merge(turn, &together, number);
        }
        number
    }

    /// A cause is final: the incident is told with what else this event comes to, or, where other
    /// sessions may be about to fall for the same reason, once they had the time to.
    pub(super) fn hold(&mut self, turn: &mut Turn<'_>, node: &Node, number: u64) {
        let wait = turn.config.cause_wait();
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        // The others' causes are final only then, too.
        let wait = if open.speaker_unseen { wait * 2 } else { wait };
        let due = open.begun.after(wait);
        let enough = if open.speaker_unseen { ALL_OURS } else { MANY };
        let alone = node.peers.len() < enough || is_local(&open.record.subject);
        if alone || open.told || due <= turn.at {
            self.ripe.push(number);
            return;
        }
        let due = *open.held.get_or_insert(due);
        turn.deadlines.hasten(Due::Incident(number), due);
    }

    /// What is about to be told, together with all that fell at the same time if that is most of
    /// what there is.
    pub(super) fn gather(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, number: u64) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let fit = !open.told && !open.members.is_empty() && !is_local(&open.record.subject);
        let Some(node) = nodes.get(&open.netns).filter(|_| fit) else {
            return;
        };
        if node.peers.len() < MANY && !open.speaker_unseen {
            return;
        }
        let together = self.fell_together(node, number);
        let members = |number: &u64| self.open.get(number).map_or(0, |open| open.members.len());
        let fell: usize = together.iter().map(members).sum();
        let unseen = |number: &u64| {
            self.open
                .get(number)
                .is_some_and(|open| open.speaker_unseen)
        };
        let ours = fell >= ALL_OURS && fell == node.peers.len() && together.iter().all(unseen);
        if !ours && (fell < MANY || fell * 2 < node.peers.len()) {
            return;
        }
        if let Some(open) = self.open.get_mut(&number) {
            open.mass = true;
            open.ours = ours;
            open.record.subject = local_subject(node);
            open.record.group_keys.clear();
        }
        self.merge(turn, &together, number);
        if let Some(open) = self.open.get_mut(&number) {
            name_mass(open);
        }
    }

    /// Untold incidents of this node whose sessions fell at the same time as that of `number`.
    fn fell_together(&self, node: &Node, number: u64) -> BTreeSet<u64> {
        let Some(begun) = self.open.get(&number).map(|open| open.begun) else {
            return BTreeSet::new();
        };
        let near = |open: &Open| {
            open.begun.since(begun) <= TOGETHER && begun.since(open.begun) <= TOGETHER
        };
        self.open
            .iter()
            .filter(|(_, open)| {
                open.netns == node.netns && !open.told && !open.members.is_empty() && near(open)
            })
            .map(|(number, _)| *number)
            .collect()
    }

    /// What `from`, of which nobody was told, knows, belongs to `to`.
    pub(super) fn merge(&mut self, turn: &mut Turn<'_>, from: &BTreeSet<u64>, to: u64) {
        if !self.open.contains_key(&to) {
            return;
        }
        for one in from.iter().filter(|one| **one != to) {
            turn.deadlines.clear(Due::Incident(*one));
            turn.deadlines.clear(Due::Echo(*one));
            let merged = self.open.remove(one);
            if let (Some(merged), Some(open)) = (merged, self.open.get_mut(&to)) {
                open.absorb(turn, merged);
            }
        }
        for number in self.by_peer.values_mut().filter(|one| from.contains(one)) {
            *number = to;
        }
        self.by_identity.retain(|_, one| !from.contains(one));
        self.reach.rename(from, to);
        self.watched.rename(from, to);
        self.count_probes();
    }
}

/// Names what fell at once, and why the first of it did.
pub(super) fn name_mass(open: &mut Open) {
    if !open.mass {
        return;
    }
    let mut causes = open.record.sessions.iter().map(|session| &session.cause);
    let cease = |cause: &String| cause.starts_with("peer sent Cease");
    let look = if causes.clone().all(cease) {
        "each by its peer's Cease, so look at what stops their speakers"
    } else {
        "so look at this node"
    };
    let first = causes.find(|cause| *cause != "pending");
    open.record.cause = format!(
        "{} sessions fell at once, {look}; the first: {}",
        open.members.len(),
        first.map_or("cause pending", String::as_str)
    );
}

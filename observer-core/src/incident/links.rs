//! What this node's links and the neighbours on them mean for incidents. A link that goes down is one
//! event of this node, however many peers are behind it and whatever becomes of their routes and sessions.

use std::collections::BTreeSet;

use super::{
    Incidents, Nodes, group::local_subject, losses::LOOK_BACK, milestones::Within, open::Open,
    record::MilestoneKind, verdict::Cut,
};
use crate::{
    event::NetnsId,
    node::Node,
    notice::{LinkNotice, LinkStep, NeighbourNotice},
    turn::Turn,
};

impl Incidents {
    /// A link of a node went down or came up.
    pub(super) fn take_link(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, notice: &LinkNotice) {
        let Some(node) = nodes.get(&notice.netns) else {
            return;
        };
        if notice.step == LinkStep::Up {
            self.link_rose(turn, notice);
        } else {
            self.link_fell(turn, node, notice);
        }
    }

    fn link_fell(&mut self, turn: &mut Turn<'_>, node: &Node, notice: &LinkNotice) {
        let cut = |open: &Open| open.netns == node.netns && !open.links.is_empty();
        let known = self.open.iter().find(|(_, open)| cut(open));
        let known = known.map(|(number, _)| *number);
        let number = known.unwrap_or_else(|| self.number());
        let subject = local_subject(node);
        self.open
            .entry(number)
            .or_insert_with(|| Open::new(turn, node.netns, &node.name, subject, notice.earliest));
        let behind = self.suspected_lately(node.netns, notice);
        self.merge(turn, &behind, number);
        if let Some(open) = self.open.get_mut(&number) {
            let words = format!("link {} {}", notice.name, notice.step.words());
            open.links
                .insert(notice.interface, (notice.name.clone(), notice.latest));
            let cut = open.cut.get_or_insert_with(|| (Cut::Link, words.clone()));
            open.record.cause.clone_from(&cut.1);
            open.routes_seen |= node.fib.is_observed();
            open.peers.extend(notice.peers.iter().copied());
            open.calm_since = None;
            note_link(turn, open, notice, words);
        }
        for peer in &notice.peers {
            // Those whose sessions fell before belong to what happened then.
            self.by_peer.entry((node.netns, *peer)).or_insert(number);
            self.claim_pending(turn, node.netns, *peer, number);
        }
        self.begin_probing(turn, node, number);
        self.look_again(turn, number);
    }

    /// Suspicions of a moment ago, nothing but routes that are gone behind the same link: the routes
    /// may be told before the link is.
    fn suspected_lately(&self, netns: NetnsId, notice: &LinkNotice) -> BTreeSet<u64> {
        let same = |open: &Open| {
            let suspicion = !open.told && open.members.is_empty() && !open.peers.is_empty();
            let lately = notice.latest.since(open.begun) <= LOOK_BACK;
            let behind = |peer| notice.peers.contains(peer);
            open.netns == netns && suspicion && lately && open.peers.iter().all(behind)
        };
        let all = self.open.iter().filter(|(_, open)| same(open));
        all.map(|(number, _)| *number).collect()
    }

    fn link_rose(&mut self, turn: &mut Turn<'_>, notice: &LinkNotice) {
        let of =
            |open: &Open| open.netns == notice.netns && open.links.contains_key(&notice.interface);
        let Some((number, open)) = self.open.iter_mut().find(|(_, open)| of(open)) else {
            return;
        };
        let number = *number;
        if let Some((_, since)) = open.links.remove(&notice.interface) {
            open.link_lost |= notice.latest.since(since) > turn.config.gap();
        }
        open.calm_since = None;
        let words = format!("link {} {}", notice.name, notice.step.words());
        note_link(turn, open, notice, words);
        self.look_again(turn, number);
    }

    /// A peer on a link does not answer for its link-layer address any more, or does again. The first is
    /// reason enough to probe what is behind it.
    pub(super) fn take_neighbour(
        &mut self,
        turn: &mut Turn<'_>,
        nodes: &Nodes,
        notice: &NeighbourNotice,
    ) {
        let Some(node) = nodes.get(&notice.netns) else {
            return;
        };
        let known = self.by_peer.get(&(node.netns, notice.peer)).copied();
        let number = match known {
            Some(number) => number,
            None if notice.failed => self.of_peer(turn, node, notice.peer),
            None => return,
        };
        if let Some(open) = self.open.get_mut(&number) {
            let verb = if notice.failed {
                "does not answer"
            } else {
                "answers again"
            };
            if notice.failed {
                open.unresolved.insert(notice.peer);
                open.mute_neighbours.insert(notice.peer);
                open.behind.insert(notice.peer, notice.prefixes.clone());
            } else {
                open.unresolved.remove(&notice.peer);
            }
            let what = format!(
                "{} {verb} on link {} (ARP, neighbour discovery)",
                notice.peer, notice.link
            );
            let within = Within {
                earliest: notice.earliest,
                latest: notice.latest,
            };
            let evidence = "the kernel's neighbour table";
            open.note(turn, MilestoneKind::Link, within, what, evidence);
        }
        self.begin_probing(turn, node, number);
        self.look_again(turn, number);
    }
}

fn note_link(turn: &Turn<'_>, open: &mut Open, notice: &LinkNotice, words: String) {
    let within = Within {
        earliest: notice.earliest,
        latest: notice.latest,
    };
    let evidence = "the kernel's links (rtnetlink)";
    open.note(turn, MilestoneKind::Link, within, words, evidence);
}

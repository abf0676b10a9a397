//! What route notices mean for incidents. A route that is gone belongs to an open incident of one of
//! its peers at once; else it waits, because an exchange of next hops removes and adds, too.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Incidents, Nodes,
    group::local_subject,
    milestones::Within,
    open::{Open, is_local},
    record::{MilestoneKind, SubjectKind},
    routes::{Gone, how},
};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    deadline::Due,
    event::NetnsId,
    node::Node,
    notice::{RouteNotice, RouteStep},
    time::Timestamp,
    turn::Turn,
};

/// A route gone for this long without an incident is suspicious: exchanges take 0.1 to 3 ms.
const SUSPICIOUS: Duration = Duration::from_millis(50);
/// Routes that wait, per node; with more at once something is wrong, and they need not.
const MAX_PENDING: usize = 4_096;
/// A session's end may be told this long after its routes went.
pub(super) const LOOK_BACK: Duration = Duration::from_secs(5);

/// Routes of one node that wait.
#[derive(Debug, Default)]
pub(super) struct PendingGone {
    routes: BTreeMap<Prefix, Gone>,
    /// What a healthy session withdrew lately: if the session of the node whose it was falls, too, its end
    /// was told to somebody else first.
    withdrawn: BTreeMap<Prefix, Gone>,
}

impl Incidents {
    /// A route is gone, back, or fought over.
    pub(super) fn take_route(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, notice: &RouteNotice) {
        let Some(node) = nodes.get(&notice.netns) else {
            return;
        };
        if !notice.owner.is_watched() {
            return;
        }
        let within = Within {
            earliest: notice.earliest,
            latest: notice.latest,
        };
        match &notice.step {
            RouteStep::Gone { how, planned: true } if self.has_fallen(node.netns, notice) => {
                self.lose_route(turn, node, notice.prefix, Gone::of(notice, *how));
            }
            RouteStep::Gone { how, planned: true } => {
                self.release(turn, node.netns, notice.prefix);
                self.remember_withdrawn(turn, node.netns, notice.prefix, Gone::of(notice, *how));
                self.suspect_withdrawal(turn, node, notice, *how);
            }
            RouteStep::Gone {
                how,
                planned: false,
            } => {
                let gone = Gone::of(notice, *how);
                if notice.more == 0 {
                    self.lose_route(turn, node, notice.prefix, gone);
                } else {
                    self.lose_many(turn, node, notice, gone);
                }
            }
            RouteStep::Back { .. } => self.regain_route(turn, node.netns, notice.prefix, within),
            RouteStep::Foreign => {
                let what = format!(
                    "{} removed by {}, who does not own it",
                    notice.prefix,
                    writer(notice)
                );
                self.remark_route(turn, node, notice, within, what);
            }
            RouteStep::Fight { rounds, .. } => {
                let what = format!(
                    "{} removed {rounds} times by {} and put back each time",
                    notice.prefix,
                    writer(notice)
                );
                self.remark_route(turn, node, notice, within, what);
            }
        }
    }

    /// Whether the session of a peer that routes hung on is down in an open incident: who withdraws them then
    /// only passes on that it ended.
    fn has_fallen(&self, netns: NetnsId, notice: &RouteNotice) -> bool {
        notice.peers.iter().any(|peer| {
            let open =
                { self.by_peer.get(&(netns, *peer)) }.and_then(|number| self.open.get(number));
            let member = open.and_then(|open| open.members.get(peer));
            member.is_some_and(|member| member.up.is_none() && !member.forgotten)
        })
    }

    fn remember_withdrawn(&mut self, turn: &Turn<'_>, netns: NetnsId, prefix: Prefix, gone: Gone) {
        let now = turn.at;
        let withdrawn = &mut self.pending.entry(netns).or_default().withdrawn;
        withdrawn.retain(|_, gone| now.since(gone.since.latest) <= LOOK_BACK);
        if withdrawn.len() < MAX_PENDING {
            withdrawn.insert(prefix, gone);
        }
    }

    fn lose_route(&mut self, turn: &mut Turn<'_>, node: &Node, prefix: Prefix, gone: Gone) {
        if let Some(number) = self.concerning(node.netns, &gone.peers) {
            if let Some(open) = self.open.get_mut(&number) {
                open.forget_withdrawal();
            }
            self.add_gone(turn, number, prefix, gone);
            return;
        }
        let due = Due::Gone(node.netns);
        let pending = self.pending.entry(node.netns).or_default();
        if pending.routes.len() >= MAX_PENDING {
            self.suspect(turn, node, prefix, gone);
            return;
        }
        turn.deadlines
            .hasten(due, gone.since.latest.after(SUSPICIOUS).max(turn.at));
        pending.routes.entry(prefix).or_insert(gone);
    }

    /// So many at once do not wait.
    fn lose_many(&mut self, turn: &mut Turn<'_>, node: &Node, notice: &RouteNotice, gone: Gone) {
        self.suspect(turn, node, notice.prefix, gone);
        let number = self.concerning(node.netns, &notice.peers);
        if let Some(open) = number.and_then(|number| self.open.get_mut(&number)) {
            open.routes.lose_more(notice.more);
        }
    }

    /// The open incident that routes of these peers belong to.
    fn concerning(&self, netns: NetnsId, peers: &[PeerAddress]) -> Option<u64> {
        let by_peer = peers
            .iter()
            .find_map(|peer| self.by_peer.get(&(netns, *peer)).copied());
        by_peer.or_else(|| {
            let local = |open: &&Open| open.netns == netns && is_local(&open.record.subject);
            let mut all = self.open.iter();
            let local = all.find(|(_, open)| local(open)).map(|(number, _)| *number);
            local.or_else(|| self.reflected(netns, peers))
        })
    }

    /// The open incident of a route reflector that fell, for routes that hang on nobody: the speaker may
    /// take longer to remove all that came by it than its announcements are remembered, and their next
    /// hops are no peers.
    fn reflected(&self, netns: NetnsId, peers: &[PeerAddress]) -> Option<u64> {
        let fell = |open: &&Open| {
            open.netns == netns
                && open.record.subject.kind == SubjectKind::RouteReflector
                && open.members.values().any(|member| member.up.is_none())
        };
        let mut all = self.open.iter().filter(|_| peers.is_empty());
        all.find(|(_, open)| fell(open)).map(|(number, _)| *number)
    }

    pub(super) fn add_gone(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        prefix: Prefix,
        mut gone: Gone,
    ) {
        gone.node = { turn.inventory.cluster() }
            .node_of(prefix)
            .map(str::to_owned);
        if let Some(open) = self.open.get_mut(&number) {
            if !open.told && gone.since.earliest < open.begun {
                open.begun = gone.since.earliest;
                open.record.opened_at = turn.wall.wall(open.begun);
            }
            open.peers.extend(gone.peers.iter().copied());
            if !is_local(&open.record.subject) {
                for peer in &gone.peers {
                    self.by_peer.entry((open.netns, *peer)).or_insert(number);
                }
            }
            open.drops.lose(prefix, gone.how, gone.since.earliest);
            open.routes.lose(prefix, gone);
            open.calm_since = None;
            open.news = true;
            self.losing.insert(number, open.netns);
            self.touched.insert(number);
        }
        self.watch_drops(turn, number, [prefix]);
    }

    /// Routes have waited long enough to be suspicious.
    pub(super) fn gone_due(&mut self, turn: &mut Turn<'_>, node: &Node) {
        let Some(pending) = self.pending.get_mut(&node.netns) else {
            return;
        };
        let now = turn.at;
        let due: Vec<Prefix> = pending
            .routes
            .iter()
            .filter(|(_, gone)| now.since(gone.since.latest) >= SUSPICIOUS)
            .map(|(prefix, _)| *prefix)
            .collect();
        let ripe: Vec<(Prefix, Gone)> = due
            .into_iter()
            .filter_map(|prefix| Some((prefix, pending.routes.remove(&prefix)?)))
            .collect();
        let next = pending.routes.values().map(|gone| gone.since.latest).min();
        if let Some(next) = next {
            turn.deadlines
                .hasten(Due::Gone(node.netns), next.after(SUSPICIOUS));
        }
        for (prefix, gone) in ripe {
            self.suspect(turn, node, prefix, gone);
        }
    }

    /// A route is gone and no session says why.
    fn suspect(&mut self, turn: &mut Turn<'_>, node: &Node, prefix: Prefix, gone: Gone) {
        let since: Timestamp = gone.since.earliest;
        let number = match (self.concerning(node.netns, &gone.peers), gone.peers.first()) {
            (Some(number), _) => number,
            (None, Some(peer)) => self.of_peer(turn, node, *peer),
            (None, None) => {
                let number = self.number();
                let open = Open::new(turn, node.netns, &node.name, local_subject(node), since);
                self.open.insert(number, open);
                number
            }
        };
        if let Some(open) = self.open.get_mut(&number)
            && open.record.cause.is_empty()
        {
            open.record.cause = format!("routes {}, and no session fell", how(gone.how));
            if let Some(writer) = &gone.writer {
                open.record.cause = format!("routes removed by {writer}, and no session fell");
            }
        }
        self.add_gone(turn, number, prefix, gone);
    }

    /// Targets are probed, and incidents looked at, once for all routes of an event: they may be
    /// hundreds of thousands.
    pub(super) fn attend(&mut self, turn: &mut Turn<'_>, nodes: &Nodes) {
        for (number, netns) in std::mem::take(&mut self.losing) {
            if let Some(node) = nodes.get(&netns) {
                self.begin_probing(turn, node, number);
            }
        }
        for number in std::mem::take(&mut self.touched) {
            self.quicken(turn, number);
            self.look_again(turn, number);
        }
    }

    /// A session fell: what waits and hangs on it belongs to its incident.
    pub(super) fn claim_pending(
        &mut self,
        turn: &mut Turn<'_>,
        netns: NetnsId,
        peer: PeerAddress,
        number: u64,
    ) {
        let Some(pending) = self.pending.get_mut(&netns) else {
            return;
        };
        let now = turn.at;
        let mine = |_: &Prefix, gone: &mut Gone| {
            gone.peers.contains(&peer) && now.since(gone.since.latest) <= LOOK_BACK
        };
        let lost: Vec<(Prefix, Gone)> = { pending.routes.extract_if(.., mine) }
            .chain(pending.withdrawn.extract_if(.., mine))
            .collect();
        for (prefix, gone) in lost {
            self.add_gone(turn, number, prefix, gone);
        }
    }

    fn regain_route(&mut self, turn: &mut Turn<'_>, netns: NetnsId, prefix: Prefix, back: Within) {
        if let Some(pending) = self.pending.get_mut(&netns) {
            pending.routes.remove(&prefix);
            pending.withdrawn.remove(&prefix);
        }
        let threshold = turn.config.gap();
        let holders = self.holders(netns, prefix);
        for number in holders {
            if let Some(open) = self.open.get_mut(&number) {
                open.routes.regain(prefix, back, threshold);
                open.drops.regain(prefix, back.latest);
                open.news = true;
            }
            self.touched.insert(number);
        }
    }

    fn release(&mut self, turn: &mut Turn<'_>, netns: NetnsId, prefix: Prefix) {
        if let Some(pending) = self.pending.get_mut(&netns) {
            pending.routes.remove(&prefix);
        }
        for number in self.holders(netns, prefix) {
            if let Some(open) = self.open.get_mut(&number) {
                open.routes.release(prefix);
                open.news = true;
            }
            self.look_again(turn, number);
        }
    }

    fn holders(&self, netns: NetnsId, prefix: Prefix) -> Vec<u64> {
        self.open
            .iter()
            .filter(|(_, open)| open.netns == netns && open.routes.gone.contains_key(&prefix))
            .map(|(number, _)| *number)
            .collect()
    }

    /// A session is Established, and none of its routes are in the kernel's tables.
    pub(super) fn not_programmed(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: &str,
        within: Within,
        announced: u64,
    ) {
        let Some(address) = PeerAddress::parse(peer) else {
            return;
        };
        let number = match self.concerning(node.netns, &[address]) {
            Some(number) => number,
            None => self.of_peer(turn, node, address),
        };
        if let Some(open) = self.open.get_mut(&number) {
            let what = format!(
                "session with {peer} Established, none of its {announced} routes programmed"
            );
            if open.record.cause.is_empty() {
                open.record.cause.clone_from(&what);
            }
            open.peers.insert(address);
            open.unprogrammed.insert(address, announced);
            open.waiting = open.waiting.max(Some(within.latest));
            open.calm_since = None;
            open.note(
                turn,
                MilestoneKind::Remark,
                within,
                what,
                "Adj-RIB-In and the kernel's tables",
            );
        }
        self.publish(turn, number);
        self.watch_behind(turn, node, number, address);
        self.begin_probing(turn, node, number);
        self.look_again(turn, number);
    }

    /// They are now.
    pub(super) fn programmed(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: &str,
        within: Within,
    ) {
        let Some(address) = PeerAddress::parse(peer) else {
            return;
        };
        let holds =
            |open: &&mut Open| open.netns == node.netns && open.unprogrammed.contains_key(&address);
        let mut all = self.open.iter_mut();
        let Some((number, open)) = all.find(|(_, open)| holds(open)) else {
            return;
        };
        let number = *number;
        if let Some(announced) = open.unprogrammed.remove(&address) {
            open.routes.lost = open.routes.lost.saturating_add(announced);
        }
        let what = format!("routes of {peer} programmed");
        open.note(
            turn,
            MilestoneKind::Remark,
            within,
            what,
            "the kernel's tables",
        );
        self.look_again(turn, number);
    }

    fn remark_route(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        notice: &RouteNotice,
        within: Within,
        what: String,
    ) {
        let holder = self.holders(node.netns, notice.prefix).into_iter().next();
        let number = holder.or_else(|| self.concerning(node.netns, &notice.peers));
        if let Some(open) = number.and_then(|number| self.open.get_mut(&number)) {
            if open.members.is_empty() {
                open.record.cause.clone_from(&what);
            }
            let evidence = if notice.writer.is_some() {
                "kernel probe and the route's owner"
            } else {
                "rtnetlink and the route's owner"
            };
            open.note(turn, MilestoneKind::Remark, within, what, evidence);
        }
    }
}

fn writer(notice: &RouteNotice) -> String {
    match &notice.writer {
        Some(writer) => format!("{} (pid {})", writer.comm, writer.pid),
        None => "somebody whom rtnetlink does not name".to_owned(),
    }
}

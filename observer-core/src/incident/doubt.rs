//! Whether silence proves that an address cannot be reached where the tables give no reason for it. An
//! address that was guessed at, or a canary, may be a pod's, and pods come and go: one of them alone
//! proves nothing. It does together with a second one, or if it answers again, or if something else
//! says that its node cannot be reached.

use std::{net::IpAddr, time::Duration};

use super::{
    Incidents,
    milestones::Within,
    open::Open,
    probe::Probe,
    record::MilestoneKind,
    routes::{Gone, Routes},
    silence::is_overdue,
    targets::named,
    verdict::Cut,
};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    node::Node,
    notice::{RouteLoss, RouteNotice},
    time::Timestamp,
    turn::Turn,
};

/// A suspicion that nothing came of is dropped after this.
const SUSPICION: Duration = Duration::from_secs(3);
/// One that is only doubted is kept for so long: what answers again was there all the time.
const DOUBT: Duration = Duration::from_mins(1);
/// What answered this long before its prefix was withdrawn may have been alive then.
const LATELY: u32 = 3;

impl Incidents {
    /// A block was withdrawn by an UPDATE: planned, unless what answered in it a moment ago is still there.
    pub(super) fn suspect_withdrawal(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        notice: &RouteNotice,
        loss: RouteLoss,
    ) {
        let every = Duration::from_secs(turn.config.reach.baseline_secs);
        let since = notice.earliest.before(every * LATELY);
        let lived = |peer: &&PeerAddress| {
            let of = (node.netns, **peer);
            let open = self.by_peer.get(&of).map(|number| self.open.get(number));
            open.is_none_or(|open| open.is_some_and(Open::was_of_routes_alone))
                && self.reach.alive.lies_in(of, notice.prefix, since)
        };
        let Some(peer) = notice.peers.iter().find(lived).copied() else {
            return;
        };
        let number = self.of_peer(turn, node, peer);
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if open.was_of_routes_alone() {
            open.routes = Routes::default();
        }
        if open.told || !open.members.is_empty() || open.routes.any() {
            return;
        }
        open.withdrawn = true;
        open.begun = notice.earliest;
        open.record.opened_at = turn.wall.wall(notice.earliest);
        open.record.cause = format!("{peer} withdrew {}", notice.prefix);
        self.add_gone(turn, number, notice.prefix, Gone::of(notice, loss));
    }
}

impl Open {
    /// Whether it is a suspicion that only routes gave rise to, all of which turned out to be withdrawn: the
    /// UPDATE that says so was read late.
    fn was_of_routes_alone(&self) -> bool {
        let routes = self.routes.any() && self.routes.gone.is_empty();
        routes && !self.told && self.members.is_empty() && self.links.is_empty()
    }

    /// What was withdrawn on purpose is forgotten, because something else happened.
    pub fn forget_withdrawal(&mut self) {
        if std::mem::take(&mut self.withdrawn) {
            self.routes = Routes::default();
            self.record.cause.clear();
        }
    }

    /// Brings up to date what its silences prove, and explains those that routes or links explain.
    pub fn weigh(&mut self, turn: &Turn<'_>, node: &Node) {
        self.doubtful = !self.is_corroborated(turn, node);
        let explained = self.explained_since();
        for peer in &self.peers {
            let mut behind = self.probes.iter_mut().filter(|probe| probe.peer == *peer);
            // What answered last behind a peer proves that its node was reached.
            let answered = behind.by_ref().filter_map(|probe| probe.unwatched_after());
            let moments: Vec<Timestamp> = answered.chain(explained).collect();
            for probe in self.probes.iter_mut().filter(|probe| probe.peer == *peer) {
                probe.explain(&moments);
            }
        }
    }

    /// Since when routes or links of this node explain that packets are lost. Where nothing was heard for
    /// long before, they may have been lost for as long.
    fn explained_since(&self) -> Option<Timestamp> {
        let unheard = matches!(
            self.record.cause_label.as_deref(),
            Some("hold_timer_expired" | "tcp_error")
        );
        if unheard
            || self
                .cut
                .as_ref()
                .is_some_and(|(cut, _)| *cut == Cut::Silence)
        {
            return None;
        }
        let link = self.cut.is_some().then_some(self.begun);
        let gone = self.routes.first_gone.map(|gone| gone.earliest);
        link.into_iter().chain(gone).min()
    }

    fn is_corroborated(&self, turn: &Turn<'_>, node: &Node) -> bool {
        let block = |prefix: &Prefix| turn.inventory.cluster().node_of(*prefix).is_some();
        if self.withdrawn && self.routes.gone.keys().any(block) {
            return true;
        }
        let unheard = |address: &PeerAddress| {
            let peer = node.peers.get(address);
            peer.is_some_and(|peer| peer.session.is_up() && is_overdue(node, peer, turn.at))
        };
        if !self.mute_neighbours.is_empty() || self.peers.iter().any(unheard) {
            return true;
        }
        self.peers.iter().any(|peer| {
            let behind = || self.probes.iter().filter(|probe| probe.peer == *peer);
            let named = named(turn, node, *peer);
            let silent: Vec<IpAddr> = { behind() }
                .filter(|probe| probe.is_silent())
                .map(|probe| probe.target)
                .collect();
            let others_answer = behind().any(Probe::is_answering);
            behind().any(Probe::came_back)
                || silent.iter().any(|silent| named.contains(silent))
                || (silent.len() > 1 && !others_answer)
        })
    }

    /// Whether packets prove that something cannot be reached, or could not.
    pub fn is_proven(&self, turn: &Turn<'_>) -> bool {
        let known = self.known(turn);
        let silent = self.probes.iter().any(Probe::was_silent);
        let dropped = self.withdrawn && known.dropped > 0;
        (silent || dropped) && known.unreachable() && !known.doubtful()
    }

    /// Whether a suspicion, by `now`, came to nothing.
    pub fn came_to_nothing(&self, now: Timestamp) -> bool {
        let silent = self.probes.iter().any(Probe::is_silent);
        let doubted = silent || !self.mute_neighbours.is_empty();
        let keep = if doubted { DOUBT } else { SUSPICION };
        let nothing_gone = self.routes.gone.is_empty() || self.withdrawn;
        let nothing = self.members.is_empty() && nothing_gone && self.links.is_empty();
        nothing && now.since(self.begun) >= keep
    }

    /// All else having been well for `well_for`, an address that alone does not answer again is not waited
    /// for any more.
    pub fn fade(&mut self, turn: &Turn<'_>, node: &Node, well_for: Duration) {
        if well_for < DOUBT || !self.fell() {
            return;
        }
        let mut faded = Vec::new();
        for peer in self.peers.clone() {
            let named = named(turn, node, peer);
            let behind = |probe: &&mut Probe| probe.peer == peer;
            let mut behind: Vec<&mut Probe> = self.probes.iter_mut().filter(behind).collect();
            let silent = behind.iter().filter(|probe| probe.is_silent()).count();
            let others_answer = behind.iter().any(|probe| probe.is_answering());
            if silent > 1 && !others_answer {
                continue;
            }
            for probe in &mut behind {
                if probe.is_silent() && !named.contains(&probe.target) {
                    probe.fade();
                    faded.push(probe.target);
                }
            }
        }
        for target in faded {
            let what = format!(
                "{target} alone does not answer again: it may be gone itself and is not waited for"
            );
            let within = Within::exactly(turn.at);
            let evidence = turn.config.reach.probe.to_string();
            self.note(turn, MilestoneKind::Remark, within, what, &evidence);
        }
    }
}

/// In words, what a withdrawal that was a loss was.
pub(super) fn withdrawal_words(open: &Open) -> String {
    let silenced: Vec<String> = { open.probes.iter() }
        .filter(|probe| probe.was_silent())
        .map(|probe| probe.target.to_string())
        .collect();
    let cause = &open.record.cause;
    format!("{cause}, and {} in it was still alive", silenced.join(", "))
}

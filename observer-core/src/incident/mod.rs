//! Incidents: what sessions, routes and probes show together (DESIGN §3).
//!
//! An incident begins as a suspicion: a known session went down, a route nobody withdrew stays gone,
//! or a target that was alive is silent. Probing starts with it. It is told once the cause is final
//! or the loss has lasted, so that one event is one incident: a local speaker's end that cost a
//! thousand sessions, both address families of one node, a route reflector and all it reflected.
//! It is over when sessions, routes and targets have been well for a while, or stay gone and stable.
//!
//! `open` is one incident, `group` whom it concerns, `together` and `silence` what fell for one reason, `sessions`,
//! `links` and `losses` what comes in, `probing` what goes out, `drops` what the kernel watches,
//! `lifecycle` how it is told and ends, `verdict` and `impact` what it amounts to.

mod baseline;
pub mod circumstances;
mod doubt;
mod drops;
mod group;
mod impact;
mod lifecycle;
mod links;
mod losses;
mod marks;
mod milestones;
mod open;
mod overlap;
mod pods;
mod probe;
mod probing;
pub mod record;
mod routes;
mod sessions;
mod silence;
mod targets;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_circumstances;
#[cfg(test)]
mod tests_doubt;
#[cfg(test)]
mod tests_drops;
#[cfg(test)]
mod tests_many;
#[cfg(test)]
mod tests_node;
#[cfg(test)]
mod tests_own;
#[cfg(test)]
mod tests_pods;
#[cfg(test)]
mod tests_reach;
#[cfg(test)]
mod tests_reflector;
#[cfg(test)]
mod tests_resumed;
#[cfg(test)]
mod tests_windows;
mod together;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) use drops::Dropped;
pub use drops::MAX_WATCHED;
pub use record::Incident;
use record::Verdict;

use self::{drops::Watched, losses::PendingGone, milestones::Within, open::Open, probing::Reach};
use crate::{
    address::PeerAddress,
    change::{Change, ChangeRecord},
    event::NetnsId,
    node::Node,
    notice::Notice,
    time::Timestamp,
    turn::Turn,
};

/// Closed incidents remembered, and their lines in all: in a big mesh one can have a hundred.
const CLOSED: usize = 1_000;
const CLOSED_LINES: usize = 20_000;

/// All nodes, by namespace.
pub(crate) type Nodes = BTreeMap<NetnsId, Node>;

/// Every incident.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    open: BTreeMap<u64, Open>,
    /// Which open incident a peer's session or routes belong to.
    by_peer: BTreeMap<(NetnsId, PeerAddress), u64>,
    /// Which open incident a subject's identity belongs to.
    by_identity: BTreeMap<(NetnsId, String), u64>,
    /// Ids that are taken.
    ids: BTreeSet<String>,
    /// Routes that are gone and belong to no incident yet.
    pending: BTreeMap<NetnsId, PendingGone>,
    /// Local speakers that ended lately: when and in what words.
    ended: BTreeMap<NetnsId, (Timestamp, String)>,
    closed: VecDeque<Incident>,
    /// Incidents of nodes that are not observed yet, and since when nobody observed.
    stored: BTreeMap<String, (Vec<Incident>, Option<jiff::Timestamp>)>,
    /// Whose cause is final since the present event.
    ripe: Vec<u64>,
    /// Those that lost routes in the present event, and of which nodes they are.
    losing: BTreeMap<u64, NetnsId>,
    /// Those that lost or regained some.
    touched: BTreeSet<u64>,
    next: u64,
    versions: BTreeMap<String, String>,
    reach: Reach,
    watched: Watched,
}

impl Incidents {
    /// Takes in what one event or deadline came to: `changes` that were told, and `notices`.
    pub fn correlate(
        &mut self,
        turn: &mut Turn<'_>,
        nodes: &Nodes,
        changes: &[ChangeRecord],
        notices: &[Notice],
    ) {
        for notice in notices {
            match notice {
                Notice::Route(route) => self.take_route(turn, nodes, route),
                Notice::Falling(falling) => self.fall(turn, nodes, falling),
                Notice::Link(link) => self.take_link(turn, nodes, link),
                Notice::Neighbour(neighbour) => self.take_neighbour(turn, nodes, neighbour),
            }
        }
        for record in changes {
            self.take_change(turn, nodes, record);
        }
        self.attend(turn, nodes);
        for number in std::mem::take(&mut self.ripe) {
            self.gather(turn, nodes, number);
            self.publish(turn, number);
            self.look_again(turn, number);
        }
    }

    fn take_change(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, record: &ChangeRecord) {
        if let Change::Lost { stage, count } = &record.change {
            self.lose_evidence(turn, *stage, *count);
            return;
        }
        let Some(node) = nodes.values().find(|node| node.name == record.node) else {
            return;
        };
        let within = Within::exactly(record.at);
        match &record.change {
            Change::Flap { flap } => self.flap(turn, node, flap, within),
            Change::FlapAmended { flap } => self.amend(turn, node, flap),
            Change::SessionUp { peer, .. } => self.session_up(turn, node, peer, within),
            Change::GrStarted {
                peer,
                restart_secs,
                stale,
                ..
            } => self.restart_began(turn, node, peer, within, (*restart_secs, *stale)),
            Change::GrEnded {
                peer, how, dropped, ..
            } => self.restart_ended(turn, node, peer, within, (*how, *dropped)),
            Change::PeerForgotten { peer, reason } => {
                self.forgotten(turn, node, peer, within, reason);
            }
            Change::SpeakerEnded { speaker, end } => {
                let words = format!("local {} (pid {}) {end}", speaker.comm, speaker.pid);
                self.speaker_ended(turn, node.netns, within, words);
            }
            Change::SpeakerSeen { speaker } => {
                let words = format!("local {} (pid {}) seen", speaker.comm, speaker.pid);
                self.speaker_seen(turn, node.netns, within, words);
            }
            Change::NotProgrammed {
                peer, announced, ..
            } => self.not_programmed(turn, node, peer, within, *announced),
            Change::Programmed { peer, .. } => self.programmed(turn, node, peer, within),
            Change::PeerKnown { .. }
            | Change::SessionState { .. }
            | Change::SessionDown { .. }
            | Change::ConnectFailed { .. }
            | Change::Unanswered { .. }
            | Change::HoldMarginLow { .. }
            | Change::Routes(_)
            | Change::ForeignDelete { .. }
            | Change::RouteFight { .. }
            | Change::ConcurrentRestarts { .. }
            | Change::IncidentOpened { .. }
            | Change::IncidentUpdated { .. }
            | Change::IncidentClosed { .. }
            | Change::Lost { .. } => {}
        }
    }

    /// Open incidents that were told, and closed ones that are remembered, newest last.
    pub fn views(&self) -> Vec<Incident> {
        let open = self.open.values().filter(|open| open.told);
        let mut all: Vec<Incident> = self
            .closed
            .iter()
            .chain(open.map(|open| &open.record))
            .cloned()
            .collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    /// How many are open, by node and verdict so far.
    pub fn open_counts(&self) -> BTreeMap<(String, Verdict), u64> {
        let mut counts = BTreeMap::new();
        for record in self
            .open
            .values()
            .filter(|open| open.told)
            .map(|open| &open.record)
        {
            *counts
                .entry((record.node.clone(), record.verdict))
                .or_default() += 1;
        }
        counts
    }

    /// Versions that records name from now on.
    pub fn learn_versions(&mut self, versions: &BTreeMap<String, String>) {
        self.versions.extend(versions.clone());
    }

    /// Those of a node that are open, told or not, and concern more than what was exchanged at once.
    pub fn open_of_node(&self, netns: NetnsId) -> impl Iterator<Item = &Incident> {
        let concerns =
            move |open: &&Open| open.netns == netns && (open.told || !open.members.is_empty());
        self.open.values().filter(concerns).map(|open| &open.record)
    }

    fn number(&mut self) -> u64 {
        self.next = self.next.saturating_add(1);
        self.next
    }
}

/// Whether incidents take a change in.
pub(crate) const fn bears_on_incidents(change: &Change) -> bool {
    matches!(
        change,
        Change::Flap { .. }
            | Change::FlapAmended { .. }
            | Change::SessionUp { .. }
            | Change::GrStarted { .. }
            | Change::GrEnded { .. }
            | Change::PeerForgotten { .. }
            | Change::SpeakerEnded { .. }
            | Change::SpeakerSeen { .. }
            | Change::NotProgrammed { .. }
            | Change::Programmed { .. }
            | Change::Lost { .. }
    )
}

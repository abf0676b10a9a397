//! What joins the nodes' machines with incidents.

use std::collections::BTreeMap;

use super::Observer;
#[cfg(test)]
use crate::event::{Event, Fact};
use crate::{
    change::{ChangeRecord, Output},
    deadline::Due,
    event::NetnsId,
    incident::{Incident, Incidents, bears_on_incidents, record::Verdict},
    node::Node,
    notice::Notice,
    safety::{self, Safety},
    time::Timestamp,
    topology::{self, Topology},
    turn::Turn,
};

impl Observer {
    /// Whether the BGP speakers of the observed nodes can be restarted, as of `now`.
    pub fn safety(&self, now: Timestamp) -> Vec<Safety> {
        let of = |node: &Node| safety::of(node, self.incidents.open_of_node(node.netns), now);
        self.nodes.values().map(of).collect()
    }

    /// Whether the cluster carries no pod traffic over BGP and nobody speaks it here: what is not in use
    /// is not down.
    pub fn is_bgp_unused(&self) -> bool {
        let nobody = self.nodes.values().all(|node| node.peers.is_empty());
        nobody && self.inventory.cluster().is_vxlan_only()
    }

    /// How the sessions of the observed nodes are laid out.
    pub fn topology(&self) -> Vec<Topology> {
        self.nodes.values().map(topology::of).collect()
    }

    /// How many incidents are open, by node and verdict so far.
    pub fn open_incidents(&self) -> BTreeMap<(String, Verdict), u64> {
        self.incidents.open_counts()
    }

    /// Incidents that are open, and closed ones that are remembered, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.incidents.views()
    }

    /// Hands on what the parts of the nodes noticed, and what was told since `told`.
    pub(super) fn correlate(&mut self, at: Timestamp, told: usize, out: &mut Vec<Output>) {
        let changes: Vec<ChangeRecord> = out
            .iter()
            .skip(told)
            .filter_map(|output| match output {
                Output::Change(record) if bears_on_incidents(&record.change) => {
                    Some(record.clone())
                }
                Output::Change(_) | Output::Request(_) => None,
            })
            .collect();
        let notices = std::mem::take(&mut self.notices);
        if changes.is_empty() && notices.is_empty() {
            return;
        }
        let (mut turn, nodes) = self.turn(self.now, out);
        for notice in &notices {
            if let Notice::Route(notice) = notice
                && let Some(node) = nodes.get_mut(&notice.netns)
            {
                node.tell_route(&mut turn, notice);
            }
        }
        self.with_incidents(at, out, |incidents, turn, nodes| {
            incidents.correlate(turn, nodes, &changes, &notices);
        });
    }

    /// As if a part of a node had noticed it.
    #[cfg(test)]
    pub(crate) fn notice(&mut self, now: Timestamp, notice: Notice, out: &mut Vec<Output>) {
        self.apply(now, &Event::noticed(now, Fact::Tick), out);
        self.notices.push(notice);
        let told = out.len();
        self.correlate(now, told, out);
    }

    pub(super) fn with_incidents(
        &mut self,
        at: Timestamp,
        out: &mut Vec<Output>,
        work: impl FnOnce(&mut Incidents, &mut Turn<'_>, &BTreeMap<NetnsId, Node>),
    ) {
        let mut incidents = std::mem::take(&mut self.incidents);
        let (mut turn, nodes) = self.turn(at, out);
        work(&mut incidents, &mut turn, nodes);
        self.incidents = incidents;
    }
}

/// Whether incidents carry it out.
pub(super) const fn is_of_incidents(due: Due) -> bool {
    matches!(
        due,
        Due::Incident(_) | Due::Echo(_) | Due::Gone(_) | Due::Baseline(_)
    )
}

//! Which pods an incident concerned: asked for once, when it is told and something was lost, because a
//! watch of all pods is nothing that every node of a cluster should have.

use std::collections::BTreeSet;

use super::{
    Incidents,
    lifecycle::Named,
    open::{Open, is_local},
    record::{AffectedPod, AffectedPods, Incident, SubjectKind},
    verdict::Packets,
};
use crate::{
    change::{Output, Request},
    event::cluster::Pod,
    turn::Turn,
};

/// Nodes asked about at most.
const NODES: usize = 16;
/// Pods listed one by one.
const LISTED: usize = 64;
/// Workloads told apart.
const WORKLOADS: usize = 64;

impl Incidents {
    /// Asks for the pods behind what an incident has lost, once.
    pub(super) fn ask_for_pods(&mut self, turn: &mut Turn<'_>, number: u64) {
        if !turn.config.pods {
            return;
        }
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if open.pods_asked || !open.told || !open.has_lost(turn) {
            return;
        }
        let nodes = open.nodes();
        if nodes.is_empty() {
            return;
        }
        open.pods_asked = true;
        let more = nodes.len().saturating_sub(NODES);
        if more > 0 {
            let missing = Some(format!("those of {more} further nodes were not asked for"));
            let pods = open.record.pods.get_or_insert_default();
            pods.missing = missing;
        }
        turn.out.push(Output::Request(Request::ListPods {
            incident: open.record.id.clone(),
            nodes: nodes.into_iter().take(NODES).collect(),
        }));
    }

    /// The answer came, in time or after the incident was over.
    pub fn pods_listed(
        &mut self,
        turn: &mut Turn<'_>,
        id: &str,
        pods: &[Pod],
        missing: Option<&str>,
    ) {
        self.write_down(turn, id, |mut named| {
            let affected = match &named {
                Named::Open(open) => {
                    let had = |pod: &Pod| open.concerned(pod);
                    affected(pods, had, &open.record, missing)
                }
                // Which prefixes there were beyond those listed is forgotten: all of the nodes' count.
                Named::Closed(record) => {
                    affected(pods, |pod| pod.addresses.clone(), record, missing)
                }
            };
            named.record().pods = Some(affected);
            true
        });
    }
}

impl Open {
    fn has_lost(&self, turn: &Turn<'_>) -> bool {
        let known = self.known(turn);
        known.lost > 0
            || known.packets == Packets::Lost
            || (!known.routes_seen && known.presumed_lost > 0)
    }

    /// The nodes behind what was lost.
    fn nodes(&self) -> BTreeSet<String> {
        let mut nodes: BTreeSet<String> = self.routes.nodes().cloned().collect();
        // What this node lost, its own pods could not reach.
        nodes.extend(is_local(&self.record.subject).then(|| self.record.node.clone()));
        if nodes.is_empty() && self.record.subject.kind == SubjectKind::Peer {
            nodes.extend(self.record.subject.name.clone());
        }
        nodes
    }

    /// The addresses of `pod` that were concerned; where no route was lost all are.
    fn concerned(&self, pod: &Pod) -> Vec<std::net::IpAddr> {
        let all = !self.routes.any() || pod.node == self.record.node;
        let addresses = pod.addresses.iter().copied();
        addresses
            .filter(|address| all || self.routes.had(*address))
            .collect()
    }
}

fn affected(
    pods: &[Pod],
    concerned: impl Fn(&Pod) -> Vec<std::net::IpAddr>,
    record: &Incident,
    missing: Option<&str>,
) -> AffectedPods {
    let mut affected = AffectedPods::default();
    for pod in pods {
        let addresses = concerned(pod);
        if addresses.is_empty() {
            continue;
        }
        affected.count = affected.count.saturating_add(1);
        let name = format!("{}/{}", pod.namespace, pod.name);
        let workload = pod.workload.as_ref();
        let workload = workload.map_or_else(
            || name.clone(),
            |workload| format!("{}/{workload}", pod.namespace),
        );
        let room = affected.workloads.len() < WORKLOADS;
        if room || affected.workloads.contains_key(&workload) {
            *affected.workloads.entry(workload).or_default() += 1;
        }
        if affected.listed.len() < LISTED {
            affected.listed.push(AffectedPod {
                pod: name,
                node: pod.node.clone(),
                addresses,
            });
        }
    }
    let before = record.pods.as_ref().and_then(|pods| pods.missing.clone());
    let missing: Vec<String> = missing
        .map(str::to_owned)
        .into_iter()
        .chain(before)
        .collect();
    affected.missing = (!missing.is_empty()).then(|| missing.join("; "));
    affected
}

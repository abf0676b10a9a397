//! Names and words out of a bundle. Addresses stay: without them nothing is left to replay. What is
//! taken out does not decide anything, so the verdict stays, too.

use std::collections::BTreeMap;

use observer_core::{
    event::{
        Fact,
        circumstances::Circumstances,
        cluster::{ClusterFact, ClusterKind, ClusterObject},
    },
    incident::Incident,
    peer::SavedPeer,
};

/// What was called what: the same name is the same name everywhere in the bundle.
#[derive(Debug, Default)]
pub(super) struct Redaction {
    names: BTreeMap<String, String>,
}

const GONE: &str = "(redacted)";

impl Redaction {
    /// The observed node keeps its name: the cluster's description of it is found by that.
    pub fn of(node: &str) -> Self {
        Self {
            names: BTreeMap::from([(node.to_owned(), node.to_owned())]),
        }
    }

    fn cluster(&mut self, fact: &mut ClusterFact) {
        match fact {
            ClusterFact::Listed { objects, .. } => {
                for object in objects {
                    self.object(object);
                }
            }
            ClusterFact::Changed { object } => self.object(object),
            ClusterFact::Gone { of, name } if *of != ClusterKind::BgpConfigurations => {
                self.name(name);
            }
            ClusterFact::Gone { .. } | ClusterFact::Unavailable { .. } => {}
        }
    }

    fn object(&mut self, object: &mut ClusterObject) {
        match object {
            ClusterObject::Node(node) => {
                self.name(&mut node.name);
                // A selector may ask for a value, which is a name as often as not.
                node.labels.values_mut().for_each(|value| self.name(value));
            }
            ClusterObject::BgpConfiguration(_) => {}
            ClusterObject::BgpPeer(peer) => {
                self.name(&mut peer.name);
                peer.node.iter_mut().for_each(|name| self.name(name));
                let selectors = [&mut peer.node_selector, &mut peer.peer_selector];
                for selector in selectors.into_iter().flatten() {
                    self.selector(selector);
                }
            }
            ClusterObject::IpPool(pool) => self.name(&mut pool.name),
            ClusterObject::Block(block) => {
                self.name(&mut block.name);
                self.name(&mut block.node);
            }
        }
    }

    /// What is quoted in a selector is a label's value.
    fn selector(&mut self, selector: &mut String) {
        let parts = selector.split(['\'', '"']).enumerate();
        let parts = parts.map(|(number, part)| {
            let mut part = part.to_owned();
            if number % 2 == 1 {
                self.name(&mut part);
            }
            part
        });
        *selector = parts.collect::<Vec<_>>().join("'");
    }

    fn name(&mut self, name: &mut String) {
        let next = self.names.len() + 1;
        let other = self.names.entry(name.clone());
        name.clone_from(other.or_insert_with(|| format!("name-{next}")));
    }

    fn saved(&mut self, peer: &mut SavedPeer) {
        if let Some(name) = &mut peer.peer_node {
            self.name(name);
        }
    }

    /// What an inventory and operators said.
    pub fn event(&mut self, fact: &mut Fact) {
        if let Fact::Inventory { peers } = fact {
            for name in peers.iter_mut().filter_map(|peer| peer.name.as_mut()) {
                self.name(name);
            }
        }
        if let Fact::PeersConfigured { peers, .. } = fact {
            for peer in peers {
                self.name(&mut peer.protocol);
            }
        }
        if let Fact::Cluster { cluster } = fact {
            self.cluster(cluster);
        }
        if let Fact::PodsListed { pods, .. } = fact {
            for pod in pods {
                self.name(&mut pod.namespace);
                self.name(&mut pod.name);
                self.name(&mut pod.node);
                pod.workload.iter_mut().for_each(|name| self.name(name));
            }
        }
        if let Fact::Circumstances { told, .. } = fact {
            *told = Circumstances::default();
        }
        if let Fact::PeersRestored { peers, .. } = fact {
            for peer in peers {
                self.saved(peer);
            }
        }
        if let Fact::IncidentsRestored { incidents, .. } = fact {
            for old in incidents {
                self.incident(old);
            }
        }
        if let Fact::IncidentNote { note, .. } = fact {
            GONE.clone_into(note);
        }
    }

    /// A record of before the agent's start.
    fn incident(&mut self, incident: &mut Incident) {
        if let Some(name) = &mut incident.subject.name {
            self.name(name);
        }
        incident.note = None;
        incident.pods = None;
        incident.circumstances = None;
        incident.prefixes.by_node.clear();
        for lost in &mut incident.prefixes.listed {
            lost.node = None;
        }
        for words in [
            &mut incident.cause,
            &mut incident.rests_on,
            &mut incident.would_change,
            &mut incident.next_check,
        ] {
            GONE.clone_into(words);
        }
        incident.impact.clear();
    }
}

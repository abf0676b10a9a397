//! Names and words out of a bundle. Addresses stay: without them nothing is left to replay. What is
//! taken out does not decide anything, so the verdict stays, too.

use std::collections::BTreeMap;

use observer_core::{event::Fact, incident::Incident, peer::SavedPeer};

/// What was called what: the same name is the same name everywhere in the bundle.
#[derive(Debug, Default)]
pub(super) struct Redaction {
    names: BTreeMap<String, String>,
}

const GONE: &str = "(redacted)";

impl Redaction {
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

//! Whether this node's BGP speaker, or the next node's, can be restarted now without making an outage
//! of it: what speaks against it, and what could not be told.

use serde::{Deserialize, Serialize};

use crate::{
    address::PeerAddress,
    incident::Incident,
    node::{Node, Peer},
    time::Timestamp,
};

/// A session is settled when it has been up for this long.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(5);

/// The answer for one node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Safety {
    /// The observed node.
    pub node: String,
    /// Yes, no, or nobody knows.
    pub answer: Safe,
    /// What speaks against it.
    pub blockers: Vec<Blocker>,
    /// What could not be told; with any of these the answer is never yes.
    pub unknown: Vec<String>,
    /// What is not looked at from here.
    pub unchecked: Vec<String>,
}

/// Whether it is safe.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Safe {
    /// Nothing speaks against it.
    Yes,
    /// Something does.
    No,
    /// Nothing does, but something could not be told.
    Unknown,
}

/// One thing that speaks against it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Blocker {
    /// The peer it is about; none when it is about the node.
    pub peer: Option<String>,
    /// The name of the peer's node, where known.
    pub peer_node: Option<String>,
    /// Only that the peer is missing: whoever knows why may accept it.
    pub missing: bool,
    /// What.
    pub what: String,
}

impl Safety {
    /// The same when those of `accepted` (addresses or names) may be missing.
    #[must_use]
    pub fn accepting(mut self, accepted: &[String]) -> Self {
        let is_accepted =
            |name: &Option<String>| name.as_ref().is_some_and(|name| accepted.contains(name));
        self.blockers.retain(|blocker| {
            !blocker.missing || !(is_accepted(&blocker.peer) || is_accepted(&blocker.peer_node))
        });
        self.conclude();
        self
    }

    /// Something else could not be told.
    pub fn doubt(&mut self, what: String) {
        self.unknown.push(what);
        self.conclude();
    }

    fn conclude(&mut self) {
        self.answer = match (self.blockers.is_empty(), self.unknown.is_empty()) {
            (false, _) => Safe::No,
            (true, false) => Safe::Unknown,
            (true, true) => Safe::Yes,
        };
    }
}

/// What is to be said of `node`; `open` are its incidents that are not over.
pub(crate) fn of<'a>(
    node: &Node,
    open: impl Iterator<Item = &'a Incident>,
    now: Timestamp,
) -> Safety {
    let mut safety = Safety {
        node: node.name.clone(),
        answer: Safe::Unknown,
        blockers: Vec::new(),
        unknown: Vec::new(),
        unchecked: vec![
            "whether peers still hold this node's routes as stale: each knows its own".to_owned(),
        ],
    };
    for incident in open {
        // That a peer is down is said of the peer; whoever accepts it accepts its incident, too.
        let peer = incident
            .sessions
            .first()
            .map(|session| session.peer.clone());
        safety.blockers.push(Blocker {
            missing: peer.is_some() && incident.prefixes.still_gone == 0,
            peer,
            peer_node: incident.subject.name.clone(),
            what: format!("incident {} is open: {}", name(incident), incident.cause),
        });
    }
    if !node.dumped {
        safety
            .unknown
            .push("the sockets that exist are not known yet".to_owned());
    }
    if node.peers.is_empty() {
        safety.unknown.push("no peer is known".to_owned());
    }
    for (address, peer) in &node.peers {
        judge(&mut safety, node, *address, peer, now);
    }
    let reflectors: Vec<&Peer> = node
        .peers
        .values()
        .filter(|peer| peer.exchange.reflects)
        .collect();
    let up = reflectors
        .iter()
        .filter(|peer| peer.session.is_up())
        .count();
    if reflectors.len() > 1 && up < 2 {
        safety.blockers.push(Blocker {
            peer: None,
            peer_node: None,
            missing: false,
            what: format!("only {up} of {} route reflectors is up", reflectors.len()),
        });
    }
    safety.conclude();
    safety
}

fn name(incident: &Incident) -> &str {
    if incident.id.is_empty() {
        "(not told yet)"
    } else {
        &incident.id
    }
}

fn judge(safety: &mut Safety, node: &Node, address: PeerAddress, peer: &Peer, now: Timestamp) {
    let mut block = |missing: bool, what: String| {
        safety.blockers.push(Blocker {
            peer: Some(address.to_string()),
            peer_node: peer.name.clone(),
            missing,
            what,
        });
    };
    if !peer.session.is_up() {
        block(true, format!("the session with {address} is down"));
        return;
    }
    if peer.exchange.restart.is_some() {
        block(
            false,
            format!("routes of {address} are stale: its graceful restart is not over"),
        );
        return;
    }
    let up = peer.session.up.and_then(|up| up.at);
    let fresh = up.filter(|up| !peer.session.inherited && now.since(*up) < SETTLED);
    if fresh.is_some() {
        block(
            false,
            format!(
                "the session with {address} is up for less than {} s",
                SETTLED.as_secs()
            ),
        );
        return;
    }
    let complete = !peer.exchange.rib.complete.is_empty();
    if complete || node.fib.is_observed() {
        return;
    }
    safety.unknown.push(format!(
        "the End-of-RIB of {address} was not seen, and the kernel's routes are not observed"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::TcpState,
        testing::{PEER, Scene, outbound},
        testing_wire::{Talk, end_of_rib},
    };

    fn safety(scene: &Scene) -> Safety {
        let now = crate::testing::millis(scene.now);
        scene.observer.safety(now).into_iter().next().unwrap()
    }

    #[test]
    fn a_quiet_mesh_is_safe_and_a_peer_that_is_down_is_named_unless_accepted() {
        let mut scene = Scene::started();
        assert_eq!(safety(&scene).answer, Safe::Unknown, "nobody is known");
        let mut talk = Talk::new(outbound(1, PEER));
        talk.establish(&mut scene);
        talk.says(&mut scene, false, &end_of_rib());
        assert_eq!(safety(&scene).answer, Safe::No, "it is young");
        scene.pass(6_000);
        assert_eq!(safety(&scene).answer, Safe::Yes, "{:?}", safety(&scene));
        talk.peer_closes(&mut scene);
        scene.pass(1_000);
        let down = safety(&scene);
        assert_eq!(down.answer, Safe::No);
        assert!(
            down.blockers
                .iter()
                .any(|blocker| blocker.what.contains("is down"))
        );
        let accepted = down.accepting(&[PEER.to_owned()]);
        assert_eq!(accepted.answer, Safe::Yes, "{accepted:?}");
    }

    #[test]
    fn what_could_not_be_told_is_never_a_yes() {
        let mut scene = Scene::started();
        scene.establish(outbound(1, PEER));
        scene.pass(60_000);
        let unknown = safety(&scene);
        assert_eq!(unknown.answer, Safe::Unknown);
        assert!(unknown.unknown[0].contains("End-of-RIB"), "{unknown:?}");
        let mut scene = Scene::new();
        scene.info(outbound(1, PEER), TcpState::Established);
        assert_ne!(safety(&scene).answer, Safe::Yes);
    }
}

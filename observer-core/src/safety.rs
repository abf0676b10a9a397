//! Whether this node's BGP speaker, or the next node's, can be restarted now without making an outage
//! of it: what speaks against it, and what could not be told.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    address::PeerAddress,
    fib::Programmed,
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
            "the peers themselves: that they do not hold this node's routes as stale is concluded \
             from what both sides sent"
                .to_owned(),
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
    // Asked for at every scrape: looked for once, where a session needs it.
    let silent = |peer: &Peer| peer.session.is_up() && peer.exchange.rib.len() == 0;
    let next_hops = if node.peers.values().any(silent) {
        node.next_hops()
    } else {
        BTreeSet::new()
    };
    for (address, peer) in &node.peers {
        judge(&mut safety, (node, &next_hops), (*address, peer), now);
    }
    judge_reflectors(&mut safety, node);
    safety.conclude();
    safety
}

/// The last route reflector must not be at stake.
fn judge_reflectors(safety: &mut Safety, node: &Node) {
    let reflectors: Vec<&Peer> = { node.peers.values() }
        .filter(|peer| peer.exchange.reflects())
        .collect();
    let up = { reflectors.iter() }
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
    let clients = { node.peers.values() }
        .filter(|peer| peer.exchange.reflected && !peer.exchange.reflects())
        .count();
    if clients > 0 && up == 0 {
        safety.unknown.push(format!(
            "this node reflects routes to {clients} peers, and no other route reflector is seen from \
             here: it may be their last"
        ));
    }
}

fn name(incident: &Incident) -> &str {
    if incident.id.is_empty() {
        "(not told yet)"
    } else {
        &incident.id
    }
}

fn judge(
    safety: &mut Safety,
    (node, next_hops): (&Node, &BTreeSet<PeerAddress>),
    (address, peer): (PeerAddress, &Peer),
    now: Timestamp,
) {
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
    if peer.exchange.held.is_some() {
        block(
            false,
            format!("{address} holds this node's routes as stale: its End-of-RIB was not sent yet"),
        );
        return;
    }
    match settled(node, next_hops, (address, peer), now) {
        Ok(()) => {}
        Err(Doubt::Against(what)) => block(false, what),
        Err(Doubt::Unknown(what)) => safety.unknown.push(what),
    }
}

/// Why it cannot be said that all of a peer's routes are in.
enum Doubt {
    Against(String),
    Unknown(String),
}

/// Whether a session that is up has brought what it has to bring: End-of-RIB and a FIB that agrees, or,
/// where the session is older than the agent, the FIB alone.
fn settled(
    node: &Node,
    next_hops: &BTreeSet<PeerAddress>,
    (address, peer): (PeerAddress, &Peer),
    now: Timestamp,
) -> Result<(), Doubt> {
    let exchange = &peer.exchange;
    let complete = !exchange.rib.complete.is_empty();
    let offered = exchange.opens.received.as_ref();
    let promised = offered.is_some_and(|open| open.restart.is_some());
    if promised && !complete && !peer.session.inherited {
        let what = format!("the End-of-RIB of {address} has not come yet");
        return Err(Doubt::Against(what));
    }
    if !node.fib.is_observed() {
        return if complete {
            Ok(())
        } else {
            Err(Doubt::Unknown(format!(
                "the End-of-RIB of {address} was not seen, and the kernel's routes are not observed"
            )))
        };
    }
    match node.programmed(address, now) {
        Programmed::Some => return Ok(()),
        Programmed::None(announced) => {
            let what =
                format!("none of the {announced} routes that {address} announces is programmed");
            return Err(Doubt::Against(what));
        }
        Programmed::NothingAnnounced => {}
    }
    let remembered = exchange.remembered.as_ref();
    let had = remembered.and_then(|terms| terms.prefixes);
    if complete || had == Some(0) || next_hops.contains(&address) {
        return Ok(());
    }
    if exchange.reflects() && node.fib.has_routes() {
        return Ok(());
    }
    Err(match had {
        Some(had) => Doubt::Against(format!(
            "{address} announced {had} routes before this agent ran, and none leads to it now"
        )),
        None if peer.session.inherited => Doubt::Unknown(format!(
            "what {address} announces was not read (its session is older than the agent), and no \
             route leads to it"
        )),
        None => Doubt::Unknown(format!("the End-of-RIB of {address} was not seen")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Fact, TcpState},
        terms::SavedTerms,
        testing::{PEER, Scene, carrying, outbound, saved},
        testing_wire::{Offer, Talk, end_of_rib},
        tests_fib::block,
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

    /// Kept, with the session's own restart offered by both sides.
    fn graceful() -> Offer {
        Offer {
            restart: Some((120, true)),
            ..Offer::default()
        }
    }

    fn greeted(scene: &mut Scene, id: u64) -> Talk {
        let mut dialled = outbound(id, PEER);
        dialled.local.set_port(40_000 + u16::try_from(id).unwrap());
        let mut talk = Talk::new(dialled);
        talk.connect(scene);
        talk.greet(scene, graceful(), graceful());
        talk
    }

    fn says(safety: &Safety, what: &str) -> bool {
        { safety.blockers.iter() }.any(|blocker| blocker.what.contains(what))
    }

    #[test]
    fn a_promised_end_of_rib_is_waited_for_and_so_is_the_own_one_at_the_peer() {
        let mut scene = Scene::started();
        let mut talk = greeted(&mut scene, 1);
        scene.pass(6_000);
        assert!(says(&safety(&scene), "End-of-RIB of 10.0.0.2 has not come"));
        talk.says(&mut scene, false, &end_of_rib());
        assert_eq!(safety(&scene).answer, Safe::Yes, "{:?}", safety(&scene));
        // This node's speaker is killed and comes back: until it sends End-of-RIB its routes are
        // stale at the peer, and a second restart would drop them.
        talk.we_close(&mut scene);
        scene.pass(2_000);
        let mut talk = greeted(&mut scene, 2);
        talk.says(&mut scene, false, &end_of_rib());
        scene.pass(20_000);
        let stale = safety(&scene);
        assert_eq!(stale.answer, Safe::No);
        assert!(
            says(&stale, "holds this node's routes as stale"),
            "{stale:?}"
        );
        assert!(!stale.blockers[0].missing, "nobody may accept that");
        talk.says(&mut scene, true, &end_of_rib());
        assert_eq!(safety(&scene).answer, Safe::Yes, "{:?}", safety(&scene));
    }

    #[test]
    fn an_inherited_session_is_settled_when_routes_lead_to_its_peer() {
        for (routes, had, answer) in [
            (vec![block()], None, Safe::Yes),
            (vec![], None, Safe::Unknown),
            (vec![], Some(0), Safe::Yes),
            (vec![], Some(3), Safe::No),
        ] {
            let mut scene = Scene::with_routes(&routes);
            let terms = SavedTerms {
                prefixes: had,
                ..SavedTerms::default()
            };
            let saved = saved(PEER, terms);
            scene.tell(Fact::PeersRestored {
                node: "n1".to_owned(),
                peers: vec![saved],
            });
            scene.info(carrying(outbound(1, PEER), 5_000), TcpState::Established);
            scene.pass(10_000);
            let found = safety(&scene);
            assert_eq!(found.answer, answer, "{had:?} {found:?}");
        }
    }
}

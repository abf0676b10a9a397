//! How the BGP sessions of a cluster are laid out, as far as one node can tell: a full mesh, or route
//! reflectors (RFC 4456), what hangs on each of these, and what that means for a cluster of this size.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    conversation::Direction,
    event::PeerType,
    node::{Node, Peer},
};

/// Nodes from which a full mesh is worth a thought, and above which it is not recommended any more.
const GROWING: usize = 50;
const LARGE: usize = 100;
/// Prefixes of a reflector that are compared with the others' at most: the answer is asked for at
/// every scrape.
const COMPARED: usize = 4_096;

/// One node's view.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Topology {
    /// The observed node.
    pub node: String,
    /// What it looks like.
    pub shape: Shape,
    /// Nodes that are seen, this one included: peers, and next hops of the cluster's routes.
    pub nodes: usize,
    /// Known peers.
    pub sessions: usize,
    /// Of these Established.
    pub established: usize,
    /// Sessions that a full mesh of so many nodes has in all.
    pub full_mesh_sessions: usize,
    /// Peers to which this node reflects routes.
    pub clients: usize,
    /// Route reflectors.
    pub reflectors: Vec<Reflector>,
    /// What to think of, in words.
    pub advice: Vec<String>,
}

/// How sessions are laid out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// No peer is known.
    None,
    /// Nobody reflects: each node has a session with each other one.
    Mesh,
    /// Routes come by route reflectors.
    RouteReflectors,
    /// By reflectors, and there are sessions of the node-to-node mesh as well.
    Mixed,
    /// This node is a route reflector.
    Reflector,
}

/// A route reflector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reflector {
    /// The peer.
    pub peer: String,
    /// Its node's name, where known.
    pub peer_node: Option<String>,
    /// Its session is Established.
    pub up: bool,
    /// Prefixes it announces.
    pub prefixes: usize,
    /// The share of these, 0 to 1, that nobody else announces: what is lost with it.
    pub alone: f64,
}

/// What `node` sees.
pub(crate) fn of(node: &Node) -> Topology {
    let peers = &node.peers;
    let reflectors: Vec<Reflector> = { peers.iter() }
        .filter(|(_, peer)| peer.exchange.reflects())
        .map(|(address, peer)| Reflector {
            peer: address.to_string(),
            peer_node: peer.name.clone(),
            up: peer.session.is_up(),
            prefixes: peer.exchange.rib.len(),
            alone: alone(node, peer),
        })
        .collect();
    let clients = { peers.values() }
        .filter(|peer| peer.exchange.reflected && !peer.exchange.reflects())
        .count();
    let meshed = { peers.values() }
        .any(|peer| peer.kind == Some(PeerType::Mesh) && !peer.exchange.reflects());
    let shape = match (peers.is_empty(), clients > 0, reflectors.is_empty()) {
        (true, _, _) => Shape::None,
        (false, true, _) => Shape::Reflector,
        (false, false, true) => Shape::Mesh,
        (false, false, false) if meshed => Shape::Mixed,
        (false, false, false) => Shape::RouteReflectors,
    };
    let nodes = count_nodes(node);
    let mut topology = Topology {
        node: node.name.clone(),
        shape,
        nodes,
        sessions: peers.len(),
        established: { peers.values() }
            .filter(|peer| peer.session.is_up())
            .count(),
        full_mesh_sessions: nodes * nodes.saturating_sub(1) / 2,
        clients,
        reflectors,
        advice: Vec::new(),
    };
    topology.advice = advice(&topology);
    topology
}

/// The share of what a reflector announces that no other peer does.
fn alone(node: &Node, reflector: &Peer) -> f64 {
    let others: Vec<&Peer> = { node.peers.values() }
        .filter(|peer| peer.exchange.reflects() && !std::ptr::eq(*peer, reflector))
        .collect();
    let mut compared = 0_u32;
    let mut alone = 0_u32;
    for prefix in reflector.exchange.rib.unicast().take(COMPARED) {
        compared += 1;
        let elsewhere = { others.iter() }.any(|other| other.exchange.rib.has_prefix(prefix));
        alone += u32::from(!elsewhere);
    }
    f64::from(alone) / f64::from(compared.max(1))
}

/// Peers by what tells nodes apart, whatever their addresses; or, where reflectors hide most nodes, the
/// next hops of the family that has more.
fn count_nodes(node: &Node) -> usize {
    let identity = |(address, peer): (&crate::address::PeerAddress, &Peer)| {
        let id = peer.exchange.bgp_id(Direction::BToA);
        peer.name
            .clone()
            .or_else(|| id.map(|id| id.to_string()))
            .unwrap_or_else(|| address.to_string())
    };
    let peers: BTreeSet<String> = node.peers.iter().map(identity).collect();
    let hops = node.next_hops();
    let v4 = hops.iter().filter(|hop| hop.ip.is_ipv4()).count();
    peers.len().max(v4).max(hops.len() - v4) + 1
}

fn advice(topology: &Topology) -> Vec<String> {
    let mut advice = Vec::new();
    let nodes = topology.nodes;
    let sessions = format!(
        "a full mesh of {nodes} nodes has {} sessions, {} on each node",
        topology.full_mesh_sessions,
        nodes.saturating_sub(1)
    );
    let mesh = topology.shape == Shape::Mesh;
    if mesh && nodes > LARGE {
        advice.push(format!(
            "{sessions}: above {LARGE} nodes use route reflectors"
        ));
    } else if mesh && nodes >= GROWING {
        advice.push(format!(
            "{sessions}: plan for route reflectors before there are {LARGE} nodes"
        ));
    }
    let up = { topology.reflectors.iter() }
        .filter(|reflector| reflector.up)
        .count();
    match (topology.reflectors.len(), up) {
        (0, _) => {}
        (1, _) => advice.push(
            "all reflected routes hang on one route reflector: configure a second one".to_owned(),
        ),
        (all, up) if up < 2 => advice.push(format!(
            "{up} of {all} route reflectors is up: do not restart it"
        )),
        (_, _) => {}
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Socket,
        testing::{Scene, socket},
        testing_wire::{Talk, reflected, update},
    };

    fn to(host: u64) -> Socket {
        let local = format!("10.0.0.1:{}", 30_000 + host);
        socket(
            host,
            &local,
            &format!("10.0.{}.{}:179", host / 250, host % 250 + 1),
        )
    }

    fn topology(scene: &Scene) -> Topology {
        scene.observer.topology().remove(0)
    }

    #[test]
    fn a_mesh_is_counted_and_gets_advice_by_its_size() {
        let mut scene = Scene::started();
        assert_eq!(topology(&scene).shape, Shape::None);
        for (peers, words) in [(2, None), (49, Some("plan for")), (120, Some("above 100"))] {
            for host in 1..=peers {
                if !scene
                    .observer
                    .peers(crate::testing::millis(scene.now))
                    .iter()
                    .any(|peer| peer.peer == to(host).remote.ip().to_string())
                {
                    scene.establish(to(host));
                }
            }
            let seen = topology(&scene);
            let nodes = usize::try_from(peers).unwrap() + 1;
            assert_eq!((seen.shape, seen.nodes), (Shape::Mesh, nodes));
            assert_eq!(seen.full_mesh_sessions, nodes * (nodes - 1) / 2);
            assert_eq!(seen.established, nodes - 1);
            assert_eq!(seen.advice.len(), usize::from(words.is_some()));
            if let Some(words) = words {
                assert!(seen.advice[0].contains(words), "{:?}", seen.advice);
            }
        }
    }

    #[test]
    fn reflectors_are_told_with_what_hangs_on_each_of_them_alone() {
        let mut scene = Scene::started();
        let mut talks: Vec<Talk> = [1, 2].map(|host| Talk::new(to(host))).into();
        for talk in &mut talks {
            talk.establish(&mut scene);
        }
        let block = |third| vec![26, 10, 244, third, 0];
        for (talk, blocks) in talks.iter_mut().zip([[3, 4], [4, 4]]) {
            for third in blocks {
                talk.says(&mut scene, false, &reflected(&block(third)));
            }
        }
        let seen = topology(&scene);
        assert_eq!(seen.shape, Shape::RouteReflectors);
        let shares: Vec<(usize, f64)> = { seen.reflectors.iter() }
            .map(|one| (one.prefixes, one.alone))
            .collect();
        assert_eq!(shares, [(2, 0.5), (1, 0.0)]);
        assert!(seen.advice.is_empty(), "{:?}", seen.advice);
        talks[1].peer_closes(&mut scene);
        scene.pass(1_000);
        let seen = topology(&scene);
        assert!(seen.advice[0].contains("1 of 2"), "{:?}", seen.advice);
        assert_eq!((seen.sessions, seen.established), (2, 1));
        // One that reflects itself.
        let mut scene = Scene::started();
        let mut talk = Talk::new(to(1));
        talk.establish(&mut scene);
        talk.says(&mut scene, false, &update(&[], &block(3)));
        talk.says(&mut scene, true, &reflected(&block(4)));
        let seen = topology(&scene);
        assert_eq!((seen.shape, seen.clients), (Shape::Reflector, 1));
    }
}

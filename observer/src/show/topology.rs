//! How the sessions are laid out, below the wide table of `status`.

use std::fmt::Write as _;

use anyhow::Result;
use observer_core::topology::{Reflector, Shape, Topology};
use serde::Deserialize;

use crate::{client::Client, terminal::plain};

#[derive(Deserialize)]
struct Layouts {
    nodes: Vec<Topology>,
}

/// Asks the agent and appends what each node sees, or only one.
pub fn append(text: &mut String, client: &Client, only: Option<&str>) -> Result<()> {
    let layouts = client.get::<Layouts>("/api/v1/topology")?.nodes;
    let shown = |layout: &&Topology| only.is_none_or(|only| layout.node == only);
    for layout in layouts.iter().filter(shown) {
        tell(text, layout);
    }
    Ok(())
}

fn tell(text: &mut String, topology: &Topology) {
    let Topology {
        nodes,
        sessions,
        established,
        full_mesh_sessions,
        clients,
        ..
    } = topology;
    let shape = match topology.shape {
        Shape::None => return,
        Shape::Mesh => format!(
            "full mesh as far as is seen: {nodes} nodes, {full_mesh_sessions} sessions in all"
        ),
        Shape::RouteReflectors => format!("route reflectors; {nodes} nodes are seen"),
        Shape::Mixed => {
            format!(
                "route reflectors, and sessions of the node-to-node mesh; {nodes} nodes are seen"
            )
        }
        Shape::Reflector => {
            format!("this node is a route reflector of {clients} peers; {nodes} nodes are seen")
        }
    };
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{}: {shape}; {established} of {sessions} sessions here are Established",
        plain(&topology.node)
    );
    for reflector in &topology.reflectors {
        let _ = writeln!(text, "  route reflector {}", of(reflector));
    }
    for advice in &topology.advice {
        let _ = writeln!(text, "  note: {}", plain(advice));
    }
}

fn of(reflector: &Reflector) -> String {
    let name = reflector.peer_node.as_deref();
    let name = name.map_or_else(String::new, |name| format!(" ({})", plain(name)));
    format!(
        "{}{name}: {}, {} prefixes, {:.0} % of them by it alone",
        plain(&reflector.peer),
        if reflector.up { "up" } else { "DOWN" },
        reflector.prefixes,
        reflector.alone * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_told_in_lines() {
        let mut text = String::new();
        let reflector = Reflector {
            peer: "10.0.0.2".to_owned(),
            peer_node: Some("rr-1".to_owned()),
            up: true,
            prefixes: 8,
            alone: 0.25,
        };
        let layout = Topology {
            node: "a".to_owned(),
            shape: Shape::RouteReflectors,
            nodes: 9,
            sessions: 2,
            established: 1,
            full_mesh_sessions: 36,
            clients: 0,
            reflectors: vec![reflector],
            advice: vec!["configure a second one".to_owned()],
        };
        tell(&mut text, &layout);
        assert_eq!(
            text,
            "a: route reflectors; 9 nodes are seen; 1 of 2 sessions here are Established\n  \
             route reflector 10.0.0.2 (rr-1): up, 8 prefixes, 25 % of them by it alone\n  \
             note: configure a second one\n"
        );
        text.clear();
        let mesh = Topology {
            shape: Shape::Mesh,
            reflectors: Vec::new(),
            advice: Vec::new(),
            ..layout
        };
        tell(&mut text, &mesh);
        assert!(text.contains("9 nodes, 36 sessions in all"), "{text}");
    }
}

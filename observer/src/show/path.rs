//! `path`: the way of a packet, drawn from node to node.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use anyhow::Result;
use clap::Args;
use observer_core::route_view::{LegView, PathHopView, PathView};

use super::{routes, words};
use crate::{
    cli::{Answer, Format},
    client::{self, Client},
    terminal::{self, plain},
};

/// Flags of `path`.
#[derive(Args, Clone, Debug)]
pub struct PathArgs {
    /// Destination; source if two addresses are given
    #[arg(value_name = "[SRC] DST")]
    pub first: IpAddr,
    /// Destination
    #[arg(value_name = "DST", hide = true)]
    pub second: Option<IpAddr>,
    /// Begin at this observed node [default: where SRC is, else the first]
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Asks the agent behind `socket` and prints.
pub fn show(socket: &Path, args: &PathArgs) -> Result<Answer> {
    let (source, destination) = match &args.second {
        Some(destination) => (Some(args.first), *destination),
        None => (None, args.first),
    };
    let mut path = format!("/api/v1/path?destination={destination}");
    if let Some(source) = source {
        // Writing to a String does not fail.
        let _ = write!(path, "&source={source}");
    }
    if let Some(node) = &args.node {
        let _ = write!(path, "&node={}", client::query(node));
    }
    let view: PathView = Client::new(socket)?.get(&path)?;
    let text = match args.output {
        Format::Json => terminal::json(&view)?,
        Format::Table => draw(&view),
    };
    terminal::print(&text)?;
    Ok(match view.arrives {
        Some(false) => Answer::No,
        Some(true) | None => Answer::Done,
    })
}

/// The way as a drawing, one line for each thing that it passes.
pub fn draw(view: &PathView) -> String {
    let mut text = String::new();
    if let Some(source) = view.source {
        let _ = writeln!(text, "{source}");
    }
    for leg in &view.legs {
        draw_leg(&mut text, leg);
    }
    let end = match view.arrives {
        Some(true) => "arrives",
        Some(false) => "does not arrive",
        None if view.partial => "not known",
        None => "leaves the observed nodes",
    };
    let _ = writeln!(text, "{}", view.destination);
    let _ = writeln!(text, "{end}: {}", plain(&view.verdict));
    if view.partial {
        text.push_str(
            "The configuration leaves routes out (route_protocol, route_table): the kernel may send it \
             another way.\n",
        );
    }
    text
}

fn draw_leg(text: &mut String, leg: &LegView) {
    if let Some(from) = &leg.from {
        let _ = writeln!(text, "  | {}", plain(from));
    }
    let _ = writeln!(text, "[{}]", plain(&leg.node));
    let Some(route) = &leg.route else {
        let _ = writeln!(text, "  x no route");
        return;
    };
    let _ = writeln!(
        text,
        "  | {} {} proto {}",
        route.prefix,
        plain(&routes::leads(route)),
        plain(route.owner.as_deref().unwrap_or("-")),
    );
    for hop in &leg.hops {
        draw_hop(text, hop);
    }
}

fn draw_hop(text: &mut String, hop: &PathHopView) {
    let mark = if hop.hop.dead { "x" } else { "|" };
    let mut line = format!("  {mark} {}", routes::hop(&hop.hop));
    match hop.link_up {
        Some(true) => line.push_str(", link up"),
        Some(false) => line.push_str(", link DOWN"),
        None => {}
    }
    if let Some(state) = &hop.neighbour {
        let _ = write!(line, ", neighbour {}", words::of(state));
    }
    let _ = writeln!(text, "{}", plain(&line));
    for peer in &hop.peers {
        let name = peer.peer_node.as_deref().map(|name| format!(" ({name})"));
        let stale = if peer.stale { ", routes stale" } else { "" };
        let line = format!(
            "  |   session with {}{}: {}{stale}",
            peer.peer,
            name.unwrap_or_default(),
            peer.state.name()
        );
        let _ = writeln!(text, "{}", plain(&line));
    }
}

#[cfg(test)]
mod tests {
    use observer_core::{
        event::forwarding::{NeighbourState, RouteKind, TABLE_MAIN},
        peer::SessionState,
        route_view::{HopView, PathPeerView, RouteState, RouteView},
    };

    use super::*;

    #[test]
    fn the_way_between_two_pods_is_drawn_from_top_to_bottom() {
        let hop = HopView {
            gateway: Some("10.0.0.2".parse().unwrap()),
            interface: "eth0".to_owned(),
            weight: 1,
            dead: false,
        };
        let route = RouteView {
            node: "n1".to_owned(),
            prefix: "10.244.2.0/26".to_owned(),
            state: RouteState::Programmed,
            table: TABLE_MAIN,
            kind: Some(RouteKind::Unicast),
            owner: Some("bird".to_owned()),
            metric: Some(0),
            next_hops: vec![hop.clone()],
            since: None,
            writer: None,
            announced_by: vec!["10.0.0.2".to_owned()],
        };
        let view = PathView {
            source: Some("10.244.1.2".parse().unwrap()),
            destination: "10.244.2.2".parse().unwrap(),
            legs: vec![LegView {
                node: "n1".to_owned(),
                from: Some("cali0".to_owned()),
                route: Some(route),
                hops: vec![PathHopView {
                    hop,
                    link_up: Some(true),
                    neighbour: Some(NeighbourState::Usable),
                    peers: vec![PathPeerView {
                        peer: "10.0.0.2".to_owned(),
                        peer_node: Some("n2".to_owned()),
                        state: SessionState::Established,
                        stale: false,
                    }],
                }],
            }],
            verdict: "n1 hands it to 10.0.0.2; what that does is not observed".to_owned(),
            arrives: None,
            partial: false,
        };
        assert_eq!(
            draw(&view),
            "\
10.244.1.2
  | cali0
[n1]
  | 10.244.2.0/26 10.0.0.2 dev eth0 proto bird
  | 10.0.0.2 dev eth0, link up, neighbour usable
  |   session with 10.0.0.2 (n2): Established
10.244.2.2
leaves the observed nodes: n1 hands it to 10.0.0.2; what that does is not observed
"
        );
        let partial = draw(&PathView {
            partial: true,
            ..view
        });
        assert!(partial.contains("not known: n1 hands it"), "{partial}");
        assert!(partial.contains("route_protocol"), "{partial}");
    }
}

//! `path`: the way of a packet, drawn from node to node.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use anyhow::Result;
use clap::Args;
use observer_core::{
    peer::SessionState,
    route_view::{LegView, PathHopView, PathPeerView, PathView},
};

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
        Format::Table => draw(&view, jiff::Timestamp::now()),
    };
    terminal::print(&text)?;
    Ok(match view.arrives {
        Some(false) => Answer::No,
        Some(true) | None => Answer::Done,
    })
}

/// The way as a drawing, one line for each thing that it passes.
pub fn draw(view: &PathView, now: jiff::Timestamp) -> String {
    let mut text = String::new();
    if let Some(source) = view.source {
        let _ = writeln!(text, "{source}");
    }
    for leg in &view.legs {
        draw_leg(&mut text, leg, now);
    }
    if let Some(beyond) = view.legs.last().filter(|_| view.arrives.is_none()) {
        draw_beyond(&mut text, beyond);
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

/// The node that the last hop leads to: its own agent knows how the packet goes on.
fn draw_beyond(text: &mut String, leg: &LegView) {
    let hop = leg.hops.iter().find(|hop| !hop.hop.dead);
    let Some((hop, gateway)) = hop.and_then(|hop| Some((hop, hop.hop.gateway?))) else {
        return;
    };
    let gateway = gateway.to_string();
    let peer = hop.peers.iter().find(|peer| peer.peer == gateway);
    let name = peer.and_then(|peer| peer.peer_node.as_deref());
    let _ = writeln!(
        text,
        "[{}] not observed from here",
        plain(name.unwrap_or(&gateway))
    );
}

fn draw_leg(text: &mut String, leg: &LegView, now: jiff::Timestamp) {
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
        draw_hop(text, hop, now);
    }
}

fn draw_hop(text: &mut String, hop: &PathHopView, now: jiff::Timestamp) {
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
        let _ = writeln!(text, "  |   {}", plain(&session(peer, now)));
    }
}

/// How the session does that a route hangs on.
fn session(peer: &PathPeerView, now: jiff::Timestamp) -> String {
    let mut text = format!("session with {}", peer.peer);
    if let Some(name) = &peer.peer_node {
        let _ = write!(text, " ({name})");
    }
    let _ = write!(text, ": {}", peer.state.name());
    let up = peer.state == SessionState::Established;
    if let Some(since) = peer.since {
        let down = if up { "" } else { ", down" };
        let _ = write!(text, "{down} since {}", words::since(since, now));
    }
    if peer.stale {
        text.push_str(", routes stale");
    }
    if let Some(cause) = &peer.last_cause_text {
        let lost = if up { "lost before" } else { "why" };
        let _ = write!(text, "; {lost}: {cause}");
    }
    text
}

#[cfg(test)]
mod tests {
    use observer_core::{
        event::forwarding::{NeighbourState, RouteKind, TABLE_MAIN},
        route_view::{HopView, RouteState, RouteView},
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
                        since: Some("2026-11-24T09:30:00Z".parse().unwrap()),
                        last_cause_text: Some("the cause".to_owned()),
                        stale: false,
                    }],
                }],
            }],
            verdict: "n1 hands it to 10.0.0.2; what that does is not observed".to_owned(),
            arrives: None,
            partial: false,
        };
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        assert_eq!(
            draw(&view, now),
            "\
10.244.1.2
  | cali0
[n1]
  | 10.244.2.0/26 10.0.0.2 dev eth0 proto bird
  | 10.0.0.2 dev eth0, link up, neighbour usable
  |   session with 10.0.0.2 (n2): Established since 09:30:00; lost before: the cause
[n2] not observed from here
10.244.2.2
leaves the observed nodes: n1 hands it to 10.0.0.2; what that does is not observed
"
        );
        let mut down = view.clone();
        let session = &mut down.legs[0].hops[0].peers[0];
        session.state = SessionState::Active;
        session.stale = true;
        let down = draw(&down, now);
        let line = "(n2): Active, down since 09:30:00, routes stale; why: the cause\n";
        assert!(down.contains(line), "{down}");
        let partial = draw(
            &PathView {
                partial: true,
                ..view
            },
            now,
        );
        assert!(partial.contains("not known: n1 hands it"), "{partial}");
        assert!(partial.contains("route_protocol"), "{partial}");
    }
}

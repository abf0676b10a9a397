//! `routes`: what is announced against what the kernel has.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use clap::Args;
use observer_core::{
    event::forwarding::TABLE_MAIN,
    route_view::{HopView, RouteView, RoutesView},
};

use super::words;
use crate::{
    cli::{Answer, Format},
    client::{self, Client},
    terminal::{self, plain, span},
};

/// Flags of `routes`.
#[derive(Args, Clone, Debug)]
pub struct RoutesArgs {
    /// Only routes that hang on this peer's session: its address or its node's name
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Only routes of this prefix or address: those in it, and those that cover it
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Only routes of this protocol: bird, felix, kernel, boot … or a number
    #[arg(long, value_name = "PROTOCOL")]
    pub owner: Option<String>,
    /// Routes of all protocols
    #[arg(long)]
    pub all: bool,
    /// Only routes that are missing, lost or stray
    #[arg(long)]
    pub wrong: bool,
    /// Only routes of this observed node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// So many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub limit: usize,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Asks the agent behind `socket` and prints.
pub fn show(socket: &Path, args: &RoutesArgs) -> Result<Answer> {
    let mut path = format!("/api/v1/routes?limit={}", args.limit);
    for (key, value) in [
        ("node", &args.node),
        ("peer", &args.peer),
        ("prefix", &args.prefix),
        ("owner", &args.owner),
    ] {
        if let Some(value) = value {
            // Writing to a String does not fail.
            let _ = write!(path, "&{key}={}", client::query(value));
        }
    }
    for (key, set) in [("all", args.all), ("wrong", args.wrong)] {
        if set {
            let _ = write!(path, "&{key}=true");
        }
    }
    let view: RoutesView = Client::new(socket)?.get(&path)?;
    let text = match args.output {
        Format::Json => terminal::json(&view)?,
        Format::Table => text(&view, jiff::Timestamp::now()),
    };
    terminal::print(&text)?;
    Ok(Answer::Done)
}

fn text(view: &RoutesView, now: jiff::Timestamp) -> String {
    let mut text = String::new();
    for node in &view.nodes {
        let name = plain(&node.node);
        if node.source.is_none() {
            let _ = writeln!(
                text,
                "{name}: routes are not read (see `bgp-observer check`)."
            );
        } else if !node.complete {
            let _ = writeln!(text, "{name}: not all routes are known yet.");
        }
        for peer in &node.unprogrammed {
            let _ = writeln!(
                text,
                "{name}: {} is Established for {} with {} prefixes, none of them in the kernel; if \
                 BIRD waits for restarting peers, within {}",
                plain(&peer.peer),
                span(peer.seconds),
                peer.announced,
                span(peer.expected_within_seconds)
            );
        }
    }
    if view.routes.is_empty() {
        text.push_str("No such route.\n");
        return text;
    }
    text.push_str(&table(&view.routes, now));
    if view.truncated {
        text.push_str("There are more: narrow it down, or raise --limit.\n");
    }
    text
}

/// The table as it is printed.
pub fn table(routes: &[RouteView], now: jiff::Timestamp) -> String {
    let nodes = routes
        .iter()
        .any(|route| Some(&route.node) != routes.first().map(|first| &first.node));
    let tables = routes.iter().any(|route| route.table != TABLE_MAIN);
    let mut header = vec![
        "PREFIX",
        "STATE",
        "OWNER",
        "NEXT HOP",
        "ANNOUNCED BY",
        "SINCE",
        "WRITER",
    ];
    if tables {
        header.insert(1, "TABLE");
    }
    if nodes {
        header.insert(0, "NODE");
    }
    let mut table = super::table::under(header);
    for route in routes {
        let or_dash = |text: Option<String>| {
            let text = text.filter(|text| !text.is_empty());
            text.map_or_else(|| "-".to_owned(), |text| plain(&text))
        };
        let mut row = vec![
            plain(&route.prefix),
            route.state.name().to_owned(),
            or_dash(route.owner.clone()),
            or_dash(Some(leads(route))),
            or_dash(Some(route.announced_by.join(", "))),
            or_dash(route.since.map(|since| words::since(since, now))),
            or_dash(
                route
                    .writer
                    .as_ref()
                    .map(|writer| format!("{} ({})", writer.comm, writer.pid)),
            ),
        ];
        if tables {
            row.insert(1, route.table.to_string());
        }
        if nodes {
            row.insert(0, plain(&route.node));
        }
        table.add_row(row);
    }
    format!("{table}\n")
}

/// Where a route leads, as `ip route` has it.
pub fn leads(route: &RouteView) -> String {
    if let Some(kind) = route.kind.filter(|kind| kind.drops()) {
        return kind.name().to_owned();
    }
    let hops: Vec<String> = route.next_hops.iter().map(hop).collect();
    hops.join(", ")
}

/// One hop.
pub fn hop(hop: &HopView) -> String {
    let mut text = match hop.gateway {
        Some(gateway) => format!("{gateway} dev {}", hop.interface),
        None => format!("dev {}", hop.interface),
    };
    if hop.weight != 1 {
        let _ = write!(text, " weight {}", hop.weight);
    }
    if hop.dead {
        text.push_str(" dead");
    }
    text
}

#[cfg(test)]
mod tests {
    use observer_core::{event::forwarding::RouteKind, route_view::RouteState};

    use super::*;

    fn route(prefix: &str, state: RouteState) -> RouteView {
        RouteView {
            node: "n1".to_owned(),
            prefix: prefix.to_owned(),
            state,
            table: TABLE_MAIN,
            kind: Some(RouteKind::Unicast),
            owner: Some("bird".to_owned()),
            metric: Some(0),
            next_hops: vec![HopView {
                gateway: Some("10.0.0.2".parse().unwrap()),
                interface: "eth0".to_owned(),
                weight: 1,
                dead: false,
            }],
            since: None,
            writer: None,
            announced_by: vec!["10.0.0.2".to_owned()],
        }
    }

    #[test]
    fn a_row_says_what_is_expected_and_what_is_there() {
        let mut own = route("10.244.1.0/26", RouteState::Own);
        own.kind = Some(RouteKind::Blackhole);
        own.announced_by.clear();
        let shown = table(
            &[route("10.244.2.0/26", RouteState::Programmed), own],
            jiff::Timestamp::UNIX_EPOCH,
        );
        assert!(
            shown.contains("| 10.244.2.0/26 | programmed | bird  | 10.0.0.2 dev eth0 | 10.0.0.2 "),
            "{shown}"
        );
        assert!(
            shown.contains("| 10.244.1.0/26 | own        | bird  | blackhole         | -  "),
            "{shown}"
        );
    }

    #[test]
    fn names_of_interfaces_cannot_move_the_cursor() {
        let mut odd = route("10.244.2.0/26", RouteState::Programmed);
        odd.next_hops[0].interface = "a\x1b[2J".to_owned();
        let shown = table(&[odd], jiff::Timestamp::UNIX_EPOCH);
        assert!(!shown.contains('\x1b'), "{shown}");
    }
}

//! `status`: the peers in calicoctl's columns, plus flaps, cause and round-trip time.

use std::{io::IsTerminal, path::Path, thread, time::Duration};

use anyhow::Result;
use observer_core::peer::PeerView;
use serde::Deserialize;

use super::words;
use crate::{
    cli::{Answer, StatusArgs, StatusFormat},
    client::{Client, NoAgent},
    terminal::{self, plain, span},
};

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Deserialize)]
struct Sources {
    blind: bool,
}

/// Asks the agent behind `socket` and prints.
pub fn show(socket: &Path, args: &StatusArgs) -> Result<Answer> {
    let answer = ask(socket, args);
    match answer {
        // Whoever wants an exit code wants one for "nobody knows", too.
        Err(error) if args.exit_code && error.is::<NoAgent>() => {
            terminal::complain(&format!("bgp-observer: {error:#}"));
            Ok(Answer::Unknown)
        }
        answer => answer,
    }
}

fn ask(socket: &Path, args: &StatusArgs) -> Result<Answer> {
    let client = Client::new(socket)?;
    let mut shown = String::new();
    loop {
        let blind = client.get::<Sources>("/api/v1/sources")?.blind;
        let mut peers = client.get::<Peers>("/api/v1/peers")?.peers;
        if let Some(node) = &args.node {
            peers.retain(|peer| peer.node == *node);
        }
        let answer = answer(&peers, blind);
        if args.down {
            peers.retain(|peer| !peer.up);
        }
        let text = text(&peers, args, blind)?;
        if args.watch && std::io::stdout().is_terminal() {
            // Home, and clear what is below.
            terminal::print(&format!("\x1b[H\x1b[2J{text}"))?;
        } else if !args.watch || text != shown {
            terminal::print(&text)?;
        }
        if !args.watch {
            return Ok(if args.exit_code { answer } else { Answer::Done });
        }
        shown = text;
        thread::sleep(WATCH);
    }
}

fn answer(peers: &[PeerView], blind: bool) -> Answer {
    if blind {
        Answer::Unknown
    } else if peers.iter().any(|peer| !peer.up) {
        Answer::No
    } else {
        Answer::Done
    }
}

fn text(peers: &[PeerView], args: &StatusArgs, blind: bool) -> Result<String> {
    if args.output == StatusFormat::Json {
        return Ok(terminal::json(&serde_json::json!({ "peers": peers }))?);
    }
    let mut text = String::new();
    if blind {
        text.push_str("The agent is blind (see `bgp-observer check`): this may all be wrong.\n");
    }
    if peers.is_empty() {
        text.push_str(if args.down {
            "No known peer is down.\n"
        } else {
            "No BGP peer is known.\n"
        });
    } else {
        let wide = args.output == StatusFormat::Wide;
        text.push_str(&table(peers, wide, jiff::Timestamp::now()));
    }
    Ok(text)
}

/// The table as it is printed.
pub fn table(peers: &[PeerView], wide: bool, now: jiff::Timestamp) -> String {
    let nodes = peers
        .iter()
        .any(|peer| Some(&peer.node) != peers.first().map(|first| &first.node));
    let mut columns: Vec<Column> = Vec::new();
    if nodes || wide {
        columns.push(("NODE", |peer, _| peer.node.clone()));
    }
    columns.extend::<[Column; 8]>([
        ("PEER ADDRESS", |peer, _| peer.peer.clone()),
        ("PEER TYPE", |peer, _| {
            dash(peer.peer_type.map(|of_type| of_type.name().to_owned()))
        }),
        ("STATE", |peer, _| {
            if peer.up { "up" } else { "down" }.to_owned()
        }),
        ("SINCE", |peer, now| {
            dash(peer.since.map(|since| words::since(since, now)))
        }),
        ("INFO", |peer, _| peer.info.clone()),
        ("FLAPS", |peer, _| peer.flaps.to_string()),
        ("CAUSE", |peer, _| {
            if peer.cause_pending {
                "pending".to_owned()
            } else {
                dash(
                    peer.last_cause
                        .as_ref()
                        .map(|cause| cause.label().to_owned()),
                )
            }
        }),
        ("RTT", |peer, _| dash(peer.rtt_seconds.map(span))),
    ]);
    if wide {
        columns.extend::<[Column; 9]>([
            ("PEER NODE", |peer, _| dash(peer.peer_node.clone())),
            ("AS", |peer, _| dash(peer.asn.map(|asn| asn.to_string()))),
            ("SESSION", |peer, _| peer.state.name().to_owned()),
            ("KNOWN BY", |peer, _| words::of(&peer.known_by)),
            ("LAST DATA", |peer, _| {
                dash(peer.last_data_age_seconds.map(span))
            }),
            ("RETRANS", |peer, _| peer.retransmits.to_string()),
            ("FAILED", |peer, _| peer.failed_attempts.to_string()),
            ("TCP UP IN", |peer, _| {
                dash(peer.establish_seconds.map(span))
            }),
            ("CONNECTIONS", |peer, _| connections(peer)),
        ]);
    }
    let mut table = super::table::under(columns.iter().map(|(title, _)| *title));
    for peer in peers {
        table.add_row(columns.iter().map(|(_, cell)| plain(&cell(peer, now))));
    }
    format!("{table}\n")
}

/// A column's title and what stands in it.
type Column = (&'static str, fn(&PeerView, jiff::Timestamp) -> String);

fn dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
}

fn connections(peer: &PeerView) -> String {
    let shown: Vec<String> = peer
        .connections
        .iter()
        .map(|connection| {
            let carries = if connection.carries_session { "*" } else { "" };
            format!("{carries}{} {}", connection.local, connection.tcp_state)
        })
        .collect();
    dash(Some(shown.join(", ")))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;

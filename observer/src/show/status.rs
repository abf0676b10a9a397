//! `status`: the peers in calicoctl's columns, plus prefixes, keepalive age, flaps and cause.

use std::{
    collections::BTreeMap, fmt::Write as _, io::IsTerminal, path::Path, thread, time::Duration,
};

use anyhow::Result;
use observer_core::{
    bgp_view::{BgpView, ConversationView},
    cause::Cause,
    peer::PeerView,
};
use serde::Deserialize;

use super::{topology, words};
use crate::{
    cli::{Answer, StatusArgs, StatusFormat},
    client::{Client, NoAgent},
    terminal::{self, plain, span},
};

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

/// Less than this fraction of the hold time left is told: the next two KEEPALIVEs are overdue.
const LOW_MARGIN: f64 = 1.0 / 3.0;

/// What the cluster's API said this many seconds ago and does not confirm any more is old.
const OLD: f64 = 60.0;

/// Characters of a cause in the narrow table.
const BRIEF: usize = 57;

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
    /// Absent in an older agent's answer.
    #[serde(default = "yes")]
    bgp_in_use: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Sources {
    blind: bool,
    #[serde(default)]
    inventory_age_seconds: BTreeMap<String, f64>,
}

/// What is said around the table.
#[derive(Clone, Copy, Debug, Default)]
struct Remarks {
    blind: bool,
    /// BGP is not in use here.
    unused: bool,
    /// How old the oldest of what the cluster's API said is, seconds.
    inventory_age: f64,
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
        let sources = client.get::<Sources>("/api/v1/sources")?;
        let Peers {
            mut peers,
            bgp_in_use,
        } = client.get::<Peers>("/api/v1/peers")?;
        let ages = sources.inventory_age_seconds.into_values();
        let remarks = Remarks {
            blind: sources.blind,
            unused: !bgp_in_use,
            inventory_age: ages.fold(0.0, f64::max),
        };
        if let Some(node) = &args.node {
            peers.retain(|peer| peer.node == *node);
        }
        let answer = answer(&peers, remarks.blind);
        if args.down {
            peers.retain(|peer| !peer.up);
        }
        let mut text = text(&peers, args, remarks)?;
        if args.output == StatusFormat::Wide {
            topology::append(&mut text, &client, args.node.as_deref())?;
        }
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

fn text(peers: &[PeerView], args: &StatusArgs, remarks: Remarks) -> Result<String> {
    if args.output == StatusFormat::Json {
        let json = serde_json::json!({ "peers": peers, "bgp_in_use": !remarks.unused });
        return Ok(terminal::json(&json)?);
    }
    let mut text = String::new();
    if remarks.blind {
        text.push_str("The agent is blind (see `bgp-observer check`): this may all be wrong.\n");
    }
    if remarks.inventory_age >= OLD {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "Kubernetes' API does not answer (see `bgp-observer check`): names and expected peers are as {} ago.",
            span(remarks.inventory_age)
        );
    }
    if peers.is_empty() {
        text.push_str(if remarks.unused {
            "BGP is not in use: every IP pool of the cluster is VXLAN.\n"
        } else if args.down {
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
        ("INFO", |peer, _| info(peer)),
        ("PREFIXES", |peer, _| prefixes(&peer.bgp)),
        ("KEEPALIVE", |peer, _| keepalive(peer)),
        ("FLAPS", |peer, _| peer.flaps.to_string()),
    ]);
    if wide {
        columns.push(("CAUSE", |peer, _| cause(peer)));
        columns.extend::<[Column; 14]>([
            ("RTT", |peer, _| dash(peer.rtt_seconds.map(span))),
            ("PEER NODE", |peer, _| dash(peer.peer_node.clone())),
            ("AS", |peer, _| dash(peer.asn.map(|asn| asn.to_string()))),
            ("SESSION", |peer, _| peer.state.name().to_owned()),
            ("HOLD", |peer, _| {
                let hold = peer.bgp.hold_time_secs.filter(|_| peer.up);
                dash(hold.map(|hold| format!("{hold} s")))
            }),
            ("MARGIN", |peer, _| {
                dash(
                    peer.bgp
                        .hold_margin
                        .map(|left| format!("{:.0} %", left * 100.0)),
                )
            }),
            ("GRACEFUL RESTART", |peer, _| restart(&peer.bgp)),
            ("ADVERTISED", |peer, _| advertised(&peer.bgp)),
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
    } else {
        columns.push(("CAUSE", |peer, _| brief_cause(peer)));
    }
    let mut table = super::table::under(columns.iter().map(|(title, _)| *title));
    if !wide {
        super::table::fold(&mut table, columns.iter().map(|(title, _)| *title));
    }
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

/// What it is doing, without the cause, which has its own column; what is about to go wrong comes
/// with it.
fn info(peer: &PeerView) -> String {
    let state = peer.state.name();
    let mut info = match &peer.last_cause_text {
        Some(cause) if peer.info == format!("{state}: {cause}") => state.to_owned(),
        _ => peer.info.clone(),
    };
    if peer.bgp.hold_margin.is_some_and(|left| left < LOW_MARGIN) {
        info.push_str("; hold timer low");
    }
    let restart = peer.bgp.graceful_restart.as_ref();
    if let Some(restart) = restart.filter(|restart| restart.active) {
        let left = restart.expires_in_seconds.map(span);
        let left = left.map_or(String::new(), |left| format!(", {left} left"));
        let routes: u64 = peer.bgp.stale_prefixes.values().sum();
        // Writing to a String does not fail.
        let _ = write!(info, "; graceful restart: {routes} stale{left}");
    }
    info
}

fn cause(peer: &PeerView) -> String {
    if peer.cause_pending {
        "pending".to_owned()
    } else {
        dash(peer.last_cause_text.clone())
    }
}

/// The cause as far as it fits into a few lines; `-o wide` and `flaps` tell all of it.
fn brief_cause(peer: &PeerView) -> String {
    if let (false, Some(Cause::LocalSpeakerGone { speaker, .. })) =
        (peer.cause_pending, &peer.last_cause)
    {
        return format!("local {} ended", speaker.comm);
    }
    let whole = cause(peer);
    let mut brief: String = whole.chars().take(BRIEF).collect();
    if brief.len() < whole.len() {
        brief.push('…');
    }
    brief
}

/// All families together; what was only seen in part, or by inference, is marked.
fn prefixes(bgp: &BgpView) -> String {
    if !bgp.tapped || bgp.conversation == ConversationView::None && !bgp.prefixes_complete {
        return dash(None);
    }
    let count = words::at_least(bgp.prefixes.values().sum(), bgp.prefixes_complete);
    if bgp.conversation == ConversationView::Inferred {
        format!("{count} inferred")
    } else {
        count
    }
}

fn advertised(bgp: &BgpView) -> String {
    if !bgp.tapped || bgp.conversation == ConversationView::None && !bgp.advertised_complete {
        return dash(None);
    }
    let count = words::at_least(bgp.advertised.values().sum(), bgp.advertised_complete);
    match &bgp.held_stale {
        Some(held) => format!("{count}, {} stale there", held.routes),
        None => count,
    }
}

/// How long ago the peer's last KEEPALIVE came, of how long it may take.
fn keepalive(peer: &PeerView) -> String {
    let bgp = &peer.bgp;
    let age = bgp.keepalive_age_seconds.received.filter(|_| peer.up);
    match (age, bgp.hold_time_secs) {
        (Some(age), Some(hold)) => format!("{age:.0}/{hold} s"),
        (Some(age), None) => span(age),
        (None, _) => dash(None),
    }
}

fn restart(bgp: &BgpView) -> String {
    match &bgp.graceful_restart {
        Some(restart) if restart.active => "restarting".to_owned(),
        Some(restart) if restart.negotiated => format!("{} s", restart.restart_secs),
        Some(_) => "not negotiated".to_owned(),
        None if bgp.opens.received.is_some() => "not negotiated".to_owned(),
        None => dash(None),
    }
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

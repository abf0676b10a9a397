//! `peer`: one peer in full, as each observed node sees it: both OPENs side by side, timers, messages,
//! prefixes, graceful restart, and its last flaps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use anyhow::Result;
use observer_core::{
    bgp::{CapabilityView, Family, Lacking, OpenFacts},
    bgp_view::{BgpView, ConversationView, GracefulRestartView},
    exchange::Sides,
    peer::{Flap, PeerView},
};
use serde::Deserialize;

use super::{flaps::story, table, words};
use crate::{
    cli::{Answer, Format, PeerArgs},
    client::{self, Client},
    terminal::{self, plain, span},
};

/// Flaps shown.
const FLAPS: usize = 10;

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Deserialize)]
struct Flaps {
    flaps: Vec<Flap>,
}

/// Asks the agent behind `socket` and prints.
pub fn show(socket: &Path, args: &PeerArgs) -> Result<Answer> {
    let client = Client::new(socket)?;
    let of = client::query(&args.peer);
    let mut peers = client
        .get::<Peers>(&format!("/api/v1/peers?peer={of}"))?
        .peers;
    let mut flaps = client
        .get::<Flaps>(&format!("/api/v1/flaps?peer={of}"))?
        .flaps;
    if let Some(node) = &args.node {
        peers.retain(|peer| peer.node == *node);
        flaps.retain(|flap| flap.node == *node);
    }
    let mut shown = Vec::new();
    for peer in &peers {
        let mut last: Vec<Flap> = flaps
            .iter()
            .filter(|flap| flap.node == peer.node && flap.peer == peer.peer)
            .rev()
            .take(FLAPS)
            .cloned()
            .collect();
        last.reverse();
        shown.push((peer, last));
    }
    let text = match args.output {
        Format::Json => {
            let flaps: Vec<&Flap> = shown.iter().flat_map(|(_, flaps)| flaps).collect();
            terminal::json(&serde_json::json!({ "peers": peers, "flaps": flaps }))?
        }
        Format::Table if shown.is_empty() => "No observed node of that name has it.\n".to_owned(),
        Format::Table => {
            let pages = shown.iter().map(|(peer, flaps)| page(peer, flaps));
            pages.collect::<Vec<String>>().join("\n")
        }
    };
    terminal::print(&text)?;
    Ok(Answer::Done)
}

/// Everything about one peer of one node.
fn page(peer: &PeerView, flaps: &[Flap]) -> String {
    let mut text = head(peer);
    let bgp = &peer.bgp;
    // Writing to a String does not fail.
    if bgp.tapped {
        let _ = writeln!(text, "\n{}", opens(bgp));
        text.push_str(&timers(bgp, peer.up));
        let _ = writeln!(text, "\n{}", messages(bgp));
        let _ = writeln!(text, "\n{}", routes(bgp));
        for line in route_notes(bgp) {
            let _ = writeln!(text, "{line}");
        }
    } else {
        let why = "Packets are not read here, so nothing is known of its messages";
        let _ = writeln!(text, "\n{why}; see `bgp-observer check`.");
    }
    text.push('\n');
    if flaps.is_empty() {
        text.push_str("Its session was never lost.\n");
    } else {
        let _ = writeln!(text, "Last flaps ({} in all):", peer.flaps);
        for flap in flaps {
            text.push_str(&story(flap));
        }
    }
    text
}

fn head(peer: &PeerView) -> String {
    let name = peer
        .peer_node
        .as_ref()
        .map_or(String::new(), |name| format!(" ({name})"));
    let mut what = vec![format!("peer {}{name} of {}", peer.peer, peer.node)];
    what.extend(peer.peer_type.map(|of_type| of_type.name().to_owned()));
    what.extend(peer.asn.map(|asn| format!("AS {asn}")));
    what.push(format!("known: {}", words::of(&peer.known_by)));
    let mut text = format!("{}\n", plain(&what.join(", ")));
    let since = peer.since.map_or(String::new(), |since| {
        format!(" since {}", words::moment(since))
    });
    let up = if peer.up { "up" } else { "down" };
    // Writing to a String does not fail.
    let _ = writeln!(text, "  session: {up}{since}, {}", plain(&peer.info));
    if let Some(cause) = &peer.last_cause_text {
        let _ = writeln!(text, "  last lost: {}", plain(cause));
    }
    for connection in &peer.connections {
        let carries = if connection.carries_session {
            ", carries the session"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "  TCP: {} - {} {}{carries}; received {} B, sent {} B, waiting {} B",
            connection.local,
            connection.remote,
            plain(&connection.tcp_state),
            connection.bytes_received,
            connection.bytes_acked,
            connection.send_queue,
        );
    }
    let times = [
        ("round trip", peer.rtt_seconds),
        ("connected in", peer.establish_seconds),
        ("last data", peer.last_data_age_seconds),
    ];
    let mut parts: Vec<String> = times
        .into_iter()
        .filter_map(|(name, seconds)| Some(format!("{name} {}", span(seconds?))))
        .collect();
    parts.push(format!("segments sent again: {}", peer.retransmits));
    let _ = writeln!(text, "  {}", parts.join(", "));
    if peer.failed_attempts > 0 {
        let last = peer.last_failure.as_deref().unwrap_or("-");
        let _ = writeln!(
            text,
            "  attempts that failed since: {}, last: {}",
            peer.failed_attempts,
            plain(last)
        );
    }
    text
}

/// Both OPENs, side by side.
fn opens(bgp: &BgpView) -> String {
    let Sides { sent, received } = &bgp.opens;
    if sent.is_none() && received.is_none() {
        return match bgp.conversation {
            ConversationView::Inferred => format!(
                "OPENs: not seen, the session is older than the agent. Inferred: {}.",
                inferred(bgp)
            ),
            ConversationView::Complete | ConversationView::None => "OPENs: not seen.".to_owned(),
        };
    }
    let mut table = table::under(["OPEN", "THIS NODE", "PEER", "THE SESSION"]);
    let of = |open: &Option<OpenFacts>, read: fn(&OpenFacts) -> String| {
        open.as_ref().map_or_else(|| "not seen".to_owned(), read)
    };
    let agreed = |secs: Option<u16>| secs.map_or("-".to_owned(), |secs| format!("{secs} s"));
    table.add_row([
        "AS".to_owned(),
        of(sent, |open| open.asn().to_string()),
        of(received, |open| open.asn().to_string()),
        session_kind(bgp).to_owned(),
    ]);
    let id = |open: &OpenFacts| open.bgp_id.map_or("-".to_owned(), |id| id.to_string());
    let identifier = "BGP identifier".to_owned();
    table.add_row([identifier, of(sent, id), of(received, id), String::new()]);
    table.add_row([
        "Hold time".to_owned(),
        of(sent, |open| format!("{} s", open.hold_secs)),
        of(received, |open| format!("{} s", open.hold_secs)),
        agreed(bgp.hold_time_secs),
    ]);
    for capability in &bgp.capabilities {
        let offer = |offer: &Option<String>| plain(offer.as_deref().unwrap_or("-"));
        table.add_row([
            plain(&capability.name),
            offer(&capability.sent),
            offer(&capability.received),
            outcome(capability).to_owned(),
        ]);
    }
    table.to_string()
}

fn session_kind(bgp: &BgpView) -> &'static str {
    match (&bgp.opens.sent, &bgp.opens.received) {
        (Some(ours), Some(theirs)) if ours.asn() == theirs.asn() => "internal",
        (Some(_), Some(_)) => "external",
        _ => "-",
    }
}

const fn outcome(capability: &CapabilityView) -> &'static str {
    match capability.lacking {
        _ if capability.negotiated => "negotiated",
        Some(Lacking::ThisNode) => "no: this node lacks it",
        Some(Lacking::Peer) => "no: the peer lacks it",
        None => "no",
    }
}

/// What UPDATEs told where OPENs did not.
fn inferred(bgp: &BgpView) -> String {
    let mut parts = Vec::new();
    let sides = [
        ("the peer", &bgp.inference.received),
        ("this node", &bgp.inference.sent),
    ];
    for (who, inference) in sides {
        for (family, with_ids) in &inference.add_path {
            let with = if *with_ids { "with" } else { "without" };
            parts.push(format!(
                "{who} sends {family} {with} path identifiers (ADD-PATH)"
            ));
        }
        if inference.corrections > 0 {
            parts.push(format!("corrected {} times", inference.corrections));
        }
    }
    if parts.is_empty() {
        "nothing yet".to_owned()
    } else {
        parts.join("; ")
    }
}

fn timers(bgp: &BgpView, up: bool) -> String {
    let ago =
        |age: Option<f64>| age.map_or("none seen".to_owned(), |age| format!("{} ago", span(age)));
    let mut text = String::new();
    let hold = match (bgp.hold_time_secs, bgp.keepalive_secs) {
        _ if !up => return text,
        (Some(0), _) => "hold timer off".to_owned(),
        (Some(hold), Some(keepalive)) => {
            format!("hold time {hold} s, a KEEPALIVE is due every {keepalive} s")
        }
        _ => "hold time not known".to_owned(),
    };
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "Timers: {hold}; last KEEPALIVE received {}, sent {}",
        ago(bgp.keepalive_age_seconds.received),
        ago(bgp.keepalive_age_seconds.sent)
    );
    if let (Some(margin), Some(hold)) = (bgp.hold_margin, bgp.hold_time_secs) {
        let low = if margin < 1.0 / 3.0 { ", LOW" } else { "" };
        let left = margin * f64::from(hold);
        let _ = write!(
            text,
            "; {} left until this node gives the peer up ({:.0} %{low})",
            span(left),
            margin * 100.0
        );
    }
    text.push_str(".\n");
    text
}

fn messages(bgp: &BgpView) -> String {
    let mut table = table::under(["MESSAGES", "SENT", "RECEIVED"]);
    let sent = bgp.messages.sent.by_type();
    for ((of_type, sent), (_, received)) in sent.into_iter().zip(bgp.messages.received.by_type()) {
        let name = of_type.to_uppercase().replace('_', "-");
        table.add_row([name, sent.to_string(), received.to_string()]);
    }
    table.to_string()
}

fn routes(bgp: &BgpView) -> String {
    let mut table = table::under(["ROUTES", "RECEIVED", "STALE", "ADVERTISED"]);
    let families: BTreeSet<&Family> = bgp.prefixes.keys().chain(bgp.advertised.keys()).collect();
    for family in families {
        let count = |of: &BTreeMap<Family, u64>| of.get(family).copied().unwrap_or(0);
        table.add_row([
            family.to_string(),
            words::at_least(count(&bgp.prefixes), bgp.prefixes_complete),
            count(&bgp.stale_prefixes).to_string(),
            words::at_least(count(&bgp.advertised), bgp.advertised_complete),
        ]);
    }
    table.to_string()
}

/// What there is to say about its routes and messages, a line each.
fn route_notes(bgp: &BgpView) -> Vec<String> {
    let mut notes = vec![format!(
        "Prefixes from the peer since it is known: announced {}, withdrawn {}, replaced {}.",
        bgp.announcements, bgp.withdrawals, bgp.replacements
    )];
    if !(bgp.prefixes_complete && bgp.advertised_complete) {
        let why = "counts are of what was seen since: the session was not read from its beginning";
        notes.push(format!("≥: {why}."));
    }
    if let Some(took) = bgp.end_of_rib_seconds {
        notes.push(format!("End-of-RIB came {} after Established.", span(took)));
    }
    notes.extend(bgp.graceful_restart.as_ref().map(restart));
    if let Some(held) = &bgp.held_stale {
        let left = held
            .expires_in_seconds
            .map_or("until End-of-RIB".to_owned(), |left| {
                format!("for {} more", span(left))
            });
        notes.push(format!(
            "Of this node's routes the peer holds {} as stale, {left}: another restart now would lose them.",
            held.routes
        ));
    }
    let malformed = [
        ("received", bgp.malformed_updates.received),
        ("sent", bgp.malformed_updates.sent),
    ];
    for (way, counts) in malformed {
        for (severity, count) in counts.by_severity() {
            if count > 0 {
                let name = severity.name();
                notes.push(format!(
                    "Malformed UPDATEs {way}, RFC 7606 {name}: {count}."
                ));
            }
        }
    }
    if !bgp.decode_errors.is_empty() {
        let each = bgp.decode_errors.iter();
        let kinds: Vec<String> = each
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        notes.push(format!(
            "Wrong in its messages: {}.",
            plain(&kinds.join(", "))
        ));
    }
    for (way, last) in [
        ("received", &bgp.notifications.received),
        ("sent", &bgp.notifications.sent),
    ] {
        if let Some(last) = last {
            let (at, words) = (words::moment(last.at), plain(&last.words));
            notes.push(format!("Last NOTIFICATION {way}: {words}, {at}."));
        }
    }
    notes
}

fn restart(restart: &GracefulRestartView) -> String {
    let awaited: Vec<String> = restart.awaited.iter().map(ToString::to_string).collect();
    if restart.active {
        let left = restart
            .expires_in_seconds
            .map_or("it is up again".to_owned(), |left| {
                format!("kept for {} more", span(left))
            });
        return format!(
            "Graceful restart: the peer restarts, its routes are stale, {left}; End-of-RIB awaited of {}.",
            awaited.join(", ")
        );
    }
    if restart.negotiated {
        format!(
            "Graceful restart: its routes would be kept for {} s.",
            restart.restart_secs
        )
    } else {
        "Graceful restart: not negotiated, its routes go with the session.".to_owned()
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;

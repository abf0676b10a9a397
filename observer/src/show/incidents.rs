//! `incidents`: what happened, one line each; `incident ID`: one of them told from its beginning.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, Result};
use observer_core::incident::{
    Incident,
    record::{
        Affected, DroppedPackets, Milestone, Proof, Span, Subject, SubjectKind, TargetReport,
        Verdict,
    },
};
use serde::Deserialize;

use super::{circumstances, table, words};
use crate::{
    cli::{Answer, Format, IncidentArgs, IncidentsArgs},
    client::{self, Client},
    terminal::{self, plain, span},
};

#[derive(Deserialize)]
struct List {
    incidents: Vec<Incident>,
}

#[derive(Deserialize)]
struct One {
    incident: Incident,
}

/// Asks the agent behind `socket` for all and prints.
pub fn list(socket: &Path, args: &IncidentsArgs) -> Result<Answer> {
    let mut query: Vec<String> = Vec::new();
    if let Some(since) = args.since {
        let from = jiff::Timestamp::now().saturating_sub(since.0)?;
        query.push(format!("since={}", client::query(&from.to_string())));
    }
    if let Some(peer) = &args.peer {
        query.push(format!("peer={}", client::query(peer)));
    }
    if let Some(verdict) = &args.verdict {
        query.push(format!("verdict={}", client::query(verdict)));
    }
    if args.open {
        query.push("open=true".to_owned());
    }
    let path = format!("/api/v1/incidents?{}", query.join("&"));
    let incidents = Client::new(socket)?.get::<List>(&path)?.incidents;
    let text = match args.output {
        Format::Json => {
            // This node's clock: whoever joins the records of several nodes compares them.
            let now = jiff::Timestamp::now();
            terminal::json(&serde_json::json!({ "now": now, "incidents": incidents }))?
        }
        Format::Table if incidents.is_empty() => "No incident.\n".to_owned(),
        Format::Table => lines(&incidents),
    };
    terminal::print(&text)?;
    Ok(Answer::Done)
}

/// Asks for one and tells it.
pub fn one(socket: &Path, args: &IncidentArgs) -> Result<Answer> {
    let client = Client::new(socket)?;
    let path = format!("/api/v1/incidents/{}", client::query(&args.id));
    if let Some(note) = &args.note {
        let body = serde_json::json!({ "note": note });
        client.post::<serde_json::Value>(&format!("{path}/note"), &body)?;
    }
    if let Some(file) = &args.bundle {
        let bytes = client.bytes(&format!("{path}/bundle?redact={}", args.redact))?;
        std::fs::write(file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let incident = client.get::<One>(&path)?.incident;
    let text = match args.output {
        Format::Json => terminal::json(&serde_json::json!({ "incident": incident }))?,
        Format::Table => story(&incident),
    };
    terminal::print(&text)?;
    Ok(Answer::Done)
}

/// One line each.
fn lines(incidents: &[Incident]) -> String {
    let mut table = table::under([
        "INCIDENT",
        "SUBJECT",
        "OPENED",
        "LASTED",
        "VERDICT",
        "PROOF",
        "ROUTES",
        "UNREACHABLE",
        "CAUSE",
    ]);
    for incident in incidents {
        table.add_row([
            plain(&incident.id),
            plain(&subject(incident)),
            words::moment(incident.opened_at),
            lasted(incident),
            format!("{}{}", words::of(&incident.verdict), from_here(incident)),
            words::of(&incident.proof),
            incident.prefixes.lost.to_string(),
            incident.unreachable_seconds.map_or_else(
                || "-".to_owned(),
                |whole| format!("{}{}", length(whole), from_here(incident)),
            ),
            plain(&incident.cause),
        ]);
    }
    format!("{table}\n")
}

/// One incident from its beginning, for somebody who has never seen this tool.
pub fn story(incident: &Incident) -> String {
    let mut text = String::new();
    let state = if incident.closed_at.is_some() {
        "over"
    } else {
        "still open"
    };
    // Writing to a String does not fail.
    let _ = writeln!(text, "Incident {}, {state}", plain(&incident.id));
    text.push('\n');
    let mut field = |name: &str, value: &str| field(&mut text, name, value);
    field("To whom", &plain(&subject(incident)));
    field("Seen by", &plain(&incident.node));
    field("Cause", &plain(&incident.cause));
    field("When", &when(incident));
    field("Verdict", &verdict(incident));
    field("Rests on", &plain(&incident.rests_on));
    field("Otherwise", &plain(&incident.would_change));
    field("Routes", &routes(incident));
    field("Unreachable", &unreachable(incident));
    field("Evidence", &evidence(incident));
    field("Look at next", &plain(&incident.next_check));
    if let Some(said) = circumstances::of(incident) {
        field("Kubernetes", &said);
    }
    if let Some(note) = &incident.note {
        field("Note", &plain(note));
    }
    if !incident.related.is_empty() {
        field("Meanwhile", &plain(&incident.related.join(", ")));
    }
    if !incident.versions.is_empty() {
        let versions: Vec<String> = incident
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        field("Versions", &plain(&versions.join(", ")));
    }
    text.push('\n');
    timeline(&mut text, incident);
    listed(&mut text, incident);
    dropped(&mut text, incident);
    pods(&mut text, incident);
    impact(&mut text, incident);
    text
}

/// What is said under `name`, in rows of a readable length.
pub fn field(text: &mut String, name: &str, value: &str) {
    let mut rows = wrap(value, 84).into_iter();
    let first = rows.next().unwrap_or_default();
    let _ = writeln!(text, "  {name:<13} {first}");
    for row in rows {
        let _ = writeln!(text, "  {:<13} {row}", "");
    }
}

fn timeline(text: &mut String, incident: &Incident) {
    let mut table = table::under(["AFTER", "AT (UTC)", "WHAT", "EVIDENCE"]);
    for (number, milestone) in incident.milestones.iter().enumerate() {
        if number == incident.milestones.len() / 2 && incident.milestones_dropped > 0 {
            let left_out = format!("({} more left out)", incident.milestones_dropped);
            table.add_row(["", "", &left_out, ""]);
        }
        table.add_row([
            after(incident.opened_at, milestone),
            words::clock(milestone.latest),
            plain(&milestone.what),
            plain(&milestone.evidence),
        ]);
    }
    let _ = writeln!(text, "{table}");
}

/// Relative to the opening; with its width where the moment is not exact.
pub fn after(opened: jiff::Timestamp, milestone: &Milestone) -> String {
    let seconds = |at: jiff::Timestamp| at.duration_since(opened).as_secs_f64();
    let width = milestone
        .latest
        .duration_since(milestone.earliest)
        .as_secs_f64();
    let at = format!("{:+.3} s", seconds(milestone.latest));
    if width < 0.001 {
        at
    } else {
        format!("{at} (or up to {} before)", span(width))
    }
}

fn listed(text: &mut String, incident: &Incident) {
    let prefixes = &incident.prefixes;
    if prefixes.listed.is_empty() {
        return;
    }
    let mut table = table::under([
        "PREFIX",
        "NODE",
        "BEHIND",
        "BECAME",
        "GONE FOR",
        "REMOVED BY",
    ]);
    for lost in &prefixes.listed {
        table.add_row([
            plain(&lost.prefix),
            plain(lost.node.as_deref().unwrap_or("-")),
            plain(&lost.peers.join(", ")),
            plain(&lost.how),
            lost.gap_seconds
                .map_or_else(|| "still gone".to_owned(), span),
            plain(&lost.deleted_by),
        ]);
    }
    let _ = writeln!(text, "{table}");
    let more = prefixes
        .lost
        .saturating_sub(u64::try_from(prefixes.listed.len()).unwrap_or(u64::MAX));
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
}

fn dropped(text: &mut String, incident: &Incident) {
    packets(
        text,
        ["DROPPED HERE, TO", "PACKETS", "REASON", "FOR"],
        &incident.dropped,
    );
    packets(
        text,
        ["FROM HERE BY TCP, TO", "TIMES", "WHAT", "FOR"],
        &incident.unanswered,
    );
}

fn packets(text: &mut String, header: [&'static str; 4], rows: &[DroppedPackets]) {
    if rows.is_empty() {
        return;
    }
    let mut table = table::under(header);
    for row in rows {
        table.add_row([
            plain(&row.prefix),
            row.packets.to_string(),
            plain(&row.reason),
            span(row.last.duration_since(row.first).as_secs_f64()),
        ]);
    }
    let _ = writeln!(text, "{table}");
}

/// Which pods lay behind what was lost, by what keeps them running and one by one.
fn pods(text: &mut String, incident: &Incident) {
    let Some(pods) = &incident.pods else {
        return;
    };
    if !pods.listed.is_empty() {
        let workloads = pods.workloads.iter();
        let workloads: Vec<String> = workloads
            .map(|(workload, count)| format!("{} ({count})", plain(workload)))
            .collect();
        let _ = writeln!(text, "{} pods of {}", pods.count, workloads.join(", "));
        let mut table = table::under(["POD", "NODE", "ADDRESSES"]);
        for pod in &pods.listed {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            table.add_row([plain(&pod.pod), plain(&pod.node), addresses.join(", ")]);
        }
        let _ = writeln!(text, "{table}");
    }
    if let Some(missing) = &pods.missing {
        let _ = writeln!(text, "Pods are missing: {}", plain(missing));
    }
}

fn impact(text: &mut String, incident: &Incident) {
    let mut table = table::under(["TRAFFIC", "AFFECTED", "WHY THAT IS SAID"]);
    for row in &incident.impact {
        let affected = match row.affected {
            Affected::Yes => "yes",
            Affected::No => "no",
            Affected::Inferred => "probably (inferred)",
            Affected::Unknown => "not known",
        };
        table.add_row([&plain(&row.traffic), affected, &plain(&row.reason)]);
    }
    let _ = writeln!(text, "{table}");
}

fn subject(incident: &Incident) -> String {
    let who = who(&incident.subject);
    match incident.subject.kind {
        SubjectKind::Local => format!("this node, {who}"),
        SubjectKind::Peer | SubjectKind::RouteReflector => who,
    }
}

/// A subject by its name, as anybody would call it.
pub fn who(subject: &Subject) -> String {
    let who = match &subject.name {
        Some(name) if *name != subject.identity => format!("{name} ({})", subject.identity),
        Some(_) | None => subject.identity.clone(),
    };
    match subject.kind {
        SubjectKind::RouteReflector => format!("route reflector {who}"),
        SubjectKind::Peer | SubjectKind::Local => who,
    }
}

fn lasted(incident: &Incident) -> String {
    until(incident.opened_at, incident.closed_at)
}

/// How long something lasted.
pub fn until(opened: jiff::Timestamp, closed: Option<jiff::Timestamp>) -> String {
    match closed {
        Some(closed) => span(closed.duration_since(opened).as_secs_f64()),
        None => "open".to_owned(),
    }
}

fn when(incident: &Incident) -> String {
    let opened = words::moment(incident.opened_at);
    match incident.closed_at {
        Some(closed) => format!(
            "{opened} to {} UTC, {}",
            words::moment(closed),
            lasted(incident)
        ),
        None => format!("since {opened} UTC"),
    }
}

/// What is seen of this node's own restart holds for one direction.
pub fn from_here(incident: &Incident) -> &'static str {
    if incident.is_own_restart() {
        " from here"
    } else {
        ""
    }
}

/// What a verdict means.
pub const fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Graceful => "the session fell and graceful restart kept its routes",
        Verdict::MicroGap => "routes were gone for a moment too short to count as lost",
        Verdict::RoutesLost => "routes were gone",
        Verdict::ReachabilityLost => "pods could not be reached",
        Verdict::Blackholed => "pods could not be reached while sessions and routes looked healthy",
        Verdict::NoImpact => "nothing was lost",
        Verdict::Decommissioned => "the node was taken out on purpose",
    }
}

fn verdict(incident: &Incident) -> String {
    let meaning = meaning(incident.verdict);
    let proof = match incident.proof {
        Proof::Proven => "proven by packets",
        Proof::Inferred => "inferred, no packet proves it",
    };
    let name = incident.verdict.name();
    if incident.is_own_restart() {
        return format!(
            "{name} for what this node could reach: {meaning}; {proof}. Whether others could reach \
             the pods here is not observable from this node: see \"Look at next\""
        );
    }
    format!("{name}: {meaning}; {proof}")
}

fn routes(incident: &Incident) -> String {
    let prefixes = &incident.prefixes;
    if prefixes.lost == 0 && prefixes.brief == 0 {
        let presumed = incident.verdict == Verdict::RoutesLost;
        return if presumed {
            "lost, presumably: they were not observed"
        } else {
            "none lost"
        }
        .to_owned();
    }
    let owners: Vec<String> = prefixes
        .by_owner
        .iter()
        .map(|(owner, count)| format!("{count} of {owner}"))
        .collect();
    let writers: Vec<String> = prefixes
        .deleted_by
        .iter()
        .map(|(writer, count)| format!("{} ({count})", plain(writer)))
        .collect();
    let back = match prefixes.still_gone {
        0 => "all back".to_owned(),
        gone => format!("{gone} still gone"),
    };
    let gap = incident.route_gap_seconds.map_or_else(String::new, |gap| {
        format!("; from the first gone to the last back {}", between(gap))
    });
    let lost = match (prefixes.lost, prefixes.brief) {
        (lost, 0) => format!("{lost} lost"),
        (0, brief) => format!("none lost, {brief} gone for no longer than the gap threshold"),
        (lost, brief) => {
            format!("{lost} lost, {brief} more gone for no longer than the gap threshold")
        }
    };
    let waits = incident.routes_by.map_or_else(String::new, |by| {
        let by = by.strftime("%H:%M:%S");
        format!("; if BIRD waits for peers that are away, back by {by} UTC")
    });
    format!(
        "{lost} ({}), {back}{gap}{waits}; removed by {}",
        owners.join(", "),
        writers.join(", ")
    )
}

fn unreachable(incident: &Incident) -> String {
    let Some(whole) = incident.unreachable_seconds else {
        return "not measured".to_owned();
    };
    let targets: Vec<String> = incident.targets.iter().filter_map(target).collect();
    let packets: u64 = incident.dropped.iter().map(|row| row.packets).sum();
    let dropped = (packets > 0).then(|| format!("{packets} packets dropped on this node"));
    let whole = format!("{}{}", length(whole), from_here(incident));
    let said: Vec<String> = [whole].into_iter().chain(targets).chain(dropped).collect();
    said.join("; ")
}

fn target(target: &TargetReport) -> Option<String> {
    target.seen_alive.then(|| {
        format!(
            "{} behind {} answered {} of {} probes",
            target.target,
            plain(&target.peer),
            target.answered,
            target.sent
        )
    })
}

fn evidence(incident: &Incident) -> String {
    let state = &incident.evidence;
    let mut parts = vec![
        if state.complete {
            "complete"
        } else {
            "incomplete"
        }
        .to_owned(),
    ];
    parts.extend(
        state
            .lost
            .iter()
            .map(|(stage, count)| format!("{count} events lost at {}", plain(stage))),
    );
    parts.extend(incident.absences.iter().map(|absence| {
        format!(
            "observer absent from {} to {}",
            words::moment(absence.from),
            words::moment(absence.to)
        )
    }));
    parts.extend(state.missing.iter().map(|missing| plain(missing)));
    parts.join("; ")
}

/// How long something could not be reached.
pub fn length(whole: Span) -> String {
    if whole.max == Some(0.0) {
        "never".to_owned()
    } else {
        between(whole)
    }
}

/// `7.0 s`, `6.8 s to 7.2 s`, `at least 6.8 s and going on`.
fn between(length: Span) -> String {
    match length.max {
        None => format!("at least {}, going on", span(length.min)),
        Some(max) if max - length.min < 0.000_5 => span(max),
        Some(max) => format!("{} to {}", span(length.min), span(max)),
    }
}

/// `text` in rows of at most `width` characters, broken at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in text.split(' ') {
        if let Some(row) = rows.last_mut() {
            if row.is_empty() {
                row.push_str(word);
            } else if row.chars().count() + 1 + word.chars().count() <= width {
                row.push(' ');
                row.push_str(word);
            } else {
                rows.push(word.to_owned());
            }
        }
    }
    rows
}

#[cfg(test)]
#[path = "incidents_tests.rs"]
mod tests;

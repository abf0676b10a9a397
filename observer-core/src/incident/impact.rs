//! Which traffic an incident affected, direction by direction, and why that is said.

use super::record::{Affected, ImpactRow, Subject, SubjectKind};
use super::verdict::{Known, routes_of};

/// The table for an incident of `subject`.
pub(super) fn table(known: &Known, subject: &Subject) -> Vec<ImpactRow> {
    let who = subject.name.as_deref().unwrap_or(&subject.identity);
    let there = match subject.kind {
        SubjectKind::Peer => format!("pods on {who}"),
        SubjectKind::RouteReflector => format!("pods behind routes that {who} reflects"),
        SubjectKind::Local => "pods on other nodes".to_owned(),
    };
    let (out, out_reason) = outward(known);
    let (back, back_reason) = inward(known, out);
    let row = |traffic: String, affected: Affected, reason: &str| ImpactRow {
        traffic,
        affected,
        reason: reason.to_owned(),
    };
    vec![
        row(format!("this node -> {there}"), out, &out_reason),
        row(format!("{there} -> this node"), back, back_reason),
        row(
            "pods on this node among themselves".to_owned(),
            Affected::No,
            "they use local routes, which hang on no session",
        ),
        row(
            format!("services whose endpoints are {there}"),
            out,
            "kube-proxy sends to the same addresses by the same routes",
        ),
    ]
}

fn outward(known: &Known) -> (Affected, String) {
    if known.unreachable {
        let reason = "targets that had answered did not".to_owned();
        return (Affected::Yes, reason);
    }
    if known.alive {
        return (Affected::No, "targets answered all the time".to_owned());
    }
    if known.lost > 0 {
        let reason = format!(
            "{} gone; no target was seen alive to prove it",
            routes_of(known.lost)
        );
        return (Affected::Inferred, reason);
    }
    if !known.routes_seen && known.presumed_lost > 0 {
        let reason = format!(
            "{} came by the sessions, and nothing keeps them",
            routes_of(known.presumed_lost)
        );
        return (Affected::Inferred, reason);
    }
    if known.routes_seen {
        let reason = "no route was lost for longer than the gap threshold; no packet was measured";
        return (Affected::No, reason.to_owned());
    }
    (
        Affected::Unknown,
        "neither routes nor packets were observed".to_owned(),
    )
}

const fn inward(known: &Known, out: Affected) -> (Affected, &'static str) {
    match (known.unreachable, known.alive, out) {
        (true, _, _) => (
            Affected::Yes,
            "an echo needs both directions; which of them failed only the other node can tell",
        ),
        (false, true, _) => (
            Affected::No,
            "an echo needs both directions, and all were answered",
        ),
        (false, false, _) => (
            Affected::Unknown,
            "the routes back are the other node's; its own record tells",
        ),
    }
}

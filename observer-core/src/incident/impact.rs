//! Which traffic an incident affected, direction by direction, and why that is said.

use super::{
    drops::packets_of,
    record::{Affected, ImpactRow, Incident, SubjectKind},
    verdict::{Known, routes_of},
};

/// What nobody sees of its own restart.
pub(super) const UNSEEN: &str = "whether others could reach this node and its pods";

/// The table of `record`.
pub(super) fn table(known: &Known, record: &Incident) -> Vec<ImpactRow> {
    let subject = &record.subject;
    let who = subject.name.as_deref().unwrap_or(&subject.identity);
    let there = match subject.kind {
        SubjectKind::Peer => format!("pods on {who}"),
        SubjectKind::RouteReflector => format!("pods behind routes that {who} reflects"),
        SubjectKind::Local => "pods on other nodes".to_owned(),
    };
    let out = outward(known);
    let services = out.0;
    let mut rows = vec![row(format!("this node -> {there}"), out)];
    if known.own_restart {
        let key = record.group_keys.first().map_or("", String::as_str);
        rows.push(row(
            format!("{there} -> this node and its pods"),
            unseen(known, key),
        ));
    } else {
        rows.push(row(format!("{there} -> this node"), inward(known)));
    }
    rows.push(row(
        "pods on this node among themselves".to_owned(),
        told(
            Affected::No,
            "they use local routes, which hang on no session",
        ),
    ));
    rows.push(row(
        format!("services whose endpoints are {there}"),
        told(
            services,
            "kube-proxy sends a share of their connections to the same addresses by the same routes",
        ),
    ));
    if known.own_restart {
        rows.push(row(
            "services elsewhere whose endpoints are pods on this node".to_owned(),
            told(
                Affected::Unknown,
                "as the way from other nodes to the pods here",
            ),
        ));
    }
    rows
}

fn row(traffic: String, (affected, reason): (Affected, String)) -> ImpactRow {
    ImpactRow {
        traffic,
        affected,
        reason,
    }
}

fn told(affected: Affected, reason: &str) -> (Affected, String) {
    (affected, reason.to_owned())
}

fn outward(known: &Known) -> (Affected, String) {
    if known.unanswered() {
        return told(Affected::Yes, "targets that had answered did not");
    }
    if known.dropped > 0 {
        let reason = format!("this node dropped {} to them", packets_of(known.dropped));
        return (Affected::Yes, reason);
    }
    if let Some(most) = known.moment() {
        let reason = format!("for a moment: targets did not answer for {most:.1} s at most");
        return (Affected::Yes, reason);
    }
    if known.alive() {
        return told(Affected::No, "targets answered all the time");
    }
    if known.lost > 0 {
        let reason = format!(
            "{} gone; no target was seen alive to prove it",
            routes_of(known.lost)
        );
        return (Affected::Inferred, reason);
    }
    if known.link_lost {
        return told(
            Affected::Inferred,
            "their link was down; no target was seen alive to prove it",
        );
    }
    if !known.routes_seen && known.presumed_lost > 0 {
        let reason = format!(
            "{} came by the sessions, and nothing keeps them",
            routes_of(known.presumed_lost)
        );
        return (Affected::Inferred, reason);
    }
    match (known.routes_seen, known.own_restart) {
        (true, true) => told(
            Affected::No,
            "the speaker left its routes in the kernel, none was gone for longer than the gap \
             threshold; no packet was measured",
        ),
        (true, false) => told(
            Affected::No,
            "no route was lost for longer than the gap threshold; no packet was measured",
        ),
        (false, _) => told(
            Affected::Unknown,
            "neither routes nor packets were observed",
        ),
    }
}

fn inward(known: &Known) -> (Affected, String) {
    if known.unanswered() {
        return told(
            Affected::Yes,
            "an echo needs both directions; which of them failed only the other node can tell",
        );
    }
    if known.moment().is_some() {
        return told(
            Affected::Yes,
            "for a moment, as an echo needs both directions",
        );
    }
    if known.alive() && known.dropped == 0 {
        return told(
            Affected::No,
            "an echo needs both directions, and all were answered",
        );
    }
    told(
        Affected::Unknown,
        "the routes back are the other node's; its own record tells",
    )
}

/// The way to this node when its own speaker ended: an echo's answer comes to the node's address, for
/// which no peer needs the routes that this node had announced.
fn unseen(known: &Known, key: &str) -> (Affected, String) {
    let ask = format!("not observable from this node: ask the peers' records, group key {key}");
    if known.kept {
        let reason = format!("{ask}; by what both OPENs agreed on, they keep its routes meanwhile");
        return (Affected::Unknown, reason);
    }
    let reason = format!("{ask}; nothing makes them keep the routes that this node announced");
    (Affected::Inferred, reason)
}

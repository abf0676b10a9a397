//! Changes in words, as `events`, `replay`, the log and the lab show them.

use std::borrow::Cow;

use crate::{
    change::{Change, RestartEnd, RoutesChanged},
    event::Process,
    incident::{Incident, record::Proof},
    peer::KnownBy,
};

/// The peer that a change concerns (or nothing), and what happened. May hold control characters
/// from outside.
pub fn describe(change: &Change) -> (&str, Cow<'static, str>) {
    match change {
        Change::PeerKnown { peer, known_by } => {
            (peer, format!("peer known ({})", of_known(*known_by)).into())
        }
        Change::PeerForgotten { peer, reason } => {
            (peer, format!("peer forgotten: {reason}").into())
        }
        Change::SessionState { peer, from, to } => (
            peer,
            format!("session {} -> {}", from.name(), to.name()).into(),
        ),
        Change::SessionUp {
            peer,
            inherited,
            establish_seconds,
            down_seconds,
        } => {
            let mut what = "session up".to_owned();
            if *inherited {
                what.push_str(" (older than the agent)");
            }
            if let Some(down) = down_seconds {
                what.push_str(" after ");
                what.push_str(&span(*down));
            }
            if let Some(establish) = establish_seconds {
                what.push_str(", TCP connected in ");
                what.push_str(&span(*establish));
            }
            (peer, what.into())
        }
        Change::SessionDown { peer } => (peer, "session down".into()),
        Change::Flap { flap } => {
            let before = flap
                .up_before_seconds
                .map(|seconds| format!(" (had been up {})", span(seconds)))
                .unwrap_or_default();
            (
                &flap.peer,
                format!("flap {}: {}{before}", flap.number, flap.cause_text).into(),
            )
        }
        Change::FlapAmended { flap } => (
            &flap.peer,
            format!("flap {}, as is known now: {}", flap.number, flap.cause_text).into(),
        ),
        Change::ConnectFailed {
            peer,
            outbound,
            reason,
        } => {
            let direction = if *outbound { "outbound" } else { "inbound" };
            (
                peer,
                format!("{direction} connection failed: {reason}").into(),
            )
        }
        Change::Unanswered { peer, retransmits } => (
            peer,
            format!("data unanswered, retransmitted {retransmits} times").into(),
        ),
        Change::GrStarted {
            peer,
            restart_secs,
            stale,
            ..
        } => (
            peer,
            format!("graceful restart: {stale} routes stale, kept for {restart_secs} s").into(),
        ),
        Change::GrEnded {
            peer,
            how,
            seconds,
            dropped,
        } => (
            peer,
            format!(
                "graceful restart over after {} ({}), {dropped} stale routes dropped",
                span(*seconds),
                of_end(*how)
            )
            .into(),
        ),
        Change::HoldMarginLow {
            peer,
            hold_secs,
            silent_seconds,
        } => (
            peer,
            format!(
                "nothing heard for {}, hold time is {hold_secs} s",
                span(*silent_seconds)
            )
            .into(),
        ),
        Change::SpeakerEnded { speaker, end } => (
            "",
            format!("local {} (pid {}) {end}", speaker.comm, speaker.pid).into(),
        ),
        Change::SpeakerSeen { speaker } => (
            "",
            format!("local speaker {} (pid {})", speaker.comm, speaker.pid).into(),
        ),
        Change::Routes(routes) => (
            routes.peers.first().map_or("", String::as_str),
            self::routes(routes).into(),
        ),
        Change::ForeignDelete {
            prefix,
            owner,
            writer,
        } => (
            "",
            format!(
                "{owner} route {prefix} deleted by {}",
                somebody(writer.as_ref())
            )
            .into(),
        ),
        Change::RouteFight {
            prefix,
            owner,
            rounds,
            remover,
            keeper,
        } => (
            "",
            format!(
                "route fight over {prefix}: deleted {rounds} times by {}, put back by {}",
                somebody(remover.as_ref()),
                keeper.as_ref().map_or_else(|| owner.clone(), process),
            )
            .into(),
        ),
        Change::ConcurrentRestarts { nodes, seconds } => (
            "",
            format!(
                "restarts overlap: the BGP daemons of {} ended within {}",
                nodes.join(", "),
                span(*seconds)
            )
            .into(),
        ),
        Change::NotProgrammed {
            peer,
            announced,
            expected_within_seconds,
        } => (
            peer,
            format!(
                "Established, but none of {announced} announced prefixes is in the kernel; if BIRD \
                 waits for restarting peers, within {}",
                span(*expected_within_seconds)
            )
            .into(),
        ),
        Change::Programmed { peer, seconds } => (
            peer,
            format!("its prefixes are in the kernel, after {}", span(*seconds)).into(),
        ),
        Change::IncidentOpened { incident } => (
            &incident.subject.identity,
            format!("incident {} opened: {}", incident.id, incident.cause).into(),
        ),
        Change::IncidentUpdated { incident } => (
            &incident.subject.identity,
            format!("incident {}, so far {}", incident.id, came_to(incident)).into(),
        ),
        Change::IncidentClosed { incident } => (
            &incident.subject.identity,
            format!(
                "incident {} closed: {} ({})",
                incident.id,
                came_to(incident),
                of_proof(incident.proof)
            )
            .into(),
        ),
        Change::Lost { stage, count } => (
            "",
            format!("{count} events lost at {}", stage.name()).into(),
        ),
    }
}

/// Changed routes in one line: how many, whose, what, some of them, and by whom.
fn routes(routes: &RoutesChanged) -> String {
    let plural = if routes.count == 1 { "" } else { "s" };
    let mut text = format!(
        "{} {} route{plural} {}: {}",
        routes.count,
        routes.owner,
        routes.event.words(),
        routes.prefixes.join(", ")
    );
    let named = u64::try_from(routes.prefixes.len()).unwrap_or(u64::MAX);
    if named < routes.count {
        text.push_str(" …");
    }
    if !routes.next_hops.is_empty() {
        text.push_str(" via ");
        text.push_str(&routes.next_hops.join(", "));
    }
    if !routes.former_next_hops.is_empty() && routes.former_next_hops != routes.next_hops {
        text.push_str(" instead of ");
        text.push_str(&routes.former_next_hops.join(", "));
    }
    if let Some(gap) = routes.longest_gap_seconds.filter(|gap| *gap > 0.0) {
        text.push_str(", gone for ");
        text.push_str(&span(gap));
    }
    if let Some(writer) = &routes.writer {
        text.push_str(", by ");
        text.push_str(&process(writer));
    }
    text
}

fn process(process: &Process) -> String {
    format!("{} (pid {})", process.comm, process.pid)
}

fn somebody(seen: Option<&Process>) -> String {
    seen.map_or_else(|| "somebody unknown".to_owned(), process)
}

/// The verdict; of its own restart a node sees one direction only.
fn came_to(incident: &Incident) -> String {
    let from_here = if incident.is_own_restart() {
        " from here"
    } else {
        ""
    };
    format!("{}{from_here}", incident.verdict.name().replace('_', " "))
}

const fn of_known(known_by: KnownBy) -> &'static str {
    match known_by {
        KnownBy::Dialled => "dialled",
        KnownBy::Established => "established",
        KnownBy::Inventory => "inventory",
        KnownBy::Restored => "restored",
    }
}

const fn of_end(end: RestartEnd) -> &'static str {
    match end {
        RestartEnd::EndOfRib => "end of rib",
        RestartEnd::Expired => "expired",
        RestartEnd::NotPreserved => "not preserved",
        RestartEnd::SecondRestart => "second restart",
    }
}

const fn of_proof(proof: Proof) -> &'static str {
    match proof {
        Proof::Inferred => "inferred",
        Proof::Proven => "proven",
    }
}

/// Seconds as people read them: `0.7 ms`, `7.1 s`, `4m12s`, `3h05m`, `2d04h`.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    if seconds < 0.001 {
        return format!("{:.0} µs", seconds * 1e6);
    }
    if seconds < 1.0 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = std::time::Duration::from_secs_f64(seconds.min(1e12)).as_secs();
    let (days, hours, minutes, rest) = (
        whole / 86_400,
        whole / 3_600 % 24,
        whole / 60 % 60,
        whole % 60,
    );
    if days > 0 {
        format!("{days}d{hours:02}h")
    } else if hours > 0 {
        format!("{hours}h{minutes:02}m")
    } else {
        format!("{minutes}m{rest:02}s")
    }
}

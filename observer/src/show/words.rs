//! Changes and times in words, as `events`, `replay` and the log show them.

use std::borrow::Cow;

use observer_core::{
    change::{Change, ChangeRecord, RoutesChanged},
    event::Process,
};

use crate::terminal::{plain, span};

/// The peer that a change concerns (or nothing), and what happened. May hold control characters
/// from outside.
pub fn describe(change: &Change) -> (&str, Cow<'static, str>) {
    match change {
        Change::PeerKnown { peer, known_by } => {
            (peer, format!("peer known ({})", of(known_by)).into())
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
                of(how)
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
            format!("incident {}, so far {}", incident.id, of(&incident.verdict)).into(),
        ),
        Change::IncidentClosed { incident } => (
            &incident.subject.identity,
            format!(
                "incident {} closed: {} ({})",
                incident.id,
                of(&incident.verdict),
                of(&incident.proof)
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

/// A count, marked where it is only what was seen.
pub fn at_least(count: u64, complete: bool) -> String {
    if complete {
        count.to_string()
    } else {
        format!("≥{count}")
    }
}

/// A unit variant's name as in JSON.
pub fn of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name.replace('_', " "),
        _ => String::new(),
    }
}

/// One change as a line for people, without the line's end.
pub fn line(record: &ChangeRecord) -> String {
    let (peer, what) = describe(&record.change);
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            plain(text)
        }
    };
    format!(
        "{}  {:<12}  {:<15}  {}",
        moment(record.time),
        or_dash(&record.node),
        or_dash(peer),
        plain(&what)
    )
}

/// A time to the millisecond, UTC.
pub fn moment(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// The time of day alone, to the millisecond. UTC.
pub fn clock(time: jiff::Timestamp) -> String {
    time.strftime("%H:%M:%S%.3f").to_string()
}

/// As calicoctl shows a time: the hour if it is of today, else the day. UTC.
pub fn since(time: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let day = time.strftime("%Y-%m-%d").to_string();
    if day == now.strftime("%Y-%m-%d").to_string() {
        time.strftime("%H:%M:%S").to_string()
    } else {
        day
    }
}

//! `flaps`: each loss of a session, why, for how long, and on what evidence.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use observer_core::{
    cause::{Cause, TimerOwner},
    peer::Flap,
};
use serde::Deserialize;

use super::words;
use crate::{
    cli::{Answer, FlapsArgs, Format},
    client::{self, Client},
    terminal::{self, plain, span},
};

#[derive(Deserialize)]
struct Flaps {
    flaps: Vec<Flap>,
    /// Why those from before the agent's start are missing, if they are.
    #[serde(default)]
    incomplete: Option<String>,
}

/// Asks the agent behind `socket` and prints.
pub fn show(socket: &Path, args: &FlapsArgs) -> Result<Answer> {
    let path = match &args.peer {
        Some(peer) => format!("/api/v1/flaps?peer={}", client::query(peer)),
        None => "/api/v1/flaps".to_owned(),
    };
    let Flaps { flaps, incomplete } = Client::new(socket)?.get(&path)?;
    if let Some(why) = incomplete {
        terminal::complain(&format!("older flaps are missing: {why}"));
    }
    let text = match args.output {
        Format::Json => terminal::json(&serde_json::json!({ "flaps": flaps }))?,
        Format::Table if flaps.is_empty() => "No session was lost.\n".to_owned(),
        Format::Table => flaps.iter().map(story).collect::<Vec<String>>().join("\n"),
    };
    terminal::print(&text)?;
    Ok(Answer::Done)
}

/// One flap in a few lines.
pub fn story(flap: &Flap) -> String {
    let mut text = format!(
        "{}  {} -> {}  flap {}\n",
        words::moment(flap.down_at),
        plain(&flap.node),
        plain(&flap.peer),
        flap.number,
    );
    let down = match (flap.down_seconds, flap.up_at) {
        (Some(seconds), _) => format!("down for {}", span(seconds)),
        (None, Some(up_at)) => format!("up again {}", words::moment(up_at)),
        (None, None) => "still down".to_owned(),
    };
    let before = match flap.up_before_seconds {
        Some(seconds) => format!("had been up {}", span(seconds)),
        None => "nobody saw it come up".to_owned(),
    };
    // Writing to a String does not fail.
    let _ = writeln!(text, "  {down}; {before}");
    let _ = writeln!(text, "  cause: {}", plain(&flap.cause_text));
    let _ = writeln!(text, "  closed by: {}", closer(&flap.cause));
    for evidence in &flap.evidence {
        let _ = writeln!(text, "  - {}", plain(evidence));
    }
    text
}

/// Who ended the session, as far as the cause tells.
pub const fn closer(cause: &Cause) -> &'static str {
    match cause {
        Cause::NotificationReceived(_) | Cause::ResetReceived | Cause::FinReceived => "the peer",
        Cause::NotificationSent(_) | Cause::ResetSent | Cause::FinSent => "this node",
        Cause::LocalSpeakerGone { .. } => "this node, whose BGP speaker ended",
        Cause::TcpError { .. } => "this node's TCP, which gave up on the network or the peer",
        Cause::HoldTimerExpired {
            told_by: Some(TimerOwner::Peer),
            ..
        } => "the peer, which no longer heard this node",
        Cause::HoldTimerExpired { .. } => "this node, which no longer heard the peer",
        Cause::Unobserved | Cause::Unknown => "not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::flap;

    #[test]
    fn a_flap_is_a_story_with_cause_closer_and_evidence() {
        assert_eq!(
            story(&flap("a", "10.0.0.2")),
            "\
2026-01-02 03:04:05.000  a -> 10.0.0.2  flap 1
  down for 7.1 s; had been up 2h00m
  cause: peer closed the connection (FIN received)
  closed by: the peer
  - ESTABLISHED to CLOSE_WAIT
"
        );
    }

    #[test]
    fn evidence_cannot_move_the_cursor() {
        let mut odd = flap("a", "10.0.0.2");
        odd.evidence = vec!["a\nb\x1b[2J".to_owned()];
        odd.up_at = None;
        odd.down_seconds = None;
        let shown = story(&odd);
        assert!(shown.contains("still down"), "{shown}");
        assert!(shown.ends_with("  - a\\u{a}b\\u{1b}[2J\n"), "{shown}");
    }
}

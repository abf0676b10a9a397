//! `safe-to-restart`: may the next node's BGP daemon be restarted now? 0 yes, 3 no, 4 nobody knows.

use std::{fmt::Write as _, path::Path, thread, time::Duration, time::Instant};

use anyhow::Result;
use observer_core::safety::{Safe, Safety};
use serde::Deserialize;

use crate::{
    cli::{Answer, Format, SafeArgs},
    client::{Client, NoAgent},
    terminal::{self, plain},
};

/// How often `--wait` asks.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Safety>,
}

/// Asks the agent behind `socket`, again and again where that is wanted, and prints the last answer.
pub fn show(socket: &Path, args: &SafeArgs) -> Result<Answer> {
    let begun = Instant::now();
    let until = args.timeout.map(|timeout| timeout.0);
    loop {
        let (answer, text) = match ask(socket, args) {
            Ok(nodes) => (answer(&nodes), text(&nodes, args.output)?),
            Err(error) if error.is::<NoAgent>() => (Answer::Unknown, format!("{error:#}\n")),
            Err(error) => return Err(error),
        };
        let over = until.is_some_and(|until| begun.elapsed() >= until);
        if !args.wait || answer == Answer::Done || over {
            terminal::print(&text)?;
            return Ok(answer);
        }
        thread::sleep(PAUSE);
    }
}

fn ask(socket: &Path, args: &SafeArgs) -> Result<Vec<Safety>> {
    let nodes = Client::new(socket)?
        .get::<Nodes>("/api/v1/safe-to-restart")?
        .nodes;
    Ok(nodes
        .into_iter()
        .filter(|safety| args.node.as_ref().is_none_or(|node| safety.node == *node))
        .map(|safety| safety.accepting(&args.accept_missing))
        .collect())
}

/// The worst of all nodes; nobody is nobody's yes.
pub fn answer(nodes: &[Safety]) -> Answer {
    let any = |answer| nodes.iter().any(|safety| safety.answer == answer);
    if any(Safe::No) {
        Answer::No
    } else if nodes.is_empty() || any(Safe::Unknown) {
        Answer::Unknown
    } else {
        Answer::Done
    }
}

/// As it is printed.
pub fn text(nodes: &[Safety], output: Format) -> Result<String> {
    if output == Format::Json {
        return Ok(terminal::json(&serde_json::json!({ "nodes": nodes }))?);
    }
    let mut text = String::new();
    if nodes.is_empty() {
        text.push_str("unknown: no such node is observed\n");
    }
    for safety in nodes {
        let word = match safety.answer {
            Safe::Yes => "safe",
            Safe::No => "NOT safe",
            Safe::Unknown => "unknown",
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}: {word}", plain(&safety.node));
        for blocker in &safety.blockers {
            let _ = writeln!(text, "  against it: {}", plain(&blocker.what));
        }
        for unknown in &safety.unknown {
            let _ = writeln!(text, "  not known: {}", plain(unknown));
        }
        for unchecked in &safety.unchecked {
            let _ = writeln!(text, "  not looked at: {}", plain(unchecked));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use observer_core::safety::Blocker;

    use super::*;

    fn safety(answer: Safe) -> Safety {
        Safety {
            node: "a".to_owned(),
            answer,
            blockers: vec![Blocker {
                peer: Some("10.0.0.2".to_owned()),
                peer_node: Some("b".to_owned()),
                missing: true,
                what: "the session with 10.0.0.2 is down\r".to_owned(),
            }],
            unknown: Vec::new(),
            unchecked: Vec::new(),
        }
    }

    #[test]
    fn one_no_is_a_no_one_unknown_is_unknown_and_nobody_is_no_yes() {
        for (answers, expected) in [
            (&[Safe::Yes, Safe::Yes][..], Answer::Done),
            (&[Safe::Yes, Safe::Unknown], Answer::Unknown),
            (&[Safe::Unknown, Safe::No], Answer::No),
            (&[], Answer::Unknown),
        ] {
            let nodes: Vec<Safety> = answers.iter().copied().map(safety).collect();
            assert_eq!(answer(&nodes), expected, "{answers:?}");
        }
    }

    #[test]
    fn what_blocks_is_named() {
        let shown = text(&[safety(Safe::No)], Format::Table).unwrap();
        assert_eq!(
            shown,
            "a: NOT safe\n  against it: the session with 10.0.0.2 is down\\u{d}\n"
        );
    }
}

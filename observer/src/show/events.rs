//! `events`: what changed, as remembered and, on request, as it happens.

use std::path::Path;

use anyhow::{Context, Result};
use observer_core::change::ChangeRecord;
use serde::Deserialize;

use super::words;
use crate::{
    cli::{Answer, EventsArgs, Format},
    client::{self, Client},
    terminal,
};

#[derive(Deserialize)]
struct Page {
    events: Vec<ChangeRecord>,
    missed: u64,
}

/// A line of the stream.
#[derive(Deserialize)]
struct Missed {
    missed: u64,
}

/// Asks the agent behind `socket` and prints.
pub fn show(socket: &Path, args: &EventsArgs) -> Result<Answer> {
    let client = Client::new(socket)?;
    let since = args.since.unwrap_or(0);
    // Without --since, "all that is remembered" was asked for, and none of it is missing.
    let tell = |missed: u64| {
        if missed > 0 && args.since.is_some() {
            terminal::complain(&format!("{missed} changes are no longer remembered"));
        }
    };
    if args.follow {
        let path = format!("/api/v1/events?since={since}&follow=true");
        let mut begun = false;
        client.lines(&path, |line| {
            if let Ok(Missed { missed }) = serde_json::from_str(line) {
                if begun {
                    terminal::complain(&format!("{missed} changes were missed here"));
                } else {
                    tell(missed);
                }
            } else {
                let record = serde_json::from_str(line)
                    .context("the agent's answer makes no sense; is it of another version?")?;
                print(&record, args.output)?;
            }
            begun = true;
            Ok(())
        })?;
        client::ended()?;
    }
    let page: Page = client.get(&path(args, since))?;
    tell(page.missed);
    for record in &page.events {
        print(record, args.output)?;
    }
    Ok(Answer::Done)
}

/// What is asked: this run's changes by number, or the store's by time and peer.
fn path(args: &EventsArgs, since: u64) -> String {
    let moment = |moment: Option<jiff::Timestamp>| moment.map(|moment| moment.to_string());
    let asked = [
        ("from", moment(args.from)),
        ("until", moment(args.until)),
        ("peer", args.peer.clone()),
    ];
    let asked: Vec<String> = asked
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", client::query(&value?))))
        .collect();
    if asked.is_empty() {
        format!("/api/v1/events?since={since}")
    } else {
        format!("/api/v1/events?{}", asked.join("&"))
    }
}

/// Prints one change.
pub fn print(record: &ChangeRecord, format: Format) -> Result<()> {
    let mut line = match format {
        Format::Table => words::line(record),
        Format::Json => serde_json::to_string(record)?,
    };
    line.push('\n');
    terminal::print(&line)?;
    Ok(())
}

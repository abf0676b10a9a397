//! `replay`: feeds an events file to a fresh core and prints the changes that follow, or reads a
//! capture file and prints the BGP conversations in it. The same file gives the same lines, always.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use observer_core::{
    Observer,
    change::{ChangeRecord, Output},
    record::{Entry, FORMAT, Header, VERSION},
};

use crate::{
    bundle,
    capture::{self, FileKind},
    cli::{Answer, BadUsage, Format, ReplayArgs},
    recording, show, terminal,
};

/// Longest line read, octets: that of a node's saved peers, each with its flaps, is the longest.
const LONGEST_LINE: u64 = 64 << 20;

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Events applied.
    pub events: u64,
    /// Changes that followed.
    pub changes: u64,
    /// Number of the last line, if it broke off and was left out.
    pub truncated: Option<u64>,
}

/// Runs the command. What the file is shows in its first bytes.
pub fn replay(args: &ReplayArgs) -> Result<Answer> {
    let unreadable = || format!("cannot read {}", args.file.display());
    match capture::kind_of(&args.file).with_context(unreadable)? {
        FileKind::Capture | FileKind::Gzip => replay_capture(args),
        FileKind::Json if args.record.is_some() => Err(recorded_already(args)),
        FileKind::Json => replay_events(args),
        FileKind::Other if bundle::is_bundle(&args.file)? => match args.record {
            Some(_) => Err(recorded_already(args)),
            None => bundle::read::replay(args),
        },
        FileKind::Other => bail!(
            "cannot read {}: it is neither a capture (pcap, pcapng) nor an events file nor a bundle",
            args.file.display()
        ),
    }
}

fn recorded_already(args: &ReplayArgs) -> anyhow::Error {
    let what = format!(
        "--record: {} is an events file already",
        args.file.display()
    );
    BadUsage(what).into()
}

fn replay_capture(args: &ReplayArgs) -> Result<Answer> {
    let mut ports = vec![capture::BGP_PORT];
    ports.extend(&args.port);
    let unreadable = || format!("cannot read capture {}", args.file.display());
    let reading = capture::read(&args.file, &ports).with_context(unreadable)?;
    match args.output {
        Format::Json => terminal::print(&terminal::json(&reading.summary)?)?,
        Format::Table => terminal::print(&reading.story.render(&reading.summary))?,
    }
    if let Some(to) = &args.record {
        let events = recording::record(&args.file, &ports, to)?;
        terminal::complain(&format!("{events} events written to {}", to.display()));
    }
    if reading.summary.totals.cut_short {
        terminal::complain(&format!(
            "{} is cut short: it ends within a record, and what it holds before that was read",
            args.file.display()
        ));
    }
    match reading.damage {
        None => Ok(Answer::Done),
        Some(damage) => Err(damage)
            .context("what comes before the damage was read")
            .with_context(unreadable),
    }
}

fn replay_events(args: &ReplayArgs) -> Result<Answer> {
    let file = File::open(&args.file)
        .with_context(|| format!("cannot open events file {}", args.file.display()))?;
    let summary = read(BufReader::new(file), &args.file, |record| {
        show::events::print(record, args.output)
    })?;
    if let Some(line) = summary.truncated {
        terminal::complain(&format!(
            "{} line {line}: breaks off, left out; the recording was cut short",
            args.file.display()
        ));
    }
    terminal::complain(&format!(
        "{} events, {} changes",
        summary.events, summary.changes
    ));
    Ok(Answer::Done)
}

/// Reads `lines` (of the file `name`) and hands each change to `tell`.
pub fn read(
    mut lines: impl BufRead,
    name: &Path,
    mut tell: impl FnMut(&ChangeRecord) -> Result<()>,
) -> Result<Summary> {
    let bad = |line: u64, what: String| {
        BadUsage(format!(
            "events file {} line {line}: {what}",
            name.display()
        ))
    };
    let mut text = Vec::new();
    let cannot_read = || format!("cannot read events file {}", name.display());
    next_line(&mut lines, &mut text).with_context(cannot_read)?;
    let mut observer = Observer::new(header(&text).map_err(|what| bad(1, what))?.config);
    let mut summary = Summary::default();
    let mut out = Vec::new();
    for number in 2.. {
        text.clear();
        if next_line(&mut lines, &mut text).with_context(cannot_read)? == 0 {
            break;
        }
        let entry: Entry = match serde_json::from_slice(&text) {
            Ok(entry) => entry,
            Err(_) if text.last() != Some(&b'\n') => {
                summary.truncated = Some(number);
                break;
            }
            Err(error) => return Err(bad(number, error.to_string()).into()),
        };
        summary.events += 1;
        observer.apply(entry.now, &entry.event, &mut out);
        for output in out.drain(..) {
            if let Output::Change(record) = output {
                summary.changes += 1;
                tell(&record)?;
            }
        }
    }
    Ok(summary)
}

/// Reads a line, which must not be a file's worth.
fn next_line(lines: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<usize> {
    let read = lines.take(LONGEST_LINE).read_until(b'\n', text)?;
    if read as u64 == LONGEST_LINE && text.last() != Some(&b'\n') {
        let what = format!("a line is longer than {LONGEST_LINE} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(read)
}

fn header(line: &[u8]) -> Result<Header, String> {
    #[derive(serde::Deserialize)]
    struct Any {
        format: String,
        version: u32,
    }
    let found: Any = serde_json::from_slice(line).map_err(|_| {
        format!(
            "is no events file: the first line is no {FORMAT} header as `run --record` writes it"
        )
    })?;
    if found.format != FORMAT {
        return Err(format!("the format is '{}', not {FORMAT}", found.format));
    }
    if found.version != VERSION {
        return Err(format!(
            "version {} of the events file is not version {VERSION}, which this program reads",
            found.version
        ));
    }
    serde_json::from_slice(line).map_err(|error| format!("bad header: {error}"))
}

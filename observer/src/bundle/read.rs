//! Reads a bundle: what it holds is replayed, and held against the record that came with it.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use observer_core::{
    change::{Change, ChangeRecord},
    incident::Incident,
};
use serde::de::DeserializeOwned;
use tar::Archive;

use super::{EVENTS, FORMAT, INCIDENT, MANIFEST, Manifest, VERSION};
use crate::{
    cli::{Answer, BadUsage, ReplayArgs},
    replay, show, terminal,
};

/// Where a tar header says that it is one, and how (POSIX.1-1988).
const MAGIC: (u64, &[u8; 5]) = (257, b"ustar");
/// Largest manifest and record, octets.
const LARGEST_JSON: u64 = 16 << 20;
/// Most events, decompressed octets: an agent's recorder holds far less.
const LARGEST_EVENTS: u64 = 4 << 30;
/// Members looked at: a bundle has four.
const MEMBERS: usize = 16;
/// What a replay need not reproduce: when it was last touched, and what operators wrote.
const OF_THE_MOMENT: [&str; 2] = ["updated_at", "note"];

/// Whether a file is a tar, as a bundle is.
///
/// # Errors
/// When it cannot be read.
pub fn is_bundle(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(MAGIC.0))?;
    let mut found = Vec::new();
    file.take(MAGIC.1.len() as u64).read_to_end(&mut found)?;
    Ok(found == MAGIC.1)
}

/// Replays a bundle: its changes, and whether the incident came out as it was recorded. The answer is
/// no when it did not.
///
/// # Errors
/// When it is none, or damaged.
pub fn replay(args: &ReplayArgs) -> Result<Answer> {
    let name = args.file.display();
    let mut archive = Archive::new(File::open(&args.file)?);
    let outcome = read(&mut archive, &args.file, |record| {
        show::events::print(record, args.output)
    });
    let Outcome {
        manifest,
        recorded,
        replayed,
        summary,
    } = outcome.with_context(|| format!("cannot replay bundle {name}"))?;
    if let Some(line) = summary.truncated {
        terminal::complain(&format!("{name} line {line} of {EVENTS}: breaks off"));
    }
    terminal::complain(&format!(
        "{} events, {} changes; incident {}",
        summary.events, summary.changes, recorded.id
    ));
    if !manifest.exact {
        terminal::complain(
            "the events do not reach back to the agent's start, or some were lost: this is what an \
             agent would have said that started when they begin",
        );
    }
    let Some(replayed) = replayed else {
        terminal::complain("the replay knows no such incident");
        return Ok(Answer::No);
    };
    let differences = differences(&recorded, &replayed)?;
    if differences.is_empty() {
        terminal::complain(&format!(
            "the incident is the same as recorded: {}",
            recorded.verdict.name()
        ));
        return Ok(Answer::Done);
    }
    for what in differences {
        terminal::complain(&format!("not as recorded: {what}"));
    }
    Ok(Answer::No)
}

/// What reading a bundle came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub manifest: Manifest,
    pub recorded: Incident,
    /// The same incident as the replay has it.
    pub replayed: Option<Incident>,
    pub summary: replay::Summary,
}

/// Reads a bundle's members in their order.
pub(super) fn read(
    archive: &mut Archive<impl Read>,
    name: &Path,
    mut tell: impl FnMut(&ChangeRecord) -> Result<()>,
) -> Result<Outcome> {
    let mut manifest: Option<Manifest> = None;
    let mut recorded: Option<Incident> = None;
    for member in archive.entries()?.take(MEMBERS) {
        let member = member.map_err(|error| BadUsage(format!("is no bundle: {error}")))?;
        let path = member.path()?.into_owned();
        if path == Path::new(MANIFEST) {
            manifest = Some(verified(json(member, MANIFEST)?)?);
        } else if path == Path::new(INCIDENT) {
            recorded = Some(json(member, INCIDENT)?);
        } else if path == Path::new(EVENTS) {
            let (Some(manifest), Some(recorded)) = (manifest, recorded) else {
                return Err(BadUsage(format!("is no bundle: {EVENTS} comes first")).into());
            };
            let mut follower = Follower::of(&recorded);
            let lines = Bounded {
                input: MultiGzDecoder::new(member),
                left: LARGEST_EVENTS,
            };
            let summary = replay::read(BufReader::new(lines), &name.join(EVENTS), |record| {
                follower.see(record);
                tell(record)
            })?;
            return Ok(Outcome {
                manifest,
                recorded,
                replayed: follower.found,
                summary,
            });
        }
    }
    Err(BadUsage(format!("is no bundle: it has no {EVENTS}")).into())
}

fn verified(manifest: Manifest) -> Result<Manifest> {
    if manifest.format != FORMAT {
        bail!(BadUsage(format!(
            "the format is '{}', not {FORMAT}",
            manifest.format
        )));
    }
    if manifest.version != VERSION {
        bail!(BadUsage(format!(
            "version {} of the bundle is not version {VERSION}, which this program reads",
            manifest.version
        )));
    }
    Ok(manifest)
}

fn json<T: DeserializeOwned>(member: impl Read, name: &str) -> Result<T> {
    let mut bytes = Vec::new();
    let read = member.take(LARGEST_JSON + 1).read_to_end(&mut bytes)?;
    if read as u64 > LARGEST_JSON {
        bail!(BadUsage(format!(
            "{name} is bigger than {LARGEST_JSON} bytes"
        )));
    }
    serde_json::from_slice(&bytes).map_err(|error| BadUsage(format!("{name}: {error}")).into())
}

/// Looks for the recorded incident among the changes of a replay.
pub(super) struct Follower {
    id: String,
    updated_at: jiff::Timestamp,
    closed_at: Option<jiff::Timestamp>,
    /// As it was at the recorded one's last change, else as it was last.
    pub found: Option<Incident>,
    exact: bool,
}

impl Follower {
    pub fn of(recorded: &Incident) -> Self {
        Self {
            id: recorded.id.clone(),
            updated_at: recorded.updated_at,
            closed_at: recorded.closed_at,
            found: None,
            exact: false,
        }
    }

    pub fn see(&mut self, record: &ChangeRecord) {
        let (Change::IncidentOpened { incident }
        | Change::IncidentUpdated { incident }
        | Change::IncidentClosed { incident }) = &record.change
        else {
            return;
        };
        if incident.id == self.id && !self.exact {
            let moment = (incident.updated_at, incident.closed_at);
            self.exact = moment == (self.updated_at, self.closed_at);
            self.found = Some((**incident).clone());
        }
    }
}

/// The fields in which a replayed incident is not as recorded.
pub(super) fn differences(recorded: &Incident, replayed: &Incident) -> Result<Vec<String>> {
    let (recorded, replayed) = (
        serde_json::to_value(recorded)?,
        serde_json::to_value(replayed)?,
    );
    let (Some(recorded), Some(replayed)) = (recorded.as_object(), replayed.as_object()) else {
        bail!("a record is no object");
    };
    let fields = recorded.iter().filter_map(|(field, value)| {
        let other = replayed.get(field)?;
        let differs = value != other && !OF_THE_MOMENT.contains(&field.as_str());
        differs.then(|| format!("{field} was {value} and is {other}"))
    });
    Ok(fields.collect())
}

/// Reads at most so many octets; more are an error, not an end.
struct Bounded<R> {
    input: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!(
                "more than {LARGEST_EVENTS} bytes when decompressed"
            ))
        })?;
        Ok(read)
    }
}

//! A bundle: one incident with all it takes to look at it elsewhere, in one file, which is a tar of
//!
//! - `manifest.json`: what it is, who made it, how far it can be trusted,
//! - `incident.json`: the record,
//! - `events.jsonl.gz`: what the core was told, an events file,
//! - `bgp.pcap.gz`: the BGP segments among it, for Wireshark.
//!
//! Whoever reads one trusts none of it: every part is bounded before it is decompressed.

mod pcap;
pub mod read;
mod redact;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, BufReader, Write};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use observer_core::{incident::Incident, record::Entry};
use serde::{Deserialize, Serialize};

use crate::{
    flight::{Flight, Generation},
    replay,
};
use read::Follower;
pub use read::is_bundle;
use redact::Redaction;

/// The value of [`Manifest::format`].
const FORMAT: &str = "bgp-observer-bundle";
/// The version this code writes and reads.
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
const INCIDENT: &str = "incident.json";
const EVENTS: &str = "events.jsonl.gz";
const CAPTURE: &str = "bgp.pcap.gz";

/// What a bundle says about itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of the agent that made it.
    pub agent: String,
    /// When.
    pub made_at: jiff::Timestamp,
    /// The incident's id.
    pub incident: String,
    /// The events begin with the agent: a replay is exact. Otherwise it is what an agent would have
    /// said that started when they begin.
    pub exact: bool,
    /// Events that are missing because the flight recorder could not keep up.
    pub lost: u64,
    /// Names and words were taken out.
    pub redacted: bool,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The events have been overwritten.
    #[error("the flight recorder no longer has the time of incident {0}: only its record is left")]
    Overwritten(String),
    /// The record's words may hold names, and no other words can be had.
    #[error(
        "incident {0} does not follow from the recorded events, so its record cannot be redacted"
    )]
    Unredactable(String),
    /// It could not be put together.
    #[error("cannot put the bundle together")]
    Io(#[from] io::Error),
    /// A record makes no sense.
    #[error("cannot put the bundle together")]
    Json(#[from] serde_json::Error),
    /// The capture could not be written.
    #[error("cannot put the bundle's capture together")]
    Pcap(#[from] pcap_file::PcapError),
}

/// Puts a bundle together.
///
/// # Errors
/// When the events of the incident's time are gone.
pub fn write(incident: &Incident, flight: &Flight, redact: bool) -> Result<Vec<u8>, BundleError> {
    let (from, generation) =
        covering(incident, flight).ok_or_else(|| BundleError::Overwritten(incident.id.clone()))?;
    let mut redaction = redact.then(|| Redaction::of(&incident.node));
    let mut events = GzEncoder::new(Vec::new(), Compression::fast());
    let mut capture = pcap::Capture::new()?;
    let mut lost = 0;
    for (number, generation) in flight.generations.iter().enumerate().skip(from) {
        lost += generation.lost;
        // What stands was told before, where the generations follow one another.
        let skip = if number == from {
            0
        } else {
            generation.prologue
        };
        copy(generation, skip, &mut redaction, &mut events, &mut capture)?;
    }
    let events = events.finish()?;
    let incident = if redact {
        retold(incident, &events)?
    } else {
        incident.clone()
    };
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: jiff::Timestamp::now(),
        incident: incident.id.clone(),
        exact: generation.first && lost == 0,
        lost,
        redacted: redact,
    };
    let parts = [
        (MANIFEST, serde_json::to_vec_pretty(&manifest)?),
        (INCIDENT, serde_json::to_vec_pretty(&incident)?),
        (EVENTS, events),
        (CAPTURE, capture.finish()?),
    ];
    let made_at = u64::try_from(manifest.made_at.as_second()).unwrap_or(0);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in parts {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(made_at);
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    Ok(tar.into_inner()?)
}

/// The record as it follows from redacted events: its words name what they were told.
fn retold(incident: &Incident, events: &[u8]) -> Result<Incident, BundleError> {
    let mut follower = Follower::of(incident);
    let lines = BufReader::new(MultiGzDecoder::new(events));
    let read = replay::read(lines, EVENTS.as_ref(), |record| {
        follower.see(record);
        Ok(())
    });
    let found = read.ok().and(follower.found);
    found.ok_or_else(|| BundleError::Unredactable(incident.id.clone()))
}

/// The generation that the incident's replay has to begin with: the latest that was begun before it.
fn covering<'a>(incident: &Incident, flight: &'a Flight) -> Option<(usize, &'a Generation)> {
    let opened = flight.offset.boot(incident.opened_at);
    let generations = flight.generations.iter().enumerate();
    generations
        .rev()
        .find(|(_, generation)| generation.first || generation.begun < opened)
}

/// Copies the lines of a generation, without the header and so many lines after it where it is a
/// continuation.
fn copy(
    generation: &Generation,
    prologue: u64,
    redaction: &mut Option<Redaction>,
    events: &mut impl Write,
    capture: &mut pcap::Capture,
) -> Result<(), BundleError> {
    let lines = BufReader::new(MultiGzDecoder::new(generation.gzipped.as_slice()));
    for (number, line) in (0_u64..).zip(lines.lines()) {
        if number < prologue {
            continue;
        }
        let line = line?;
        // The first line is the header, which holds nothing to hide.
        let Ok(mut entry) = serde_json::from_str::<Entry>(&line) else {
            writeln!(events, "{line}")?;
            continue;
        };
        if let Some(redaction) = redaction {
            redaction.event(&mut entry.event.fact);
        }
        capture.add(&entry.event)?;
        serde_json::to_writer(&mut *events, &entry)?;
        events.write_all(b"\n")?;
    }
    Ok(())
}

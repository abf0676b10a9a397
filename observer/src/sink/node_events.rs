//! Incidents of an observed node as Kubernetes' Events of that node: which are told, in which words, and
//! how often at most. What speaks with the API is `writer`.
//!
//! An agent tells of its own node's incidents only. Of a peer that fell its own agent tells, for else each of
//! its peers would write the same; where that agent cannot (the node is down, or no node of the cluster)
//! nobody does: that a node is gone Kubernetes says itself.

mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use clap::ValueEnum;
use observer_core::{
    change::Change,
    incident::{
        Incident,
        record::{SessionLoss, SubjectKind},
    },
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use self::writer::{Writer, look};
use crate::{
    show::incidents,
    tally::Tally,
    terminal::{plain, span},
};

/// So many Events of a node in so long a time, at most.
const LIMITS: [(usize, Duration); 2] = [(2, Duration::from_mins(1)), (20, Duration::from_hours(1))];
/// The longest time for which something is told.
const WINDOW: Duration = Duration::from_hours(1);
/// Incidents of a node that wait until another Event may be written.
const WAITING: usize = 64;
/// What is told late is not told: the API keeps Events for an hour.
const PATIENCE: Duration = Duration::from_hours(1);
/// Octets of an Event's text: what the API takes.
const NOTE: usize = 1024;
/// Peers named in one.
const PEERS: usize = 3;
/// What may wait for the writer's task.
const QUEUE: usize = 64;

/// Whether Events are written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KubernetesEvents {
    /// One when an incident of this node is told, and one when it is over.
    On,
    /// Never.
    Off,
}

/// What became of what was to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// The API took the Event.
    Written,
    /// Another Event of the node tells of it, or says how many more there were.
    Merged,
    /// The API refused it, or did not answer for an hour.
    Failed,
    /// The writer was too far behind.
    Dropped,
}

impl Fate {
    const ALL: [Self; 4] = [Self::Written, Self::Merged, Self::Failed, Self::Dropped];

    const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Merged => "merged",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Counts what became of them.
pub fn fates() -> Tally {
    Tally::of(Fate::ALL.map(Fate::name))
}

/// Hands on what is to be told, and waits for nobody.
#[derive(Clone, Debug)]
pub struct Announcer {
    queue: mpsc::Sender<Telling>,
    counts: Tally,
}

/// An announcer, and where what it hands on arrives.
pub fn queue(counts: &Tally) -> (Announcer, mpsc::Receiver<Telling>) {
    let (queue, tellings) = mpsc::channel(QUEUE);
    let counts = counts.clone();
    (Announcer { queue, counts }, tellings)
}

impl Announcer {
    /// Tells of `change`, if that is to be told.
    pub fn offer(&self, change: &Change) {
        if let Some(telling) = telling(change)
            && self.queue.try_send(telling).is_err()
        {
            self.counts.add(Fate::Dropped.name(), 1);
        }
    }
}

/// Why an Event is written: its `reason`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The node's own BGP daemon ended.
    SpeakerGone,
    /// Sessions of the node were lost.
    SessionsLost,
    /// Routes were, and no session says why.
    RoutesLost,
    /// Anything else: a link that went down, addresses that do not answer.
    Incident,
    /// It is over, and all is back.
    Recovered,
    /// It is over, and something stays gone.
    NotRecovered,
}

impl Reason {
    /// As Kubernetes shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpeakerGone => "BgpSpeakerGone",
            Self::SessionsLost => "BgpSessionsLost",
            Self::RoutesLost => "BgpRoutesLost",
            Self::Incident => "BgpIncident",
            Self::Recovered => "BgpRecovered",
            Self::NotRecovered => "BgpNotRecovered",
        }
    }

    /// The Event's type.
    pub const fn severity(self) -> &'static str {
        match self {
            Self::Recovered => "Normal",
            Self::SpeakerGone
            | Self::SessionsLost
            | Self::RoutesLost
            | Self::Incident
            | Self::NotRecovered => "Warning",
        }
    }

    fn of(incident: &Incident) -> Self {
        let prefixes = &incident.prefixes;
        if incident.closed_at.is_some() {
            let away = incident
                .sessions
                .iter()
                .any(|session| session.up_at.is_none());
            return if away || prefixes.still_gone > 0 {
                Self::NotRecovered
            } else {
                Self::Recovered
            };
        }
        if incident.is_own_restart() {
            Self::SpeakerGone
        } else if !incident.sessions.is_empty() {
            Self::SessionsLost
        } else if prefixes.lost + prefixes.brief > 0 {
            Self::RoutesLost
        } else {
            Self::Incident
        }
    }
}

/// That an incident is open, or over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Telling {
    /// The incident.
    pub incident: String,
    /// The node that it happened to.
    pub node: String,
    /// Why it is told.
    pub reason: Reason,
    /// When it opened, or ended.
    pub at: jiff::Timestamp,
    /// What is told, escaped, without bounds.
    words: String,
}

/// What `change` gives to tell. An incident is told once its cause is final, so that no suspicion is.
fn telling(change: &Change) -> Option<Telling> {
    let (Change::IncidentOpened { incident } | Change::IncidentClosed { incident }) = change else {
        return None;
    };
    if incident.subject.kind != SubjectKind::Local {
        return None;
    }
    Some(Telling {
        incident: incident.id.clone(),
        node: incident.node.clone(),
        reason: Reason::of(incident),
        at: incident.closed_at.unwrap_or(incident.opened_at),
        words: plain(&words(incident)),
    })
}

fn words(incident: &Incident) -> String {
    let (id, cause) = (&incident.id, &incident.cause);
    let mut text = match incident.closed_at {
        None => format!("BGP incident {id}: {cause}."),
        Some(closed) => {
            let lasted = span(closed.duration_since(incident.opened_at).as_secs_f64());
            let meaning = incidents::meaning(incident.verdict);
            let here = incidents::from_here(incident);
            format!("BGP incident {id} is over after {lasted}: {meaning}{here}. Cause: {cause}.")
        }
    };
    sessions(&mut text, incident);
    let prefixes = &incident.prefixes;
    // Writing to a String does not fail.
    let _ = match (prefixes.lost, prefixes.still_gone) {
        (0, _) => Ok(()),
        (lost, 0) => write!(text, " Routes lost: {lost}, all back."),
        (lost, gone) => write!(text, " Routes lost: {lost}, {gone} still gone."),
    };
    if let Some(whole) = incident
        .unreachable_seconds
        .filter(|whole| whole.max != Some(0.0))
    {
        let _ = write!(
            text,
            " Not reached from here: {}.",
            incidents::length(whole)
        );
    }
    if incident.closed_at.is_none() && !incident.next_check.is_empty() {
        let _ = write!(text, " Look at next: {}", incident.next_check);
    }
    text
}

fn sessions(text: &mut String, incident: &Incident) {
    let is_away = |session: &&SessionLoss| session.up_at.is_none();
    let all = incident.sessions.len();
    let away = incident.sessions.iter().filter(is_away).count();
    if all == 0 {
        return;
    }
    let mut named: Vec<&str> = { incident.sessions.iter() }
        .map(|session| session.peer.as_str())
        .collect();
    named.dedup();
    named.truncate(PEERS);
    let more = if all > named.len() { ", …" } else { "" };
    let named = named.join(", ");
    let _ = write!(text, " Sessions lost: {all} ({named}{more})");
    let _ = match (incident.closed_at, away) {
        (None, _) => write!(text, "."),
        (Some(_), 0) => write!(text, ", all back."),
        (Some(_), away) => write!(text, ", {away} still down."),
    };
}

/// What is to be told, and how many others it stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waiting {
    /// What.
    pub telling: Telling,
    /// Since when it is to be told.
    since: Timestamp,
    /// Others of the node that are not told by themselves.
    others: u64,
}

impl Waiting {
    /// The text of the Event, as long as the API takes it.
    pub fn note(&self) -> String {
        let tail = match self.others {
            0 => String::new(),
            others => {
                format!(" {others} more not told here: `bgp-observer incidents` has them all.")
            }
        };
        let room = NOTE.saturating_sub(tail.len());
        format!("{}{tail}", cut(&self.telling.words, room))
    }
}

/// `text` in at most `room` octets.
fn cut(text: &str, room: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= room {
        return text.to_owned();
    }
    let end = (0..=room.saturating_sub(MARK.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    format!(
        "{}{MARK}",
        text.get(..end.unwrap_or_default()).unwrap_or_default()
    )
}

/// What waits to be told of one node, and when something was.
#[derive(Debug, Default)]
struct OfNode {
    waiting: VecDeque<Waiting>,
    told: VecDeque<Timestamp>,
}

impl OfNode {
    /// How many may be told now.
    fn room(&self, now: Timestamp) -> usize {
        let lately = |window: Duration| {
            let within = |at: &&Timestamp| now.since(**at) < window;
            self.told.iter().filter(within).count()
        };
        let rooms = LIMITS.map(|(most, window)| most.saturating_sub(lately(window)));
        rooms.into_iter().min().unwrap_or_default()
    }

    /// When something may be told.
    fn free(&self) -> Timestamp {
        let free = LIMITS.map(|(most, window)| {
            let oldest = self.told.len().checked_sub(most);
            let oldest = oldest.and_then(|number| self.told.get(number));
            oldest.map_or(Timestamp::default(), |at| at.after(window))
        });
        free.into_iter().max().unwrap_or_default()
    }
}

/// What is to be told of all nodes.
#[derive(Debug, Default)]
pub struct Backlog(BTreeMap<String, OfNode>);

impl Backlog {
    /// Takes up something to tell; gives how many will not be told by themselves because of it.
    pub fn take(&mut self, now: Timestamp, telling: Telling) -> u64 {
        let waiting = Waiting {
            since: now,
            others: 0,
            telling,
        };
        let node = self.0.entry(waiting.telling.node.clone()).or_default();
        let same = |one: &&mut Waiting| one.telling.incident == waiting.telling.incident;
        if let Some(earlier) = node.waiting.iter_mut().find(same) {
            // Of an incident that is over before its opening was told, only the end is news.
            earlier.telling = waiting.telling;
            return 1;
        }
        node.waiting.push_back(waiting);
        if node.waiting.len() <= WAITING {
            return 0;
        }
        let oldest = node.waiting.pop_front();
        if let (Some(oldest), Some(next)) = (oldest, node.waiting.front_mut()) {
            next.others += oldest.others + 1;
        }
        1
    }

    /// What may be told now, and how many more than before will not be told by themselves.
    pub fn next(&mut self, now: Timestamp) -> Option<(Waiting, u64)> {
        let ready = |node: &&mut OfNode| !node.waiting.is_empty() && node.room(now) > 0;
        let node = self.0.values_mut().find(ready)?;
        let mut merged = 0;
        let told = if node.waiting.len() <= node.room(now) {
            node.waiting.pop_front()?
        } else {
            // One stands for all: the latest that goes on, else the latest.
            let goes_on = |one: &Waiting| one.telling.reason.severity() == "Warning";
            let last = node.waiting.iter().rposition(goes_on);
            let mut told = match last {
                Some(number) => node.waiting.remove(number)?,
                None => node.waiting.pop_back()?,
            };
            for other in node.waiting.drain(..) {
                merged += 1;
                told.others += other.others + 1;
            }
            told
        };
        node.told.retain(|at| now.since(*at) < WINDOW);
        node.told.push_back(now);
        Some((told, merged))
    }

    /// When something may be told.
    pub fn due(&self) -> Option<Timestamp> {
        let waits = |node: &&OfNode| !node.waiting.is_empty();
        let free = self.0.values().filter(waits).map(OfNode::free);
        free.min()
    }

    /// Takes back what could not be told: it counts as not told. Whether it still is to be.
    pub fn put_back(&mut self, now: Timestamp, back: Waiting) -> bool {
        let node = self.0.entry(back.telling.node.clone()).or_default();
        node.told.pop_back();
        if now.since(back.since) >= PATIENCE {
            return false;
        }
        let same = |one: &&mut Waiting| one.telling.incident == back.telling.incident;
        match node.waiting.iter_mut().find(same) {
            Some(later) => later.others += back.others,
            None => node.waiting.push_front(back),
        }
        true
    }
}

#[cfg(test)]
#[path = "node_events_tests.rs"]
mod tests;

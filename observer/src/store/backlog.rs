//! What waits for the disk, bounded: while nothing can be written, changes beyond the bound are
//! lost and counted, and of each incident the latest record is kept.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use observer_core::{
    change::{Change, ChangeRecord},
    event::LossStage,
    incident::Incident,
};
use tokio::sync::oneshot;

/// Changes that can wait.
const CHANGES: usize = 8_192;
/// Incidents that can wait.
const INCIDENTS: usize = 256;
/// Notes that can wait.
const NOTES: usize = 64;
/// Changes in one batch at most.
const BATCH: usize = 2_048;
/// How long changes are gathered, so that a storm is a few writes and not thousands.
const GATHER: Duration = Duration::from_millis(200);

/// An operator's words on an incident.
#[derive(Debug)]
pub struct Note {
    /// The incident's id.
    pub incident: String,
    /// When, microseconds since the epoch.
    pub time: i64,
    /// The words.
    pub words: String,
    /// Told once it is on the disk: whether there is such an incident; or why it is not.
    pub reply: oneshot::Sender<Result<bool, String>>,
}

/// What is written at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub changes: Vec<Arc<ChangeRecord>>,
    /// The latest record of each.
    pub incidents: BTreeMap<String, Arc<ChangeRecord>>,
    /// In order.
    pub notes: Vec<Note>,
    /// The store is being closed: this is the last.
    pub closing: bool,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.incidents.is_empty() && self.notes.is_empty()
    }
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Arc<ChangeRecord>>,
    incidents: BTreeMap<String, Arc<ChangeRecord>>,
    notes: VecDeque<Note>,
    urgent: bool,
    closing: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.incidents.is_empty() && self.notes.is_empty()
    }
}

/// Shared by who tells and who writes.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    lost: AtomicU64,
    committed: AtomicU64,
}

/// The incident that a change is about.
pub fn incident_of(record: &ChangeRecord) -> Option<&Incident> {
    if let Change::IncidentOpened { incident }
    | Change::IncidentUpdated { incident }
    | Change::IncidentClosed { incident } = &record.change
    {
        Some(incident)
    } else {
        None
    }
}

impl Backlog {
    /// Takes a change in. This never waits for the disk.
    pub fn offer(&self, record: &Arc<ChangeRecord>) {
        let mut waiting = self.lock();
        let mut lost = 0;
        if let Some(incident) = incident_of(record) {
            if waiting.incidents.len() < INCIDENTS || waiting.incidents.contains_key(&incident.id) {
                let id = incident.id.clone();
                waiting.incidents.insert(id, Arc::clone(record));
            } else {
                lost += 1;
            }
        }
        // A record as it reads now and then is no event of its own.
        let updated = matches!(record.change, Change::IncidentUpdated { .. });
        if !updated {
            if waiting.changes.len() < CHANGES {
                waiting.changes.push_back(Arc::clone(record));
            } else if !is_own_loss(&record.change) {
                lost += 1;
            }
        }
        waiting.urgent |= matches!(
            record.change,
            Change::IncidentOpened { .. } | Change::IncidentClosed { .. }
        );
        drop(waiting);
        self.lost.fetch_add(lost, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Takes a note in, if it can wait.
    pub fn note(&self, note: Note) {
        let mut waiting = self.lock();
        if waiting.notes.len() < NOTES {
            waiting.notes.push_back(note);
            waiting.urgent = true;
        } else {
            // Whoever asked may have gone away.
            let _ = note.reply.send(Err("too many notes wait".to_owned()));
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// The writer is to write what is left and end.
    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// What is to be written next; empty when nothing came for as long as `patience`.
    pub fn next(&self, patience: Duration) -> Batch {
        let unready = |waiting: &mut Waiting| waiting.is_empty() && !waiting.closing;
        let waiting = self.lock();
        let waited = self.wake.wait_timeout_while(waiting, patience, unready);
        let (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let gathering = |waiting: &mut Waiting| {
            !waiting.is_empty()
                && !waiting.urgent
                && !waiting.closing
                && waiting.changes.len() < BATCH
        };
        let waited = self.wake.wait_timeout_while(waiting, GATHER, gathering);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        waiting.urgent = waiting.changes.len() > BATCH;
        let some = waiting.changes.len().min(BATCH);
        Batch {
            changes: waiting.changes.drain(..some).collect(),
            incidents: std::mem::take(&mut waiting.incidents),
            notes: waiting.notes.drain(..).collect(),
            closing: waiting.closing && waiting.changes.is_empty(),
        }
    }

    /// Takes a batch back that could not be written; its notes are answered with `why`.
    pub fn put_back(&self, batch: Batch, why: &str) {
        for note in batch.notes {
            let _ = note.reply.send(Err(why.to_owned()));
        }
        let mut waiting = self.lock();
        for (id, record) in batch.incidents {
            waiting.incidents.entry(id).or_insert(record);
        }
        let room = CHANGES.saturating_sub(waiting.changes.len());
        let lost = batch.changes.len().saturating_sub(room);
        for record in batch.changes.into_iter().take(room).rev() {
            waiting.changes.push_front(record);
        }
        self.lost.fetch_add(lost as u64, Ordering::Relaxed);
    }

    /// Waits, but not any longer once the store is being closed.
    pub fn pause(&self, length: Duration) {
        let waiting = self.lock();
        let open = |waiting: &mut Waiting| !waiting.closing;
        drop(self.wake.wait_timeout_while(waiting, length, open));
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether the store is being closed.
    pub fn closing(&self) -> bool {
        self.lock().closing
    }

    /// These many changes are given up.
    pub fn lose(&self, count: usize) {
        self.lost.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Changes that are not in the store, since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Everything up to this number of the run is on the disk, but for what was lost.
    pub fn commit(&self, seq: u64) {
        self.committed.fetch_max(seq, Ordering::Release);
    }

    /// See [`Self::commit`].
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every critical section leaves it whole, so a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That the store lost something is not another loss.
const fn is_own_loss(change: &Change) -> bool {
    matches!(
        change,
        Change::Lost {
            stage: LossStage::Store,
            ..
        }
    )
}

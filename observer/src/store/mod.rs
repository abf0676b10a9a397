//! The store: incidents, flaps and changes in an SQLite file of the state directory, so that they
//! can be read months later. It decides nothing; what is in a record is the core's.
//!
//! A thread of its own writes, in batches; readers have connections of their own and delay nobody.

mod backlog;
mod database;
mod query;
mod retention;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use observer_core::{change::ChangeRecord, incident::Incident};
use tokio::sync::oneshot;
use tracing::error;

use crate::health::Health;
use backlog::{Backlog, Note};
pub use query::{ChangeQuery, IncidentQuery, Reader, StoreError};
use writer::Writer;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Changes and closed incidents are deleted when they are older.
    pub retention: Duration,
    /// Octets; beyond that the oldest changes are deleted, then the oldest closed incidents.
    pub max_size: u64,
}

/// What the store remembered when it was opened.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Incidents that were open, by node.
    pub open: BTreeMap<String, Vec<Incident>>,
    /// When the agent that wrote them was last alive.
    pub alive: Option<jiff::Timestamp>,
}

/// Takes records in; a copy is the same store.
#[derive(Clone, Debug)]
pub struct Store {
    backlog: Arc<Backlog>,
    path: PathBuf,
    reader: Reader,
}

impl Store {
    /// Opens the store of a state directory and starts its thread. Where it cannot be opened the
    /// thread goes on trying, and `health` says why.
    pub fn start(
        state_dir: &Path,
        limits: Limits,
        health: Health,
    ) -> Result<(Self, Writing, Remembered)> {
        let backlog = Arc::new(Backlog::default());
        let path = database::path_in(state_dir);
        let mut writer = Writer {
            path: path.clone(),
            limits,
            backlog: Arc::clone(&backlog),
            health,
            run: jiff::Timestamp::now().as_microsecond(),
            connection: None,
            failing: false,
        };
        let remembered = match writer.open().map(query::remembered) {
            Some(Ok(remembered)) => remembered,
            Some(Err(error)) => {
                error!(
                    "open incidents are not resumed: {}: {error}",
                    path.display()
                );
                Remembered::default()
            }
            None => Remembered::default(),
        };
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .context("cannot start the store's thread")?;
        let writing = Writing {
            backlog: Arc::clone(&backlog),
            thread,
        };
        let reader = Reader::new(&path);
        let store = Self {
            backlog,
            path,
            reader,
        };
        Ok((store, writing, remembered))
    }

    /// Keeps a change, soon.
    pub fn keep(&self, record: &Arc<ChangeRecord>) {
        self.backlog.offer(record);
    }

    /// Changes that could not be kept, since the last call.
    pub fn take_lost(&self) -> u64 {
        self.backlog.take_lost()
    }

    /// Number of the latest change of this run that is on the disk, with all before it but those
    /// that were lost.
    pub fn committed(&self) -> u64 {
        self.backlog.committed()
    }

    /// Keeps an operator's words on an incident; whether there is such an incident.
    pub async fn note(&self, incident: String, note: String) -> Result<bool> {
        let (reply, answer) = oneshot::channel();
        self.backlog.note(Note {
            incident,
            time: jiff::Timestamp::now().as_microsecond(),
            words: note,
            reply,
        });
        let kept = answer.await.context("the agent is stopping")?;
        kept.map_err(|why| anyhow!("cannot write {}: {why}", self.path.display()))
    }

    /// For questions.
    pub const fn reader(&self) -> &Reader {
        &self.reader
    }
}

/// The store's thread.
#[derive(Debug)]
pub struct Writing {
    backlog: Arc<Backlog>,
    thread: JoinHandle<()>,
}

impl Writing {
    /// Writes what is left and waits for it.
    pub fn finish(self) {
        self.backlog.close();
        // A panic there has been told by the panic itself.
        let _ = self.thread.join();
    }
}

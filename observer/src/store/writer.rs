//! The thread that writes: one transaction per batch, again and again where the disk refuses, and
//! retention in between.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tracing::{error, info};

use super::{
    Limits,
    backlog::{Backlog, Batch},
    database::{OpenError, damage, open, set_aside},
    retention, rows,
};
use crate::health::{Health, SourceStatus};

/// How long after a refusal it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often retention is looked at; and how often while there is more to delete.
const TIDY: Duration = Duration::from_mins(1);
const TIDY_ON: Duration = Duration::from_millis(100);
/// How often the store says that the agent is alive, while an incident is open.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The thread's state.
pub struct Writer {
    pub path: PathBuf,
    pub limits: Limits,
    pub backlog: Arc<Backlog>,
    pub health: Health,
    /// When this run began, microseconds since the epoch: with a change's number, its name.
    pub run: i64,
    /// None while nothing can be written.
    pub connection: Option<Connection>,
    /// What was told last.
    pub failing: bool,
}

impl Writer {
    /// Opens the database, before the thread starts: for what it remembers. A file of which nothing
    /// can be made is set aside for a new one.
    pub fn open(&mut self) -> Option<&Connection> {
        for _ in 0..2 {
            let opened = self.connection().map(drop);
            self.done(opened);
            if self.failing || self.connection.is_some() {
                break;
            }
        }
        self.connection.as_ref()
    }

    /// Writes until the backlog is closed.
    pub fn run(mut self) {
        // Looked at here and not before: a big file takes seconds, in which nothing else waits.
        let broken = self.connection.as_ref().and_then(damage);
        if let Some(why) = broken {
            self.replace(&why);
        }
        let (mut tidy, mut heartbeat) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if tidy <= now {
                tidy = now + if self.tidy() { TIDY_ON } else { TIDY };
            }
            if heartbeat <= now {
                self.beat();
                heartbeat = now + HEARTBEAT;
            }
            let patience = tidy.min(heartbeat).saturating_duration_since(now);
            let batch = self.backlog.next(patience);
            let closing = batch.closing;
            if !batch.is_empty() {
                self.keep(batch);
            }
            if closing {
                break;
            }
        }
        self.beat();
    }

    /// Writes a batch, or puts it back.
    fn keep(&mut self, batch: Batch) {
        let run = self.run;
        let written = self
            .connection()
            .and_then(|connection| Ok(rows::write(connection, run, &batch)?));
        match written {
            Ok(known) => {
                self.tell(None);
                if let Some(last) = batch.changes.last() {
                    self.backlog.commit(last.seq);
                }
                for (note, known) in batch.notes.into_iter().zip(known) {
                    // Whoever asked may have gone away.
                    let _ = note.reply.send(Ok(known));
                }
            }
            Err(OpenError::Useless(why)) => {
                self.replace(&why);
                self.refuse(batch, &why);
            }
            Err(OpenError::Refused(why)) => {
                self.connection = None;
                self.refuse(batch, &why);
            }
        }
    }

    fn refuse(&mut self, batch: Batch, why: &str) {
        self.tell(Some(why));
        if self.backlog.closing() {
            // Nobody waits for a disk that may never come back.
            self.backlog
                .lose(batch.changes.len() + batch.incidents.len());
            return;
        }
        self.backlog.put_back(batch, why);
        self.backlog.pause(RETRY);
    }

    /// The database, opened if it is not, and anew if its file is not there any more.
    fn connection(&mut self) -> Result<&mut Connection, OpenError> {
        let connection = match self.connection.take() {
            Some(connection) if self.path.exists() => connection,
            _ => {
                if let Some(dir) = self.path.parent() {
                    // Why that fails, opening the file says better.
                    let _ = std::fs::create_dir_all(dir);
                }
                open(&self.path)?
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Sets a file aside of which nothing can be made; the next batch begins a new one.
    fn replace(&mut self, why: &str) {
        self.connection = None;
        let path = self.path.display();
        match set_aside(&self.path, jiff::Timestamp::now().as_second()) {
            Ok(aside) => error!(
                "what was stored is lost: {path}: {why}; kept as {}, a new one is begun",
                aside.display()
            ),
            Err(error) => error!("{path}: {why}; it cannot be set aside: {error}"),
        }
    }

    /// Tells how it goes, once per change.
    fn tell(&mut self, why: Option<&str>) {
        self.failing = why.is_some();
        let path = self.path.display();
        let reason = why.map(|why| format!("cannot write {path}: {why}"));
        let failing = reason.clone();
        if !self.health.set(SourceStatus::store(reason)) {
            return;
        }
        if let Some(why) = failing {
            error!("{why}; trying again, what does not fit into memory will be lost");
        } else {
            info!("{path} is written");
        }
    }

    /// Deletes some of what is too old or too much; whether there is more of it.
    fn tidy(&mut self) -> bool {
        let limits = self.limits;
        let now = jiff::Timestamp::now();
        let done = self
            .connection()
            .and_then(|connection| Ok(retention::tidy(connection, limits, now)?));
        self.done(done).unwrap_or(false)
    }

    /// Notes that the agent is alive, where that matters; and where the disk refused, whether it still
    /// does.
    fn beat(&mut self) {
        let (now, always) = (jiff::Timestamp::now().as_microsecond(), self.failing);
        let done = self
            .connection()
            .and_then(|connection| Ok(rows::beat(connection, now, always)?));
        // What waits is a better proof than one row.
        if self.done(done) == Some(true) && self.backlog.is_empty() {
            self.tell(None);
        }
    }

    /// What came of work that can wait.
    fn done<T>(&mut self, done: Result<T, OpenError>) -> Option<T> {
        match done {
            Ok(done) => return Some(done),
            Err(OpenError::Useless(why)) => self.replace(&why),
            Err(OpenError::Refused(why)) => {
                self.connection = None;
                self.tell(Some(&why));
            }
        }
        None
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

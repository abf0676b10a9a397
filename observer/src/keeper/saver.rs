//! Known peers go to the state directory, one write at a time.

use std::time::Duration;

use anyhow::Result;
use observer_core::Observer;
use tokio::{task::JoinHandle, time::Instant};
use tracing::warn;

use crate::state_dir::{SavedNodes, StateDir};

/// The state is written at most this often; and this long after a write that failed.
const SAVE_EVERY: Duration = Duration::from_secs(1);
const SAVE_RETRY: Duration = Duration::from_secs(10);
/// Without changes it is written this often, for "last heard" to be about right.
const SAVE_IDLE: Duration = Duration::from_mins(1);

/// Writes known peers to the state directory, one write at a time.
pub(super) struct Saver {
    state_dir: Option<StateDir>,
    others: SavedNodes,
    /// Something changed since the last write was begun.
    pub dirty: bool,
    not_before: Instant,
    idle_until: Instant,
    writing: Option<JoinHandle<Result<()>>>,
    failing: bool,
}

impl Saver {
    pub fn new(state_dir: Option<StateDir>, others: SavedNodes) -> Self {
        Self {
            state_dir,
            others,
            dirty: false,
            not_before: Instant::now(),
            idle_until: Instant::now() + SAVE_IDLE,
            writing: None,
            failing: false,
        }
    }

    pub fn due(&self) -> Option<Instant> {
        if self.state_dir.is_none() || self.writing.is_some() {
            return None;
        }
        Some(if self.dirty {
            self.not_before
        } else {
            self.idle_until.max(self.not_before)
        })
    }

    fn all(&self, observer: &Observer) -> SavedNodes {
        let mut nodes = self.others.clone();
        nodes.extend(observer.save());
        nodes
    }

    pub fn begin(&mut self, observer: &Observer) {
        let Some(state_dir) = self.state_dir.clone() else {
            return;
        };
        let nodes = self.all(observer);
        self.dirty = false;
        self.writing = Some(tokio::task::spawn_blocking(move || state_dir.save(&nodes)));
    }

    /// When the write under way is done; for ever when none is.
    pub async fn finished(&mut self) -> Result<()> {
        match &mut self.writing {
            Some(writing) => writing.await.unwrap_or_else(|error| Err(error.into())),
            None => std::future::pending().await,
        }
    }

    pub fn end(&mut self, result: Result<()>) {
        self.writing = None;
        let now = Instant::now();
        self.idle_until = now + SAVE_IDLE;
        self.not_before = now + SAVE_EVERY;
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    warn!("known peers would not survive a restart: {error:#}");
                }
                self.failing = true;
                self.dirty = true;
                self.not_before = now + SAVE_RETRY;
            }
        }
    }

    pub async fn last(&mut self, observer: &Observer) {
        if self.writing.is_some() {
            let result = self.finished().await;
            self.end(result);
        }
        if self.state_dir.is_some() {
            self.begin(observer);
            let result = self.finished().await;
            self.end(result);
        }
    }
}

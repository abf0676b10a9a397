//! Writes what the core is told to an events file, from a thread of its own: a slow disk delays
//! nothing, and a broken one costs the recording, not the agent.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use observer_core::{
    config::CoreConfig,
    event::Event,
    record::{Entry, FORMAT, Header, VERSION},
    time::Timestamp,
};
use tracing::error;

/// Buffers that can wait for the disk.
const QUEUE: usize = 1024;

/// The first line of a file that this version writes.
pub fn header(config: &CoreConfig) -> Header {
    Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        config: config.clone(),
    }
}

struct Lines {
    bytes: Vec<u8>,
    entries: u64,
}

/// The writing end.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Lines>>,
    thread: Option<JoinHandle<()>>,
    buffer: Vec<u8>,
    entries: u64,
    lost: Arc<AtomicU64>,
}

impl Recorder {
    /// Begins a file at `path`; one that is there is kept as `path.old`.
    pub fn start(path: &Path, config: &CoreConfig) -> Result<Self> {
        if path.exists() {
            let mut old = path.as_os_str().to_owned();
            old.push(".old");
            std::fs::rename(path, &old)
                .with_context(|| format!("--record: cannot set {} aside", path.display()))?;
        }
        let file = File::create_new(path)
            .with_context(|| format!("--record: cannot create {}", path.display()))?;
        let lost = Arc::new(AtomicU64::new(0));
        let (queue, lines) = sync_channel(QUEUE);
        let writer = Writer {
            file,
            name: path.display().to_string(),
            lost: Arc::clone(&lost),
        };
        let thread = thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || writer.run(&lines))
            .context("--record: cannot start the recorder's thread")?;
        let mut recorder = Self {
            queue: Some(queue),
            thread: Some(thread),
            buffer: Vec::new(),
            entries: 0,
            lost,
        };
        recorder.line(&header(config));
        recorder.flush();
        Ok(recorder)
    }

    /// Notes one call of `apply`.
    pub fn record(&mut self, now: Timestamp, event: &Event) {
        self.line(&Entry {
            now,
            event: event.clone(),
        });
        self.entries += 1;
    }

    fn line(&mut self, line: &impl serde::Serialize) {
        let before = self.buffer.len();
        if serde_json::to_writer(&mut self.buffer, line).is_ok() {
            self.buffer.push(b'\n');
        } else {
            self.buffer.truncate(before);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands what was noted to the thread.
    pub fn flush(&mut self) {
        let lines = Lines {
            bytes: std::mem::take(&mut self.buffer),
            entries: std::mem::take(&mut self.entries),
        };
        if lines.bytes.is_empty() {
            return;
        }
        let entries = lines.entries;
        let sent = self
            .queue
            .as_ref()
            .is_some_and(|queue| queue.try_send(lines).is_ok());
        if !sent {
            self.lost.fetch_add(entries, Ordering::Relaxed);
        }
    }

    /// Entries that are not in the file, since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Writes what is left and waits for it.
    pub fn finish(mut self) {
        self.flush();
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been told by the panic itself.
            let _ = thread.join();
        }
    }
}

struct Writer {
    file: File,
    name: String,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Lines>) {
        while let Ok(lines) = queue.recv() {
            if let Err(error) = self.file.write_all(&lines.bytes) {
                // Half a line may be in the file now: it can only be the last.
                error!("recording ends here, cannot write {}: {error}", self.name);
                self.lost.fetch_add(lines.entries, Ordering::Relaxed);
                break;
            }
        }
        for lines in queue {
            self.lost.fetch_add(lines.entries, Ordering::Relaxed);
        }
    }
}

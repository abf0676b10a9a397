//! The flight recorder: the last of what the core was told, compressed and bounded, so that an
//! incident can be taken elsewhere and replayed although nobody had asked for a recording.
//!
//! It is made of generations. The first begins with the agent and replays exactly; each further one
//! begins with what stands at that moment (nodes, peers, inventory, taps), after which sockets are
//! dumped again: it replays as what an agent would have said that started then.

mod rows;

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use observer_core::{
    cluster::Cluster,
    config::CoreConfig,
    event::{Event, Fact, NetnsId},
    record::{Entry, FORMAT, Header, VERSION},
    time::{Timestamp, WallOffset},
};
use tokio::sync::oneshot;

use self::rows::Rows;
use crate::{state_dir::SavedNodes, weight};

/// Compressed octets that are kept at most, but for the generation that is being written.
const KEPT: usize = 8 << 20;
/// Compressed octets after which a generation is followed by the next.
const GENERATION: usize = 2 << 20;
/// Groups of entries that can wait for the thread: so many megabytes at most.
const QUEUE: usize = 8;
/// Octets of payload and routes that entries may hold before they are handed over.
const GROUP_OCTETS: usize = 1 << 20;
/// Entries that are handed over together.
const GROUP: usize = 512;

/// What is on record.
#[derive(Clone, Debug, Default)]
pub struct Flight {
    /// The generations, oldest first.
    pub generations: Vec<Generation>,
    /// What turns their times into wall time.
    pub offset: WallOffset,
}

/// An events file of its own, gzipped.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// When it begins.
    pub begun: Timestamp,
    /// It begins with the agent, so a replay is exact.
    pub first: bool,
    /// Lines at its beginning that no source told: the header, and what stood.
    pub prologue: u64,
    /// Entries that are not in it although they should be.
    pub lost: u64,
    /// Its lines.
    pub gzipped: Vec<u8>,
}

enum Message {
    Entries(Vec<Entry>),
    Begin(Timestamp, SavedNodes),
    Ask(oneshot::Sender<Flight>),
}

/// The writing end.
#[derive(Debug)]
pub struct FlightRecorder {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    group: Vec<Entry>,
    octets: usize,
    rows: Rows,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    full: AtomicBool,
    lost: AtomicU64,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Entries(_) => "Entries",
            Self::Begin(..) => "Begin",
            Self::Ask(_) => "Ask",
        })
    }
}

impl FlightRecorder {
    /// Starts its thread.
    pub fn start(config: CoreConfig) -> Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let writer = Writer::new(config, Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("flight".to_owned())
            .spawn(move || writer.run(&messages))
            .context("cannot start the flight recorder's thread")?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            group: Vec::new(),
            octets: 0,
            rows: Rows::default(),
            shared,
        })
    }

    /// Notes one call of `apply`.
    pub fn record(&mut self, now: Timestamp, event: &Event) {
        let Some(event) = self.rows.admit(now, event) else {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.octets += weight::octets(&event.fact);
        self.group.push(Entry { now, event });
        if self.group.len() >= GROUP || self.octets >= GROUP_OCTETS {
            self.flush();
        }
    }

    /// Hands what was noted to the thread: in big groups, for few of them can wait.
    fn flush(&mut self) {
        if self.group.is_empty() {
            return;
        }
        self.octets = 0;
        let group = std::mem::take(&mut self.group);
        let entries = group.len() as u64;
        if !self.send(Message::Entries(group)) {
            self.shared.lost.fetch_add(entries, Ordering::Relaxed);
        }
    }

    fn send(&self, message: Message) -> bool {
        let queue = self.queue.as_ref();
        queue.is_some_and(|queue| queue.try_send(message).is_ok())
    }

    /// Whether the present generation is big enough, and [`begin`](Self::begin) should be called.
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Relaxed)
    }

    /// Begins a generation: `saved` are the peers as they are at `now`. Whoever calls this has the
    /// sockets dumped again.
    pub fn begin(&mut self, now: Timestamp, saved: SavedNodes) -> bool {
        self.flush();
        self.shared.full.store(false, Ordering::Relaxed);
        let begun = self.send(Message::Begin(now, saved));
        if !begun {
            self.shared.full.store(true, Ordering::Relaxed);
        }
        begun
    }

    /// What is on record, to `reply`; nobody answers when too much waits.
    pub fn ask(&mut self, reply: oneshot::Sender<Flight>) {
        self.flush();
        self.send(Message::Ask(reply));
    }
}

impl Drop for FlightRecorder {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been told by the panic itself.
            let _ = thread.join();
        }
    }
}

/// What holds until it is told otherwise: a later generation begins with it.
#[derive(Default)]
struct Standing {
    wall: Option<(Event, WallOffset)>,
    inventory: Option<Event>,
    configured: BTreeMap<(String, String), Event>,
    cluster: Cluster,
    versions: Option<Event>,
    nodes: BTreeMap<NetnsId, Event>,
    taps: BTreeMap<(NetnsId, u32), Event>,
}

impl Standing {
    fn see(&mut self, event: &Event) {
        if let Fact::NodeGone { netns } = &event.fact {
            self.nodes.remove(netns);
            self.taps.retain(|(of, _), _| of != netns);
        }
        if let Fact::TapDetached { netns, interface } = &event.fact {
            self.taps.remove(&(*netns, *interface));
        }
        if let Fact::NodeObserved { netns, .. } = &event.fact {
            self.nodes.insert(*netns, event.clone());
        }
        if let Fact::TapAttached { netns, interface } = &event.fact {
            self.taps.insert((*netns, *interface), event.clone());
        }
        if let Fact::WallClock { offset } = &event.fact {
            self.wall = Some((event.clone(), *offset));
        }
        if let Fact::Inventory { .. } = &event.fact {
            self.inventory = Some(event.clone());
        }
        if let Fact::PeersConfigured { node, socket, .. } = &event.fact {
            let of = (node.clone(), socket.clone());
            self.configured.insert(of, event.clone());
        }
        if let Fact::Cluster { cluster } = &event.fact {
            self.cluster.take(cluster);
        }
        if let Fact::Versions { .. } = &event.fact {
            self.versions = Some(event.clone());
        }
    }

    /// All of it in the order in which an agent that starts tells it.
    fn events(&self, now: Timestamp, saved: SavedNodes) -> Vec<Event> {
        let restored = saved.into_iter().map(|(node, peers)| {
            let fact = Fact::PeersRestored { node, peers };
            Event::noticed(now, fact)
        });
        let wall = self.wall.as_ref().map(|(event, _)| event);
        let first = [wall, self.inventory.as_ref(), self.versions.as_ref()];
        let first = first.into_iter().flatten().cloned();
        let cluster = { self.cluster.standing().into_iter() }
            .map(|cluster| Event::noticed(now, Fact::Cluster { cluster }));
        let rest = self.nodes.values().chain(self.taps.values()).cloned();
        let configured = self.configured.values().cloned();
        first
            .chain(configured)
            .chain(cluster)
            .chain(restored)
            .chain(rest)
            .collect()
    }
}

struct Writer {
    header: Header,
    shared: Arc<Shared>,
    standing: Standing,
    done: VecDeque<Generation>,
    present: Generation,
    encoder: GzEncoder<Vec<u8>>,
    line: Vec<u8>,
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

impl Writer {
    fn new(config: CoreConfig, shared: Arc<Shared>) -> Self {
        let mut writer = Self {
            header: Header {
                format: FORMAT.to_owned(),
                version: VERSION,
                agent: env!("CARGO_PKG_VERSION").to_owned(),
                config,
            },
            shared,
            standing: Standing::default(),
            done: VecDeque::new(),
            present: Generation {
                first: true,
                ..Generation::default()
            },
            encoder: encoder(),
            line: Vec::new(),
        };
        writer.write_header();
        writer
    }

    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Entries(entries) => {
                    for entry in entries {
                        self.standing.see(&entry.event);
                        self.write(&entry);
                    }
                    let size = self.present.gzipped.len() + self.encoder.get_ref().len();
                    if size > GENERATION {
                        self.shared.full.store(true, Ordering::Relaxed);
                    }
                }
                Message::Begin(now, saved) => self.begin(now, saved),
                Message::Ask(reply) => {
                    // Whoever asked may have gone away.
                    let _ = reply.send(self.flight());
                }
            }
            self.present.lost += self.shared.lost.swap(0, Ordering::Relaxed);
        }
    }

    fn begin(&mut self, now: Timestamp, saved: SavedNodes) {
        self.finish_member();
        let begun = Generation {
            begun: now,
            ..Generation::default()
        };
        self.done
            .push_back(std::mem::replace(&mut self.present, begun));
        let mut kept: usize = self.done.iter().map(|old| old.gzipped.len()).sum();
        while kept > KEPT
            && let Some(oldest) = self.done.pop_front()
        {
            kept -= oldest.gzipped.len();
        }
        self.write_header();
        for event in self.standing.events(now, saved) {
            self.write(&Entry { now, event });
            self.present.prologue += 1;
        }
    }

    fn flight(&mut self) -> Flight {
        self.finish_member();
        let present = std::iter::once(&self.present);
        let wall = self.standing.wall.as_ref();
        Flight {
            offset: wall.map_or_else(WallOffset::default, |(_, offset)| *offset),
            generations: self.done.iter().chain(present).cloned().collect(),
        }
    }

    /// Ends the gzip member, so that what was written can be read; the next one follows it.
    fn finish_member(&mut self) {
        let member = std::mem::replace(&mut self.encoder, encoder());
        // Writing to memory does not fail.
        self.present
            .gzipped
            .extend(member.finish().unwrap_or_default());
    }

    fn write_header(&mut self) {
        let header = self.header.clone();
        self.write(&header);
        self.present.prologue = 1;
    }

    fn write(&mut self, line: &impl serde::Serialize) {
        self.line.clear();
        if serde_json::to_writer(&mut self.line, line).is_err() {
            self.present.lost += 1;
            return;
        }
        self.line.push(b'\n');
        // Writing to memory does not fail.
        let _ = self.encoder.write_all(&self.line);
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;

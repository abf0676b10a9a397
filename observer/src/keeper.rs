//! The task that owns the core: applies events in order, lets time pass, carries out what the core
//! asks for, remembers and tells what changed, and answers questions.

mod remembered;
mod saver;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use observer_core::{
    Observer,
    change::{Change, ChangeRecord, Output, Request},
    event::{Event, Fact, LossStage, NetnsId},
    incident::{Incident, record::Verdict},
    observer::Totals,
    peer::{Flap, PeerView},
    route_view::{FibView, PathView, RouteFilter, RoutesView},
    safety::Safety,
    time::{Timestamp, WallOffset},
    topology::Topology,
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::info;

use self::{remembered::Remembered, saver::Saver};

use crate::{
    cluster,
    control::Control,
    flight::{Flight, FlightRecorder},
    health::Health,
    intake::Batch,
    own_thread::{OwnThread, Running},
    recorder::Recorder,
    sink::{self, node_events::Announcer},
    sockets::{Asker, Question},
    source::clock::{boottime_now, wall_offset},
    state_dir::{SavedNodes, StateDir},
    store::Store,
};

/// Changes that a follower may be behind before it misses some.
const FOLLOWER_LAG: usize = 1_024;
/// Questions that can wait.
const QUESTIONS: usize = 256;
/// How often wall time is looked at, and how often it is told even when it did not jump.
const WALL_LOOK: Duration = Duration::from_secs(1);
const WALL_TELL: u32 = 10;
/// A wall clock that moved by more than this against ours has jumped.
const WALL_JUMP_NANOS: u64 = 1_000_000;

/// A page of changes.
#[derive(Debug)]
pub struct Page {
    /// The changes, oldest first.
    pub events: Vec<Arc<ChangeRecord>>,
    /// How many between what was asked for and the first of these are forgotten.
    pub missed: u64,
    /// What comes after them.
    pub next: broadcast::Receiver<Arc<ChangeRecord>>,
}

/// Everything a scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// All peers.
    pub peers: Vec<PeerView>,
    /// The core's counts.
    pub totals: Totals,
    /// How each node's forwarding does.
    pub forwarding: Vec<FibView>,
    /// Events applied, by kind.
    pub events: BTreeMap<&'static str, u64>,
    /// By node and verdict so far: incidents that are open.
    pub open_incidents: BTreeMap<(String, Verdict), u64>,
    /// Whether nodes' speakers may be restarted.
    pub safety: Vec<Safety>,
    /// How sessions are laid out.
    pub topology: Vec<Topology>,
    /// BGP is not in use here.
    pub bgp_unused: bool,
}

/// A question to the task, with where the answer goes.
#[derive(Debug)]
enum Ask {
    Snapshot(oneshot::Sender<Snapshot>),
    Flaps(oneshot::Sender<Vec<Flap>>),
    Routes(RouteFilter, oneshot::Sender<RoutesView>),
    Path(
        Option<String>,
        Option<IpAddr>,
        IpAddr,
        oneshot::Sender<Option<PathView>>,
    ),
    Incidents(oneshot::Sender<Vec<Incident>>),
    Events(u64, oneshot::Sender<Page>),
    Forget(Option<String>, IpAddr, oneshot::Sender<Vec<Forgotten>>),
    Tell(Vec<Fact>),
    Flight(oneshot::Sender<Flight>),
}

/// A peer that was forgotten on command.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Forgotten {
    /// The observed node.
    pub node: String,
    /// The peer.
    pub peer: String,
}

/// Asks the task.
#[derive(Clone, Debug)]
pub struct Keeper(mpsc::Sender<Ask>);

impl Keeper {
    /// Peers and counts, now.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.ask(Ask::Snapshot).await
    }

    /// All flaps that are remembered.
    pub async fn flaps(&self) -> Result<Vec<Flap>> {
        self.ask(Ask::Flaps).await
    }

    /// The routes that `filter` wants.
    pub async fn routes(&self, filter: RouteFilter) -> Result<RoutesView> {
        self.ask(|reply| Ask::Routes(filter, reply)).await
    }

    /// The way of a packet from `source` to `destination`, from `node` on.
    pub async fn path(
        &self,
        node: Option<String>,
        source: Option<IpAddr>,
        destination: IpAddr,
    ) -> Result<Option<PathView>> {
        self.ask(|reply| Ask::Path(node, source, destination, reply))
            .await
    }

    /// Incidents that are open, and closed ones that are remembered, oldest first.
    pub async fn incidents(&self) -> Result<Vec<Incident>> {
        self.ask(Ask::Incidents).await
    }

    /// All remembered changes after `since`, and a subscription to what follows.
    pub async fn events(&self, since: u64) -> Result<Page> {
        self.ask(|reply| Ask::Events(since, reply)).await
    }

    /// Forgets a peer of `node`, or of all nodes, and says which were.
    pub async fn forget(&self, node: Option<String>, peer: IpAddr) -> Result<Vec<Forgotten>> {
        self.ask(|reply| Ask::Forget(node, peer, reply)).await
    }

    /// The last of what the core was told.
    pub async fn flight(&self) -> Result<Flight> {
        self.ask(Ask::Flight).await
    }

    /// Tells the core what the agent itself came to know.
    pub async fn tell(&self, facts: Vec<Fact>) -> Result<()> {
        self.0
            .send(Ask::Tell(facts))
            .await
            .context("the agent is stopping")
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0
            .send(question(reply))
            .await
            .context("the agent is stopping")?;
        answer.await.context("the agent is stopping")
    }
}

/// What the task is made of.
#[derive(Debug)]
pub struct Parts {
    /// The core.
    pub observer: Observer,
    /// What the sources saw.
    pub queue: mpsc::UnboundedReceiver<Batch>,
    /// To the kernel's filter.
    pub control: mpsc::Sender<Control>,
    /// To the `sock_diag` thread.
    pub asker: Asker,
    /// To whoever reads the cluster's API.
    pub questions: mpsc::Sender<cluster::Question>,
    /// What is to be recorded, if anything is.
    pub recorder: Option<Recorder>,
    /// The last of what the core is told.
    pub flight: Option<FlightRecorder>,
    /// Where peers are remembered, if they can be.
    pub state_dir: Option<StateDir>,
    /// Where changes and incidents are kept.
    pub store: Option<Store>,
    /// Saved peers of nodes that this run does not observe: kept as they are.
    pub others: SavedNodes,
    /// What the core is told first.
    pub first: Vec<Fact>,
    /// Tells Kubernetes of incidents, where that is wanted.
    pub announcer: Option<Announcer>,
    /// What runs.
    pub health: Health,
}

/// Starts the task, on a thread of its own. It ends when the sources' end of the queue is dropped.
///
/// # Errors
/// As pthread_create(3).
pub fn start(parts: Parts) -> Result<(Keeper, Running<()>)> {
    let (asks, questions) = mpsc::channel(QUESTIONS);
    let mut task = Task {
        observer: parts.observer,
        now: Timestamp::default(),
        wall: None,
        out: Vec::new(),
        remembered: Remembered::default(),
        followers: broadcast::channel(FOLLOWER_LAG).0,
        events: sink::metrics::no_events(),
        controls: Vec::new(),
        inspects_refused: 0,
        control: parts.control,
        asker: parts.asker,
        questions: parts.questions,
        recorder: parts.recorder,
        flight: parts.flight,
        observed: BTreeSet::new(),
        saver: Saver::new(parts.state_dir, parts.others),
        store: parts.store,
        announcer: parts.announcer,
        health: parts.health,
    };
    task.sample_wall(true);
    for fact in parts.first {
        task.note(fact);
    }
    let running = OwnThread::new("core")?.run(task.run(parts.queue, questions))?;
    Ok((Keeper(asks), running))
}

struct Task {
    observer: Observer,
    /// The `now` of the latest call of `apply`.
    now: Timestamp,
    wall: Option<WallOffset>,
    /// Kept for its memory.
    out: Vec<Output>,
    remembered: Remembered,
    followers: broadcast::Sender<Arc<ChangeRecord>>,
    events: BTreeMap<&'static str, u64>,
    /// Wishes not yet sent.
    controls: Vec<Control>,
    inspects_refused: u64,
    control: mpsc::Sender<Control>,
    asker: Asker,
    questions: mpsc::Sender<cluster::Question>,
    recorder: Option<Recorder>,
    flight: Option<FlightRecorder>,
    observed: BTreeSet<NetnsId>,
    saver: Saver,
    store: Option<Store>,
    announcer: Option<Announcer>,
    health: Health,
}

impl Task {
    async fn run(
        mut self,
        mut queue: mpsc::UnboundedReceiver<Batch>,
        mut asks: mpsc::Receiver<Ask>,
    ) {
        let mut wall = interval(WALL_LOOK);
        wall.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks: u32 = 0;
        // A deadline that stays due must not spin.
        let mut not_before = Instant::now();
        loop {
            self.settle().await;
            let deadline = self
                .observer
                .next_deadline()
                .map(|at| not_before.max(Instant::now() + at.since(boottime_now())));
            let save = self.saver.due();
            tokio::select! {
                batch = queue.recv() => match batch {
                    Some(batch) => self.take(&batch),
                    None => break,
                },
                Some(ask) = asks.recv() => self.answer(ask),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    // What happened before the deadline goes first.
                    while let Ok(batch) = queue.try_recv() {
                        self.take(&batch);
                    }
                    self.note(Fact::Tick);
                    not_before = Instant::now() + Duration::from_millis(1);
                }
                _ = wall.tick() => {
                    looks = looks.wrapping_add(1);
                    self.sample_wall(looks.is_multiple_of(WALL_TELL));
                }
                () = sleep_until(save.unwrap_or_else(Instant::now)), if save.is_some() => {
                    self.saver.begin(&self.observer);
                }
                result = self.saver.finished() => self.saver.end(result),
            }
        }
        self.settle().await;
        self.saver.last(&self.observer).await;
        if let Some(recorder) = self.recorder.take() {
            recorder.finish();
        }
    }

    fn take(&mut self, batch: &Batch) {
        let read = boottime_now();
        for event in &batch.events {
            // Time goes by the events, never ahead of the clock and never back.
            let at = event.occurred.latest.min(read);
            self.apply(at, event);
        }
        if batch.started {
            self.health.set_started();
            info!("ready");
        }
    }

    fn note(&mut self, fact: Fact) {
        let now = boottime_now();
        self.apply(now, &Event::noticed(now, fact));
    }

    fn apply(&mut self, at: Timestamp, event: &Event) {
        self.now = self.now.max(at);
        if let Some(recorder) = &mut self.recorder {
            recorder.record(self.now, event);
        }
        if let Some(flight) = &mut self.flight {
            flight.record(self.now, event);
        }
        if let Fact::NodeObserved { netns, .. } = &event.fact {
            self.observed.insert(*netns);
        }
        if let Fact::NodeGone { netns } = &event.fact {
            self.observed.remove(netns);
        }
        *self
            .events
            .entry(sink::metrics::event_kind(&event.fact))
            .or_default() += 1;
        self.observer.apply(self.now, event, &mut self.out);
        let mut out = std::mem::take(&mut self.out);
        for output in out.drain(..) {
            match output {
                Output::Change(record) => self.publish(record),
                Output::Request(request) => self.carry_out(request),
            }
        }
        self.out = out;
    }

    fn publish(&mut self, record: ChangeRecord) {
        sink::log::tell(&record);
        sink::lines::tell(&record);
        if let Some(announcer) = &self.announcer {
            announcer.offer(&record.change);
        }
        self.saver.dirty = true;
        let record = Arc::new(record);
        if let Some(store) = &self.store {
            store.keep(&record);
        }
        self.remembered.push(Arc::clone(&record));
        // Nobody may be following.
        let _ = self.followers.send(record);
    }

    fn carry_out(&mut self, request: Request) {
        match request {
            Request::Trust { netns, address } => self.controls.push(Control::Trust(netns, address)),
            Request::Distrust { netns, address } => {
                self.controls.push(Control::Distrust(netns, address));
            }
            Request::Watch { netns, prefix } => self.controls.push(Control::Watch(netns, prefix)),
            Request::Unwatch { netns, prefix } => {
                self.controls.push(Control::Unwatch(netns, prefix));
            }
            Request::ListPods { incident, nodes } => {
                // A full queue costs names only: incidents say what they do not know.
                let _ = self
                    .questions
                    .try_send(cluster::Question::Pods { incident, nodes });
            }
            Request::AskCircumstances { incident, node } => {
                let asked = cluster::Question::Circumstances { incident, node };
                let _ = self.questions.try_send(asked);
            }
            Request::Dump { netns } => self.controls.push(Control::Dump(netns)),
            Request::DumpRoutes { netns, ipv6, since } => {
                self.controls.push(Control::DumpRoutes(netns, ipv6, since));
            }
            Request::Echo {
                netns,
                target,
                token,
            } => self.controls.push(Control::Echo(netns, target, token)),
            Request::Inspect {
                netns,
                id,
                local,
                remote,
            } => {
                let taken = self.asker.ask(Question::Inspect {
                    netns,
                    id,
                    local,
                    remote,
                });
                self.inspects_refused += u64::from(!taken);
            }
        }
    }

    /// Sends on what the latest events left to be sent.
    async fn settle(&mut self) {
        self.fly();
        for wish in self.controls.drain(..) {
            // The intake never waits for this task, so this ends; it is gone only at the end.
            let _ = self.control.send(wish).await;
        }
        let refused = std::mem::take(&mut self.inspects_refused);
        if refused > 0 {
            self.lost(LossStage::SockDiag, refused);
        }
        let unkept = self.store.as_ref().map_or(0, Store::take_lost);
        if unkept > 0 {
            self.lost(LossStage::Store, unkept);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
            let lost = recorder.take_lost();
            if lost > 0 {
                self.lost(LossStage::Recorder, lost);
            }
        }
    }

    /// Lets the flight recorder begin anew where it is full; so does then what it is told.
    fn fly(&mut self) {
        let Some(flight) = &mut self.flight else {
            return;
        };
        let saved = || self.observer.save().into_iter().collect();
        if !flight.is_full() || !flight.begin(self.now, saved()) {
            return;
        }
        for netns in self.observed.clone() {
            self.carry_out(Request::Dump { netns });
            for ipv6 in [false, true] {
                let since = self.now;
                self.carry_out(Request::DumpRoutes { netns, ipv6, since });
            }
        }
    }

    fn lost(&mut self, stage: LossStage, count: u64) {
        self.note(Fact::Lost { stage, count });
    }

    fn sample_wall(&mut self, always: bool) {
        let offset = wall_offset();
        let jumped = self
            .wall
            .is_none_or(|before| before.nanos.abs_diff(offset.nanos) > WALL_JUMP_NANOS);
        if always || jumped {
            self.wall = Some(offset);
            self.note(Fact::WallClock { offset });
        }
    }

    fn answer(&mut self, ask: Ask) {
        // Whoever asked may have gone away, which is no concern of ours: hence `let _`.
        match ask {
            Ask::Snapshot(reply) => {
                let _ = reply.send(Snapshot {
                    peers: self.observer.peers(self.now.max(boottime_now())),
                    totals: self.observer.totals(),
                    forwarding: self.observer.forwarding(self.now.max(boottime_now())),
                    events: self.events.clone(),
                    open_incidents: self.observer.open_incidents(),
                    safety: self.observer.safety(self.now.max(boottime_now())),
                    topology: self.observer.topology(),
                    bgp_unused: self.observer.is_bgp_unused(),
                });
            }
            Ask::Routes(filter, reply) => {
                let now = self.now.max(boottime_now());
                let _ = reply.send(self.observer.routes(now, &filter));
            }
            Ask::Path(node, source, destination, reply) => {
                let now = self.now.max(boottime_now());
                let path = { &self.observer }.path(now, node.as_deref(), source, destination);
                let _ = reply.send(path);
            }
            Ask::Flaps(reply) => {
                let _ = reply.send(self.observer.flaps());
            }
            Ask::Incidents(reply) => {
                let _ = reply.send(self.observer.incidents());
            }
            Ask::Events(since, reply) => {
                let _ = reply.send(self.page(since));
            }
            Ask::Forget(node, peer, reply) => {
                let before = self.remembered.last();
                self.note(Fact::PeerForget { node, peer });
                let _ = reply.send(self.forgotten_since(before));
            }
            Ask::Flight(reply) => {
                if let Some(flight) = &mut self.flight {
                    flight.ask(reply);
                }
            }
            Ask::Tell(facts) => {
                for fact in facts {
                    self.note(fact);
                }
            }
        }
    }

    fn page(&self, since: u64) -> Page {
        Page {
            events: self.remembered.since(since).cloned().collect(),
            missed: self.remembered.missed(since),
            next: self.followers.subscribe(),
        }
    }

    fn forgotten_since(&self, seq: u64) -> Vec<Forgotten> {
        self.remembered
            .since(seq)
            .filter_map(|record| {
                let Change::PeerForgotten { peer, .. } = &record.change else {
                    return None;
                };
                Some(Forgotten {
                    node: record.node.clone(),
                    peer: peer.clone(),
                })
            })
            .collect()
    }
}

//! The task that reads all sources: attaches, dumps, drains, merges by time and hands batches to
//! the core's task. It never waits for the core: when the queue is full, events are counted as lost
//! and a dump repairs what can be.

mod alarm;
mod forwarding;
mod outbox;
mod queue;
mod speakers;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use anyhow::anyhow;
use observer_core::{
    event::{Event, Fact, LossStage, NetnsId},
    time::Timestamp,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use self::outbox::Outbox;
pub use self::{
    alarm::Alarm,
    queue::{Batch, Queue, queue},
};
use crate::{
    control::Control,
    echoes::Echoes,
    health::{Health, SourceStatus},
    namespaces::{Namespaces, Step},
    reorder::{HOLD, Reorder},
    routes::{News, Routes},
    sockets::{Asker, Dump, Question, Reply},
    source::{clock::boottime_now, kernel::KernelSource, netns::Netns},
    taps::{Tapped, Taps},
};

/// Drains of the rings in a row, when they are full of events, before anything else gets a turn.
const DRAINS: usize = 32;
/// What may go to the core does so together with what may within so long: each time costs both a wakening.
const TOGETHER: Duration = Duration::from_micros(100);
/// How often names, graces and repairs are looked at.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// How often sockets are dumped when the kernel does not tell of changes.
const POLL: Duration = Duration::from_millis(500);
/// How soon after the tap saw a connection come up, its session having come up meanwhile,
const SOON: Duration = Duration::from_millis(15);
/// and how often at most: strangers connect, too.
const NOT_SOONER: Duration = Duration::from_millis(100);

/// What the task is made of.
pub struct Intake {
    /// The probes, if any run.
    pub kernel: Option<KernelSource>,
    /// The packet taps.
    pub taps: Taps,
    /// The readers of routes.
    pub routes: Routes,
    /// What they say.
    pub route_news: mpsc::Receiver<News>,
    /// The echo sockets.
    pub echoes: Echoes,
    /// Rings when it is time to look.
    pub alarm: Alarm,
    /// The namespaces.
    pub namespaces: Namespaces,
    /// The `sock_diag` thread.
    pub asker: Asker,
    /// Its answers.
    pub replies: mpsc::Receiver<Reply>,
    /// The core's wishes.
    pub control: mpsc::Receiver<Control>,
    /// To the core.
    pub queue: Queue,
    /// What runs.
    pub health: Health,
}

impl Intake {
    /// Reads until `stop` says so; then hands over what is left.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let room = self.queue.clone();
        let mut state = Reading {
            polling: !self.health.sees_changes(),
            kernel: self.kernel,
            taps: self.taps,
            routes: self.routes,
            probed: BTreeSet::new(),
            echoes: self.echoes,
            retap: Timestamp::default(),
            namespaces: self.namespaces,
            asker: self.asker,
            outbox: Outbox::new(self.queue),
            health: self.health,
            reorder: Reorder::default(),
            drained: Vec::new(),
            came_up: false,
            asked: BTreeSet::new(),
            first: BTreeSet::new(),
            first_done: None,
            repair: false,
        };
        let (mut replies, mut control) = (self.replies, self.control);
        let (mut route_news, mut alarm) = (self.route_news, self.alarm);
        let mut look_around = interval(LOOK_AROUND);
        look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hastened = Instant::now();
        loop {
            let due = state.due();
            tokio::select! {
                readable = readable(&mut state.kernel) => {
                    if let Err(error) = readable {
                        let why = format!("the kernel's rings cannot be read any more: {error}");
                        warn!("{why}; going on by polling");
                        state.health.set_probes_failed(&why);
                        state.kernel = None;
                        state.polling = true;
                        state.follow_netlink();
                    }
                }
                Some(readable) = segments(&room, &state.taps) => {
                    if let Err(error) = readable {
                        warn!("taps cannot be waited for: {error}");
                    }
                }
                readable = state.echoes.readable() => {
                    if let Err(error) = readable {
                        warn!("echoes cannot be waited for: {error}");
                    }
                }
                Some(reply) = replies.recv() => state.take_reply(reply),
                Some(wish) = control.recv() => state.obey(wish),
                Some(news) = forwarding::with_room(&room, &mut route_news) => state.take_routes(news),
                _ = look_around.tick() => state.look_around(),
                _ = poll.tick(), if state.polling => state.dump_all(),
                rung = alarm.at(due) => {
                    if let Err(error) = rung {
                        warn!("no timer: {error}");
                    }
                }
                _ = stop.changed() => break,
            }
            while let Ok(wish) = control.try_recv() {
                state.obey(wish);
            }
            let drained = boottime_now();
            state.drain(&mut route_news);
            if std::mem::take(&mut state.came_up)
                && state.polling
                && hastened.elapsed() > NOT_SOONER
            {
                hastened = Instant::now();
                poll.reset_after(SOON);
            }
            while let Ok(reply) = replies.try_recv() {
                state.take_reply(reply);
            }
            state.hand_over(drained);
        }
        state.drain(&mut route_news);
        state.finish();
    }
}

/// Segments wait for room: a packet socket holds seconds of them, and the kernel counts what it drops.
async fn segments(queue: &Queue, taps: &Taps) -> Option<std::io::Result<()>> {
    queue.room().await?;
    Some(taps.readable().await)
}

/// Whether it is the answer to a SYN.
const fn is_syn_ack(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Segment {
            syn: true,
            ack: Some(_),
            ..
        }
    )
}

async fn readable(kernel: &mut Option<KernelSource>) -> std::io::Result<()> {
    match kernel {
        Some(kernel) => kernel.readable().await,
        None => std::future::pending().await,
    }
}

struct Reading {
    kernel: Option<KernelSource>,
    taps: Taps,
    routes: Routes,
    /// The namespaces whose routes the probes tell.
    probed: BTreeSet<NetnsId>,
    echoes: Echoes,
    /// When the taps are to be moved next.
    retap: Timestamp,
    polling: bool,
    namespaces: Namespaces,
    asker: Asker,
    outbox: Outbox,
    health: Health,
    reorder: Reorder,
    /// Kept for its memory.
    drained: Vec<Event>,
    /// The tap saw a connection come up.
    came_up: bool,
    /// Dumps that were asked for and not answered.
    asked: BTreeSet<NetnsId>,
    /// First dumps that are awaited.
    first: BTreeSet<NetnsId>,
    /// When the last of them came.
    first_done: Option<Timestamp>,
    /// A dump failed or could not be asked for.
    repair: bool,
}

impl Reading {
    fn due(&self) -> Timestamp {
        let held = self.reorder.due().map(|at| at.after(TOGETHER));
        let start = self.first_done.filter(|_| !self.outbox.started());
        let start = start.map(|at| at.after(HOLD));
        [held, start, self.routes_due()]
            .into_iter()
            .flatten()
            .fold(self.retap, Timestamp::min)
    }

    fn drain(&mut self, route_news: &mut mpsc::Receiver<News>) {
        let wait = self.outbox.is_half_full();
        if !wait {
            self.take_waiting_routes(route_news);
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.let_routes_wait(wait);
            for _ in 0..DRAINS {
                if !kernel.drain(&mut self.drained) {
                    break;
                }
            }
        }
        self.look_up_routes();
        self.note_speakers();
        if wait {
            self.taps.put_off();
        } else {
            let moved = self.taps.drain(&mut self.drained);
            self.came_up |=
                self.polling && self.drained.iter().any(|event| is_syn_ack(&event.fact));
            self.retap_soon_if(moved);
        }
        self.echoes.drain(&mut self.drained);
        self.reorder.push(boottime_now(), self.drained.drain(..));
        if boottime_now() >= self.retap {
            self.retap();
        }
    }

    fn note(&mut self, fact: Fact) {
        let now = boottime_now();
        self.reorder.push(now, [Event::noticed(now, fact)]);
    }

    fn look_around(&mut self) {
        for step in self.namespaces.poll(boottime_now()) {
            self.take_step(step);
        }
        if self.first.is_empty() && self.first_done.is_none() {
            // No namespace is there yet; that is no reason to wait.
            self.first_done = Some(boottime_now());
        }
        let unread: Vec<(NetnsId, Arc<Netns>)> = { self.namespaces.observed() }
            .filter(|(netns, _)| !self.routes.reads(*netns))
            .map(|(netns, handle)| (netns, Arc::clone(handle)))
            .collect();
        for (netns, handle) in unread {
            self.read_routes(netns, &handle);
        }
        if std::mem::take(&mut self.repair) && !self.polling {
            self.dump_all();
        }
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Begin {
                netns,
                node,
                handle,
            } => {
                info!(node, inode = handle.inode(), "observing");
                self.note(Fact::NodeObserved { netns, node });
                self.observe(netns, &handle);
                if self.first_done.is_none() {
                    self.first.insert(netns);
                }
                if let Err(error) = self.taps.begin(netns, &handle) {
                    self.tell_tap(netns, Tapped::failed(error));
                }
                self.retap_soon_if(true);
                self.read_routes(netns, &handle);
                // Said before the first echo is wanted, which may be in the middle of an outage.
                let echoes = self.echoes.can_send(&handle).err();
                let reason = echoes.map(|error| format!("{error:#}"));
                self.tell_source(netns, SourceStatus::echo, reason);
                self.dump(netns);
            }
            Step::LetGo { netns } => {
                info!(netns = netns.0, "namespace lost its name; letting go of it");
                self.taps.end(netns);
                self.routes.end(netns);
                self.echoes.end(netns);
                self.asker.ask(Question::Close(netns));
                self.asked.remove(&netns);
                self.first.remove(&netns);
            }
            Step::End { netns, node, inode } => {
                info!(node, "no longer observing");
                self.health.forget_node(&node);
                self.probed.remove(&netns);
                self.note(Fact::NodeGone { netns });
                if let (Some(kernel), Some(inode)) = (&mut self.kernel, inode)
                    && let Err(error) = kernel.unobserve(inode)
                {
                    warn!(
                        node,
                        "kernel filter keeps a namespace that is gone: {error:#}"
                    );
                }
            }
        }
    }

    /// Has the probes observe a namespace.
    fn observe(&mut self, netns: NetnsId, handle: &Netns) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        match kernel.observe(handle.inode(), netns) {
            Ok(()) if kernel.tells_routes() => {
                self.probed.insert(netns);
            }
            Ok(()) => {}
            Err(error) => warn!(
                netns = netns.0,
                "kernel probes cannot observe: {:#}",
                anyhow!(error)
            ),
        }
    }

    fn dump_all(&mut self) {
        let all: Vec<NetnsId> = self.namespaces.observed().map(|(netns, _)| netns).collect();
        for netns in all {
            self.dump(netns);
        }
    }

    fn dump(&mut self, netns: NetnsId) {
        let mut observed = self.namespaces.observed();
        let Some((_, handle)) = observed.find(|(number, _)| *number == netns) else {
            return;
        };
        let handle = Arc::clone(handle);
        // A dump that is still under way will do.
        if self.asked.insert(netns) && !self.asker.ask(Question::Dump { netns, handle }) {
            self.asked.remove(&netns);
            self.repair = true;
        }
    }

    fn take_reply(&mut self, reply: Reply) {
        match reply {
            Reply::Dumped(netns, answer) => {
                self.asked.remove(&netns);
                let failure = match answer {
                    Ok(Dump {
                        mut events,
                        speakers,
                    }) => {
                        self.watch_speakers(netns, &speakers);
                        self.reconcile(&mut events);
                        self.reorder.push(boottime_now(), events);
                        None
                    }
                    Err(error) => Some(format!("{error:#}")),
                };
                if self.first.remove(&netns) && self.first.is_empty() {
                    self.first_done = Some(boottime_now());
                }
                self.tell_sock_diag(netns, failure);
            }
            Reply::Inspected(_, Ok(event)) => {
                let mut events = [event];
                self.reconcile(&mut events);
                self.reorder.push(boottime_now(), events);
            }
            Reply::Inspected(netns, Err(error)) => {
                self.tell_sock_diag(netns, Some(format!("{error:#}")));
            }
        }
    }

    fn reconcile(&mut self, events: &mut [Event]) {
        if let Some(kernel) = &mut self.kernel {
            kernel.reconcile(events);
        }
    }

    fn tell_sock_diag(&mut self, netns: NetnsId, failure: Option<String>) {
        self.repair |= failure.is_some();
        if self.tell_source(netns, SourceStatus::sock_diag, failure) {
            self.note(Fact::Lost {
                stage: LossStage::SockDiag,
                count: 1,
            });
        }
    }

    /// Tells how a namespace's source does now; whether it is a failure, and news: one that stays is
    /// told and counted once.
    fn tell_source(
        &self,
        netns: NetnsId,
        status: fn(&str, Option<String>) -> SourceStatus,
        failure: Option<String>,
    ) -> bool {
        let Some(node) = self.namespaces.node(netns) else {
            return false;
        };
        let status = status(node, failure);
        if !self.health.set(status.clone()) {
            return false;
        }
        let Some(reason) = status.reason else {
            return false;
        };
        warn!(node, "{}: {reason}", status.name);
        true
    }

    /// Sends an echo; a namespace that is gone answers none.
    fn echo(&mut self, netns: NetnsId, target: IpAddr, token: u64) {
        let mut observed = self.namespaces.observed();
        let Some((_, handle)) = observed.find(|(number, _)| *number == netns) else {
            return;
        };
        let handle = Arc::clone(handle);
        let mut failed = Vec::new();
        let sent = self
            .echoes
            .send((netns, &handle), target, token, &mut failed);
        self.reorder.push(boottime_now(), failed);
        let reason = sent.err().map(|error| format!("{error:#}"));
        self.tell_source(netns, SourceStatus::echo, reason);
    }

    fn obey(&mut self, wish: Control) {
        let kernel = self.kernel.as_mut();
        let mut moved = false;
        let done = match wish {
            Control::Dump(netns) => return self.dump(netns),
            Control::DumpRoutes(netns, ipv6, since) => {
                return self.routes.dump(netns, ipv6, since);
            }
            Control::Echo(netns, target, token) => return self.echo(netns, target, token),
            Control::Watch(netns, prefix) => kernel.map(|kernel| kernel.watch(netns, prefix)),
            Control::Unwatch(netns, prefix) => {
                kernel.map(|kernel| kernel.unwatch(netns, prefix, &mut self.drained))
            }
            Control::Trust(netns, address) => {
                moved = self.taps.follow(netns, address);
                kernel.map(|kernel| kernel.trust(netns, address))
            }
            Control::Distrust(netns, address) => {
                self.taps.unfollow(netns, address);
                kernel.map(|kernel| kernel.distrust(netns, address))
            }
        };
        self.retap_soon_if(moved);
        if let Some(Err(error)) = done {
            warn!(?wish, "kernel filter: {:#}", anyhow!(error));
            self.note(Fact::Lost {
                stage: LossStage::Map,
                count: 1,
            });
        }
    }

    /// Sends what can no longer be overtaken, all sources having been drained at `drained`.
    fn hand_over(&mut self, drained: Timestamp) {
        let mut events = Vec::new();
        self.reorder.release(drained, &mut events);
        let started = !self.outbox.started()
            && self
                .first_done
                .is_some_and(|done| done.after(HOLD) <= drained);
        self.outbox.send(events, started);
    }

    fn finish(&mut self) {
        let mut events = Vec::new();
        self.reorder.flush(&mut events);
        self.outbox.send(events, false);
    }
}

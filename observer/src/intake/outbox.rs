//! What is on its way to the core: batches of bounded size, and an account of what did not fit.

use std::collections::BTreeMap;

use observer_core::{
    event::{Event, Fact, LossStage},
    time::Timestamp,
};

use super::queue::{Batch, Queue};
use crate::{
    source::clock::boottime_now,
    weight::{payload_octets, rows},
};

/// Events in one batch at most, or routes, but for those of the last event in it.
const BATCH: usize = 512;
/// Octets of payload in one batch at most, but for the last segment in it.
const BATCH_OCTETS: usize = 1 << 20;

/// The way to the core's task. It never waits: what does not fit is counted.
pub(super) struct Outbox {
    queue: Queue,
    /// What did not fit into the queue and is not yet reported.
    unsent: Unsent,
    /// The core was told that the first dumps are complete.
    started: bool,
}

impl Outbox {
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            unsent: Unsent::default(),
            started: false,
        }
    }

    /// Whether the core was told that the first dumps are complete.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Whether what can wait in the kernel has to.
    pub fn is_half_full(&self) -> bool {
        self.queue.is_half_full()
    }

    /// Sends `events`, the last of them with `started`.
    pub fn send(&mut self, mut events: Vec<Event>, started: bool) {
        if !self.unsent.is_empty() && !self.queue.is_full() {
            events.splice(0..0, self.unsent.take(boottime_now()));
        }
        while !events.is_empty() || (started && !self.started) {
            let rest = events.split_off(batch_length(&events));
            let started = started && rest.is_empty();
            match self.queue.offer(Batch::new(events, started)) {
                Ok(()) => self.started |= started,
                Err(refused) => {
                    let events = refused.events.into_iter().chain(rest);
                    events.for_each(|event| self.unsent.count(&event.fact));
                    return;
                }
            }
            events = rest;
        }
    }
}

/// Events that did not fit into the queue: those that count something are not lost with it.
#[derive(Debug, Default)]
struct Unsent {
    strangers: u64,
    lost: BTreeMap<LossStage, u64>,
}

impl Unsent {
    fn is_empty(&self) -> bool {
        self.strangers == 0 && self.lost.is_empty()
    }

    fn count(&mut self, fact: &Fact) {
        if let Fact::Strangers { connections } = fact {
            self.strangers += connections;
            return;
        }
        let (stage, count) = if let Fact::Lost { stage, count } = fact {
            (*stage, *count)
        } else {
            (LossStage::Queue, 1)
        };
        *self.lost.entry(stage).or_default() += count;
    }

    /// What is to be told, once.
    fn take(&mut self, now: Timestamp) -> Vec<Event> {
        let Self { strangers, lost } = std::mem::take(self);
        let lost = lost
            .into_iter()
            .map(|(stage, count)| Fact::Lost { stage, count });
        let strangers = (strangers > 0).then_some(Fact::Strangers {
            connections: strangers,
        });
        let facts = lost.chain(strangers);
        facts.map(|fact| Event::noticed(now, fact)).collect()
    }
}

/// How many of `events` go into the next batch: so many events, routes or octets of payload, that the
/// queue is bounded in memory too.
fn batch_length(events: &[Event]) -> usize {
    let (mut octets, mut routes) = (0, 0);
    for (number, event) in events.iter().enumerate().take(BATCH) {
        octets += payload_octets(&event.fact);
        routes += rows(&event.fact);
        if octets > BATCH_OCTETS || routes > BATCH {
            return number + 1;
        }
    }
    events.len().min(BATCH)
}

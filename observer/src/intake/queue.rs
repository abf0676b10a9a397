//! The queue of the core's task: bounded by what its batches hold, not by their number, for they are as small as
//! the pauses in which they came. So it can take in all of a burst that a busy core has yet to come to.

use std::sync::Arc;

use observer_core::event::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::weight;

/// Octets that may wait.
const OCTETS: u32 = 32 << 20;

/// Some events in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events.
    pub events: Vec<Event>,
    /// With this, the first dumps are complete.
    pub started: bool,
    /// Its part of the queue, until it is dropped.
    room: Option<OwnedSemaphorePermit>,
}

impl Batch {
    /// Not yet in a queue.
    pub(super) const fn new(events: Vec<Event>, started: bool) -> Self {
        Self {
            events,
            started,
            room: None,
        }
    }

    /// What it takes of the queue: at least the octets that it holds, but never more than all.
    fn octets(&self) -> u32 {
        let events = self.events.iter();
        let octets = events.map(|event| size_of::<Event>() + weight::octets(&event.fact));
        u32::try_from(octets.sum::<usize>()).map_or(OCTETS, |octets| octets.min(OCTETS))
    }
}

/// The intake's end.
#[derive(Clone, Debug)]
pub struct Queue {
    batches: mpsc::UnboundedSender<Batch>,
    free: Arc<Semaphore>,
}

/// A queue, and the core's end of it.
pub fn queue() -> (Queue, mpsc::UnboundedReceiver<Batch>) {
    let (batches, out) = mpsc::unbounded_channel();
    let free = Arc::new(Semaphore::new(OCTETS as usize));
    (Queue { batches, free }, out)
}

impl Queue {
    /// Puts a batch in, or gives it back when it does not fit or nobody will take it.
    pub(super) fn offer(&self, mut batch: Batch) -> Result<(), Batch> {
        let room = Arc::clone(&self.free).try_acquire_many_owned(batch.octets());
        match room {
            Ok(room) => batch.room = Some(room),
            Err(_) => return Err(batch),
        }
        self.batches.send(batch).map_err(|error| error.0)
    }

    /// Whether nothing more fits in.
    pub(super) fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// Whether what can wait in the kernel has to.
    pub(super) fn is_half_full(&self) -> bool {
        self.free.available_permits() < OCTETS as usize / 2
    }

    /// Waits until at least half of the queue is free: what can wait in the kernel does until then, because a
    /// full queue would cost sessions' evidence. None when the core has stopped.
    pub(super) async fn room(&self) -> Option<()> {
        drop(self.free.acquire_many(OCTETS / 2).await.ok()?);
        (!self.batches.is_closed()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use observer_core::{
        event::{Fact, NetnsId},
        time::Timestamp,
    };
    use tokio::time::timeout;

    use super::*;

    fn stranger() -> Event {
        Event::noticed(Timestamp::default(), Fact::Strangers { connections: 1 })
    }

    /// Of a session's data, so many octets.
    fn segment(octets: usize) -> Event {
        let end = "10.0.0.1:179".parse().unwrap();
        let fact = Fact::Segment {
            netns: NetnsId(1),
            local: end,
            remote: end,
            interface: 0,
            sent: false,
            seq: 0,
            ack: None,
            syn: false,
            fin: false,
            rst: false,
            payload: vec![0; octets].into(),
            missing: 0,
        };
        Event::noticed(Timestamp::default(), fact)
    }

    #[tokio::test]
    async fn many_small_batches_fit_and_few_large_ones_fill_it() {
        let (queue, mut out) = queue();
        for _ in 0..10_000 {
            queue.offer(Batch::new(vec![stranger()], false)).unwrap();
        }
        assert!(!queue.is_half_full());
        let large = || Batch::new(vec![segment(15 << 20)], false);
        queue.offer(large()).unwrap();
        queue.offer(large()).unwrap();
        assert!(queue.is_half_full());
        let refused = queue.offer(large()).unwrap_err();
        assert_eq!(refused.events.len(), 1);
        // What is taken out makes room when it has been applied.
        for _ in 0..10_001 {
            drop(out.recv().await.unwrap());
        }
        assert!(!queue.is_half_full());
        queue.offer(large()).unwrap();
    }

    #[tokio::test]
    async fn one_that_is_larger_than_all_fits_into_an_empty_queue() {
        let (queue, mut out) = queue();
        queue
            .offer(Batch::new(vec![segment(40 << 20)], false))
            .unwrap();
        assert!(queue.is_full());
        drop(out.recv().await.unwrap());
        assert!(!queue.is_full());
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told_when_there_is_some_and_when_nobody_takes_any_more() {
        let (queue, mut out) = queue();
        queue
            .offer(Batch::new(vec![segment(20 << 20)], false))
            .unwrap();
        let soon = std::time::Duration::from_millis(20);
        assert!(timeout(soon, queue.room()).await.is_err());
        let batch = out.recv().await.unwrap();
        assert!(
            timeout(soon, queue.room()).await.is_err(),
            "not yet applied"
        );
        drop(batch);
        assert_eq!(queue.room().await, Some(()));
        drop(out);
        assert_eq!(queue.room().await, None);
    }
}

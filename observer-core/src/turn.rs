//! One turn of the machine: what every part of it may use while one event or deadline is handled.

use std::time::Duration;

use crate::{
    change::{Change, ChangeRecord, Output, Request},
    config::CoreConfig,
    deadline::{Deadlines, Due},
    event::{Event, LossStage},
    inventory::Inventory,
    loss::{self, Losses},
    notice::Notice,
    time::{Clock, Timestamp, WallOffset},
    totals::Totals,
};

/// What is at hand during one turn.
pub(crate) struct Turn<'a> {
    pub config: &'a CoreConfig,
    /// The `now` of the call.
    pub now: Timestamp,
    /// When what is being handled took effect: the event's latest possible time, or the deadline's.
    pub at: Timestamp,
    /// When it may have taken effect at the earliest.
    pub earliest: Timestamp,
    /// Whether the kernel stamped `at` where it happened.
    pub exact: bool,
    pub wall: WallOffset,
    pub inventory: &'a Inventory,
    pub deadlines: &'a mut Deadlines,
    pub totals: &'a mut Totals,
    pub losses: &'a mut Losses,
    pub seq: &'a mut u64,
    pub out: &'a mut Vec<Output>,
    /// What the parts of a node tell whoever correlates.
    pub notices: &'a mut Vec<Notice>,
}

impl Turn<'_> {
    /// From here on `event` is what is being handled. A stamp later than `now` counts as `now`.
    pub fn take_time_of(&mut self, event: &Event) {
        self.at = event.occurred.latest.min(self.now);
        self.earliest = event.occurred.earliest.min(self.at);
        self.exact = matches!(event.occurred.clock, Clock::Kernel);
    }

    /// Tells `change` of `node`; an empty node is the agent as a whole.
    pub fn tell(&mut self, node: &str, change: Change) {
        *self.seq = self.seq.saturating_add(1);
        self.out.push(Output::Change(ChangeRecord {
            seq: *self.seq,
            at: self.at,
            time: self.wall.wall(self.at),
            node: node.to_owned(),
            change,
        }));
    }

    /// Asks the edges.
    pub fn ask(&mut self, request: Request) {
        self.out.push(Output::Request(request));
    }

    /// Counts a loss; tells it, at once or with those that follow.
    pub fn lost(&mut self, stage: LossStage, count: u64) {
        self.totals.count_lost(stage, count);
        let told = self.losses.take_in(stage, count);
        self.tell_lost(stage, told);
    }

    /// The time for which losses of `stage` were held back is over.
    pub fn losses_due(&mut self, stage: LossStage) {
        let told = self.losses.release(stage);
        self.tell_lost(stage, told);
    }

    fn tell_lost(&mut self, stage: LossStage, told: Option<u64>) {
        if let Some(count) = told {
            self.tell("", Change::Lost { stage, count });
            let next = self.again(loss::HELD_BACK);
            self.deadlines.set(Due::Losses(stage), next);
        }
    }

    /// `at` on both clocks.
    pub fn moment(&self) -> Moment {
        Moment {
            at: Some(self.at),
            wall: self.wall.wall(self.at),
        }
    }

    /// The next of a series of moments `period` apart: after the present one, but never in the past,
    /// so that a machine that was suspended does not catch up one period at a time.
    pub fn again(&self, period: Duration) -> Timestamp {
        let period = period.max(Duration::from_millis(1));
        let next = self.at.after(period);
        if next > self.now {
            next
        } else {
            self.now.after(period)
        }
    }
}

/// A moment on the wall, and on our clock if it lies in this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub at: Option<Timestamp>,
    pub wall: jiff::Timestamp,
}

impl Moment {
    /// Restored from the state directory: another boot's clock means nothing here.
    pub const fn restored(wall: jiff::Timestamp) -> Self {
        Self { at: None, wall }
    }

    /// How long until `later`; by our clock where it can say, because walls are set.
    pub fn until(self, later: Self) -> Duration {
        match (self.at, later.at) {
            (Some(from), Some(to)) => to.since(from),
            (None, _) | (_, None) => {
                Duration::try_from(later.wall.duration_since(self.wall)).unwrap_or_default()
            }
        }
    }
}

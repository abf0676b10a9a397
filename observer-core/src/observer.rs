//! The state machine: one owner of everything known, fed one event at a time.

use crate::{
    change::Output,
    config::CoreConfig,
    event::Event,
    peer::{Flap, PeerView, SavedPeer},
    time::Timestamp,
};

/// Everything the agent knows.
#[derive(Debug)]
pub struct Observer {
    config: CoreConfig,
}

impl Observer {
    /// Knows nothing yet.
    pub fn new(config: CoreConfig) -> Self {
        Self { config }
    }

    /// Takes in `event` at `now` (never less than in the call before; deadlines that are due run
    /// first) and appends what follows from it to `out`.
    pub fn apply(&mut self, now: Timestamp, event: &Event, out: &mut Vec<Output>) {
        let _ = (now, event, out, &self.config);
    }

    /// When [`Fact::Tick`](crate::event::Fact::Tick) is needed at the latest, if nothing else comes
    /// before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// Every known peer, ordered by node and address, as of `now`.
    pub fn peers(&self, now: Timestamp) -> Vec<PeerView> {
        let _ = now;
        Vec::new()
    }

    /// The flaps that are remembered, newest last.
    pub fn flaps(&self) -> Vec<Flap> {
        Vec::new()
    }

    /// What the state directory should remember, by node.
    pub fn save(&self) -> Vec<(String, Vec<SavedPeer>)> {
        Vec::new()
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
}

/// Counts since the start, for metrics without a peer label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// By node: flaps by the cause's label; every label of [`Cause::LABELS`](crate::cause::Cause::LABELS) is there.
    pub flaps_by_cause:
        std::collections::BTreeMap<String, std::collections::BTreeMap<&'static str, u64>>,
    /// Completed inbound connections of strangers.
    pub strangers: u64,
    /// Events lost, by stage.
    pub lost: std::collections::BTreeMap<crate::event::LossStage, u64>,
    /// Dumps that replaced what was lost.
    pub resyncs: u64,
    /// By node: SYN to TCP's ESTABLISHED, both stamped by the kernel.
    pub establish: std::collections::BTreeMap<String, Histogram>,
}

/// A cumulative histogram in seconds with fixed bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending, without +Inf.
    pub bounds: &'static [f64],
    /// Observations at or below each bound (not cumulative), and above the last as the last entry.
    pub counts: Vec<u64>,
    /// Sum of all observations in seconds.
    pub sum: f64,
}

//! Counts of the probing of targets, for metrics without a peer label.

use std::{collections::BTreeMap, time::Duration};

use crate::totals::Histogram;

/// Upper bounds in seconds of round trips: from pods of one rack to what counts as lost.
const RTT_BOUNDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0,
];

/// What became of a probe.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ProbeResult {
    /// The target answered in time.
    Answered,
    /// Somebody, perhaps this node's own routes, said that it cannot be reached.
    Unreachable,
    /// No answer in time.
    Lost,
    /// It could not be sent, which says nothing about the target.
    Unsent,
}

impl ProbeResult {
    /// Every result: their counters exist from the start.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Unreachable, Self::Lost, Self::Unsent];

    /// The `result` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::Unsent => "unsent",
        }
    }
}

/// What became of one node's probes.
#[derive(Clone, Debug, PartialEq)]
pub struct ReachTotals {
    /// How many, by result; every result is there.
    pub probes: BTreeMap<ProbeResult, u64>,
    /// Round trips of those that were answered.
    pub rtt: Histogram,
}

impl Default for ReachTotals {
    fn default() -> Self {
        Self {
            probes: ProbeResult::ALL.into_iter().map(|one| (one, 0)).collect(),
            rtt: Histogram::new(RTT_BOUNDS),
        }
    }
}

impl ReachTotals {
    pub(crate) fn count(&mut self, result: ProbeResult, many: u64) {
        let count = self.probes.entry(result).or_default();
        *count = count.saturating_add(many);
    }

    pub(crate) fn answered(&mut self, rtt: Duration) {
        self.count(ProbeResult::Answered, 1);
        self.rtt.observe(rtt);
    }
}

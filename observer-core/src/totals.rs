//! Counts since the start that belong to no single peer.

use std::{collections::BTreeMap, time::Duration};

use crate::{cause::Cause, event::LossStage};

/// Upper bounds in seconds of the SYN-to-ESTABLISHED histogram: from a LAN's round trip to the
/// fifth SYN.
const ESTABLISH_BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Counts since the start, for metrics without a peer label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// By node: flaps by the cause's label; every label of [`Cause::LABELS`] is there.
    pub flaps_by_cause: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Completed inbound connections of strangers.
    pub strangers: u64,
    /// Events lost, by stage.
    pub lost: BTreeMap<LossStage, u64>,
    /// Dumps that replaced what was lost.
    pub resyncs: u64,
    /// By node: SYN to TCP's ESTABLISHED, both stamped by the kernel.
    pub establish: BTreeMap<String, Histogram>,
}

impl Totals {
    /// All stages at 0, no node yet.
    pub(crate) fn new() -> Self {
        Self {
            lost: LossStage::ALL.into_iter().map(|stage| (stage, 0)).collect(),
            ..Self::default()
        }
    }

    /// Makes `node`'s counters exist.
    pub(crate) fn add_node(&mut self, node: &str) {
        self.establish
            .entry(node.to_owned())
            .or_insert_with(|| Histogram::new(ESTABLISH_BOUNDS));
        self.flaps_by_cause
            .entry(node.to_owned())
            .or_insert_with(|| Cause::LABELS.into_iter().map(|label| (label, 0)).collect());
    }

    pub(crate) fn count_flap(&mut self, node: &str, cause: &Cause) {
        self.add_node(node);
        if let Some(causes) = self.flaps_by_cause.get_mut(node) {
            let count = causes.entry(cause.label()).or_default();
            *count = count.saturating_add(1);
        }
    }

    pub(crate) fn count_lost(&mut self, stage: LossStage, lost: u64) {
        let count = self.lost.entry(stage).or_default();
        *count = count.saturating_add(lost);
    }

    pub(crate) fn observe_establish(&mut self, node: &str, took: Duration) {
        self.add_node(node);
        if let Some(histogram) = self.establish.get_mut(node) {
            histogram.observe(took);
        }
    }
}

/// A histogram in seconds with fixed bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending, without +Inf.
    pub bounds: &'static [f64],
    /// Observations at or below each bound (not cumulative), and above the last as the last entry.
    pub counts: Vec<u64>,
    /// Sum of all observations in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Empty.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts `took` once.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let slot = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(slot) {
            *count = count.saturating_add(1);
        }
        self.sum += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_lowest_bucket_that_holds_it() {
        let mut histogram = Histogram::new(&[0.001, 1.0]);
        for millis in [1, 2, 1_000, 1_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!(histogram.counts, [1, 2, 1]);
        assert!((histogram.sum - 2.004).abs() < 1e-9);
    }

    #[test]
    fn every_cause_and_stage_exists_before_anything_happened() {
        let mut totals = Totals::new();
        totals.add_node("n1");
        assert_eq!(totals.flaps_by_cause["n1"].len(), Cause::LABELS.len());
        assert_eq!(totals.lost.len(), LossStage::ALL.len());
        assert!(totals.lost.values().all(|lost| *lost == 0));
    }
}

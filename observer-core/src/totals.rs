//! Counts since the start that belong to no single peer.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    bgp::{DecodeErrorKind, NotificationFacts, iana},
    cause::Cause,
    conversation::Direction,
    event::LossStage,
    exchange::Sides,
    fib::totals::FibTotals,
    incident::{Incident, record::Verdict},
    message_counts::MessageCounts,
    reach::ReachTotals,
};

/// Upper bounds in seconds of the SYN-to-ESTABLISHED histogram: from a LAN's round trip to the
/// fifth SYN.
const ESTABLISH_BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Upper bounds in seconds of the time from Established to End-of-RIB: from a mesh peer's few routes
/// to a full table and a deferred route selection (RFC 4724 §4.1).
const END_OF_RIB_BOUNDS: &[f64] = &[
    0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
/// Upper bounds in seconds between two KEEPALIVEs: from a 3 s hold time to the largest usual one.
const KEEPALIVE_BOUNDS: &[f64] = &[
    1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 90.0, 120.0, 180.0, 240.0,
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
    /// By node: incidents that are over, by verdict; every verdict is there.
    pub incidents: BTreeMap<String, BTreeMap<Verdict, u64>>,
    /// By node: restarts of several nodes that overlapped, as far as it saw.
    pub concurrent_restarts: BTreeMap<String, u64>,
    /// By node and peer: seconds for which targets behind it were unreachable, at least.
    pub unreachable: BTreeMap<(String, String), f64>,
    /// By node: what the tap showed.
    pub wire: BTreeMap<String, WireTotals>,
    /// By node: what became of its probes of targets.
    pub reach: BTreeMap<String, ReachTotals>,
    /// By node: what became of its routes.
    pub fib: BTreeMap<String, FibTotals>,
}

/// What the tap showed of one node's connections.
#[derive(Clone, Debug, PartialEq)]
pub struct WireTotals {
    /// Messages of known peers' connections.
    pub messages: Sides<MessageCounts>,
    /// NOTIFICATIONs by code and subcode, those that the registry does not know as none; every pair
    /// that it knows is there.
    pub notifications: Sides<BTreeMap<NotificationKey, u64>>,
    /// Things wrong in messages; every label of [`DecodeErrorKind::LABELS`] is there.
    pub decode_errors: BTreeMap<&'static str, u64>,
    /// Segments.
    pub tap: TapTotals,
    /// Established to End-of-RIB received.
    pub end_of_rib: Histogram,
    /// Between two KEEPALIVEs received on one connection.
    pub keepalive_interval: Histogram,
}

/// A NOTIFICATION's code and subcode; what the registry does not know is none.
pub type NotificationKey = (Option<u8>, Option<u8>);

/// What became of segments.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TapTotals {
    /// Of known peers' connections, each once.
    pub segments: u64,
    /// Of no connection of a known peer: through this host, of strangers, or too early by too much.
    pub transit: u64,
    /// Seen on another interface already.
    pub duplicates: u64,
    /// Whose octets differ from those seen first.
    pub conflicts: u64,
    /// That cannot be of their connection: forged, or of an older one.
    pub out_of_window: u64,
    /// Octets that a peer sent and this node's kernel never took.
    pub unacknowledged: u64,
    /// Holes: octets that the kernel took and the tap missed.
    pub gaps: u64,
    /// Messages of which the connection's end left only the beginning.
    pub unfinished: u64,
    /// IP fragments passed over.
    pub fragments: u64,
    /// Whose checksum is wrong: damaged or forged, and dropped by the kernel.
    pub corrupt: u64,
}

impl Default for WireTotals {
    fn default() -> Self {
        let known = iana::notifications().flat_map(|(code, subcode)| {
            let code = Some(code);
            [(code, Some(subcode)), (code, None)]
        });
        let notifications: BTreeMap<NotificationKey, u64> =
            known.chain([(None, None)]).map(|key| (key, 0)).collect();
        Self {
            messages: Sides::default(),
            notifications: Sides {
                sent: notifications.clone(),
                received: notifications,
            },
            decode_errors: DecodeErrorKind::LABELS
                .into_iter()
                .map(|label| (label, 0))
                .collect(),
            tap: TapTotals::default(),
            end_of_rib: Histogram::new(END_OF_RIB_BOUNDS),
            keepalive_interval: Histogram::new(KEEPALIVE_BOUNDS),
        }
    }
}

impl WireTotals {
    pub(crate) fn count_notification(
        &mut self,
        direction: Direction,
        notification: &NotificationFacts,
    ) {
        let (code, subcode) = (notification.code, notification.subcode);
        let known = iana::error_code::name(code).is_some();
        let specific = subcode == 0 || iana::error_subcode_name(code, subcode).is_some();
        let key = (
            known.then_some(code),
            (known && specific).then_some(subcode),
        );
        let count = self.notifications.of_mut(direction).entry(key).or_default();
        *count = count.saturating_add(1);
    }
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
        self.wire.entry(node.to_owned()).or_default();
        self.incidents.entry(node.to_owned()).or_insert_with(|| {
            Verdict::ALL
                .into_iter()
                .map(|verdict| (verdict, 0))
                .collect()
        });
        self.concurrent_restarts.entry(node.to_owned()).or_default();
        self.reach.entry(node.to_owned()).or_default();
        self.fib.entry(node.to_owned()).or_default();
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

    /// An incident is over.
    pub(crate) fn incident_closed(&mut self, incident: &Incident) {
        self.add_node(&incident.node);
        if let Some(verdicts) = self.incidents.get_mut(&incident.node) {
            let count = verdicts.entry(incident.verdict).or_default();
            *count = count.saturating_add(1);
        }
        // A peer's targets are silent together: the one that was so for longest counts.
        let mut longest: BTreeMap<&str, f64> = BTreeMap::new();
        for target in &incident.targets {
            let seconds = target.unreachable_seconds.map_or(0.0, |span| span.min);
            let most = longest.entry(&target.peer).or_default();
            *most = most.max(seconds);
        }
        for (peer, seconds) in longest {
            let key = (incident.node.clone(), peer.to_owned());
            *self.unreachable.entry(key).or_default() += seconds;
        }
    }

    /// Restarts of several nodes overlap.
    pub(crate) fn count_concurrent_restarts(&mut self, node: &str) {
        let count = self.concurrent_restarts.entry(node.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// What became of `node`'s probes.
    pub(crate) fn reach(&mut self, node: &str) -> &mut ReachTotals {
        self.reach.entry(node.to_owned()).or_default()
    }

    /// What the tap showed of `node`.
    pub(crate) fn wire(&mut self, node: &str) -> &mut WireTotals {
        self.wire.entry(node.to_owned()).or_default()
    }

    /// What became of `node`'s routes.
    pub(crate) fn fib(&mut self, node: &str) -> &mut FibTotals {
        // Every route asks: no new key each time.
        if !self.fib.contains_key(node) {
            self.fib.insert(node.to_owned(), FibTotals::default());
        }
        self.fib.entry(node.to_owned()).or_default()
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
        let received = &totals.wire["n1"].notifications.received;
        for key in [
            (Some(6), Some(2)),
            (Some(2), Some(11)),
            (Some(6), None),
            (None, None),
        ] {
            assert_eq!(received.get(&key), Some(&0), "{key:?}");
        }
        assert_eq!(received.get(&(Some(6), Some(99))), None);
    }
}

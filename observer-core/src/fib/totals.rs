//! Counts of one node's forwarding since the start.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    event::{
        Process,
        forwarding::{Protocol, RouteOp, RouteOrigin},
    },
    totals::Histogram,
};

/// Upper bounds in seconds of a route's absence: from BIRD's delete and add of a replacement to a
/// restart timer.
const GAP_BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
/// Upper bounds in seconds from an UPDATE to the kernel's route.
const PROGRAM_BOUNDS: &[f64] = &[
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 30.0, 240.0,
];

/// Counts of one node's forwarding.
#[derive(Clone, Debug, PartialEq)]
pub struct FibTotals {
    /// Changes, by what was done, of whose protocol, and by whose will. A delete that is followed by
    /// an add within a second is one replace.
    pub changes: BTreeMap<(RouteOp, &'static str, RouteOrigin), u64>,
    /// Watched routes that somebody else removed, by who.
    pub foreign_deletes: BTreeMap<&'static str, u64>,
    /// How long watched routes were gone that came back.
    pub gap: BTreeMap<&'static str, Histogram>,
    /// From an UPDATE that announces to the route, both stamped by the kernel.
    pub update_to_fib: Histogram,
    /// From an UPDATE that withdraws to the route's end, likewise.
    pub withdraw_to_fib: Histogram,
    /// From a session's end to the end of its routes, likewise.
    pub down_to_withdraw: Histogram,
    /// Dumps that repaired what was lost or not told.
    pub resyncs: u64,
}

/// The `protocol` label: those that mean something here, everything else is `other`.
pub(crate) const fn label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::BIRD => "bird",
        Protocol::FELIX => "felix",
        Protocol::KERNEL => "kernel",
        Protocol::BOOT => "boot",
        Protocol(4) => "static",
        _ => "other",
    }
}

/// The labels of writers.
pub const WRITERS: [&str; 6] = [
    "kernel",
    "bird",
    "felix",
    "networkd",
    "networkmanager",
    "other",
];

/// The `writer` label of a process.
pub(crate) fn writer_label(writer: Option<&Process>) -> &'static str {
    let Some(process) = writer else {
        return "other";
    };
    match process.comm.as_str() {
        comm if comm.starts_with("kworker") || process.pid == 0 => "kernel",
        comm if comm.starts_with("bird") => "bird",
        comm if comm.starts_with("calico") || comm.starts_with("felix") => "felix",
        comm if comm.starts_with("systemd-network") => "networkd",
        comm if comm.starts_with("NetworkManager") => "networkmanager",
        _ => "other",
    }
}

impl Default for FibTotals {
    fn default() -> Self {
        let mut changes = BTreeMap::new();
        for protocol in ["bird", "felix"] {
            for op in [RouteOp::Added, RouteOp::Replaced] {
                changes.insert((op, protocol, RouteOrigin::Explicit), 0);
            }
            for origin in [RouteOrigin::Explicit, RouteOrigin::Silent] {
                changes.insert((RouteOp::Removed, protocol, origin), 0);
            }
        }
        Self {
            changes,
            foreign_deletes: WRITERS.into_iter().map(|writer| (writer, 0)).collect(),
            gap: ["bird", "felix"]
                .into_iter()
                .map(|protocol| (protocol, Histogram::new(GAP_BOUNDS)))
                .collect(),
            update_to_fib: Histogram::new(PROGRAM_BOUNDS),
            withdraw_to_fib: Histogram::new(PROGRAM_BOUNDS),
            down_to_withdraw: Histogram::new(PROGRAM_BOUNDS),
            resyncs: 0,
        }
    }
}

impl FibTotals {
    pub(crate) fn count(&mut self, op: RouteOp, protocol: Protocol, origin: RouteOrigin) {
        let count = self
            .changes
            .entry((op, label(protocol), origin))
            .or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn count_foreign(&mut self, writer: Option<&Process>) {
        let count = self
            .foreign_deletes
            .entry(writer_label(writer))
            .or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn observe_gap(&mut self, protocol: Protocol, gap: Duration) {
        self.gap
            .entry(label(protocol))
            .or_insert_with(|| Histogram::new(GAP_BOUNDS))
            .observe(gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_have_a_closed_set_of_labels() {
        let process = |pid, comm: &str| Process {
            pid,
            comm: comm.to_owned(),
        };
        for (writer, label) in [
            (None, "other"),
            (Some(process(0, "swapper/1")), "kernel"),
            (Some(process(9, "kworker/u8:3")), "kernel"),
            (Some(process(9, "bird6")), "bird"),
            (Some(process(9, "calico-node")), "felix"),
            (Some(process(9, "systemd-network")), "networkd"),
            (Some(process(9, "NetworkManager")), "networkmanager"),
            (Some(process(9, "ip")), "other"),
        ] {
            assert_eq!(writer_label(writer.as_ref()), label);
            assert!(WRITERS.contains(&label));
        }
    }
}

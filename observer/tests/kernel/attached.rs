//! Which probe is attached by which kind, so that no fallback hides.

use observer::source::kernel::{KernelOptions, KernelSource, ProbeStatus};

use crate::lab::{can_run, traces};

const TRACEPOINTS: [&str; 8] = [
    "speaker_exit",
    "speaker_signal",
    "speaker_oom",
    "tcp_state",
    "tcp_error",
    "reset_received",
    "reset_sent",
    "retransmit",
];
const FUNCTIONS: [(&str, &str); 5] = [
    ("route_removed", "fentry"),
    ("route_written", "fexit"),
    ("route_described", "fexit"),
    ("route6_removed", "fexit"),
    ("route6_written", "fexit"),
];

#[test]
fn each_probe_is_attached_by_its_kind() {
    if !can_run() {
        return;
    }
    let (_source, statuses) = KernelSource::start(&KernelOptions {
        ports: vec![179],
        routes: true,
        ..KernelOptions::default()
    });
    let named = |name: &str| -> &ProbeStatus {
        let mut found = statuses.iter().filter(|status| status.name == name);
        let status = found.next().expect("a status");
        assert!(found.next().is_none(), "{name} is told twice");
        status
    };
    assert_eq!(statuses.len(), TRACEPOINTS.len() + 1 + FUNCTIONS.len());
    // Its helper and the reasons are not there on every kernel; then it says so.
    let dropped = named("packet_dropped");
    assert_eq!(dropped.attached, dropped.reason.is_none(), "{dropped:?}");
    assert!(dropped.attached || !traces(), "{dropped:?}");
    for name in TRACEPOINTS {
        let status = named(name);
        assert_eq!(
            (status.kind, status.attached),
            ("tp_btf", true),
            "{status:?}"
        );
    }
    let refused = named("route_removed").reason.clone();
    assert!(!traces() || refused.is_none(), "{refused:?}");
    for (name, kind) in FUNCTIONS {
        let status = named(name);
        if refused.is_none() {
            assert_eq!((status.kind, status.attached), (kind, true), "{status:?}");
        } else {
            // All of them or none, and all say why.
            assert_eq!((status.kind, status.attached), ("off", false), "{status:?}");
            assert_eq!(status.reason, refused);
        }
    }
}

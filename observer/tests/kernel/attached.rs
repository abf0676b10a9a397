//! Which probe is attached by which kind, so that no fallback hides.

use observer::source::kernel::{KernelOptions, KernelSource, ProbeStatus, RouteProbes};

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
/// Each with its kind by fentry and fexit, and by kprobes.
const FUNCTIONS: [(&str, &str, &str); 7] = [
    ("route_removed", "fentry", "kprobe"),
    ("route_written", "fexit", "kretprobe"),
    ("route_described", "fexit", "kretprobe"),
    ("route_deleted", "fexit", "kretprobe"),
    ("route_flushed", "fexit", "kretprobe"),
    ("route6_removed", "fexit", "kretprobe"),
    ("route6_written", "fexit", "kretprobe"),
];

fn statuses(kind: RouteProbes) -> (Option<KernelSource>, Vec<ProbeStatus>) {
    KernelSource::start(&KernelOptions {
        ports: vec![179],
        routes: kind,
        ..KernelOptions::default()
    })
}

fn named<'a>(statuses: &'a [ProbeStatus], name: &str) -> &'a ProbeStatus {
    let mut found = statuses.iter().filter(|status| status.name == name);
    let status = found.next().expect("a status");
    assert!(found.next().is_none(), "{name} is told twice");
    status
}

#[test]
fn each_probe_is_attached_by_its_kind() {
    if !can_run() {
        return;
    }
    let (_source, statuses) = statuses(RouteProbes::Auto);
    assert_eq!(statuses.len(), TRACEPOINTS.len() + 1 + FUNCTIONS.len());
    // Its helper and the reasons are not there on every kernel; then it says so.
    let dropped = named(&statuses, "packet_dropped");
    assert_eq!(dropped.attached, dropped.reason.is_none(), "{dropped:?}");
    assert!(dropped.attached || !traces(), "{dropped:?}");
    for name in TRACEPOINTS {
        let status = named(&statuses, name);
        assert_eq!(
            (status.kind, status.attached),
            ("tp_btf", true),
            "{status:?}"
        );
    }
    let first = named(&statuses, "route_removed");
    assert!(
        !traces() || first.kind == "fentry",
        "this kernel is known to allow that: {first:?}"
    );
    for (name, traced, probed) in FUNCTIONS {
        let status = named(&statuses, name);
        // All by the same kind; or none, and all say why.
        let kind = match first.kind {
            "fentry" => traced,
            "kprobe" => probed,
            _ => "off",
        };
        assert_eq!(
            (status.kind, status.attached, &status.reason),
            (kind, kind != "off", &first.reason),
            "{status:?}"
        );
    }
    assert_eq!(first.attached, first.reason.is_none());
}

#[test]
fn where_tracing_is_not_wanted_kprobes_are_attached() {
    if !can_run() {
        return;
    }
    let (source, statuses) = statuses(RouteProbes::Kprobe);
    let first = named(&statuses, "route_removed");
    assert!(
        !traces() || first.kind == "kprobe",
        "this kernel is known to have kprobes: {first:?}"
    );
    assert_eq!(
        source.expect("the tracepoints").tells_routes(),
        first.attached
    );
    for (name, _, probed) in FUNCTIONS.iter().filter(|_| first.attached) {
        let status = named(&statuses, name);
        assert_eq!(
            (status.kind, status.attached),
            (*probed, true),
            "{status:?}"
        );
    }
}

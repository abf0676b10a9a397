//! The probes of routes: by which kind they are attached, and all or none of them, because routes of
//! which some changes are not told are wrong.

use aya::{Btf, Ebpf};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    layout::{Found, Need},
    probes::{Hook, Probe, ProbeStatus},
};

/// How route changes may be asked of the kernel's functions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RouteProbes {
    /// By fentry and fexit, else by kprobes.
    #[default]
    Auto,
    /// By fentry and fexit only.
    Fentry,
    /// By kprobes only.
    Kprobe,
    /// Not at all.
    Off,
}

impl RouteProbes {
    /// The sets to try, in order.
    fn sets(self) -> &'static [&'static [Probe]] {
        match self {
            Self::Auto => &[&TRACED, &KPROBES],
            Self::Fentry => &[&TRACED],
            Self::Kprobe => &[&KPROBES],
            Self::Off => &[],
        }
    }

    /// The probes by name, whatever their kind; none where none is wanted.
    pub fn named(self) -> &'static [Probe] {
        if self == Self::Off { &[] } else { &TRACED }
    }
}

const V4: &[Need] = &[Need::Route];
const V6: &[Need] = &[Need::Route, Need::Route6];

/// Cheapest: the kernel calls the programs by a jump.
const TRACED: [Probe; 7] = [
    traced("route_removed", Hook::Entry("fib_notify_alias_delete"), V4),
    traced("route_written", Hook::Exit("fib_table_insert"), V4),
    traced("route_described", Hook::Exit("fib_create_info"), V4),
    traced("route_deleted", Hook::Exit("fib_table_delete"), V4),
    traced("route_flushed", Hook::Exit("fib_table_flush"), V4),
    traced("route6_removed", Hook::Exit("fib6_del"), V6),
    traced("route6_written", Hook::Exit("fib6_add"), V6),
];

/// By a breakpoint or a jump at the entry, and a changed return address.
const KPROBES: [Probe; 7] = [
    Probe::of_routes(
        "route_removed",
        "route_removed_kprobe",
        Hook::Kprobe("fib_notify_alias_delete"),
        V4,
    ),
    Probe::of_routes(
        "route_written",
        "route_written_kprobe",
        Hook::Kretprobe("fib_table_insert"),
        V4,
    ),
    Probe::of_routes(
        "route_described",
        "route_described_kprobe",
        Hook::Kretprobe("fib_create_info"),
        V4,
    )
    .after("route_described_enter"),
    Probe::of_routes(
        "route_deleted",
        "route_deleted_kprobe",
        Hook::Kretprobe("fib_table_delete"),
        V4,
    )
    .after("route_deleted_enter"),
    Probe::of_routes(
        "route_flushed",
        "route_flushed_kprobe",
        Hook::Kretprobe("fib_table_flush"),
        V4,
    )
    .after("route_flushed_enter"),
    Probe::of_routes(
        "route6_removed",
        "route6_removed_kprobe",
        Hook::Kretprobe("fib6_del"),
        V6,
    )
    .after("route6_removed_enter"),
    Probe::of_routes(
        "route6_written",
        "route6_written_kprobe",
        Hook::Kretprobe("fib6_add"),
        V6,
    )
    .after("route6_written_enter"),
];

const fn traced(name: &'static str, hook: Hook, needs: &'static [Need]) -> Probe {
    Probe::of_routes(name, name, hook, needs)
}

/// All that may have been attached.
pub fn every() -> impl Iterator<Item = &'static Probe> {
    TRACED.iter().chain(&KPROBES)
}

/// Loads and attaches the probes of one kind. All of them are off where none can be attached whole; why
/// is said of each kind.
pub fn attach(
    wanted: RouteProbes,
    programs: &mut Ebpf,
    btf: &Btf,
    found: &Found,
) -> Vec<ProbeStatus> {
    let mut reasons: Vec<String> = Vec::new();
    for set in wanted.sets() {
        let statuses: Vec<ProbeStatus> = set
            .iter()
            .map(|probe| probe.attach(programs, btf, found))
            .collect();
        let Some(failed) = statuses.into_iter().find(|status| !status.attached) else {
            return set.iter().map(Probe::on).collect();
        };
        for probe in *set {
            probe.unload(programs);
        }
        let reason = failed.reason.unwrap_or_default();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    let why = reasons.join("; by kprobe: ");
    let off = |probe: &Probe| probe.off(why.clone());
    wanted.named().iter().map(off).collect()
}

//! Routes as the probes tell them: who wrote them, what went silently, and from which namespace.
//! Where the kernel refuses to trace its functions there is nothing to test.

use std::io::Write;

use observer_core::event::{
    Event, Fact, NetnsId,
    forwarding::{Forwarding, Protocol, RouteChange, RouteOp, RouteOrigin, RouteSource},
};

use observer::source::kernel::RouteProbes;

use crate::lab::{Namespace, Observed, Reused, can_run, route_kinds, traces, wait_until};

/// Each device has a peer that is up, so that it has a carrier.
const DEVICES: &str = "\
link add d0 type veth peer name pd0
link add d1 type veth peer name pd1
link set pd0 up
link set pd1 up
link set d0 up
link set d1 up
addr add 10.9.0.1/24 dev d0
addr add 10.8.0.1/24 dev d1
addr add fd09::1/64 dev d0 nodad
addr add fd08::1/64 dev d1 nodad
";

/// A namespace with [`DEVICES`], and a source that tells of it.
pub struct Bed {
    pub namespace: Namespace,
    pub observed: Reused,
}

impl Bed {
    fn by(kind: RouteProbes) -> Option<Self> {
        if !can_run() {
            return None;
        }
        let namespace = Namespace::new();
        let observed = Observed::start_by(kind);
        if !observed.source.tells_routes() {
            assert!(!traces(), "this kernel is known to let functions be traced");
            let why = "this kernel does not let functions be traced";
            let _ = writeln!(std::io::stderr(), "skipped: {why}");
            return None;
        }
        namespace.batch(DEVICES);
        let mut bed = Self {
            namespace,
            observed,
        };
        bed.observed.observe(&bed.namespace, NetnsId(1));
        Some(bed)
    }

    fn route(&self, arguments: &[&str]) {
        self.namespace.ip(&[&["route"], arguments].concat());
    }

    /// Waits until a change of `prefix` fulfils `wanted`.
    pub fn wait(&mut self, prefix: &str, wanted: impl Fn(&RouteChange) -> bool) -> RouteChange {
        self.observed.wait(prefix, |events| {
            changes(events)
                .find(|change| change.route.prefix.to_string() == prefix && wanted(change))
                .cloned()
        })
    }

    fn removed(&mut self, prefix: &str) -> RouteChange {
        self.wait(prefix, |change| change.op == RouteOp::Removed)
    }

    /// Waits until so many of BIRD's routes were told as removed.
    pub fn wait_removed(&mut self, count: usize) {
        self.observed.wait("removals", |events| {
            let removed = changes(events).filter(|change| {
                change.op == RouteOp::Removed && change.route.protocol == Protocol::BIRD
            });
            (removed.count() >= count).then_some(())
        });
    }

    /// What went, with all its gateways, was told as gone silently.
    fn went_silently(&mut self, prefix: &str, gateways: &[&str]) {
        let change = self.removed(prefix);
        assert_eq!(change.origin, RouteOrigin::Silent, "{change:?}");
        assert_eq!(told_gateways(&change), gateways, "{change:?}");
    }
}

/// Runs `test` on a bed of each kind of probe.
pub fn each(test: impl Fn(Bed)) {
    for kind in route_kinds() {
        if let Some(bed) = Bed::by(*kind) {
            test(bed);
        }
    }
}

pub fn changes(events: &[Event]) -> impl Iterator<Item = &RouteChange> {
    events.iter().filter_map(|event| match &event.fact {
        Fact::Forwarding {
            forwarding: Forwarding::Changed { source, changes },
            ..
        } => {
            assert_eq!(*source, RouteSource::Probe);
            assert_eq!(event.occurred.earliest, event.occurred.latest);
            changes.first()
        }
        _ => None,
    })
}

fn told_gateways(change: &RouteChange) -> Vec<String> {
    let hops = change.route.next_hops.iter();
    hops.filter_map(|hop| Some(hop.gateway?.to_string()))
        .collect()
}

pub fn comm(change: &RouteChange) -> &str {
    change
        .writer
        .as_ref()
        .map_or("", |writer| writer.comm.as_str())
}

#[test]
fn a_route_is_told_with_its_hops_and_its_writer() {
    each(|mut bed| {
        bed.route(&[
            "add",
            "10.1.0.0/26",
            "via",
            "10.9.0.2",
            "proto",
            "bird",
            "metric",
            "7",
        ]);
        let added = bed.wait("10.1.0.0/26", |change| change.op == RouteOp::Added);
        assert_eq!(told_gateways(&added), ["10.9.0.2"]);
        assert_eq!(
            (comm(&added), added.route.protocol.0, added.route.metric),
            ("ip", 12, 7)
        );
        assert!(added.route.next_hops.iter().all(|hop| hop.interface != 0));

        bed.route(&[
            "replace",
            "10.1.0.0/26",
            "via",
            "10.9.0.3",
            "proto",
            "bird",
            "metric",
            "7",
        ]);
        let replaced = bed.wait("10.1.0.0/26", |change| change.op == RouteOp::Replaced);
        assert_eq!(told_gateways(&replaced), ["10.9.0.3"]);

        bed.route(&["del", "10.1.0.0/26", "metric", "7"]);
        let removed = bed.removed("10.1.0.0/26");
        assert_eq!(removed.origin, RouteOrigin::Explicit);
        assert_eq!(told_gateways(&removed), ["10.9.0.3"]);
        assert_eq!(comm(&removed), "ip");

        bed.route(&[
            "add",
            "10.1.1.0/26",
            "nexthop",
            "via",
            "10.9.0.2",
            "nexthop",
            "via",
            "10.8.0.2",
            "weight",
            "3",
        ]);
        let several = bed.wait("10.1.1.0/26", |_| true);
        assert_eq!(told_gateways(&several), ["10.9.0.2", "10.8.0.2"]);
        let weights: Vec<u16> = several
            .route
            .next_hops
            .iter()
            .map(|hop| hop.weight)
            .collect();
        assert_eq!(weights, [1, 3]);
    });
}

#[test]
fn a_route_behind_another_is_told_as_such() {
    each(|mut bed| {
        let prefix = "10.1.7.0/26";
        bed.route(&["add", prefix, "via", "10.9.0.2", "proto", "bird"]);
        bed.wait(prefix, |change| change.op == RouteOp::Added);
        bed.route(&["append", prefix, "via", "10.9.0.3", "proto", "bird"]);
        let behind = bed.wait(prefix, |change| change.op == RouteOp::Appended);
        assert_eq!(told_gateways(&behind), ["10.9.0.3"]);
        bed.route(&["del", prefix, "via", "10.9.0.3"]);
        assert_eq!(told_gateways(&bed.removed(prefix)), ["10.9.0.3"]);
    });
}

#[test]
fn an_ipv6_route_is_told_with_its_hop_and_its_writer() {
    each(|mut bed| {
        bed.route(&["add", "fd01::/64", "via", "fd09::2", "proto", "bird"]);
        let added = bed.wait("fd01::/64", |change| change.op == RouteOp::Added);
        assert_eq!(
            (told_gateways(&added), comm(&added)),
            (vec!["fd09::2".to_owned()], "ip")
        );
        bed.route(&["replace", "fd01::/64", "via", "fd09::3", "proto", "bird"]);
        let replaced = bed.wait("fd01::/64", |change| change.op == RouteOp::Replaced);
        assert_eq!(told_gateways(&replaced), ["fd09::3"]);
        bed.route(&["del", "fd01::/64"]);
        let removed = bed.removed("fd01::/64");
        assert_eq!(removed.origin, RouteOrigin::Explicit);
        assert_eq!(told_gateways(&removed), ["fd09::3"]);
    });
}

#[test]
fn a_refused_write_is_not_told() {
    each(|mut bed| {
        bed.route(&["add", "10.1.0.0/26", "via", "10.9.0.2"]);
        bed.namespace.run(|| {
            let again = std::process::Command::new("ip")
                .args(["route", "add", "10.1.0.0/26", "via", "10.9.0.3"])
                .stderr(std::process::Stdio::null())
                .status();
            assert!(!again.expect("ip").success(), "File exists");
        });
        bed.route(&["add", "10.2.0.0/26", "via", "10.9.0.2"]);
        bed.wait("10.2.0.0/26", |_| true);
        let written = changes(&bed.observed.events)
            .filter(|change| change.route.prefix.to_string() == "10.1.0.0/26")
            .count();
        assert_eq!(written, 1);
    });
}

#[test]
fn what_goes_with_its_nexthop_object_goes_silently() {
    each(|mut bed| {
        bed.namespace
            .ip(&["nexthop", "add", "id", "7", "via", "10.9.0.2", "dev", "d0"]);
        bed.namespace
            .ip(&["nexthop", "add", "id", "8", "via", "fd09::2", "dev", "d0"]);
        bed.route(&["add", "10.1.0.0/26", "nhid", "7", "proto", "bird"]);
        bed.route(&["add", "fd01::/64", "nhid", "8", "proto", "bird"]);
        for (prefix, object, gateway) in
            [("10.1.0.0/26", 7, "10.9.0.2"), ("fd01::/64", 8, "fd09::2")]
        {
            let added = bed.wait(prefix, |change| change.op == RouteOp::Added);
            assert_eq!(added.route.object, Some(object));
            assert_eq!(told_gateways(&added), [gateway]);
        }
        bed.namespace.ip(&["nexthop", "del", "id", "7"]);
        bed.namespace.ip(&["nexthop", "del", "id", "8"]);
        bed.went_silently("10.1.0.0/26", &["10.9.0.2"]);
        bed.went_silently("fd01::/64", &["fd09::2"]);
    });
}

#[test]
fn other_namespaces_are_not_told_of() {
    each(|mut bed| {
        let other = Namespace::new();
        other.ip(&["route", "add", "blackhole", "10.7.0.0/26"]);
        bed.route(&["add", "blackhole", "10.1.0.0/26", "proto", "bird"]);
        let added = bed.wait("10.1.0.0/26", |_| true);
        assert!(added.route.next_hops.is_empty() && added.route.kind.drops());
        let strange = changes(&bed.observed.events)
            .any(|change| change.route.prefix.to_string() == "10.7.0.0/26");
        assert!(!strange);
    });
}

#[test]
fn every_removal_is_seen_by_the_kernels_own_count() {
    each(|mut bed| {
        let lines =
            (0..200).map(|net| format!("route add 10.1.{net}.0/26 via 10.9.0.2 proto bird\n"));
        bed.namespace.batch(&lines.collect::<String>());
        let before = bed.observed.source.removals().expect("the counters");
        for net in 0..20 {
            bed.route(&["del", &format!("10.1.{net}.0/26")]);
        }
        bed.namespace.ip(&["link", "set", "d0", "down"]);
        bed.removed("10.1.199.0/26");
        let (seen, returned) = wait_until("the flush to return", || {
            let (seen, returned) = bed.observed.source.removals()?;
            (returned - before.1 >= 200).then_some((seen, returned))
        });
        assert_eq!(seen - before.0, returned - before.1);
    });
}

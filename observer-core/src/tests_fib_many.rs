//! Many routes that go at once; and how long the mirror takes for half a million of them: a measurement.
//!
//! `cargo test --release -p observer-core half_a_million -- --ignored --nocapture`.
#![expect(
    clippy::disallowed_methods,
    reason = "how long the machine takes is what is measured"
)]

use std::time::Instant;

use crate::{
    bgp::Prefix,
    event::{
        Fact,
        forwarding::{
            Forwarding, Protocol, Route, RouteChange, RouteKind, RouteOp, RouteOrigin, RouteSource,
            TABLE_MAIN,
        },
    },
    route_view::RouteState,
    testing::{NETNS, PEER, Scene, millis},
    tests_fib::via,
};

const COUNT: u32 = 500_000;

fn row(number: u32) -> Route {
    Route {
        prefix: Prefix {
            address: std::net::Ipv4Addr::from_bits(0x1000_0000 + (number << 8)).into(),
            length: 24,
        },
        table: TABLE_MAIN,
        tos: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        protocol: Protocol::BIRD,
        object: None,
        next_hops: vec![via(PEER, 2)],
    }
}

/// All facts, and how long the machine took for them.
fn time(scene: &mut Scene, what: &str, facts: Vec<Forwarding>) {
    let begun = Instant::now();
    for forwarding in facts {
        let netns = NETNS;
        scene.tell(Fact::Forwarding { netns, forwarding });
    }
    let took = begun.elapsed();
    println!("{what}: {took:?}, {:?} each", took / COUNT);
    scene.told.clear();
}

fn changes(op: RouteOp) -> Vec<Forwarding> {
    let all: Vec<u32> = (0..COUNT).collect();
    let chunks = all.chunks(512).map(|numbers| Forwarding::Changed {
        source: RouteSource::Netlink,
        changes: { numbers.iter() }
            .map(|number| RouteChange {
                op,
                origin: RouteOrigin::Explicit,
                writer: None,
                route: row(*number),
            })
            .collect(),
    });
    chunks.collect()
}

fn dump(routes: std::ops::Range<u32>, since: u64) -> Vec<Forwarding> {
    let since = millis(since);
    let ipv6 = false;
    let mut all = vec![Forwarding::DumpBegun { ipv6, since }];
    let numbers: Vec<u32> = routes.collect();
    all.extend(numbers.chunks(512).map(|numbers| Forwarding::Dumped {
        routes: numbers.iter().copied().map(row).collect(),
    }));
    let complete = true;
    all.push(Forwarding::DumpEnded { complete });
    all
}

#[test]
#[ignore = "a measurement"]
fn half_a_million_routes_come_stay_and_go() {
    let mut scene = Scene::with_routes(&[]);
    time(&mut scene, "added", changes(RouteOp::Added));
    scene.pass(5_000);
    let now = scene.now;
    time(&mut scene, "unchanged in a dump", dump(0..COUNT, now));
    scene.now += 10;
    let link = Forwarding::Link {
        interface: 2,
        name: "eth2".to_owned(),
        up: false,
        carrier: false,
        master: None,
        vrf: None,
    };
    time(&mut scene, "their link goes down", vec![link]);
    let now = scene.now;
    time(&mut scene, "gone from a dump", dump(0..0, now));
    let begun = Instant::now();
    scene.pass(5_000);
    println!("settled: {:?}", begun.elapsed());
    time(&mut scene, "back", changes(RouteOp::Added));
    scene.pass(5_000);
    time(&mut scene, "deleted", changes(RouteOp::Removed));
    let begun = Instant::now();
    scene.pass(5_000);
    println!("settled: {:?}", begun.elapsed());
}

#[test]
fn routes_beyond_those_that_are_followed_are_counted_all_the_same() {
    let count = 70_000;
    let mut scene = Scene::with_routes(&[]);
    for forwarding in dump(0..count, scene.now) {
        scene.forward(forwarding);
    }
    scene.pass(5_000);
    scene.changes.clear();
    for forwarding in dump(0..10, scene.now) {
        scene.forward(forwarding);
    }
    assert_eq!(scene.shown(true).len(), 10);
    scene.pass(5_000);
    let told = scene.routes_told();
    let gone = u64::from(count) - 10;
    assert_eq!((told.len(), told[0].count), (1, gone), "{told:?}");
    let incidents = scene.observer.incidents();
    let lost: Vec<u64> = { incidents.iter() }
        .map(|incident| incident.prefixes.lost)
        .collect();
    assert_eq!(lost, [gone]);
}

#[test]
fn of_several_routes_of_a_prefix_the_fate_is_that_of_the_preferred_one() {
    let metric = |metric: u32, hop: u32| Route {
        metric,
        next_hops: vec![via(PEER, hop)],
        ..row(7)
    };
    let all = [metric(0, 2), metric(5, 2), metric(9, 3)];
    // Those that a dump still shows, and what became of the prefix.
    for (left, story) in [
        (&all[..0], "1 gone silently of bird"),
        (&all[..1], ""),
        (&all[1..2], ""),
        (&all[2..], "1 replaced of bird"),
        (&[all[0].clone(), all[2].clone()][..], ""),
    ] {
        let mut scene = Scene::with_routes(&all);
        scene.now += 10;
        let now = scene.now;
        scene.link(2, false);
        scene.dump_routes(false, now, left);
        scene.pass(3_000);
        assert_eq!(scene.story().join(" "), story, "{left:?}");
        let there = scene.shown(true).into_iter();
        let there = there.filter(|view| view.state != RouteState::Lost);
        assert_eq!(there.count(), left.len());
    }
}

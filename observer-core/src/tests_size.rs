//! What a million routes cost in the FIB mirror and in a RIB: measurements.
//!
//! `cargo test -p observer-core million -- --ignored --nocapture`.

use std::net::IpAddr;

use crate::{
    bgp::{Family, NlriEntry, Prefix},
    event::{
        Fact,
        forwarding::{Forwarding, NextHop, Protocol, Route, RouteKind, TABLE_MAIN},
    },
    rib::Rib,
    testing::{NETNS, Scene, millis},
};

const COUNT: u32 = 1_000_000;
/// Name, whether IPv6, whether in random order.
const ORDERS: [(&str, bool, bool); 4] = [
    ("IPv4 ascending", false, false),
    ("IPv4 in random order", false, true),
    ("IPv6 ascending", true, false),
    ("IPv6 in random order", true, true),
];

/// The number of a route when they come in random order: each comes once.
fn scattered(number: u32) -> u32 {
    // Multiplied once they would still be evenly spaced, which fills nodes better than chance does.
    let number = number.wrapping_mul(0x9E37_79B1) % (1 << 24);
    (number ^ number >> 12).wrapping_mul(0x85EB_CA6B) % (1 << 24)
}

fn prefix(number: u32, ipv6: bool) -> Prefix {
    let address = if ipv6 {
        IpAddr::V6((0xfd00 << 112 | u128::from(number) << 64).into())
    } else {
        IpAddr::V4((number << 8).into())
    };
    Prefix {
        address,
        length: if ipv6 { 64 } else { 24 },
    }
}

fn row(number: u32, ipv6: bool) -> Route {
    let gateway = IpAddr::V4((0x0a00_0001 + number % 64).into());
    Route {
        prefix: prefix(number, ipv6),
        table: TABLE_MAIN,
        tos: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        protocol: Protocol::BIRD,
        object: None,
        next_hops: vec![NextHop {
            gateway: Some(gateway),
            interface: 2,
            weight: 1,
            dead: false,
        }],
    }
}

/// One test for both: a second one beside it would be measured along.
#[test]
#[ignore = "a measurement that other tests disturb"]
fn a_million_routes_take_less_than_a_hundred_octets_each() {
    // Nothing is freed until the end, or the next would find room there and seem to cost nothing.
    let _ribs = ORDERS.map(|(name, ipv6, shuffled)| rib(name, ipv6, shuffled));
    let _scenes = ORDERS.map(|(name, ipv6, shuffled)| fib(name, ipv6, shuffled));
}

fn rib(name: &str, ipv6: bool, shuffled: bool) -> Rib {
    let mut rib = Rib::default();
    let family = if ipv6 {
        Family::IPV6_UNICAST
    } else {
        Family::IPV4_UNICAST
    };
    let before = resident();
    for number in 0..COUNT {
        let number = if shuffled { scattered(number) } else { number };
        let entry = NlriEntry {
            prefix: prefix(number, ipv6),
            path_id: None,
            stray_bits: false,
        };
        rib.learn(family, &entry);
    }
    say(&format!("RIB, {name}"), rib.len() as u64, before);
    rib
}

fn fib(name: &str, ipv6: bool, shuffled: bool) -> Scene {
    let netns = NETNS;
    let mut scene = Scene::started();
    let since = millis(1);
    let forwarding = Forwarding::DumpBegun { ipv6, since };
    scene.tell(Fact::Forwarding { netns, forwarding });
    let before = resident();
    for from in (0..COUNT).step_by(1_000) {
        let numbers = from..from + 1_000;
        let routes = numbers
            .map(|number| row(if shuffled { scattered(number) } else { number }, ipv6))
            .collect();
        let forwarding = Forwarding::Dumped { routes };
        scene.tell(Fact::Forwarding { netns, forwarding });
        scene.told.clear();
    }
    let views = scene.observer.forwarding(millis(scene.now));
    let count = views[0].routes.iter().map(|routes| routes.count).sum();
    drop(views);
    say(&format!("FIB, {name}"), count, before);
    scene
}

fn say(what: &str, count: u64, before: u64) {
    let octets = resident().saturating_sub(before) / count;
    println!("{what}: {count} routes, {octets} octets each");
    assert!(
        count > 900_000 && (20..100).contains(&octets),
        "{count} of {octets}"
    );
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

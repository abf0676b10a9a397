//! What a million routes cost: a measurement.

use std::net::IpAddr;

use crate::{
    bgp::Prefix,
    event::{
        Fact,
        forwarding::{Forwarding, NextHop, Protocol, Route, RouteKind, TABLE_MAIN},
    },
    testing::{NETNS, Scene, millis},
};

fn row(number: u32, ipv6: bool) -> Route {
    let address = if ipv6 {
        IpAddr::V6((0xfd00 << 112 | u128::from(number) << 64).into())
    } else {
        IpAddr::V4((number << 8).into())
    };
    let gateway = IpAddr::V4((0x0a00_0001 + number % 64).into());
    Route {
        prefix: Prefix {
            address,
            length: if ipv6 { 64 } else { 24 },
        },
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

/// `cargo test --release -p observer-core million -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: takes seconds, and only a release build says how many"]
fn a_million_routes_take_less_than_a_hundred_octets_each() {
    const COUNT: u32 = 1_000_000;
    let netns = NETNS;
    for (name, ipv6, shuffled) in [
        ("IPv4 ascending", false, false),
        ("IPv4 in random order", false, true),
        ("IPv6 ascending", true, false),
    ] {
        let mut scene = Scene::started();
        let since = millis(1);
        let forwarding = Forwarding::DumpBegun { ipv6, since };
        scene.tell(Fact::Forwarding { netns, forwarding });
        let before = resident();
        for from in (0..COUNT).step_by(1_000) {
            let numbers = from..from + 1_000;
            let scattered = |number: u32| number.wrapping_mul(0x9E37_79B1) % (1 << 24);
            let routes = numbers
                .map(|number| row(if shuffled { scattered(number) } else { number }, ipv6))
                .collect();
            let forwarding = Forwarding::Dumped { routes };
            scene.tell(Fact::Forwarding { netns, forwarding });
            scene.told.clear();
        }
        let views = scene.observer.forwarding(millis(scene.now));
        let count: u64 = views[0].routes.iter().map(|routes| routes.count).sum();
        let octets = resident().saturating_sub(before) / count;
        println!("{name}: {count} routes, {octets} octets each");
        assert!(count > 900_000 && octets < 100, "{count} of {octets}");
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

//! The way of a packet on a host with a VRF.

use crate::{
    event::forwarding::{Forwarding, NextHop, Route, Rule},
    testing::{Scene, millis},
    tests_fib::{attached, route, via},
};

const RED: u32 = 100;

fn in_table(table: u32, text: &str, hops: &[NextHop]) -> Route {
    Route {
        table,
        ..route(text, 12, hops)
    }
}

fn rule(priority: u32, vrf: bool, table: Option<u32>) -> Rule {
    Rule {
        priority,
        from: None,
        to: None,
        narrow: false,
        vrf,
        table,
    }
}

/// `eth2` as it was, and `eth3` (172.16.0.1/24) in the VRF `red`.
fn host() -> Scene {
    let mut scene = Scene::with_routes(&[
        route("0.0.0.0/0", 3, &[via("10.0.0.254", 2)]),
        in_table(RED, "172.16.0.0/24", &[attached(3)]),
        in_table(RED, "10.244.7.0/26", &[via("172.16.0.7", 3)]),
        in_table(RED, "10.244.8.9/32", &[attached(4)]),
    ]);
    for (interface, name, master, vrf) in [
        (3, "eth3", Some(5), None),
        (4, "cali1", Some(5), None),
        (5, "red", None, Some(RED)),
    ] {
        scene.forward(Forwarding::Link {
            interface,
            name: name.to_owned(),
            up: true,
            carrier: true,
            master,
            vrf,
        });
    }
    scene.forward(Forwarding::Address {
        interface: 3,
        address: "172.16.0.1".parse().unwrap(),
        length: 24,
        gone: false,
    });
    scene.forward(Forwarding::Rules {
        ipv6: false,
        rules: vec![
            rule(0, false, Some(255)),
            rule(1_000, true, None),
            rule(32_766, false, Some(254)),
        ],
    });
    scene
}

#[test]
fn a_packet_of_a_vrf_takes_its_tables_routes_and_another_those_of_main() {
    let scene = host();
    for (source, destination, table) in [
        // The VRF's own address, and a pod behind one of its devices.
        (Some("172.16.0.1"), "10.244.7.1", RED),
        (Some("10.244.8.9"), "10.244.7.1", RED),
        // What the VRF's table does not have goes on with the next rule.
        (Some("172.16.0.1"), "192.0.2.1", 254),
        (Some("10.0.0.1"), "10.244.7.1", 254),
        (None, "10.244.7.1", 254),
    ] {
        let source = source.map(|source| source.parse().unwrap());
        let path = { &scene.observer }
            .path(
                millis(scene.now),
                Some("n1"),
                source,
                destination.parse().unwrap(),
            )
            .unwrap();
        let taken = path.legs[0].route.as_ref().unwrap();
        assert_eq!(taken.table, table, "{source:?} to {destination}: {path:?}");
    }
}

#[test]
fn what_only_a_vrf_leads_to_is_shown_there() {
    let mut scene = host();
    scene.del(&route("0.0.0.0/0", 3, &[via("10.0.0.254", 2)]));
    let path = { &scene.observer }
        .path(
            millis(scene.now),
            Some("n1"),
            None,
            "10.244.7.1".parse().unwrap(),
        )
        .unwrap();
    assert_eq!(path.legs[0].route.as_ref().unwrap().table, RED);
}

//! What the machine makes of routes: the mirror, and what it says of those that matter.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;

use crate::{
    bgp::Prefix,
    change::{Change, Request, RouteEvent, RoutesChanged},
    event::{
        Fact, Process,
        forwarding::{
            Forwarding, NextHop, Protocol, Route, RouteChange, RouteKind, RouteOp, RouteOrigin,
            RouteSource, TABLE_MAIN,
        },
    },
    route_view::{RouteFilter, RouteState, RouteView},
    testing::{NETNS, PEER, Scene, millis, outbound, process},
};

pub(crate) fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix {
        address: address.parse().unwrap(),
        length: length.parse().unwrap(),
    }
}

pub(crate) fn via(gateway: &str, interface: u32) -> NextHop {
    NextHop {
        gateway: Some(gateway.parse().unwrap()),
        interface,
        weight: 1,
        dead: false,
    }
}

pub(crate) fn attached(interface: u32) -> NextHop {
    NextHop {
        gateway: None,
        interface,
        weight: 1,
        dead: false,
    }
}

pub(crate) fn route(text: &str, protocol: u8, next_hops: &[NextHop]) -> Route {
    Route {
        prefix: prefix(text),
        table: TABLE_MAIN,
        tos: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        protocol: Protocol(protocol),
        object: None,
        next_hops: next_hops.to_vec(),
    }
}

fn unreachable(text: &str) -> Route {
    Route {
        kind: RouteKind::Unreachable,
        ..route(text, 12, &[])
    }
}

/// A way to lose a route, given another's of the same prefix: its name and what it is told as.
type Loss = (&'static str, RouteEvent, fn(&mut Scene, &Route));

pub(crate) const BLOCK: &str = "10.244.2.0/26";

pub(crate) fn block() -> Route {
    route(BLOCK, 12, &[via(PEER, 2)])
}

impl Scene {
    pub(crate) fn forward(&mut self, forwarding: Forwarding) {
        let netns = NETNS;
        self.tell(Fact::Forwarding { netns, forwarding });
    }

    pub(crate) fn act(&mut self, op: RouteOp, route: &Route, writer: Option<Process>) {
        let origin = RouteOrigin::Explicit;
        self.forward(Forwarding::Changed {
            source: RouteSource::Netlink,
            changes: vec![RouteChange {
                op,
                origin,
                writer,
                route: route.clone(),
            }],
        });
    }

    pub(crate) fn add(&mut self, route: &Route) {
        self.act(RouteOp::Added, route, None);
    }

    pub(crate) fn del(&mut self, route: &Route) {
        self.act(RouteOp::Removed, route, None);
    }

    /// A dump that shows `routes` and is over at once; the mirror was right until `since`.
    pub(crate) fn dump_routes(&mut self, ipv6: bool, since: u64, routes: &[Route]) {
        let since = millis(since);
        self.forward(Forwarding::DumpBegun { ipv6, since });
        let routes = routes.to_vec();
        self.forward(Forwarding::Dumped { routes });
        let complete = true;
        self.forward(Forwarding::DumpEnded { complete });
    }

    pub(crate) fn link(&mut self, interface: u32, up: bool) {
        self.forward(Forwarding::Link {
            interface,
            name: format!("eth{interface}"),
            up,
            carrier: up,
            master: None,
            vrf: None,
        });
    }

    /// All is known of both families; `routes` are there.
    pub(crate) fn with_routes(routes: &[Route]) -> Self {
        Self::started().following(routes)
    }

    /// The same of a scene of its own.
    pub(crate) fn following(self, routes: &[Route]) -> Self {
        let mut scene = self;
        let by = RouteSource::Netlink;
        scene.forward(Forwarding::Followed { by });
        scene.link(2, true);
        scene.forward(Forwarding::Address {
            interface: 2,
            address: "10.0.0.1".parse().unwrap(),
            length: 24,
            gone: false,
        });
        let (v6, v4): (Vec<Route>, Vec<Route>) =
            { routes.iter().cloned() }.partition(|route| route.prefix.address.is_ipv6());
        let now = scene.now;
        scene.dump_routes(false, now, &v4);
        scene.dump_routes(true, now, &v6);
        scene.story();
        scene
    }

    pub(crate) fn shown(&self, all: bool) -> Vec<RouteView> {
        let filter = RouteFilter {
            all,
            limit: 10_000,
            ..RouteFilter::default()
        };
        self.observer.routes(millis(self.now), &filter).routes
    }

    pub(crate) fn routes_told(&mut self) -> Vec<RoutesChanged> {
        let told = self.changes.drain(..).filter_map(|record| {
            if let Change::Routes(routes) = record.change {
                Some(routes)
            } else {
                None
            }
        });
        told.collect()
    }

    fn route_dumps_asked(&mut self) -> usize {
        let before = self.requests.len();
        self.requests
            .retain(|request| !matches!(request, Request::DumpRoutes { .. }));
        before - self.requests.len()
    }
}

#[test]
fn what_is_there_at_the_start_is_no_news() {
    let mut scene = Scene::with_routes(&[block()]);
    assert_eq!(scene.shown(false).len(), 1);
    scene.pass(5_000);
    assert_eq!(scene.story(), Vec::<String>::new());
}

#[test]
fn a_delete_and_an_add_within_a_second_are_one_replacement() {
    let mut scene = Scene::with_routes(&[block()]);
    let new = route(BLOCK, 12, &[via("10.0.0.3", 2)]);
    scene.del(&block());
    scene.now += 2;
    scene.add(&new);
    scene.pass(3_000);
    let told = scene.routes_told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].event, RouteEvent::Replaced);
    assert_eq!(told[0].longest_gap_seconds, Some(0.002));
    assert_eq!(told[0].next_hops, ["10.0.0.3"]);
    assert_eq!(told[0].former_next_hops, ["10.0.0.2"]);
    let totals = scene.observer.totals();
    let fib = &totals.fib["n1"];
    let count = |op| fib.changes[&(op, "bird", RouteOrigin::Explicit)];
    assert_eq!((count(RouteOp::Removed), count(RouteOp::Replaced)), (0, 1));
    assert_eq!(fib.gap["bird"].counts.iter().sum::<u64>(), 1);
}

#[test]
fn what_stays_away_is_a_loss_with_its_kind_and_comes_back_with_its_gap() {
    let foreign = Route {
        metric: 5,
        ..route(BLOCK, 4, &[via("10.0.0.9", 2)])
    };
    let cases: [Loss; 3] = [
        ("deleted", RouteEvent::Deleted, |scene, _| {
            scene.del(&block());
        }),
        ("unreachable", RouteEvent::Unreachable, |scene, _| {
            scene.act(RouteOp::Replaced, &unreachable(BLOCK), None);
        }),
        ("worse", RouteEvent::WorseRoute, |scene, foreign| {
            scene.add(foreign);
            scene.del(&block());
        }),
    ];
    for (name, event, lose) in cases {
        let mut scene = Scene::with_routes(&[block()]);
        lose(&mut scene, &foreign);
        scene.pass(2_000);
        let told = scene.routes_told();
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert_eq!(told[0].event, event, "{name}");
        let shown = scene.shown(false);
        let lost = shown.iter().find(|view| view.state == RouteState::Lost);
        assert_eq!(lost.map(|view| view.prefix.as_str()), Some(BLOCK), "{name}");
        scene.act(RouteOp::Replaced, &block(), None);
        scene.pass(2_000);
        let told = scene.routes_told();
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert_eq!(told[0].event, RouteEvent::Back, "{name}");
        assert_eq!(told[0].longest_gap_seconds, Some(2.0), "{name}");
    }
}

#[test]
fn what_a_dump_does_not_show_went_silently_within_its_window() {
    let v6 = route("fd00:2::/64", 12, &[via("fe80::2", 2)]);
    let mut scene = Scene::with_routes(&[block(), v6]);
    let down = scene.now + 500;
    scene.now = down;
    scene.link(2, false);
    assert_eq!(scene.route_dumps_asked(), 2, "one of each family");
    scene.now += 30;
    scene.dump_routes(false, down, &[]);
    scene.dump_routes(true, down, &[]);
    scene.pass(3_000);
    let told = scene.routes_told();
    assert_eq!(told.len(), 1, "{told:?}");
    let told = &told[0];
    assert_eq!(told.event, RouteEvent::SilentlyRemoved);
    assert_eq!(told.count, 2);
    assert_eq!(told.prefixes, [BLOCK, "fd00:2::/64"]);
    assert_eq!(told.next_hops, ["10.0.0.2", "fe80::2"]);
    let window = told.last.duration_since(told.earliest);
    assert_eq!(window.as_millis(), 30);
    let fib = &scene.observer.totals().fib["n1"];
    let key = (RouteOp::Removed, "bird", RouteOrigin::Silent);
    assert_eq!(fib.changes[&key], 2);
}

#[test]
fn of_routes_that_share_their_place_the_first_is_mirrored_and_the_next_follows() {
    let second = route(BLOCK, 12, &[via("10.0.0.3", 2)]);
    let mut scene = Scene::with_routes(&[block()]);
    let leads = |scene: &Scene| scene.shown(false)[0].next_hops[0].gateway;
    scene.act(RouteOp::Appended, &second, None);
    assert_eq!(leads(&scene), block().next_hops[0].gateway);
    scene.del(&second);
    scene.pass(2_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    assert_eq!(scene.route_dumps_asked(), 0);
    // Known from a dump, too.
    let now = scene.now;
    scene.dump_routes(false, now, &[block(), second.clone()]);
    scene.del(&block());
    assert_eq!(scene.route_dumps_asked(), 1);
    let now = scene.now;
    scene.now += 20;
    scene.dump_routes(false, now, std::slice::from_ref(&second));
    assert_eq!(leads(&scene), second.next_hops[0].gateway);
    scene.pass(2_000);
    assert_eq!(scene.story(), ["1 replaced of bird"]);
}

#[test]
fn a_link_that_no_route_uses_makes_nobody_look() {
    let mut scene = Scene::with_routes(&[block()]);
    scene.link(7, true);
    scene.link(7, false);
    scene.forward(Forwarding::LinkGone { interface: 7 });
    assert_eq!(scene.route_dumps_asked(), 0);
    scene.forward(Forwarding::LinkGone { interface: 2 });
    assert_eq!(scene.route_dumps_asked(), 2);
}

#[test]
fn a_leg_that_dies_leaves_the_route_and_the_last_one_takes_it() {
    let both = route(BLOCK, 12, &[via("10.0.0.2", 2), via("10.0.1.2", 3)]);
    let dead = |hop: NextHop| NextHop { dead: true, ..hop };
    let mut scene = Scene::with_routes(std::slice::from_ref(&both));
    let one = route(BLOCK, 12, &[via("10.0.0.2", 2), dead(via("10.0.1.2", 3))]);
    let now = scene.now;
    scene.dump_routes(false, now, &[one]);
    scene.pass(2_000);
    let told = scene.routes_told();
    assert_eq!(told[0].event, RouteEvent::Replaced, "{told:?}");
    assert_eq!(told[0].former_next_hops, ["10.0.0.2", "10.0.1.2"]);
    let none = route(
        BLOCK,
        12,
        &[dead(via("10.0.0.2", 2)), dead(via("10.0.1.2", 3))],
    );
    let now = scene.now;
    scene.dump_routes(false, now, &[none]);
    scene.pass(2_000);
    let told = scene.routes_told();
    assert_eq!(told[0].event, RouteEvent::SilentlyRemoved, "{told:?}");
}

#[test]
fn an_ipv6_route_loses_the_hops_that_are_told_and_keeps_the_others() {
    let hops: Vec<NextHop> = (1..=128).map(|n| via(&format!("fe80::{n:x}"), 2)).collect();
    let wide = route("fd00:2::/64", 12, &hops);
    let mut scene = Scene::with_routes(std::slice::from_ref(&wide));
    scene.del(&route("fd00:2::/64", 12, &hops[..1]));
    let left = scene.shown(false);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].next_hops.len(), 127);
    scene.del(&route("fd00:2::/64", 12, &hops[1..]));
    assert!(
        scene
            .shown(false)
            .iter()
            .all(|view| view.state == RouteState::Lost),
    );
}

#[test]
fn bird_and_felix_hand_over_without_a_loss_or_a_fight() {
    let felix = route(BLOCK, 80, &[via(PEER, 2)]);
    let mut scene = Scene::with_routes(&[block()]);
    for (from, to) in [(block(), felix.clone()), (felix, block())] {
        scene.del(&from);
        scene.now += 300;
        scene.add(&to);
        scene.pass(2_000);
        let told = scene.routes_told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].event, RouteEvent::HandedOver);
        scene.act(RouteOp::Replaced, &from, None);
        scene.pass(2_000);
        let told = scene.routes_told();
        assert_eq!(told[0].event, RouteEvent::HandedOver, "{told:?}");
        scene.act(RouteOp::Replaced, &to, None);
        scene.pass(2_000);
        scene.changes.clear();
    }
}

#[test]
fn churn_of_pods_is_quiet() {
    let mut scene = Scene::with_routes(&[block()]);
    for number in 0..2_000_u32 {
        let pod = route(
            &format!("10.244.1.{}/32", number % 250),
            3,
            &[attached(100 + number % 250)],
        );
        scene.add(&pod);
        scene.now += 1;
        scene.del(&pod);
    }
    scene.pass(3_000);
    assert_eq!(scene.story(), Vec::<String>::new());
    let fib = &scene.observer.totals().fib["n1"];
    let key = (RouteOp::Added, "boot", RouteOrigin::Explicit);
    assert_eq!(fib.changes[&key], 2_000);
}

#[test]
fn a_burst_is_one_change() {
    let mut scene = Scene::with_routes(&[]);
    let many: Vec<RouteChange> = (0..5_000_u32)
        .map(|number| RouteChange {
            op: RouteOp::Added,
            origin: RouteOrigin::Explicit,
            writer: None,
            route: Route {
                prefix: Prefix {
                    address: IpAddr::V4((0x2000_0000 + (number << 8)).into()),
                    length: 24,
                },
                ..block()
            },
        })
        .collect();
    for changes in many.chunks(500) {
        scene.forward(Forwarding::Changed {
            source: RouteSource::Netlink,
            changes: changes.to_vec(),
        });
        scene.now += 10;
    }
    scene.pass(1_000);
    let told = scene.routes_told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].event, told[0].count), (RouteEvent::Added, 5_000));
    assert_eq!(told[0].prefixes.len(), 8);
}

#[test]
fn a_foreign_writer_is_named_and_a_fight_told_at_each_doubling() {
    let ip = process(77, "ip");
    let bird = process(40, "bird");
    let mut scene = Scene::with_routes(&[block()]);
    let mut said = Vec::new();
    for _ in 0..13 {
        scene.act(RouteOp::Removed, &block(), Some(ip.clone()));
        scene.pass(1_500);
        scene.act(RouteOp::Added, &block(), Some(bird.clone()));
        scene.pass(500);
    }
    for record in scene.changes.drain(..) {
        if let Change::ForeignDelete { writer, .. } = record.change {
            said.push((1, writer));
        } else if let Change::RouteFight {
            rounds, remover, ..
        } = record.change
        {
            said.push((rounds, remover));
        }
    }
    let rounds: Vec<u32> = said.iter().map(|(rounds, _)| *rounds).collect();
    assert_eq!(rounds, [1, 3, 6, 12]);
    assert!(said.iter().all(|(_, remover)| *remover == Some(ip.clone())));
    let fib = &scene.observer.totals().fib["n1"];
    assert_eq!(fib.foreign_deletes["other"], 13);
}

#[test]
fn the_other_source_changes_nothing() {
    let mut scene = Scene::with_routes(&[block()]);
    let by = RouteSource::Probe;
    scene.forward(Forwarding::Followed { by });
    scene.del(&block());
    assert_eq!(scene.shown(false).len(), 1);
}

#[test]
fn what_changes_while_a_dump_goes_on_is_newer_than_its_rows() {
    let stays = route("10.244.3.0/26", 12, &[via("10.0.0.3", 2)]);
    let mut scene = Scene::with_routes(&[block(), stays.clone()]);
    let since = millis(scene.now);
    scene.forward(Forwarding::DumpBegun { ipv6: false, since });
    scene.del(&block());
    let new = route("10.244.4.0/26", 12, &[via("10.0.0.4", 2)]);
    scene.add(&new);
    scene.forward(Forwarding::Dumped {
        routes: vec![block(), stays],
    });
    scene.forward(Forwarding::DumpEnded { complete: true });
    let there: Vec<String> = scene
        .shown(false)
        .into_iter()
        .map(|view| view.prefix)
        .collect();
    assert_eq!(there, ["10.244.3.0/26", "10.244.4.0/26"]);
}

#[test]
fn a_namespace_that_goes_takes_its_routes_along() {
    let mut scene = Scene::with_routes(&[block()]);
    scene.now += 10;
    scene.tell(Fact::NodeGone { netns: NETNS });
    let told = scene.routes_told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].event, RouteEvent::SilentlyRemoved);
}

#[test]
fn routes_of_a_session_hang_on_its_peer() {
    let mut scene = Scene::with_routes(&[block()]);
    scene.establish(outbound(1, PEER));
    scene.story();
    scene.del(&block());
    scene.pass(2_000);
    let told = scene.routes_told();
    assert_eq!(told[0].peers, [PEER]);
    let path = { &scene.observer }
        .path(millis(scene.now), None, None, "10.0.0.2".parse().unwrap())
        .unwrap();
    assert_eq!(path.arrives, Some(false), "{path:?}");
}

#[test]
fn a_packet_takes_the_longest_prefix_and_the_lowest_metric() {
    let default = route("0.0.0.0/0", 16, &[via("10.0.0.254", 2)]);
    let worse = Route {
        metric: 100,
        ..route(BLOCK, 4, &[via("10.0.0.9", 2)])
    };
    let own = Route {
        kind: RouteKind::Blackhole,
        ..route("10.244.1.0/26", 12, &[])
    };
    let pod = route("10.244.1.5/32", 3, &[attached(9)]);
    let scene = Scene::with_routes(&[default, block(), worse, own, pod]);
    for (destination, prefix, arrives) in [
        ("10.244.2.7", BLOCK, None),
        ("10.244.9.9", "0.0.0.0/0", None),
        ("10.244.1.5", "10.244.1.5/32", Some(true)),
        ("10.244.1.6", "10.244.1.0/26", Some(false)),
    ] {
        let destination = destination.parse().unwrap();
        let path = scene
            .observer
            .path(millis(scene.now), None, None, destination)
            .unwrap();
        let route = path.legs[0].route.as_ref().unwrap();
        assert_eq!(
            (route.prefix.as_str(), path.arrives),
            (prefix, arrives),
            "{destination}: {}",
            path.verdict
        );
    }
}

proptest! {
    /// Whatever is told in whatever order, the mirror is what a plain map would be, and a complete dump
    /// makes it the dump.
    #[test]
    fn the_mirror_is_a_plain_map(steps in prop::collection::vec((0_u8..6, 0_u32..8, 0_u32..3, 1_u32..4), 0..120)) {
        let mut scene = Scene::with_routes(&[]);
        let mut model: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        let row = |number: u32, metric: u32, hop: u32| Route {
            metric,
            ..route(&format!("10.{number}.0.0/16"), 12, &[via(&format!("10.255.0.{hop}"), hop)])
        };
        for (step, number, metric, hop) in steps {
            match step {
                0..=2 => {
                    model.insert((number, metric), hop);
                    scene.act(RouteOp::Replaced, &row(number, metric, hop), None);
                }
                3 | 4 => {
                    if let Some(hop) = model.remove(&(number, metric)) {
                        scene.del(&row(number, metric, hop));
                    }
                }
                _ => {
                    model.retain(|(kept, _), _| *kept != number);
                    model.insert((number, metric), hop);
                    let rows: Vec<Route> = { model.iter() }
                        .map(|((number, metric), hop)| row(*number, *metric, *hop))
                        .collect();
                    let now = scene.now;
                    scene.dump_routes(false, now, &rows);
                }
            }
            scene.now += 7;
            let there: Vec<(String, u32, String)> = scene.shown(true).into_iter()
                .filter(|view| !matches!(view.state, RouteState::Lost | RouteState::Missing))
                .map(|view| (view.prefix, view.metric.unwrap(), view.next_hops[0].interface.clone()))
                .collect();
            let name = |hop: u32| if hop == 2 { "eth2".to_owned() } else { hop.to_string() };
            let expected: Vec<(String, u32, String)> = { model.iter() }
                .map(|((number, metric), hop)| (format!("10.{number}.0.0/16"), *metric, name(*hop)))
                .collect();
            prop_assert_eq!(there, expected);
        }
    }
}

use observer_core::{
    event::forwarding::RouteSource,
    fib::totals::FibTotals,
    incident::record::Verdict,
    observer::{Histogram, Totals, WireTotals},
    reach::{ProbeResult, ReachTotals},
    route_view::{FibView, LatencyView, RouteCount, Unprogrammed},
    safety::{Safe, Safety},
    topology::{Reflector, Shape, Topology},
};

use super::*;
use crate::{
    cross_check::Compared,
    sink::node_events::fates,
    source::bird,
    testing::{down, noon, read, up},
};

fn sources() -> Vec<SourceStatus> {
    let probe = SourceStatus {
        name: "inet_sock_set_state".to_owned(),
        kind: "tp_btf".to_owned(),
        node: None,
        running: true,
        reason: None,
        instead_because: None,
        lost_without: String::new(),
    };
    vec![
        probe,
        SourceStatus::sock_diag("a", None),
        SourceStatus::sock_diag("b", Some("no".to_owned())),
    ]
}

fn snapshot() -> Snapshot {
    Snapshot {
        peers: vec![
            up("a", "10.0.0.2"),
            down("a", "fd00::3"),
            read("a", "10.0.0.4"),
        ],
        totals: Totals {
            flaps_by_cause: BTreeMap::from([(
                "a".to_owned(),
                BTreeMap::from([("fin_received", 2)]),
            )]),
            incidents: BTreeMap::from([(
                "a".to_owned(),
                BTreeMap::from([(Verdict::Graceful, 2), (Verdict::RoutesLost, 1)]),
            )]),
            concurrent_restarts: BTreeMap::from([("a".to_owned(), 1)]),
            reach: BTreeMap::from([(
                "a".to_owned(),
                ReachTotals {
                    probes: BTreeMap::from([(ProbeResult::Answered, 3), (ProbeResult::Lost, 2)]),
                    rtt: Histogram {
                        bounds: &[0.001, 0.01],
                        counts: vec![2, 1, 0],
                        sum: 0.004,
                    },
                },
            )]),
            unreachable: BTreeMap::from([(("a".to_owned(), "10.0.0.2".to_owned()), 6.8)]),
            strangers: 9,
            lost: BTreeMap::from([(LossStage::Decode, 4)]),
            resyncs: 1,
            establish: BTreeMap::from([(
                "a".to_owned(),
                Histogram {
                    bounds: &[0.001, 0.01],
                    counts: vec![1, 2, 3],
                    sum: 0.5,
                },
            )]),
            ..tapped()
        },
        events: BTreeMap::from([("tcp_state", 5)]),
        forwarding: vec![forwarding("a")],
        safety: vec![Safety {
            node: "a".to_owned(),
            answer: Safe::Yes,
            blockers: Vec::new(),
            unknown: Vec::new(),
            unchecked: Vec::new(),
        }],
        topology: vec![topology("a")],
        open_incidents: BTreeMap::from([(("a".to_owned(), Verdict::RoutesLost), 1)]),
        bgp_unused: false,
    }
}

/// Of two route reflectors one is up.
fn topology(node: &str) -> Topology {
    let reflector = |peer: &str, up| Reflector {
        peer: peer.to_owned(),
        peer_node: None,
        up,
        prefixes: 3,
        alone: 0.0,
    };
    Topology {
        node: node.to_owned(),
        shape: Shape::RouteReflectors,
        nodes: 4,
        sessions: 2,
        established: 1,
        full_mesh_sessions: 6,
        clients: 0,
        reflectors: vec![reflector("10.0.0.2", true), reflector("10.0.0.3", false)],
        advice: Vec::new(),
    }
}

fn forwarding(node: &str) -> FibView {
    let count = |protocol: &str, ip_version, count| RouteCount {
        protocol: protocol.to_owned(),
        ip_version,
        count,
    };
    FibView {
        node: node.to_owned(),
        source: Some(RouteSource::Netlink),
        complete: true,
        routes: vec![count("bird", 4, 7), count("dhcp", 4, 1), count("99", 4, 2)],
        unprogrammed: vec![Unprogrammed {
            peer: "10.0.0.2".to_owned(),
            announced: 3,
            seconds: 8.0,
            expected_within_seconds: 232.0,
        }],
        latencies: vec![LatencyView {
            peer: "10.0.0.2".to_owned(),
            update_to_fib_seconds: Some(0.001),
            withdraw_to_fib_seconds: Some(0.002),
            down_to_withdraw_seconds: Some(0.003),
        }],
    }
}

fn tapped() -> Totals {
    Totals {
        wire: BTreeMap::from([("a".to_owned(), wire())]),
        fib: BTreeMap::from([("a".to_owned(), FibTotals::default())]),
        ..Totals::default()
    }
}

fn wire() -> WireTotals {
    let mut wire = WireTotals::default();
    let received = &mut wire.notifications.received;
    received.insert((Some(6), Some(2)), 3);
    received.insert((Some(6), None), 1);
    received.insert((None, None), 4);
    wire.tap.transit = 5;
    wire.tap.conflicts = 1;
    wire.decode_errors.insert("attribute", 2);
    wire
}

pub(super) fn text(blind: bool) -> String {
    let scene = Scene {
        node: "a",
        sources: &sources(),
        blind,
        version: "1.2.3",
        ages: &BTreeMap::from([
            (ClusterKind::Nodes, Duration::ZERO),
            (ClusterKind::Blocks, Duration::from_millis(90_500)),
        ]),
        compared: Some(BTreeMap::from([("a".to_owned(), Compared::default())])),
        bird: Some(bird::results().shown()),
        node_events: Some(fates().shown()),
        peer_metrics: PeerMetrics::Full,
        now: noon(),
    };
    render(&snapshot(), &scene).unwrap()
}

#[test]
fn a_fixed_view_is_shown_as_this_text() {
    let shown = text(false);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sink/metrics_golden.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &shown).unwrap();
    }
    assert_eq!(shown, std::fs::read_to_string(path).unwrap());
}

#[test]
fn the_guides_alert_comes_first_and_is_one_hot() {
    let shown = text(false);
    assert!(shown.starts_with("# HELP calico_bgp_peers_state "));
    for line in [
        r#"calico_bgp_peers_state{node="a",peer="10.0.0.2",ip_version="4",state="up"} 1"#,
        r#"calico_bgp_peers_state{node="a",peer="10.0.0.2",ip_version="4",state="down"} 0"#,
        r#"calico_bgp_peers_state{node="a",peer="fd00::3",ip_version="6",state="up"} 0"#,
        r#"calico_bgp_peers_state{node="a",peer="fd00::3",ip_version="6",state="down"} 1"#,
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn the_blind_show_no_peer() {
    let shown = text(true);
    assert!(!shown.contains("peer=\""), "{shown}");
    assert!(shown.contains("bgp_observer_probe_attached"));
}

#[test]
fn counters_that_alerts_use_exist_before_anything_happened() {
    let mut snapshot = Snapshot {
        peers: vec![up("a", "10.0.0.2")],
        events: no_events(),
        ..Snapshot::default()
    };
    let scene = Scene {
        node: "a",
        sources: &[],
        blind: false,
        version: "1",
        ages: &BTreeMap::new(),
        compared: None,
        bird: None,
        node_events: None,
        peer_metrics: PeerMetrics::Full,
        now: noon(),
    };
    let shown = render(&snapshot, &scene).unwrap();
    let zero = |line: &str| assert!(shown.contains(line), "{line} is not in\n{shown}");
    zero("bgp_observer_session_flaps_total{node=\"a\",peer=\"10.0.0.2\"} 0\n");
    for cause in Cause::LABELS {
        zero(&format!(
            "bgp_observer_session_flaps_by_cause_total{{node=\"a\",cause=\"{cause}\"}} 0\n"
        ));
    }
    for stage in LossStage::ALL {
        zero(&format!("stage=\"{}\"}} 0\n", stage.name()));
    }
    zero("kind=\"reset_received\"} 0\n");

    snapshot.peers.clear();
    let shown = render(&snapshot, &scene).unwrap();
    assert!(!shown.contains("peer=\""), "{shown}");
}

#[test]
fn every_fact_has_a_counter_from_the_start() {
    let events = no_events();
    assert_eq!(
        events.len(),
        EVENT_KINDS.len() + Forwarding::KINDS.len() + 1
    );
    assert!(events.contains_key(event_kind(&Fact::Tick)));
    assert!(events.contains_key(event_kind(&Fact::Strangers { connections: 1 })));
}

#[test]
fn label_values_are_escaped() {
    let mut odd = up("a", "10.0.0.2");
    odd.peer_node = Some("x\"} 1\nfake{a=\"\\".to_owned());
    let snapshot = Snapshot {
        peers: vec![odd],
        ..Snapshot::default()
    };
    let scene = Scene {
        node: "a",
        sources: &[],
        blind: false,
        version: "1",
        ages: &BTreeMap::new(),
        compared: None,
        bird: None,
        node_events: None,
        peer_metrics: PeerMetrics::Full,
        now: noon(),
    };
    let shown = render(&snapshot, &scene).unwrap();
    assert!(
        shown.contains(r#"peer_node="x\"} 1\nfake{a=\"\\""#),
        "{shown}"
    );
    assert!(!shown.lines().any(|line| line.starts_with("fake")));
}

#[test]
fn a_node_whose_packets_are_not_read_shows_no_counts_of_them() {
    let mut unread = read("a", "10.0.0.4");
    unread.bgp.tapped = false;
    let mut midway = read("a", "10.0.0.5");
    midway.bgp.prefixes_complete = false;
    let mut lost = read("a", "10.0.0.6");
    lost.up = false;
    let snapshot = Snapshot {
        peers: vec![unread, midway, lost],
        ..Snapshot::default()
    };
    let scene = Scene {
        node: "a",
        sources: &[],
        blind: false,
        version: "1",
        ages: &BTreeMap::new(),
        compared: None,
        bird: None,
        node_events: None,
        peer_metrics: PeerMetrics::Full,
        now: noon(),
    };
    let shown = render(&snapshot, &scene).unwrap();
    let has = |name: &str, peer: &str| {
        let start = format!("bgp_observer_{name}{{node=\"a\",peer=\"{peer}\"");
        shown.lines().any(|line| line.starts_with(&start))
    };
    for (name, midway, lost) in [
        ("messages_total", true, true),
        ("announcements_total", true, true),
        ("graceful_restart_active", true, true),
        ("prefixes", false, true),
        ("stale_prefixes", false, true),
        ("keepalive_age_seconds", true, false),
        ("hold_time_seconds", true, false),
        ("hold_margin_ratio", true, false),
    ] {
        let found = (
            has(name, "10.0.0.4"),
            has(name, "10.0.0.5"),
            has(name, "10.0.0.6"),
        );
        assert_eq!(found, (false, midway, lost), "{name}");
    }
}

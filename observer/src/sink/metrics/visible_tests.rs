//! Which peers are shown, and what that costs.

use observer_core::{bgp::Family, message_counts::MalformedUpdates};

use super::*;
use crate::{
    keeper::Snapshot,
    sink::metrics::{Scene, render},
    testing::{down, noon, read},
};

const ALL: [PeerMetrics; 3] = [
    PeerMetrics::Full,
    PeerMetrics::Unhealthy,
    PeerMetrics::External,
];

fn hours(hours: i64) -> jiff::Timestamp {
    noon() + jiff::SignedDuration::from_hours(hours)
}

fn healthy(number: u32) -> PeerView {
    let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
    read("a", &address.to_string())
}

fn text(peers: Vec<PeerView>, mode: PeerMetrics) -> String {
    let snapshot = Snapshot {
        peers,
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
        peer_metrics: mode,
        now: hours(48),
    };
    render(&snapshot, &scene).unwrap()
}

/// Whether the peer is shown in each mode.
fn shown(peer: &PeerView, now: jiff::Timestamp) -> [bool; 3] {
    ALL.map(|mode| mode.shows(peer, now))
}

#[test]
fn who_is_not_healthy_is_shown_in_every_mode() {
    let calm = || {
        let mut calm = healthy(2);
        calm.last_down_at = None;
        calm.bgp.stale_prefixes.clear();
        calm.bgp.hold_margin = Some(0.9);
        calm.bgp.malformed_updates.received = MalformedUpdates::default();
        calm
    };
    let all = [true; 3];
    let only_full = [true, false, false];
    assert_eq!(shown(&calm(), hours(0)), only_full);
    assert_eq!(shown(&down("a", "10.0.0.3"), hours(100)), all);
    let mut flapped = calm();
    flapped.last_down_at = Some(noon());
    assert_eq!(shown(&flapped, hours(23)), all);
    assert_eq!(shown(&flapped, hours(24)), only_full);
    let mut low = calm();
    low.bgp.hold_margin = Some(0.2);
    assert_eq!(shown(&low, hours(0)), all);
    let mut stale = calm();
    stale.bgp.stale_prefixes.insert(Family::IPV4_UNICAST, 1);
    assert_eq!(shown(&stale, hours(0)), all);
    let external = [true, false, true];
    let mut tor = calm();
    tor.peer_type = Some(PeerType::Global);
    assert_eq!(shown(&tor, hours(0)), external);
    // Of whom nobody knows the type is not known to be of the mesh.
    tor.peer_type = None;
    assert_eq!(shown(&tor, hours(0)), external);
}

#[test]
fn the_guides_alert_sees_a_peer_that_is_down_and_aggregates_see_all() {
    for mode in ALL {
        let mut peers: Vec<PeerView> = (2..202).map(healthy).collect();
        for peer in &mut peers {
            peer.last_down_at = None;
        }
        peers.push(down("a", "10.0.9.9"));
        let text = text(peers, mode);
        let has = |line: &str| assert!(text.contains(line), "{mode:?}: no {line}");
        has(r#"calico_bgp_peers_state{node="a",peer="10.0.9.9",ip_version="4",state="down"} 1"#);
        has(r#"bgp_observer_peers{node="a",peer_type="node-to-node mesh",state="up"} 200"#);
        has(r#"bgp_observer_peers{node="a",peer_type="",state="down"} 1"#);
        // Who has not lost it, and counters before they count, are there whoever is shown.
        has(r#"calico_bgp_peers_state{node="a",peer="10.0.0.7",ip_version="4",state="up"} 1"#);
        has(r#"bgp_observer_peer_info{node="a",peer="10.0.0.7","#);
        has(r#"bgp_observer_session_flaps_total{node="a",peer="10.0.0.7"} "#);
        has(r#"bgp_observer_unreachable_seconds_total{node="a",peer="10.0.0.7"} 0"#);
        has(r#"bgp_observer_tcp_retransmits_total{node="a",peer="10.0.0.7"} "#);
    }
}

#[test]
fn auto_is_decided_by_the_largest_node_and_stays() {
    let peers = |count| (0..count).map(healthy).collect::<Vec<_>>();
    let auto = PeerMetrics::Auto;
    assert_eq!(auto.settled(&peers(100)), PeerMetrics::Full);
    assert_eq!(auto.settled(&peers(101)), PeerMetrics::Unhealthy);
    let mut two = peers(100);
    two.push(read("b", "10.9.9.9"));
    assert_eq!(auto.settled(&two), PeerMetrics::Full);
    let visibility = Visibility::new(auto);
    assert_eq!(visibility.mode(&peers(101)), PeerMetrics::Unhealthy);
    assert_eq!(visibility.mode(&peers(3)), PeerMetrics::Full, "too soon");
    let mut old = Visibility::new(auto);
    old.begun = old.begun.checked_sub(DECIDED).unwrap();
    assert_eq!(old.mode(&peers(3)), PeerMetrics::Full);
    assert_eq!(old.mode(&peers(101)), PeerMetrics::Full);
}

#[test]
fn series_of_a_node_grow_by_few_for_each_healthy_peer() {
    for mode in ALL {
        let series = [10_u32, 100, 1_000].map(|count| {
            let mut peers: Vec<PeerView> = (0..count).map(healthy).collect();
            for peer in &mut peers {
                peer.last_down_at = None;
                peer.bgp.stale_prefixes.clear();
                peer.bgp.hold_margin = Some(0.9);
                peer.bgp.malformed_updates.received = MalformedUpdates::default();
            }
            let text = text(peers, mode);
            text.lines().filter(|line| !line.starts_with('#')).count()
        });
        println!(
            "{}: series of a node with 10, 100, 1,000 peers: {series:?}",
            mode.name()
        );
        let of_peer = (series[2] - series[1]) / 900;
        let most = if mode == PeerMetrics::Full { 60 } else { 6 };
        assert!(of_peer <= most, "{mode:?}: {of_peer} for each peer");
        assert!(of_peer >= 6, "{mode:?}: {of_peer} for each peer");
    }
}

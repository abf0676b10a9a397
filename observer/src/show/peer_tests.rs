use observer_core::{bgp_view::NotificationView, conversation::Inference};

use super::*;
use crate::testing::{down, flap, noon, read, up};

#[test]
fn one_peer_is_shown_in_full() {
    let shown = page(&read("a", "10.0.0.2"), &[flap("a", "10.0.0.2")]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/show/peer_golden.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &shown).unwrap();
    }
    assert_eq!(shown, std::fs::read_to_string(path).unwrap());
}

#[test]
fn where_no_packets_are_read_it_says_so_and_shows_no_zeroes() {
    let shown = page(&up("a", "10.0.0.2"), &[]);
    assert!(shown.contains("Packets are not read here"), "{shown}");
    assert!(!shown.contains("MESSAGES"), "{shown}");
    assert!(shown.ends_with("Its session was never lost.\n"), "{shown}");
}

#[test]
fn a_session_older_than_the_agent_is_marked() {
    let mut peer = read("a", "10.0.0.2");
    peer.bgp.opens = Sides::default();
    peer.bgp.capabilities.clear();
    peer.bgp.conversation = ConversationView::Inferred;
    peer.bgp.prefixes_complete = false;
    peer.bgp.hold_time_secs = None;
    peer.bgp.hold_margin = None;
    peer.bgp.inference.received = Inference {
        add_path: BTreeMap::from([(Family::IPV4_UNICAST, true)]),
        updates: 1,
        ..Inference::default()
    };
    let shown = page(&peer, &[]);
    let inferred = "Inferred: the peer sends ipv4-unicast with path identifiers (ADD-PATH).";
    assert!(shown.contains(inferred), "{shown}");
    assert!(shown.contains("| ≥3 "), "{shown}");
    assert!(shown.contains("hold time not known"), "{shown}");
}

#[test]
fn restarts_of_both_sides_and_a_low_hold_timer_are_told() {
    let mut peer = read("a", "10.0.0.2");
    peer.bgp.hold_margin = Some(0.25);
    let restart = peer.bgp.graceful_restart.as_mut().unwrap();
    restart.active = true;
    restart.expires_in_seconds = Some(90.0);
    restart.awaited = vec![Family::IPV4_UNICAST];
    peer.bgp.held_stale = Some(observer_core::bgp_view::HeldView {
        since: noon(),
        expires_in_seconds: Some(60.0),
        awaited: vec![Family::IPV4_UNICAST],
        routes: 2,
    });
    let shown = page(&peer, &[]);
    for words in [
        "its routes are stale, kept for 1m30s more; End-of-RIB awaited of ipv4-unicast.",
        "Of this node's routes the peer holds 2 as stale, for 1m00s more",
        "45.0 s left until this node gives the peer up (25 %, LOW)",
    ] {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
    let mut lost = read("a", "10.0.0.2");
    lost.up = false;
    assert!(!page(&lost, &[]).contains("Timers:"));
}

#[test]
fn text_from_the_wire_cannot_move_the_cursor() {
    let mut peer = PeerView {
        bgp: read("a", "10.0.0.2").bgp,
        ..down("a", "10.0.0.2")
    };
    let odd = "\x1b[2Jgone\r".to_owned();
    peer.last_failure = Some(odd.clone());
    peer.bgp.capabilities.push(CapabilityView {
        code: 73,
        name: "FQDN".to_owned(),
        sent: None,
        received: Some(odd.clone()),
        negotiated: false,
        lacking: Some(Lacking::ThisNode),
    });
    peer.bgp.notifications.received = Some(NotificationView {
        at: noon(),
        notification: observer_core::bgp::NotificationFacts::default(),
        words: odd,
    });
    let shown = page(&peer, &[]);
    assert!(!shown.contains(['\x1b', '\r']), "{shown:?}");
    assert_eq!(shown.matches("\\u{1b}[2Jgone\\u{d}").count(), 3, "{shown}");
}

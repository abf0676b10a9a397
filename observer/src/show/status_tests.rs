use super::*;
use crate::testing::{down, noon, read, up};

#[test]
fn one_node_looks_like_calicoctl() {
    let shown = table(
        &[read("a", "10.0.0.2"), down("a", "10.0.0.3")],
        false,
        noon(),
    );
    assert_eq!(
        shown,
        "\
+--------------+-------------------+-------+----------+-------------+----------+-----------+-------+----------------------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE    | INFO        | PREFIXES | KEEPALIVE | FLAPS | CAUSE                |
+--------------+-------------------+-------+----------+-------------+----------+-----------+-------+----------------------+
| 10.0.0.2     | node-to-node mesh | up    | 03:04:05 | Established | 3        | 12/180 s  | 0     | -                    |
| 10.0.0.3     | -                 | down  | 03:04:05 | Active      | -        | -         | 2     | peer closed the      |
|              |                   |       |          |             |          |           |       | connection (FIN      |
|              |                   |       |          |             |          |           |       | received)            |
+--------------+-------------------+-------+----------+-------------+----------+-----------+-------+----------------------+
"
    );
}

#[test]
fn several_nodes_get_a_column_and_yesterday_a_date() {
    let tomorrow = noon() + jiff::SignedDuration::from_hours(24);
    let shown = table(&[up("a", "10.0.0.2"), up("b", "10.0.0.1")], false, tomorrow);
    assert!(shown.contains("| NODE | PEER ADDRESS |"), "{shown}");
    assert!(shown.contains("| 2026-01-02 |"), "{shown}");
}

#[test]
fn what_comes_from_outside_cannot_move_the_cursor() {
    let mut odd = up("a", "10.0.0.2");
    odd.info = "\x1b[2Jgone\r\u{9b}".to_owned();
    let shown = table(&[odd], true, noon());
    assert!(!shown.contains(['\x1b', '\r', '\u{9b}']), "{shown:?}");
    assert!(shown.contains("\\u{1b}[2Jgone"), "{shown}");
}

#[test]
fn a_pending_cause_is_not_shown_as_the_last_one() {
    let mut peer = down("a", "10.0.0.2");
    peer.cause_pending = true;
    assert!(table(&[peer], false, noon()).contains("| pending"));
}

/// The cell of `peer` under `title`.
fn cell(peer: &PeerView, title: &str, wide: bool) -> String {
    let shown = table(std::slice::from_ref(peer), wide, noon());
    let row = |line: usize| shown.lines().nth(line).unwrap().split('|');
    let column = row(1).position(|cell| cell.trim() == title).unwrap();
    row(3).nth(column).unwrap().trim().to_owned()
}

#[test]
fn what_was_only_seen_in_part_is_marked() {
    let mut peer = read("a", "10.0.0.2");
    assert_eq!(cell(&peer, "PREFIXES", false), "3");
    assert_eq!(cell(&peer, "ADVERTISED", true), "1");
    assert_eq!(cell(&peer, "KEEPALIVE", false), "12/180 s");
    peer.bgp.conversation = ConversationView::Inferred;
    peer.bgp.prefixes_complete = false;
    assert_eq!(cell(&peer, "PREFIXES", false), "≥3 inferred");
    peer.bgp.tapped = false;
    assert_eq!(cell(&peer, "PREFIXES", false), "-");
    assert_eq!(cell(&up("a", "10.0.0.2"), "KEEPALIVE", false), "-");
}

#[test]
fn what_is_about_to_go_wrong_stands_beside_the_state() {
    let mut peer = read("a", "10.0.0.2");
    peer.bgp.hold_margin = Some(0.2);
    assert_eq!(cell(&peer, "INFO", true), "Established; hold timer low");
    peer.bgp.hold_margin = None;
    peer.bgp.stale_prefixes = peer.bgp.prefixes.clone();
    let restart = peer.bgp.graceful_restart.as_mut().unwrap();
    restart.active = true;
    restart.expires_in_seconds = Some(118.0);
    let info = "Established; graceful restart: 3 stale, 1m58s left";
    assert_eq!(cell(&peer, "INFO", true), info);
    assert_eq!(cell(&peer, "GRACEFUL RESTART", true), "restarting");
}

#[test]
fn a_usual_table_fits_into_120_characters() {
    let mut peer = read("a", "10.10.100.102");
    peer.flaps = 12;
    let cause = "peer sent Cease/Administrative Shutdown 'rolling update of the rack'";
    peer.last_cause_text = Some(cause.to_owned());
    peer.last_cause = Some(Cause::Unknown);
    let later = noon() + jiff::SignedDuration::from_hours(48);
    for peers in [vec![peer.clone()], vec![down("a", "10.10.100.103"), peer]] {
        for line in table(&peers, false, later).lines() {
            assert!(line.chars().count() <= 128, "{line}");
        }
    }
}

#[test]
fn the_answer_is_no_when_one_is_down_and_unknown_to_the_blind() {
    let peers = [up("a", "10.0.0.2"), down("a", "10.0.0.3")];
    assert_eq!(answer(&peers, false), Answer::No);
    assert_eq!(answer(&peers[..1], false), Answer::Done);
    assert_eq!(answer(&[], false), Answer::Done);
    assert_eq!(answer(&peers[..1], true), Answer::Unknown);
}

#[test]
fn a_long_cause_is_cut_in_the_narrow_table_only() {
    let mut peer = read("a", "10.0.0.2");
    let text = format!(
        "peer sent Cease/Administrative Shutdown '{}'",
        "x".repeat(200)
    );
    peer.last_cause = Some(Cause::Unknown);
    peer.last_cause_text = Some(text.clone());
    let narrow = table(std::slice::from_ref(&peer), false, noon());
    assert!(
        narrow.contains('…') && narrow.lines().count() < 10,
        "{narrow}"
    );
    assert_eq!(cell(&peer, "CAUSE", true), text);
    peer.last_cause = Some(Cause::LocalSpeakerGone {
        speaker: observer_core::event::Process {
            pid: 7,
            comm: "bird".to_owned(),
        },
        end: observer_core::cause::SpeakerEnd::OutOfMemory,
        notification: None,
    });
    assert_eq!(cell(&peer, "CAUSE", false), "local bird ended");
}

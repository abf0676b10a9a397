use super::*;
use crate::testing::{down, noon, up};

#[test]
fn one_node_looks_like_calicoctl() {
    let shown = table(&[up("a", "10.0.0.2"), down("a", "10.0.0.3")], false, noon());
    assert_eq!(
        shown,
        "\
+--------------+-------------------+-------+----------+-------------------------------------------+-------+--------------+--------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE    | INFO                                      | FLAPS | CAUSE        | RTT    |
+--------------+-------------------+-------+----------+-------------------------------------------+-------+--------------+--------+
| 10.0.0.2     | node-to-node mesh | up    | 03:04:05 | Established                               | 0     | -            | 250 µs |
| 10.0.0.3     | -                 | down  | 03:04:05 | peer closed the connection (FIN received) | 2     | fin_received | -      |
+--------------+-------------------+-------+----------+-------------------------------------------+-------+--------------+--------+
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

#[test]
fn the_answer_is_no_when_one_is_down_and_unknown_to_the_blind() {
    let peers = [up("a", "10.0.0.2"), down("a", "10.0.0.3")];
    assert_eq!(answer(&peers, false), Answer::No);
    assert_eq!(answer(&peers[..1], false), Answer::Done);
    assert_eq!(answer(&[], false), Answer::Done);
    assert_eq!(answer(&peers[..1], true), Answer::Unknown);
}

//! What an incident is called: its id, whom it happened to, and the keys that other witnesses'
//! records of the same event share.

use std::time::Duration;

use super::record::{Subject, SubjectKind};
use crate::{address::PeerAddress, conversation::Direction, node::Node};

/// Width of the grid for events that every witness sees at once: a session's end.
const SUDDEN: Duration = Duration::from_mins(1);
/// Width of the grid for hold timers: witnesses last heard the peer up to a keepalive interval apart.
const SILENT: Duration = Duration::from_mins(10);

/// A peer as a subject. All witnesses see the same BGP identifier, and so does the node itself.
pub(super) fn peer_subject(node: &Node, address: PeerAddress) -> Subject {
    let peer = node.peers.get(&address);
    let id = peer.and_then(|peer| peer.exchange.bgp_id(Direction::BToA));
    let reflects = peer.is_some_and(|peer| peer.exchange.reflects());
    Subject {
        kind: if reflects {
            SubjectKind::RouteReflector
        } else {
            SubjectKind::Peer
        },
        identity: id.map_or_else(|| address.to_string(), |id| id.to_string()),
        name: peer.and_then(|peer| peer.name.clone()),
    }
}

/// The node itself as a subject.
pub(super) fn local_subject(node: &Node) -> Subject {
    let sent = node
        .peers
        .values()
        .find_map(|peer| peer.exchange.bgp_id(Direction::AToB))
        .map(|id| id.to_string());
    let own = || node.own.iter().next().map(ToString::to_string);
    Subject {
        kind: SubjectKind::Local,
        identity: sent.or_else(own).unwrap_or_else(|| node.name.clone()),
        name: Some(node.name.clone()),
    }
}

/// The two keys of what happened to `identity` at `at`. `silent` is how long nothing had been heard
/// by then, where a hold timer tells that only afterwards.
pub(super) fn keys(identity: &str, at: jiff::Timestamp, silent: Option<Duration>) -> Vec<String> {
    let width = if silent.is_some() { SILENT } else { SUDDEN };
    let nanos = |span: Duration| i128::try_from(span.as_nanos()).unwrap_or(i128::MAX);
    let at = at.as_nanosecond() - nanos(silent.unwrap_or_default());
    let width_nanos = nanos(width);
    let key = |grid: char, shift: i128| {
        let cell = (at + shift).div_euclid(width_nanos);
        format!("{identity}/{}{grid}/{cell}", width.as_secs())
    };
    vec![key('a', 0), key('b', width_nanos / 2)]
}

/// The id of an incident of `node` opened at `at`, other than those that are `taken`.
pub(super) fn id(node: &str, at: jiff::Timestamp, taken: impl Fn(&str) -> bool) -> String {
    let microsecond = jiff::SignedDuration::from_micros(1);
    let mut at = at;
    loop {
        let id = format!("{}-{node}", at.strftime("%Y%m%dT%H%M%S%.6f"));
        if !taken(&id) {
            return id;
        }
        at = at.saturating_add(microsecond).unwrap_or(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    #[test]
    fn witnesses_less_than_half_a_width_apart_share_a_key_wherever_the_grid_lies() {
        for start in (0..120_000).step_by(500) {
            for apart in [0, 1, 1_000, 29_999] {
                let one = keys("10.0.0.2", at(start), None);
                let other = keys("10.0.0.2", at(start + apart), None);
                assert!(one.iter().any(|key| other.contains(key)), "{start} {apart}");
            }
            let later = keys("10.0.0.2", at(start + 60_000), None);
            assert!(
                keys("10.0.0.2", at(start), None)
                    .iter()
                    .all(|key| !later.contains(key))
            );
        }
    }

    #[test]
    fn hold_timers_are_grouped_by_when_the_peer_was_last_heard() {
        let silent = |secs| Some(Duration::from_secs(secs));
        let one = keys("10.0.0.2", at(240_000), silent(240));
        let other = keys("10.0.0.2", at(320_000), silent(240));
        assert!(one.iter().any(|key| other.contains(key)));
    }

    #[test]
    fn ids_sort_by_time_and_never_repeat() {
        let first = id("n1", at(0), |_| false);
        let second = id("n1", at(0), |id| id == first);
        assert!(first < second, "{first} {second}");
        assert!(second < id("n1", at(1), |_| false));
        assert!(first.starts_with("20231114T221320.000000-n1"), "{first}");
    }
}

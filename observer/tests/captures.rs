//! Every example capture agrees with what tshark counts in it, except where the RFC says otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use observer::capture::{
    BGP_PORT, ConnectionSummary, DirectionSummary, NotificationSummary, Summary, summarise,
};
use observer_core::bgp::Family;
use serde_json::{Value, json};

/// What differs from tshark's count, and why: (file, stream, sender, field, ours).
type Difference = (&'static str, &'static str, &'static str, &'static str, u64);

/// After 61 octets that were not captured a whole NOTIFICATION follows (Cease/Hard Reset). tshark,
/// told to put segments in order, waits for the octets for ever; they were acknowledged (frame 3),
/// so the receiver has them, and the NOTIFICATION too: RFC 9293 §3.4.
const HARD_RESET: [Difference; 1] = [(
    "bgp-cease-hard-reset.pcap",
    "0",
    "1.0.0.2:179",
    "NOTIFICATION",
    1,
)];

/// Bit errors put in by a fuzzer. tshark takes any 19 octets at the place where a message should
/// begin for a header, whatever the marker (its expert information says "marker is not all ones"),
/// follows the length it finds there, and so passes over dozens of whole messages or ends with an
/// "other" one. RFC 4271 §6.1: without the marker of ones the connection is not synchronized and
/// there is no header; we count that and go on at the next marker. The one withdrawn route that
/// tshark shows stands in an UPDATE whose attributes overrun the message: RFC 4271 §6.3, nothing in
/// it is taken.
const NOT_SYNCHRONIZED: [Difference; 9] = [
    ("bgp-as-path-oobr.pcap", "0", "172.17.0.0:179", "UPDATE", 16),
    ("bgp-as-path-oobr.pcap", "0", "172.17.0.0:179", "other", 0),
    (
        "bgp-as-path-oobr.pcap",
        "0",
        "172.17.0.0:179",
        "announced",
        31,
    ),
    (
        "bgp-as-path-oobr.pcap",
        "0",
        "172.17.0.0:179",
        "withdrawn",
        0,
    ),
    (
        "bgp-as-path-oobr.pcap",
        "1",
        "172.17.0.0:179",
        "UPDATE",
        318,
    ),
    ("bgp-as-path-oobr.pcap", "1", "172.17.0.0:179", "other", 0),
    (
        "bgp-as-path-oobr.pcap",
        "1",
        "172.17.0.0:179",
        "announced",
        894,
    ),
    (
        "bgp_mp_reach_nlri-oobr.pcap",
        "0",
        "241.0.128.39:179",
        "UPDATE",
        6,
    ),
    (
        "bgp_mp_reach_nlri-oobr.pcap",
        "0",
        "241.0.128.39:179",
        "other",
        0,
    ),
];

/// The difference that is explained for this place.
fn explained(place: (&str, &str, &str, &str)) -> Option<u64> {
    let (file, stream, sender, field) = place;
    HARD_RESET
        .iter()
        .chain(&NOT_SYNCHRONIZED)
        .find(|known| (known.0, known.1, known.2, known.3) == (file, stream, sender, field))
        .map(|known| known.4)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
}

fn sum(families: &BTreeMap<Family, u64>) -> u64 {
    families.values().sum()
}

/// Our count of each thing that tshark's file counts.
fn ours(direction: &DirectionSummary) -> Vec<(&'static str, u64)> {
    let counts = &direction.counts;
    vec![
        ("OPEN", counts.messages.open),
        ("UPDATE", counts.messages.update),
        ("NOTIFICATION", counts.messages.notification),
        ("KEEPALIVE", counts.messages.keepalive),
        ("ROUTE-REFRESH", counts.messages.route_refresh),
        ("other", counts.messages.other),
        ("announced", sum(&counts.announced)),
        ("withdrawn", sum(&counts.withdrawn)),
    ]
}

fn theirs(direction: &Value, field: &str) -> u64 {
    let number = |field: &str| direction[field].as_u64().unwrap();
    match field {
        "announced" => number("announced_v4") + number("mp_reach_prefixes"),
        "withdrawn" => number("withdrawn_v4") + number("mp_unreach_prefixes"),
        field => number(field),
    }
}

fn compare(
    file: &str,
    stream: &str,
    sender: &str,
    expected: &Value,
    found: &DirectionSummary,
) -> Vec<String> {
    let place = format!("{file} {stream} {sender}");
    let mut wrong = Vec::new();
    for (field, ours) in ours(found) {
        let theirs = theirs(expected, field);
        let expected = explained((file, stream, sender, field)).unwrap_or(theirs);
        if ours != expected {
            wrong.push(format!("{place} {field}: ours {ours}, expected {expected}"));
        }
    }
    if explained((file, stream, sender, "NOTIFICATION")).is_none() {
        let pair = |found: &NotificationSummary| json!([found.code, found.subcode]);
        let pairs: Vec<_> = found.notifications.iter().map(pair).collect();
        if expected["notifications"] != Value::from(pairs.clone()) {
            wrong.push(format!("{place}: notifications {pairs:?}"));
        }
    }
    let opens: Vec<_> = found
        .opens
        .iter()
        .map(|open| {
            json!({
                "as": open.asn,
                "hold": open.hold_time,
                "id": open.bgp_id,
                "capabilities": open.capabilities,
            })
        })
        .collect();
    if expected["open"] != Value::from(opens.clone()) {
        wrong.push(format!("{place}: opens {opens:?}"));
    }
    let v4 = found
        .end_of_rib
        .iter()
        .filter(|family| family.to_string() == "ipv4-unicast")
        .count();
    if expected["end_of_rib_v4"] != v4 {
        wrong.push(format!("{place}: end of RIB {v4}"));
    }
    wrong
}

fn connection<'a>(summary: &'a Summary, stream: &str, expected: &Value) -> &'a ConnectionSummary {
    let connection = &summary.connections[stream.parse::<usize>().unwrap()];
    assert_eq!(connection.a.to_string(), expected["a"].as_str().unwrap());
    assert_eq!(connection.b.to_string(), expected["b"].as_str().unwrap());
    connection
}

#[test]
fn every_capture_agrees_with_its_expectation() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path
            .extension()
            .is_none_or(|extension| extension == "json" || extension == "md")
        {
            continue;
        }
        seen += 1;
        let expected = folder().join(format!("{file}.expected.json"));
        let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
        let summary = summarise(&path, &[BGP_PORT]).unwrap();
        let streams = expected["streams"].as_object().unwrap();
        assert_eq!(summary.connections.len(), streams.len(), "{file}");
        for (stream, expected) in streams {
            let connection = connection(&summary, stream, expected);
            for (sender, expected) in expected["dir"].as_object().unwrap() {
                let found = if connection.a.to_string() == *sender {
                    &connection.a_to_b
                } else {
                    &connection.b_to_a
                };
                wrong.extend(compare(&file, stream, sender, expected, found));
            }
        }
    }
    assert_eq!(seen, 12);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

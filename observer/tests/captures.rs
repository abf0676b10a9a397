//! Every example capture agrees with what tshark counts in it, except where the RFC says otherwise.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use observer::capture::{BGP_PORT, ConnectionSummary, DirectionSummary, Summary, summarise};
use serde_json::Value;

/// What differs from tshark's count, and why: (file, stream, sender, field, ours, reason).
const DIFFERENCES: &[(&str, &str, &str, &str, u64, &str)] = &[];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
}

fn sum(families: &BTreeMap<observer_core::bgp::Family, u64>) -> u64 {
    families.values().sum()
}

/// Our count of each thing that tshark's file counts.
fn ours(direction: &DirectionSummary) -> Vec<(&'static str, u64)> {
    let counts = &direction.counts;
    vec![
        ("OPEN", counts.open),
        ("UPDATE", counts.update),
        ("NOTIFICATION", counts.notification),
        ("KEEPALIVE", counts.keepalive),
        ("ROUTE-REFRESH", counts.route_refresh),
        ("other", counts.other),
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

fn compare(file: &str, stream: &str, sender: &str, expected: &Value, found: &DirectionSummary) -> Vec<String> {
    let mut wrong = Vec::new();
    for (field, ours) in ours(found) {
        let theirs = theirs(expected, field);
        let explained = DIFFERENCES.iter().find(|difference| {
            (difference.0, difference.1, difference.2, difference.3) == (file, stream, sender, field)
        });
        match explained {
            Some(difference) if difference.4 == ours && ours != theirs => {}
            Some(difference) => wrong.push(format!("{file} {stream} {sender} {field}: {ours}, explained is {}", difference.4)),
            None if ours == theirs => {}
            None => wrong.push(format!("{file} {stream} {sender} {field}: ours {ours}, tshark {theirs}")),
        }
    }
    if !DIFFERENCES.iter().any(|d| (d.0, d.1, d.2, d.3) == (file, stream, sender, "NOTIFICATION")) {
        let pairs: Vec<_> = found.notifications.iter().map(|n| serde_json::json!([n.code, n.subcode])).collect();
        if expected["notifications"] != Value::from(pairs.clone()) {
            wrong.push(format!("{file} {stream} {sender}: notifications {pairs:?}"));
        }
    }
    let opens: Vec<_> = found
        .opens
        .iter()
        .map(|open| serde_json::json!({"as": open.asn, "hold": open.hold_time, "id": open.bgp_id, "capabilities": open.capabilities}))
        .collect();
    if expected["open"] != Value::from(opens.clone()) {
        wrong.push(format!("{file} {stream} {sender}: opens {opens:?}"));
    }
    let v4 = found.end_of_rib.iter().filter(|family| family.to_string() == "ipv4-unicast").count();
    if expected["end_of_rib_v4"] != Value::from(v4) {
        wrong.push(format!("{file} {stream} {sender}: end of RIB {v4}"));
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
        if !file.ends_with(".pcap") && !file.ends_with(".pcapng") {
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

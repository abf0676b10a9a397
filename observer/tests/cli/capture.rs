//! `replay FILE -o json`: what scripts were promised of it, key by key, on every example capture.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{run, stderr};

/// The whole object. Every field must be there, of this type; others may come beside.
#[derive(Deserialize)]
struct Replayed {
    connections: Vec<Connection>,
    totals: Numbers,
}

#[derive(Deserialize)]
struct Connection {
    a: String,
    b: String,
    a_to_b: Direction,
    b_to_a: Direction,
}

#[derive(Deserialize)]
struct Direction {
    #[serde(flatten)]
    numbers: Numbers,
    end_of_rib: Vec<String>,
    notifications: Vec<Notification>,
    opens: Vec<Open>,
}

#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
struct Numbers {
    open: u64,
    update: u64,
    notification: u64,
    keepalive: u64,
    route_refresh: u64,
    announced: BTreeMap<String, u64>,
    withdrawn: BTreeMap<String, u64>,
    decode_errors: u64,
    gaps: u64,
}

#[derive(Deserialize)]
struct Notification {
    code: u8,
    subcode: u8,
    /// Null where there is none, and never left out.
    #[serde(deserialize_with = "Option::deserialize")]
    text: Option<String>,
}

#[derive(Deserialize)]
struct Open {
    asn: u32,
    hold_time: u16,
    bgp_id: std::net::Ipv4Addr,
    capabilities: Vec<u8>,
}

impl Numbers {
    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.open, other.open),
            (&mut self.update, other.update),
            (&mut self.notification, other.notification),
            (&mut self.keepalive, other.keepalive),
            (&mut self.route_refresh, other.route_refresh),
            (&mut self.decode_errors, other.decode_errors),
            (&mut self.gaps, other.gaps),
        ] {
            *sum += more;
        }
        for (sum, more) in [
            (&mut self.announced, &other.announced),
            (&mut self.withdrawn, &other.withdrawn),
        ] {
            for (family, count) in more {
                *sum.entry(family.clone()).or_default() += count;
            }
        }
    }
}

/// Where the RFC and tshark disagree: `tests/captures.rs` tells each difference.
const DISPUTED: [&str; 3] = [
    "bgp-cease-hard-reset.pcap",
    "bgp-as-path-oobr.pcap",
    "bgp_mp_reach_nlri-oobr.pcap",
];

fn captures() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/captures").into()
}

/// What the command prints of a capture: one object and nothing else.
fn replayed(capture: &str) -> Replayed {
    let path = captures().join(capture);
    let output = run(
        &captures(),
        &["replay", path.to_str().unwrap(), "-o", "json"],
    );
    assert!(output.status.success(), "{capture}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{capture}: {error}"))
}

/// Our direction beside what tshark counts in it.
fn agree(place: &str, ours: &Direction, theirs: &Value) {
    let number = |field: &str| theirs[field].as_u64().unwrap();
    let sum = |families: &BTreeMap<String, u64>| families.values().sum::<u64>();
    let numbers = &ours.numbers;
    for (field, count) in [
        ("OPEN", numbers.open),
        ("UPDATE", numbers.update),
        ("NOTIFICATION", numbers.notification),
        ("KEEPALIVE", numbers.keepalive),
        ("ROUTE-REFRESH", numbers.route_refresh),
    ] {
        assert_eq!(count, number(field), "{place}: {field}");
    }
    let announced = number("announced_v4") + number("mp_reach_prefixes");
    let withdrawn = number("withdrawn_v4") + number("mp_unreach_prefixes");
    assert_eq!(sum(&numbers.announced), announced, "{place}: announced");
    assert_eq!(sum(&numbers.withdrawn), withdrawn, "{place}: withdrawn");
    let ended = ours.end_of_rib.iter();
    let ended = ended.filter(|family| *family == "ipv4-unicast").count();
    assert_eq!(theirs["end_of_rib_v4"], ended, "{place}: End-of-RIB");
    let codes = ours.notifications.iter();
    let codes: Vec<[u8; 2]> = codes.map(|told| [told.code, told.subcode]).collect();
    assert_eq!(theirs["notifications"], serde_json::json!(codes), "{place}");
    let opens = ours.opens.iter().map(|open| {
        serde_json::json!({
            "as": open.asn,
            "hold": open.hold_time,
            "id": open.bgp_id,
            "capabilities": open.capabilities,
        })
    });
    assert_eq!(theirs["open"], opens.collect::<Value>(), "{place}: OPENs");
}

#[test]
fn the_json_of_a_capture_keeps_its_promises() {
    let mut seen = 0;
    for entry in fs::read_dir(captures()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(capture) = name.strip_suffix(".expected.json") else {
            continue;
        };
        seen += 1;
        let expected: Value =
            serde_json::from_slice(&fs::read(captures().join(&name)).unwrap()).unwrap();
        let replayed = replayed(capture);
        let mut sum = Numbers::default();
        for (stream, connection) in replayed.connections.iter().enumerate() {
            let expected = &expected["streams"][stream.to_string()];
            assert_eq!(expected["a"], connection.a, "{capture} {stream}");
            assert_eq!(expected["b"], connection.b, "{capture} {stream}");
            for (sender, direction) in [
                (&connection.a, &connection.a_to_b),
                (&connection.b, &connection.b_to_a),
            ] {
                sum.add(&direction.numbers);
                let place = format!("{capture} {stream} {sender}");
                match expected["dir"].get(sender) {
                    Some(theirs) if !DISPUTED.contains(&capture) => {
                        agree(&place, direction, theirs);
                    }
                    Some(_) => {}
                    None => assert_eq!(direction.numbers, Numbers::default(), "{place}"),
                }
            }
        }
        assert_eq!(replayed.totals, sum, "{capture}: totals");
    }
    assert_eq!(seen, 12);
}

#[test]
fn families_have_names_and_a_shutdown_has_its_text() {
    let both = replayed("bgp-addpath.pcap").totals;
    let counted = |ipv4, ipv6| {
        let families = [("ipv4-unicast", ipv4), ("ipv6-unicast", ipv6)];
        BTreeMap::from(families.map(|(family, count)| (family.to_owned(), count)))
    };
    assert_eq!(both.announced, counted(4, 2));
    assert_eq!(both.withdrawn, counted(4, 2));
    let texts = |capture: &str| -> Vec<Option<String>> {
        let connections = replayed(capture).connections.into_iter();
        let sides = connections.flat_map(|one| [one.a_to_b, one.b_to_a]);
        let told = sides.flat_map(|side| side.notifications);
        told.map(|told| told.text).collect()
    };
    let text = "This is a test of the shutdown communication system.";
    let shut = texts("bgp-shutdown-communication.pcapng");
    assert_eq!(shut, [Some(text.to_owned())]);
    assert_eq!(texts("bgp-bfd-cease.pcap"), [None]);
}

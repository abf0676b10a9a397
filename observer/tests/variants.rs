//! The same conversation counts the same however a capture holds it: any link layer and file
//! format, any order, repetition and cut of its segments. What is lost takes with it what it touched
//! and nothing else.
//!
//! The conversations are the example captures', and made-up ones whose truth is known.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "variants/bgp.rs"]
mod bgp;
#[path = "variants/files.rs"]
mod files;
#[path = "variants/mangle.rs"]
mod mangle;
#[path = "variants/nlri.rs"]
mod nlri;
#[path = "variants/packets.rs"]
mod packets;
#[path = "variants/trace.rs"]
mod trace;
#[path = "variants/tshark.rs"]
mod tshark;

use bgp::{Abilities, Said};
use files::{Kind, Order};
use mangle::Dice;
use observer::capture::{BGP_PORT, Summary, read_from};
use packets::{IPS, Ip, LINKS, Link, packets};
use serde_json::{Value, json};
use trace::{Talk, Trace, recorded, whole_talk};

const LITTLE: Order = Order { big: false };
const BIG: Order = Order { big: true };

const EXAMPLES: [&str; 12] = [
    "bgp-4byte-asn.pcap",
    "bgp-addpath.pcap",
    "bgp-as-path-oobr.pcap",
    "bgp-bfd-cease.pcap",
    "bgp-cease-hard-reset.pcap",
    "bgp-enhanced-route-refresh.pcapng",
    "bgp-extended-msg.pcapng",
    "bgp-infinite-loop.pcap",
    "bgp-malformed-hard-reset.pcap",
    "bgp-shutdown-communication.pcapng",
    "bgp_mp_reach_nlri-oobr.pcap",
    "mpbgp-linklocal-nexthop.pcap",
];

/// Every combination of what two speakers can.
fn abilities() -> impl Iterator<Item = Abilities> {
    (0..8).map(|bits| Abilities {
        four_octets: bits & 1 != 0,
        add_path: bits & 2 != 0,
        extended: bits & 4 != 0,
    })
}

/// Nothing, and everything.
fn extremes() -> impl Iterator<Item = Abilities> {
    abilities().step_by(7)
}

/// Made-up talks and the example captures, by name.
fn traces() -> Vec<(String, Trace)> {
    let made_up = extremes().map(|able| (format!("{able:?}"), whole_talk(able, 1400).trace));
    made_up
        .chain(EXAMPLES.map(|name| (name.to_owned(), recorded(name))))
        .collect()
}

fn read(file: &[u8]) -> Summary {
    let reading = read_from(file, &[BGP_PORT], &mut |_, _| {}).unwrap();
    assert!(reading.damage.is_none(), "{:?}", reading.damage);
    assert!(!reading.summary.totals.cut_short);
    reading.summary
}

/// What each connection's ends said, whoever spoke first: comparable across addresses and orders.
fn counts(file: &[u8]) -> Vec<String> {
    let mut shown: Vec<String> = read(file)
        .connections
        .iter()
        .map(|connection| {
            let side = |port: u16, said| {
                let mut said: Value = serde_json::to_value(said).unwrap();
                // Whether an OPEN came before an UPDATE in the file is the capture's matter.
                said.as_object_mut().unwrap().remove("inferred");
                (port, said.to_string())
            };
            let mut sides = [
                side(connection.a.port(), &connection.a_to_b),
                side(connection.b.port(), &connection.b_to_a),
            ];
            sides.sort();
            format!("{sides:?}")
        })
        .collect();
    shown.sort();
    shown
}

fn plain(trace: &Trace) -> Vec<u8> {
    files::pcap(&packets(trace, Ip::V4, Link::Ethernet), LITTLE, false)
}

fn said(direction: &observer::capture::DirectionSummary) -> Said {
    let counts = &direction.counts;
    let named = |families: &std::collections::BTreeMap<_, u64>| {
        families
            .iter()
            .map(|(family, count): (&observer_core::bgp::Family, _)| (family.to_string(), *count))
            .collect()
    };
    Said {
        open: counts.messages.open,
        update: counts.messages.update,
        notification: counts.messages.notification,
        keepalive: counts.messages.keepalive,
        route_refresh: counts.messages.route_refresh,
        announced: named(&counts.announced),
        withdrawn: named(&counts.withdrawn),
        end_of_rib: direction
            .end_of_rib
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

#[test]
fn a_talk_is_counted_as_it_was_said() {
    for able in abilities() {
        for size in [1, 19, 500, 1448, 60_000] {
            let talk = whole_talk(able, size);
            let summary = read(&plain(&talk.trace));
            assert_eq!(summary.connections.len(), 1);
            let connection = &summary.connections[0];
            assert_eq!(connection.a.port(), 40000);
            for (direction, expected) in [&connection.a_to_b, &connection.b_to_a]
                .into_iter()
                .zip(&talk.said)
            {
                assert_eq!(&said(direction), expected, "{able:?} in pieces of {size}");
                let counts = &direction.counts;
                assert_eq!(
                    (counts.decode_errors, counts.gaps, counts.resyncs),
                    (0, 0, 0)
                );
            }
        }
    }
}

/// The promise of `replay -o json`, key by key.
#[test]
fn the_json_has_the_promised_shape() {
    let able = Abilities {
        four_octets: true,
        add_path: true,
        extended: false,
    };
    let summary = serde_json::to_value(read(&plain(&whole_talk(able, 1448).trace))).unwrap();
    let connection = &summary["connections"][0];
    assert_eq!(connection["a"], "10.0.0.1:40000");
    assert_eq!(connection["b"], "10.0.0.2:179");
    let said = &connection["a_to_b"];
    for (key, value) in [
        ("open", json!(1)),
        ("update", json!(6)),
        ("notification", json!(1)),
        ("keepalive", json!(3)),
        ("route_refresh", json!(1)),
        (
            "announced",
            json!({"ipv4-unicast": 300, "ipv6-unicast": 200}),
        ),
        ("withdrawn", json!({"ipv4-unicast": 9, "ipv6-unicast": 11})),
        ("end_of_rib", json!(["ipv4-unicast", "ipv6-unicast"])),
        ("decode_errors", json!(0)),
        ("gaps", json!(0)),
    ] {
        assert_eq!(said[key], value, "{key}");
    }
    let notification = &said["notifications"][0];
    assert_eq!(notification["code"], 6);
    assert_eq!(notification["subcode"], 2);
    assert_eq!(notification["text"], "maintenance é");
    let open = &connection["b_to_a"]["opens"][0];
    assert_eq!(open["asn"], 23456);
    assert_eq!(open["four_octet_asn"], 4_200_000_000_u32);
    assert_eq!(open["hold_time"], 240);
    assert_eq!(open["bgp_id"], "10.0.0.1");
    assert_eq!(open["capabilities"], json!([1, 1, 2, 65, 69]));
    assert_eq!(summary["totals"]["open"], 2);
    assert_eq!(summary["totals"]["announced"]["ipv4-unicast"], 600);
}

#[test]
fn link_layers_and_ip_headers_change_nothing() {
    let first = traces()[0].0.clone();
    let mut links = LINKS.into_iter().cycle();
    for (name, trace) in traces() {
        let expected = counts(&plain(&trace));
        for ip in IPS {
            // Of most conversations each once; all combinations of the first.
            let some = if name == first { LINKS.len() } else { 1 };
            for link in links.by_ref().take(some) {
                let file = files::pcap(&packets(&trace, ip, link), LITTLE, true);
                assert_eq!(counts(&file), expected, "{name}: {ip:?} in {link:?}");
            }
        }
    }
}

#[test]
fn file_formats_change_nothing() {
    for (name, trace) in traces() {
        let expected = counts(&plain(&trace));
        let kept = packets(&trace, Ip::V4, Link::Sll);
        let half = kept.len() / 2;
        // Each packet on an interface of another link layer.
        let mut mixed = kept.clone();
        for (at, link) in (0..mixed.len()).zip(LINKS.iter().cycle()) {
            mixed[at] = packets(&trace, Ip::V6, *link)[at].clone();
        }
        let mut formats = vec![
            ("modified pcap", files::modified_pcap(&kept)),
            (
                "pcapng of many interfaces",
                files::section(&mixed, BIG, Kind::Enhanced),
            ),
            (
                "pcapng of two sections in two byte orders",
                [
                    files::section(&kept[..half], BIG, Kind::Enhanced),
                    files::section(&mixed[half..], LITTLE, Kind::Enhanced),
                ]
                .concat(),
            ),
        ];
        for order in [LITTLE, BIG] {
            formats.push(("pcap", files::pcap(&kept, order, false)));
            formats.push(("pcap of nanoseconds", files::pcap(&kept, order, true)));
            for kind in [Kind::Enhanced, Kind::Old] {
                formats.push(("pcapng", files::section(&kept, order, kind)));
            }
            // A simple packet does not say how much of it was kept.
            if trace.iter().all(|seg| seg.missing == 0) {
                formats.push((
                    "pcapng's simple packets",
                    files::section(&kept, order, Kind::Simple),
                ));
            }
        }
        for (format, file) in formats {
            // Sections of two address families are two connections.
            if format.contains("sections") {
                assert_eq!(
                    read(&file).totals.packets,
                    u64::try_from(kept.len()).unwrap()
                );
            } else {
                assert_eq!(counts(&file), expected, "{name}: {format} {}", file[0]);
                assert_eq!(
                    counts(&files::gzip(&file, 3)),
                    expected,
                    "{name}: {format}, gzip"
                );
            }
        }
    }
}

#[test]
fn order_repetition_and_cuts_change_nothing() {
    // Where copies of an octet differ the first one wins, and order matters: bit errors of a fuzzer,
    // and a capture put together by hand.
    let sound = |(_, trace): &(String, Trace)| mangle::is_consistent(trace);
    for (name, trace) in traces().into_iter().filter(sound) {
        let expected = counts(&plain(&trace));
        let recording = EXAMPLES.contains(&name.as_str());
        for seed in 0..4 {
            let mut dice = Dice::new(seed);
            let cut = mangle::cut(&trace, 1 + dice.below(900));
            for (how, mangled) in [
                ("cut", cut.clone()),
                ("joined", mangle::joined(&trace)),
                ("repeated", mangle::repeated(&trace, &mut dice)),
                ("cut and overlapping", mangle::overlapping(&cut, &mut dice)),
                // In a recording with holes a probe's octet may fill one.
                (
                    "probed",
                    if recording {
                        trace.clone()
                    } else {
                        mangle::probed(&trace)
                    },
                ),
                (
                    "reordered",
                    mangle::shuffled(&trace, 2 + dice.below(6), &mut dice),
                ),
                ("cut, repeated and reordered", {
                    let repeated = mangle::repeated(&cut, &mut dice);
                    mangle::shuffled(&repeated, 2 + dice.below(12), &mut dice)
                }),
            ] {
                assert_eq!(
                    counts(&plain(&mangled)),
                    expected,
                    "{name}: {how}, seed {seed}"
                );
            }
        }
    }
}

/// Asserts what is left of a talk without these segments.
fn assert_left(talk: &Talk, lost: &[usize], trace: &Trace, holes: bool, what: &str) {
    let summary = read(&plain(trace));
    assert_eq!(summary.connections.len(), 1, "{what}");
    let connection = &summary.connections[0];
    let mut sides = [&connection.a_to_b, &connection.b_to_a];
    if connection.a.port() == 179 {
        sides.reverse();
    }
    for (direction, (expected, gaps)) in sides.into_iter().zip(mangle::left(talk, lost)) {
        assert_eq!(said(direction), expected, "{what}");
        assert_eq!(direction.counts.decode_errors, 0, "{what}");
        if holes {
            assert_eq!(direction.counts.gaps, gaps, "{what}");
        }
    }
}

#[test]
fn what_is_lost_takes_only_what_it_touched() {
    for able in abilities() {
        for seed in 0..6 {
            let mut dice = Dice::new(seed);
            let talk = whole_talk(able, 40 + dice.below(1400));
            // The OPENs stay: what both can would have to be inferred.
            let opens = talk
                .trace
                .iter()
                .position(|seg| seg.payload.len() == 19)
                .unwrap();
            let some = 1 + dice.below(8);
            let mut lost: Vec<usize> = (0..some)
                .map(|_| opens + dice.below(talk.trace.len() - opens - 6))
                .collect();
            lost.sort_unstable();
            lost.dedup();
            let mut kept = talk.trace.clone();
            for at in lost.iter().rev() {
                kept.remove(*at);
            }
            let what = format!("{able:?} seed {seed} without {lost:?}");
            assert_left(&talk, &lost, &kept, true, &what);
            let mixed = mangle::shuffled(&mangle::repeated(&kept, &mut dice), 8, &mut dice);
            assert_left(&talk, &lost, &mixed, true, &format!("{what}, reordered"));
        }
    }
}

/// A snap length leaves the beginning of each segment; the numbers say how much is behind it.
#[test]
fn a_snap_length_takes_only_what_it_cut() {
    for able in extremes() {
        let talk = whole_talk(able, 60_000);
        for kept in [0, 1, 18, 19, 30, 100, 1000] {
            let mut trace = talk.trace.clone();
            let mut whole = [Said::default(), Said::default()];
            for seg in &mut trace {
                let over = seg.payload.len().saturating_sub(kept);
                seg.payload.truncate(kept);
                seg.missing = u32::try_from(over).unwrap();
            }
            for (side, _, message) in &talk.messages {
                if message.bytes.len() <= kept {
                    whole[*side].add(&message.said);
                }
            }
            for link in [Link::Ethernet, Link::Sll2, Link::Raw(101)] {
                for ip in [Ip::V4, Ip::V6Extended, Ip::V4NoLength, Ip::Gre] {
                    let packets = packets(&trace, ip, link);
                    for file in [
                        files::pcap(&packets, LITTLE, false),
                        files::section(&packets, BIG, Kind::Enhanced),
                    ] {
                        let summary = read(&file);
                        let connection = &summary.connections[0];
                        let found = [said(&connection.a_to_b), said(&connection.b_to_a)];
                        let what = format!("{able:?} {kept} octets of {ip:?} in {link:?}");
                        assert_eq!(found, whole, "{what}");
                        assert_eq!(summary.totals.counts.decode_errors, 0, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_capture_that_begins_midway_counts_what_follows() {
    for able in extremes() {
        for size in [200, 60_000] {
            let talk = whole_talk(able, size);
            let opens = talk
                .trace
                .iter()
                .position(|seg| seg.payload.len() == 19)
                .unwrap();
            for first in (opens..talk.trace.len() - 8).step_by(3) {
                let lost: Vec<usize> = (0..first).collect();
                let trace = talk.trace[first..].to_vec();
                let what = format!("{able:?} in pieces of {size} from {first}");
                assert_left(&talk, &lost, &trace, false, &what);
                let mut dice = Dice::new(u64::try_from(first).unwrap());
                let mixed = mangle::shuffled(&trace, 4, &mut dice);
                assert_left(&talk, &lost, &mixed, false, &format!("{what}, reordered"));
            }
        }
    }
}

#[test]
fn the_same_ends_again_are_another_connection() {
    let able = Abilities {
        four_octets: true,
        add_path: false,
        extended: false,
    };
    let talk = |numbers: [u32; 2]| {
        let mut talk = Talk::new(40000, numbers);
        talk.greet(able, 1448);
        talk
    };
    let (first, second, third) = (
        talk([10, 20]),
        talk([1 << 31, 77]),
        talk([3 << 30, 1 << 30]),
    );
    let mut reset = first.clone();
    reset.rst(1, b"administrative");
    let mut closed = second.clone();
    closed.fin(0);
    closed.fin(1);
    for (what, trace) in [
        (
            "closed in silence",
            [&first.trace[..], &second.trace, &third.trace].concat(),
        ),
        (
            "reset and closed",
            [&reset.trace[..], &closed.trace, &third.trace].concat(),
        ),
        // Of the first only the end was captured.
        (
            "entered midway",
            [&first.trace[7..], &second.trace, &third.trace].concat(),
        ),
    ] {
        for trace in [
            trace.clone(),
            mangle::cut(&trace, 10),
            mangle::joined(&trace),
        ] {
            let summary = read(&plain(&trace));
            assert_eq!(summary.connections.len(), 3, "{what}");
            for connection in &summary.connections[1..] {
                assert_eq!(said(&connection.a_to_b), second.said[0], "{what}");
                assert_eq!(said(&connection.b_to_a), second.said[1], "{what}");
            }
            assert_eq!(summary.totals.counts.gaps, 0, "{what}");
            assert_eq!(summary.totals.counts.decode_errors, 0, "{what}");
        }
    }
}

#[test]
fn both_dial_at_once() {
    let able = Abilities {
        four_octets: true,
        add_path: true,
        extended: true,
    };
    // Two connections (RFC 4271 §6.8), one of which is closed with a Cease.
    let (mut kept, mut dropped) = (Talk::new(40000, [1, 2]), Talk::new(40001, [1, 2]));
    kept.greet(able, 1448);
    dropped.handshake();
    dropped.says(0, &bgp::open(64512, able), 1448);
    dropped.says(1, &bgp::shutdown(""), 1448);
    let mut trace = Trace::new();
    let mut rest = (kept.trace.iter(), dropped.trace.iter());
    while let (Some(one), other) = (rest.0.next(), rest.1.next()) {
        trace.push(one.clone());
        trace.extend(other.cloned());
    }
    let summary = read(&plain(&trace));
    let opens: Vec<u64> = summary
        .connections
        .iter()
        .map(|c| c.b_to_a.counts.messages.open)
        .collect();
    assert_eq!(opens, [1, 0]);
    assert_eq!(
        summary.connections[1].b_to_a.counts.messages.notification,
        1
    );
    // TCP's own simultaneous open: two SYNs, both answered, one connection (RFC 9293 §3.5).
    let mut crossed = Talk::new(40000, [100, 200]);
    crossed.greet(able, 1448);
    let mut trace = crossed.trace.clone();
    let mut syn = trace[1].clone();
    syn.ack = None;
    trace.insert(1, syn);
    let mut answer = trace[0].clone();
    answer.ack = Some(201);
    trace.insert(3, answer);
    assert_eq!(counts(&plain(&trace)), counts(&plain(&crossed.trace)));
}

#[test]
fn text_in_a_reset_is_not_bgp() {
    let able = Abilities {
        four_octets: true,
        add_path: false,
        extended: false,
    };
    let mut talk = Talk::new(40000, [1, 2]);
    talk.greet(able, 1448);
    let expected = counts(&plain(&talk.trace));
    talk.rst(0, &bgp::keepalive().bytes);
    assert_eq!(counts(&plain(&talk.trace)), expected);
}

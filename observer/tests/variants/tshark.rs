//! tshark reads the same files: other eyes than ours on what each kind of file, link layer and IP
//! header holds.

use std::collections::BTreeMap;

use observer::capture::DirectionSummary;
use observer_tests::capture::frames;

use crate::{
    BIG, LITTLE,
    bgp::Abilities,
    files::{self, Kind},
    packets::{IPS, Ip, LINKS, Link, Packet, packets},
    read,
    trace::whole_talk,
};

/// Messages by sender's and receiver's port: OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH.
type Messages = BTreeMap<(u16, u16), [u64; 5]>;

/// The whole talk in each of these ways, each with a port of its own.
fn talks(ways: impl IntoIterator<Item = (Ip, Link)>) -> Vec<Packet> {
    let able = Abilities {
        four_octets: true,
        add_path: true,
        // tshark takes nothing above 4,096 octets for a message (RFC 8654 allows it).
        extended: false,
    };
    let talk = |(port, (ip, link)): (u16, (Ip, Link))| {
        let mut trace = whole_talk(able, 1400).trace;
        for end in trace
            .iter_mut()
            .flat_map(|seg| [&mut seg.from, &mut seg.to])
        {
            if end.port() != 179 {
                end.set_port(port);
            }
        }
        packets(&trace, ip, link)
    };
    (41_000..).zip(ways).flat_map(talk).collect()
}

fn ours(file: &[u8]) -> Messages {
    let by_type = |direction: &DirectionSummary| {
        let said = direction.counts.messages;
        [
            said.open,
            said.update,
            said.notification,
            said.keepalive,
            said.route_refresh,
        ]
    };
    let summary = read(file);
    let sides = summary.connections.iter().flat_map(|connection| {
        let (a, b) = (connection.a.port(), connection.b.port());
        [
            ((a, b), by_type(&connection.a_to_b)),
            ((b, a), by_type(&connection.b_to_a)),
        ]
    });
    sides.collect()
}

fn theirs(file: &[u8]) -> Messages {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, file).unwrap();
    let fields = ["tcp.srcport", "tcp.dstport", "bgp.type"];
    let mut messages = Messages::new();
    for frame in frames(&path, "bgp", &fields).unwrap() {
        let ends = (
            frame.number("tcp.srcport").unwrap(),
            frame.number("tcp.dstport").unwrap(),
        );
        for kind in frame.values("bgp.type") {
            let kind: usize = kind.parse().unwrap();
            messages.entry(ends).or_default()[kind - 1] += 1;
        }
    }
    messages
}

#[test]
fn tshark_counts_the_same_messages() {
    let every_ip = talks(IPS.map(|ip| (ip, Link::Ethernet)));
    let every_link = talks(LINKS.map(|link| (Ip::V4, link)));
    let captures = [
        ("pcap", files::pcap(&every_ip, LITTLE, false), IPS.len()),
        (
            "big-endian pcap",
            files::pcap(&every_ip, BIG, false),
            IPS.len(),
        ),
        (
            "pcap of nanoseconds",
            files::pcap(&every_ip, LITTLE, true),
            IPS.len(),
        ),
        (
            "big-endian pcap of nanoseconds",
            files::pcap(&every_ip, BIG, true),
            IPS.len(),
        ),
        ("modified pcap", files::modified_pcap(&every_ip), IPS.len()),
        (
            "pcapng",
            files::section(&every_link, LITTLE, Kind::Enhanced),
            LINKS.len(),
        ),
        (
            "big-endian pcapng",
            files::section(&every_link, BIG, Kind::Enhanced),
            LINKS.len(),
        ),
    ];
    for (name, file, connections) in captures {
        let (ours, theirs) = (ours(&file), theirs(&file));
        assert_eq!(ours.len(), 2 * connections, "{name}");
        assert_eq!(ours, theirs, "{name}");
    }
}

use observer_core::{
    Observer,
    change::{Change, Output},
    config::CoreConfig,
    stream::Segment,
};

use super::*;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

/// A segment between ports 40000 of `from` and 179 of `to`, or back.
fn packet<'a>(from: &str, to: &str, segment: Segment<'a>) -> TcpPacket<'a> {
    let end = |address: &str| {
        let port = if address == A { 40_000 } else { 179 };
        SocketAddr::new(address.parse().unwrap(), port)
    };
    TcpPacket {
        from: end(from),
        to: end(to),
        segment,
        octets: &[],
    }
}

fn segment(seq: u32, ack: Option<u32>, payload: &[u8]) -> Segment<'_> {
    Segment {
        seq,
        ack,
        syn: false,
        fin: false,
        rst: false,
        payload,
        missing: 0,
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

fn open(id: u8) -> Vec<u8> {
    message(1, &[4, 0xfc, 0, 0, 240, 10, 0, 0, id, 0])
}

/// What the core concludes from the packets, each a second after the one before.
fn story(packets: &[TcpPacket<'_>]) -> Vec<String> {
    let mut pairs = Pairs::default();
    for packet in packets {
        pairs.note(packet);
    }
    let mut events = Events::new(pairs);
    let mut calls = Vec::new();
    for (second, packet) in (1..).zip(packets) {
        let at = Timestamp::from_nanos(second * 1_000_000_000);
        events.take(at, packet, &mut calls);
    }
    events.finish(&mut calls);
    let mut observer = Observer::new(CoreConfig::default());
    let mut out = Vec::new();
    for (now, event) in calls {
        observer.apply(now, &event, &mut out);
    }
    out.into_iter()
        .filter_map(|output| {
            let Output::Change(record) = output else {
                return None;
            };
            if let Change::SessionUp { inherited, .. } = record.change {
                Some(format!("up, inherited {inherited}"))
            } else if let Change::SessionDown { .. } = record.change {
                Some("down".to_owned())
            } else if let Change::Flap { flap } = record.change {
                Some(flap.cause_text)
            } else if let Change::ConnectFailed { reason, .. } = record.change {
                Some(reason)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn a_session_from_syn_to_notification_is_told_whole() {
    let (ours, theirs) = (open(1), open(2));
    let (alive, cease) = (message(4, &[]), message(3, &[6, 2]));
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let (first, second) = (101 + len(&ours), 201 + len(&theirs));
    let syn = Segment {
        syn: true,
        ..segment(100, None, &[])
    };
    let answer = Segment {
        syn: true,
        ..segment(200, Some(101), &[])
    };
    let fin = Segment {
        fin: true,
        ..segment(second + 19 + 21, Some(first + 19), &[])
    };
    let packets = [
        packet(A, B, syn),
        packet(B, A, answer),
        packet(A, B, segment(101, Some(201), &ours)),
        packet(B, A, segment(201, Some(first), &theirs)),
        packet(A, B, segment(first, Some(second), &alive)),
        packet(B, A, segment(second, Some(first + 19), &alive)),
        packet(A, B, segment(first + 19, Some(second + 19), &[])),
        packet(B, A, segment(second + 19, Some(first + 19), &cease)),
        packet(A, B, segment(first + 19, Some(second + 40), &[])),
        packet(B, A, fin),
    ];
    assert_eq!(
        story(&packets),
        [
            "up, inherited false",
            "down",
            "peer sent Cease/Administrative Shutdown"
        ]
    );
}

#[test]
fn a_refused_dial_and_a_session_from_its_middle_are_told_too() {
    let syn = Segment {
        syn: true,
        ..segment(100, None, &[])
    };
    let rst = Segment {
        rst: true,
        ..segment(0, Some(101), &[])
    };
    let refused = story(&[packet(A, B, syn), packet(B, A, rst)]);
    assert_eq!(refused, ["connection refused"]);

    let alive = message(4, &[]).repeat(3);
    let packets = [
        packet(A, B, segment(1_000, Some(2_000), &alive)),
        packet(B, A, segment(2_000, Some(1_057), &alive)),
        packet(A, B, segment(1_057, Some(2_057), &alive)),
        packet(B, A, segment(2_057, Some(1_114), &alive)),
    ];
    // Up from the moment at which its octets prove it.
    assert_eq!(story(&packets), ["up, inherited false"]);
}

#[test]
fn the_address_with_the_most_peers_is_the_observed_one() {
    let mut pairs = Pairs::default();
    for (one, other) in [(1, 9), (2, 9), (3, 4)] {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        pairs.0.insert((address(one), address(other)));
    }
    let observed: Vec<String> = pairs
        .observed()
        .into_iter()
        .map(|(address, peers)| format!("{address} {}", peers.len()))
        .collect();
    assert_eq!(observed, ["10.0.0.9 2", "10.0.0.3 1"]);
}

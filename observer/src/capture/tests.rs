use std::io::Write;

use etherparse::{PacketBuilder, PacketBuilderStep, ip_number::TCP};
use flate2::{Compression, write::GzEncoder};

use super::*;

fn keepalive() -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend([0, 19, 4]);
    message
}

/// IPv4 or IPv6 and TCP around a payload.
fn ip(version: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
    fn tcp(step: PacketBuilderStep<etherparse::IpHeaders>, seq: u32, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        step.tcp(40000, 179, seq, 1024)
            .write(&mut packet, payload)
            .unwrap();
        packet
    }
    match version {
        4 => tcp(
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
            seq,
            payload,
        ),
        _ => tcp(
            PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64),
            seq,
            payload,
        ),
    }
}

/// A pcap of this link type, big-endian and with nanoseconds where asked.
fn pcap(link: u32, nanos: bool, big: bool, packets: &[Vec<u8>]) -> Vec<u8> {
    let number = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut file = number(if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }).to_vec();
    let version = if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
    file.extend(version);
    for field in [0, 0, 65535, link] {
        file.extend(number(field));
    }
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        for field in [1, 500, length, length] {
            file.extend(number(field));
        }
        file.extend(packet);
    }
    file
}

fn keepalives(file: &[u8]) -> (u64, Totals) {
    let summary = read_from(file, &[BGP_PORT], &mut |_, _| {})
        .unwrap()
        .summary;
    (summary.totals.counts.messages.keepalive, summary.totals)
}

fn behind(header: &[u8], packet: &[u8]) -> Vec<u8> {
    [header, packet].concat()
}

#[test]
fn every_link_layer() {
    let (v4, v6) = (ip(4, 1, &keepalive()), ip(6, 1, &keepalive()));
    let macs = [2_u8; 12];
    let ethernet = |rest: &[u8], packet: &[u8]| behind(&[&macs[..], rest].concat(), packet);
    let mut sll = [0; 16];
    sll[14..].copy_from_slice(&[0x08, 0x00]);
    let mut sll2 = [0; 20];
    sll2[..2].copy_from_slice(&[0x86, 0xdd]);
    for (name, link, packet) in [
        ("Ethernet", 1, ethernet(&[0x08, 0], &v4)),
        ("Ethernet, IPv6", 1, ethernet(&[0x86, 0xdd], &v6)),
        ("VLAN", 1, ethernet(&[0x81, 0, 0, 7, 0x08, 0], &v4)),
        (
            "QinQ",
            1,
            ethernet(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 0x86, 0xdd], &v6),
        ),
        ("SLL", 113, behind(&sll, &v4)),
        ("SLL2", 276, behind(&sll2, &v6)),
        ("null", 0, behind(&[2, 0, 0, 0], &v4)),
        ("null, IPv6 of FreeBSD", 0, behind(&[28, 0, 0, 0], &v6)),
        ("loop", 108, behind(&[0, 0, 0, 2], &v4)),
        ("raw", 101, v4.clone()),
        ("raw, IPv6", 101, v6.clone()),
        ("IPv4", 228, v4.clone()),
        ("IPv6", 229, v6.clone()),
    ] {
        for (nanos, big) in [(false, false), (true, false), (false, true), (true, true)] {
            let file = pcap(link, nanos, big, std::slice::from_ref(&packet));
            assert_eq!(keepalives(&file).0, 1, "{name} nanos {nanos} big {big}");
        }
    }
    assert_eq!(
        keepalives(&pcap(147, false, false, &[v4])).1.unknown_link,
        1
    );
}

#[test]
fn ethernet_padding_is_not_payload() {
    let mut frame = behind(&[&[2; 12][..], &[8, 0]].concat(), &ip(4, 1, b""));
    frame.resize(60, 0xff);
    let (_, totals) = keepalives(&pcap(1, false, false, &[frame]));
    assert_eq!((totals.segments, totals.counts.decode_errors), (1, 0));
}

#[test]
fn a_checksum_is_wrong_when_any_octet_is_another() {
    let corrupt = |packet: &[u8]| {
        let Dissected::Tcp(tcp) = dissect(pcap_parser::Linktype::RAW, packet, 0) else {
            panic!("no TCP in {packet:?}");
        };
        tcp.is_corrupt()
    };
    for version in [4, 6] {
        // Of odd and of even length.
        for payload in [&keepalive()[..], b"", b"\xff\xff"] {
            let packet = ip(version, 1, payload);
            assert!(!corrupt(&packet), "IPv{version}, {payload:?}");
            let addresses = if version == 4 { 12..20 } else { 8..40 };
            let header = addresses.end;
            // TCP's, but for ports, offset and flags, by which the packet would be another thing.
            let octets = addresses
                .chain(header + 4..header + 12)
                .chain(header + 14..packet.len());
            for at in octets {
                let mut changed = packet.clone();
                changed[at] ^= 0x10;
                assert!(corrupt(&changed), "IPv{version}, octet {at}");
            }
            let mut padded = packet.clone();
            padded.extend([0xaa; 7]);
            assert!(!corrupt(&padded), "padding is no part of it");
            if !payload.is_empty() {
                let cut = &packet[..packet.len() - 1];
                assert!(!corrupt(cut), "nothing can be said of half a segment");
            }
        }
    }
}

#[test]
fn ipv6_extension_headers_and_fragments() {
    let mut packet = Vec::new();
    PacketBuilder::ipv6([1; 16], [2; 16], 64)
        .tcp(40000, 179, 1, 1024)
        .write(&mut packet, &keepalive())
        .unwrap();
    // Hop-by-hop options between IPv6 and TCP.
    let mut extended = packet[..40].to_vec();
    extended[6] = 0;
    let length = u16::from_be_bytes([packet[4], packet[5]]) + 8;
    extended[4..6].copy_from_slice(&length.to_be_bytes());
    extended.extend([TCP.0, 0, 1, 4, 0, 0, 0, 0]);
    extended.extend(&packet[40..]);
    let mut fragment = ip(4, 20, &keepalive());
    fragment[6] = 0x20;
    let (count, totals) = keepalives(&pcap(101, false, false, &[extended, fragment]));
    assert_eq!((count, totals.fragments), (1, 1));
}

#[test]
fn a_snap_length_makes_gaps_and_not_errors() {
    let stream = keepalive().repeat(3);
    let mut cut = ip(4, 1, &stream);
    cut.truncate(20 + 20 + 25);
    let whole = ip(4, 1 + 57, &keepalive());
    let (count, totals) = keepalives(&pcap(101, false, false, &[cut, whole]));
    assert_eq!((count, totals.truncated, totals.counts.gaps), (2, 1, 1));
    assert_eq!(totals.counts.decode_errors, 0);
    // Cut within TCP's options or before: the numbers still tell of the hole.
    let mut header = ip(4, 1, &stream);
    header.truncate(20 + 16);
    let whole = ip(4, 1 + 57, &keepalive());
    let (count, totals) = keepalives(&pcap(101, false, false, &[header, whole]));
    assert_eq!((count, totals.counts.gaps), (1, 1));
}

#[test]
fn gzip_and_a_file_that_its_writer_did_not_finish() {
    let file = pcap(
        101,
        false,
        false,
        &[ip(4, 1, &keepalive()), ip(4, 20, &keepalive())],
    );
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&file).unwrap();
    assert_eq!(keepalives(&packed.finish().unwrap()).0, 2);
    let (count, totals) = keepalives(&file[..file.len() - 5]);
    assert_eq!((count, totals.cut_short), (1, true));
}

#[test]
fn pcapng_with_interfaces_of_their_own_clock_and_link() {
    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len().next_multiple_of(4) + 12).unwrap();
        let mut block = [kind.to_le_bytes(), length.to_le_bytes()].concat();
        block.extend(body);
        block.resize(usize::try_from(length).unwrap() - 4, 0);
        block.extend(length.to_le_bytes());
        block
    }
    fn packet(interface: u32, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        let mut body = Vec::new();
        for field in [interface, 0, 3_000_000_000, length, length] {
            body.extend(field.to_le_bytes());
        }
        body.extend(data);
        block(6, &body)
    }
    let section = [&[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..], &[0xff; 8]].concat();
    let file = [
        block(0x0a0d_0d0a, &section),
        block(1, &[101, 0, 0, 0, 0, 0, 0, 0]),
        // Nanoseconds (if_tsresol 9), Linux cooked.
        block(
            1,
            &[113, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        ),
        packet(
            1,
            &behind(&[&[0; 14][..], &[8, 0]].concat(), &ip(4, 1, &keepalive())),
        ),
        packet(0, &ip(4, 20, &keepalive())),
        packet(7, &ip(4, 39, &keepalive())),
    ]
    .concat();
    let mut times = Vec::new();
    let reading = read_from(&file[..], &[BGP_PORT], &mut |_, observation| {
        times.push(observation.at.nanos());
    });
    assert_eq!(reading.unwrap().summary.totals.counts.messages.keepalive, 2);
    assert_eq!(times, [3_000_000_000, 3_000_000_000_000]);
}

#[test]
fn what_is_no_capture_says_where_it_is_not() {
    let read = |bytes: &[u8]| {
        read_from(bytes, &[BGP_PORT], &mut |_, _| {})
            .unwrap_err()
            .to_string()
    };
    for bytes in [
        &b""[..],
        b"{",
        b"{\"format\":\"bgp-observer-events\"}\n",
        &[0; 100],
    ] {
        assert!(read(bytes).starts_with("not a capture"), "{bytes:?}");
    }
    let mut file = pcap(101, false, false, &[ip(4, 1, &keepalive())]);
    let end = file.len();
    file.extend([0xff; 64]);
    let reading = read_from(&file[..], &[BGP_PORT], &mut |_, _| {}).unwrap();
    assert_eq!(
        reading.damage.unwrap().to_string(),
        format!("malformed record at byte {end} of the capture")
    );
    let totals = reading.summary.totals;
    assert_eq!(
        (totals.damaged, totals.counts.messages.keepalive),
        (true, 1)
    );
    assert_eq!(FileKind::of(b"{\"fo"), FileKind::Json);
    assert_eq!(FileKind::of(b"\n"), FileKind::Other);
}

#[test]
fn a_syn_on_the_same_ends_is_another_connection() {
    let syn = |seq| {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40000, 179, seq, 1024)
            .syn()
            .write(&mut packet, b"")
            .unwrap();
        packet
    };
    let packets = [
        syn(7),
        syn(7),
        ip(4, 8, &keepalive()),
        syn(900),
        ip(4, 901, &keepalive()),
    ];
    let file = pcap(101, false, false, &packets);
    let summary = read_from(&file[..], &[BGP_PORT], &mut |_, _| {})
        .unwrap()
        .summary;
    let counts: Vec<_> = summary
        .connections
        .iter()
        .map(|c| c.a_to_b.counts.messages.keepalive)
        .collect();
    assert_eq!(counts, [1, 1]);
    assert_eq!(summary.totals.counts.gaps, 0);
}

#[test]
fn the_story_tells_causes_and_escapes_them() {
    let mut message = vec![0xff; 16];
    message.extend([0, 26, 3, 6, 2, 4, b'b', 0x1b, b'y', b'e']);
    let file = pcap(
        101,
        false,
        false,
        &[ip(4, 1, &keepalive().repeat(2)), ip(4, 39, &message)],
    );
    let reading = read_from(&file[..], &[BGP_PORT], &mut |_, _| {}).unwrap();
    let story = reading.story.render(&reading.summary);
    assert!(story.contains("2 KEEPALIVEs"), "{story}");
    assert!(
        story.contains("Cease/Administrative Shutdown 'b\\u{1b}ye'"),
        "{story}"
    );
}

//! Segments wrapped in IP, tunnels and link layers, octet by octet as their standards say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::trace::{Seg, Trace};

/// A packet of a capture.
#[derive(Clone, Debug)]
pub struct Packet {
    /// LINKTYPE number.
    pub link: u32,
    pub data: Vec<u8>,
    /// Octets on the wire.
    pub original: usize,
    pub nanos: u64,
}

/// What carries TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ip {
    V4,
    V4Options,
    /// The length field says 0, as on super-segments.
    V4NoLength,
    V6,
    V6Extended,
    Ipip,
    Gre,
}

/// What carries IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    Ethernet,
    /// Short frames padded to 60 octets with something that is not zero.
    EthernetPadded,
    /// Behind these tags, each of four octets with its EtherType first.
    Tagged(&'static [u16]),
    Mpls,
    PppOe,
    Snap,
    Sll,
    Sll2,
    NullLittle,
    NullBig,
    Loop,
    Raw(u32),
    Ppp,
    CiscoHdlc,
}

pub const IPS: [Ip; 7] = [
    Ip::V4,
    Ip::V4Options,
    Ip::V4NoLength,
    Ip::V6,
    Ip::V6Extended,
    Ip::Ipip,
    Ip::Gre,
];

pub const LINKS: [Link; 19] = [
    Link::Ethernet,
    Link::EthernetPadded,
    Link::Tagged(&[0x8100]),
    Link::Tagged(&[0x88a8, 0x8100]),
    Link::Tagged(&[0x9100, 0x8100, 0x8100, 0x8100]),
    Link::Mpls,
    Link::PppOe,
    Link::Snap,
    Link::Sll,
    Link::Sll2,
    Link::NullLittle,
    Link::NullBig,
    Link::Loop,
    Link::Raw(101),
    Link::Raw(12),
    Link::Raw(14),
    Link::Raw(228),
    Link::Ppp,
    Link::CiscoHdlc,
];

/// Every segment as a packet, a millisecond apart.
pub fn packets(trace: &Trace, ip: Ip, link: Link) -> Vec<Packet> {
    let mut nanos = 1_700_000_000_000_000_000;
    let wrap = |seg: &Seg| {
        nanos += 1_000_000;
        let (number, data) = framed(&network(seg, ip), ip, link);
        let missing = usize::try_from(seg.missing).unwrap();
        let original = data.len() + missing;
        Packet {
            link: number,
            data,
            original,
            nanos,
        }
    };
    trace.iter().map(wrap).collect()
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => {
            let [.., a, b] = address.octets();
            Ipv4Addr::new(10, 99, a, b)
        }
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    let [a, b, c, d] = v4(address).octets();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, pair(a, b), pair(c, d))
}

fn tcp(seg: &Seg) -> Vec<u8> {
    let mut tcp = seg.from.port().to_be_bytes().to_vec();
    tcp.extend(seg.to.port().to_be_bytes());
    tcp.extend(seg.seq.to_be_bytes());
    tcp.extend(seg.ack.unwrap_or(0).to_be_bytes());
    let flags = [
        (seg.fin, 1),
        (seg.syn, 2),
        (seg.rst, 4),
        (seg.ack.is_some(), 16),
    ];
    let flags = flags.iter().map(|(set, bit)| u8::from(*set) * bit).sum();
    // With a timestamp option, as nearly all segments have.
    tcp.extend([0x80, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    tcp.extend(&seg.payload);
    tcp
}

fn ipv4(seg: &Seg, options: &[u8], protocol: u8, length: usize) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let mut header = vec![0x40 | words, 0];
    let total = 20 + options.len() + length;
    header.extend(u16::try_from(total).unwrap_or(0).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(v4(seg.from.ip()).octets());
    header.extend(v4(seg.to.ip()).octets());
    header.extend(options);
    header
}

fn ipv6(seg: &Seg, next: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(u16::try_from(length).unwrap_or(0).to_be_bytes());
    header.extend([next, 64]);
    header.extend(v6(seg.from.ip()).octets());
    header.extend(v6(seg.to.ip()).octets());
    header
}

fn network(seg: &Seg, ip: Ip) -> Vec<u8> {
    let tcp = tcp(seg);
    let length = tcp.len() + usize::try_from(seg.missing).unwrap();
    let header = match ip {
        Ip::V4 => ipv4(seg, &[], 6, length),
        // Record route with room for one address, and its end.
        Ip::V4Options => ipv4(seg, &[7, 7, 4, 0, 0, 0, 0, 0], 6, length),
        Ip::V4NoLength => {
            let mut header = ipv4(seg, &[], 6, length);
            header[2..4].fill(0);
            header
        }
        Ip::V6 => ipv6(seg, 6, length),
        Ip::V6Extended => {
            // Hop-by-hop and destination options of padding.
            let options = [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
            [ipv6(seg, 0, length + options.len()), options.to_vec()].concat()
        }
        Ip::Ipip => [ipv4(seg, &[], 4, 20 + length), ipv4(seg, &[], 6, length)].concat(),
        Ip::Gre => {
            let gre = vec![0x20, 0, 8, 0, 0, 0, 0, 42];
            let outer = ipv4(seg, &[], 47, gre.len() + 20 + length);
            [outer, gre, ipv4(seg, &[], 6, length)].concat()
        }
    };
    [header, tcp].concat()
}

fn framed(packet: &[u8], ip: Ip, link: Link) -> (u32, Vec<u8>) {
    let is_v6 = matches!(ip, Ip::V6 | Ip::V6Extended);
    let ether_type: u16 = if is_v6 { 0x86dd } else { 0x0800 };
    let macs = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let ethernet = |rest: &[u8]| [&macs[..], rest].concat();
    let ppp: [u8; 2] = if is_v6 { [0, 0x57] } else { [0, 0x21] };
    let family: u32 = if is_v6 { 10 } else { 2 };
    let kind = ether_type.to_be_bytes();
    let (number, header) = match link {
        Link::Ethernet | Link::EthernetPadded => (1, ethernet(&kind)),
        Link::Tagged(tags) => {
            let mut rest = Vec::new();
            for tag in tags {
                rest.extend(tag.to_be_bytes());
                rest.extend([0, 7]);
            }
            rest.extend(kind);
            (1, ethernet(&rest))
        }
        Link::Mpls => (1, ethernet(&[0x88, 0x47, 0, 1, 0, 64, 0, 1, 1, 64])),
        Link::PppOe => {
            let length = u16::try_from(packet.len() + 2).unwrap_or(0).to_be_bytes();
            let session = [0x88, 0x64, 0x11, 0, 0, 7];
            (1, ethernet(&[&session[..], &length, &ppp].concat()))
        }
        Link::Snap => {
            // IEEE 802.3 frames are short; what is longer goes without its length, as jumbos do.
            let length = u16::try_from(packet.len() + 8)
                .unwrap_or(0)
                .min(1500)
                .to_be_bytes();
            let rest = [&length[..], &[0xaa, 0xaa, 3, 0, 0, 0], &kind].concat();
            (1, ethernet(&rest))
        }
        Link::Sll => {
            let header = [0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
            (113, [&header[..], &kind].concat())
        }
        Link::Sll2 => {
            let rest = [0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
            (276, [&kind[..], &rest].concat())
        }
        // IPv6's number is Darwin's, which nobody else has.
        Link::NullLittle => (
            0,
            (if is_v6 { 30_u32 } else { family }).to_le_bytes().to_vec(),
        ),
        Link::NullBig => (
            0,
            (if is_v6 { 30_u32 } else { family }).to_be_bytes().to_vec(),
        ),
        Link::Loop => (
            108,
            (if is_v6 { 24_u32 } else { family }).to_be_bytes().to_vec(),
        ),
        Link::Raw(228) if is_v6 => (229, Vec::new()),
        Link::Raw(number) => (number, Vec::new()),
        Link::Ppp => (9, [&[0xff, 3][..], &ppp].concat()),
        Link::CiscoHdlc => (104, [&[0x0f, 0][..], &kind].concat()),
    };
    let mut data = [header, packet.to_vec()].concat();
    if link == Link::EthernetPadded && data.len() < 60 {
        data.resize(60, 0xee);
    }
    (number, data)
}

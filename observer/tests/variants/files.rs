//! Packets in capture files of every format.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use crate::packets::Packet;

/// Numbers in a file's byte order.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub big: bool,
}

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        if self.big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        if self.big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap()
}

/// A pcap file. All packets have the first one's link layer.
pub fn pcap(packets: &[Packet], order: Order, nanos: bool) -> Vec<u8> {
    let mut file = order
        .u32(if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 })
        .to_vec();
    file.extend(order.u16(2));
    file.extend(order.u16(4));
    for field in [0, 0, 262_144, packets[0].link] {
        file.extend(order.u32(field));
    }
    for packet in packets {
        let fraction = packet.nanos % 1_000_000_000 / (if nanos { 1 } else { 1000 });
        let seconds = u32::try_from(packet.nanos / 1_000_000_000).unwrap();
        let fraction = u32::try_from(fraction).unwrap();
        for field in [
            seconds,
            fraction,
            length(packet.data.len()),
            length(packet.original),
        ] {
            file.extend(order.u32(field));
        }
        file.extend(&packet.data);
    }
    file
}

/// Kuznetzov's pcap, with an interface, a protocol and a packet type per record.
pub fn modified_pcap(packets: &[Packet]) -> Vec<u8> {
    let order = Order { big: false };
    let mut file = pcap(&packets[..1], order, false)[..24].to_vec();
    file[..4].copy_from_slice(&0xa1b2_cd34_u32.to_le_bytes());
    for packet in packets {
        let seconds = u32::try_from(packet.nanos / 1_000_000_000).unwrap();
        for field in [
            seconds,
            0,
            length(packet.data.len()),
            length(packet.original),
        ] {
            file.extend(order.u32(field));
        }
        file.extend([1, 0, 0, 0, 0, 8, 0, 0]);
        file.extend(&packet.data);
    }
    file
}

/// pcapng's blocks for packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Enhanced,
    Simple,
    /// The one that came first and is obsolete.
    Old,
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let total = order.u32(length(body.len().next_multiple_of(4) + 12));
    let mut block = [&order.u32(kind)[..], &total, body].concat();
    block.resize(block.len().next_multiple_of(4), 0);
    block.extend(total);
    block
}

/// A section: its header, one interface per link layer that occurs, and the packets, with blocks
/// between them that hold something else.
pub fn section(packets: &[Packet], order: Order, kind: Kind) -> Vec<u8> {
    let header = [
        &order.u32(0x1a2b_3c4d)[..],
        &order.u16(1),
        &order.u16(0),
        &[0xff; 8],
    ]
    .concat();
    let mut file = block(order, 0x0a0d_0d0a, &header);
    let mut links: Vec<u32> = packets.iter().map(|packet| packet.link).collect();
    links.sort_unstable();
    links.dedup();
    for link in &links {
        let link = order.u16(u16::try_from(*link).unwrap());
        // if_name, and if_tsresol of nanoseconds.
        let name = [&order.u16(2)[..], &order.u16(4), b"eth0"].concat();
        let resolution = [&order.u16(9)[..], &order.u16(1), &[9, 0, 0, 0], &[0; 4]].concat();
        let body = [&link[..], &[0, 0], &order.u32(0), &name, &resolution].concat();
        file.extend(block(order, 1, &body));
    }
    for packet in packets {
        let interface = links.iter().position(|link| *link == packet.link).unwrap();
        let (kept, original) = (length(packet.data.len()), length(packet.original));
        let high = u32::try_from(packet.nanos >> 32).unwrap();
        let low = u32::try_from(packet.nanos & u64::from(u32::MAX)).unwrap();
        let fields = |fields: &[u32]| -> Vec<u8> {
            fields.iter().flat_map(|field| order.u32(*field)).collect()
        };
        let (number, fixed) = match kind {
            Kind::Enhanced => (6, fields(&[length(interface), high, low, kept, original])),
            Kind::Simple => (3, fields(&[original])),
            Kind::Old => {
                let interface = order.u16(u16::try_from(interface).unwrap());
                let drops = order.u16(0xffff);
                let rest = fields(&[high, low, kept, original]);
                (2, [&interface[..], &drops, &rest].concat())
            }
        };
        file.extend(block(order, number, &[&fixed[..], &packet.data].concat()));
    }
    // Interface statistics, and a custom block of nobody's.
    file.extend(block(order, 5, &[0; 12]));
    file.extend(block(order, 0x0bad, &[0; 12]));
    file
}

/// gzip in as many members as asked.
pub fn gzip(file: &[u8], members: usize) -> Vec<u8> {
    let mut packed = Vec::new();
    for part in file.chunks(file.len().div_ceil(members)) {
        let mut encoder = GzEncoder::new(&mut packed, Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    packed
}

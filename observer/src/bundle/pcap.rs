//! The segments of a recording as a capture file. The packets are made anew: their headers hold what
//! the tap took down, and nothing else is to be read from them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use etherparse::PacketBuilder;
use flate2::{Compression, write::GzEncoder};
use observer_core::{
    event::{Event, Fact},
    time::WallOffset,
};
use pcap_file::{
    DataLink, Endianness, PcapError, TsResolution,
    pcap::{PcapHeader, PcapPacket, PcapWriter},
};

/// Longest packet: a super-segment and its headers.
const LONGEST: u32 = 262_144;
/// Octets of payload per packet: what fits into an IP packet with its headers.
const FITS: usize = 65_000;
const WINDOW: u16 = u16::MAX;
const TTL: u8 = 64;

/// A capture that is being written.
pub(super) struct Capture {
    writer: PcapWriter<GzEncoder<Vec<u8>>>,
    offset: WallOffset,
}

impl Capture {
    pub fn new() -> Result<Self, PcapError> {
        let header = PcapHeader {
            version_major: 2,
            version_minor: 4,
            ts_correction: 0,
            ts_accuracy: 0,
            snaplen: LONGEST,
            datalink: DataLink::RAW,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::Little,
        };
        let file = GzEncoder::new(Vec::new(), Compression::fast());
        Ok(Self {
            writer: PcapWriter::with_header(file, header)?,
            offset: WallOffset::default(),
        })
    }

    /// Adds the event if it is a segment.
    pub fn add(&mut self, event: &Event) -> Result<(), PcapError> {
        if let Fact::WallClock { offset } = &event.fact {
            self.offset = *offset;
        }
        let Fact::Segment {
            local,
            remote,
            sent,
            seq,
            ack,
            syn,
            fin,
            rst,
            payload,
            missing,
            ..
        } = &event.fact
        else {
            return Ok(());
        };
        let (from, to) = if *sent {
            (local, remote)
        } else {
            (remote, local)
        };
        let wall = self.offset.wall(event.occurred.latest).as_nanosecond();
        let at = Duration::from_nanos(u64::try_from(wall).unwrap_or(0));
        let pieces = payload.len().div_ceil(FITS).max(1);
        let mut next = *seq;
        for (number, piece) in (1..).zip(chunks(payload)) {
            let last = number == pieces;
            let flags = Flags {
                syn: *syn && number == 1,
                fin: *fin && last,
                rst: *rst,
            };
            let Some(packet) = packet(*from, *to, (next, *ack), flags, piece) else {
                return Ok(());
            };
            let cut = if last { *missing } else { 0 };
            let length = u32::try_from(packet.len()).unwrap_or(LONGEST);
            let whole = length.saturating_add(cut);
            self.writer
                .write_packet(&PcapPacket::new_owned(at, whole, packet))?;
            let taken = u32::try_from(piece.len()).unwrap_or(0) + u32::from(flags.syn);
            next = next.wrapping_add(taken);
        }
        Ok(())
    }

    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.writer.into_writer().finish()
    }
}

/// Pieces of a payload that fit into packets; one that is empty when it is.
fn chunks(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let nothing = payload.is_empty().then_some(payload);
    nothing.into_iter().chain(payload.chunks(FITS))
}

#[derive(Clone, Copy)]
struct Flags {
    syn: bool,
    fin: bool,
    rst: bool,
}

fn packet(
    from: SocketAddr,
    to: SocketAddr,
    (seq, ack): (u32, Option<u32>),
    flags: Flags,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => return None,
    };
    let mut tcp = builder.tcp(from.port(), to.port(), seq, WINDOW);
    if let Some(ack) = ack {
        tcp = tcp.ack(ack);
    }
    if flags.syn {
        tcp = tcp.syn();
    }
    if flags.fin {
        tcp = tcp.fin();
    }
    if flags.rst {
        tcp = tcp.rst();
    }
    let mut packet = Vec::with_capacity(tcp.size(payload.len()));
    tcp.write(&mut packet, payload).ok()?;
    Some(packet)
}

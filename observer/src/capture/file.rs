//! Packets out of capture files: pcap in its variants and pcapng, either gzipped or not.

use std::io::{self, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;
use pcap_parser::{
    Block, LegacyPcapReader, Linktype, PcapBlockOwned, PcapError, PcapNGReader,
    traits::PcapReaderIterator,
};

/// Largest record or block accepted: tcpdump's own limit for a packet is 256 KiB, but a pcapng may
/// hold long lists of names.
const LARGEST_BLOCK: usize = 2 << 20;
/// pcapng's first packet block, obsolete since 2007.
const PACKET_BLOCK: u32 = 2;
/// Interfaces per pcapng section.
const MAX_INTERFACES: usize = 4096;

/// A captured packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Nanoseconds since the Unix epoch; 0 where the file does not tell.
    pub unix_nanos: u64,
    /// What the bytes begin with.
    pub link: Linktype,
    /// What was kept of it.
    pub data: &'a [u8],
    /// Octets of it that were not kept.
    pub cut: usize,
}

/// Why a capture could not be read, and how far the reading got.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file could not be read.
    #[error("cannot read the capture after {offset} bytes")]
    Read {
        /// Bytes that could be read, decompressed where compressed.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error("not a capture: its first bytes are neither pcap's nor pcapng's")]
    NotACapture,
    /// A record makes no sense.
    #[error("malformed {what} at byte {offset} of the capture")]
    Malformed {
        /// Which kind of record.
        what: &'static str,
        /// Where it begins, decompressed where compressed.
        offset: u64,
    },
}

/// How a capture ended.
#[derive(Debug, Default)]
pub struct FileEnd {
    /// The file ends within a record: its writer was interrupted.
    pub cut_short: bool,
    /// Why the reading stopped before the end; what came before was handed out.
    pub damage: Option<CaptureError>,
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// pcap or pcapng.
    Capture,
    /// gzip; what is inside shows only after decompression.
    Gzip,
    /// JSON, as an events file's lines are.
    Json,
    /// Something else.
    Other,
}

impl FileKind {
    /// Looks at a file's first four bytes.
    pub fn of(first: &[u8]) -> Self {
        match *first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x0a, 0x0d, 0x0d, 0x0a, ..]
            | [0xd4, 0xc3, 0xb2, 0xa1, ..]
            | [0xa1, 0xb2, 0xc3, 0xd4, ..]
            | [0x4d, 0x3c, 0xb2, 0xa1, ..]
            | [0xa1, 0xb2, 0x3c, 0x4d, ..]
            | [0x34, 0xcd, 0xb2, 0xa1, ..] => Self::Capture,
            [b'{', ..] => Self::Json,
            _ => Self::Other,
        }
    }
}

/// Hands every packet to `sink`, in the order of the file. An error means that there was none.
pub fn read_packets(
    input: impl Read,
    sink: &mut dyn FnMut(Packet<'_>),
) -> Result<FileEnd, CaptureError> {
    let mut input = Full::new(BufReader::new(input));
    let first = peek(&mut input)?;
    if FileKind::of(&first) == FileKind::Gzip {
        let packed = Cursor::new(first).chain(input);
        let mut input = Full::new(MultiGzDecoder::new(packed));
        let first = peek(&mut input)?;
        return read_plain(first, input, sink);
    }
    read_plain(first, input, sink)
}

/// Reads until the buffer is full or the input ends, as one call of `read`, because the parser takes
/// a short read for the end of the header. A failure is an end, so that what came before it is not
/// lost, and is kept.
struct Full<R> {
    input: R,
    failure: Option<io::Error>,
}

impl<R> Full<R> {
    const fn new(input: R) -> Self {
        Self {
            input,
            failure: None,
        }
    }
}

impl<R: Read> Read for Full<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
            if self.failure.is_some() {
                break;
            }
            match self.input.read(free) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.failure = Some(error),
            }
        }
        Ok(filled)
    }
}

fn peek<R: Read>(input: &mut Full<R>) -> Result<[u8; 4], CaptureError> {
    let mut first = [0; 4];
    match input.read(&mut first) {
        Ok(4) => Ok(first),
        Ok(_) => Err(match input.failure.take() {
            Some(source) => CaptureError::Read { offset: 0, source },
            None => CaptureError::NotACapture,
        }),
        Err(source) => Err(CaptureError::Read { offset: 0, source }),
    }
}

fn read_plain<R: Read>(
    first: [u8; 4],
    mut input: Full<R>,
    sink: &mut dyn FnMut(Packet<'_>),
) -> Result<FileEnd, CaptureError> {
    if FileKind::of(&first) != FileKind::Capture {
        return Err(CaptureError::NotACapture);
    }
    let mut packets = 0_u64;
    let mut sink = |packet: Packet<'_>| {
        packets += 1;
        sink(packet);
    };
    let whole = Full::new(Cursor::new(first).chain(&mut input));
    let mut end = if first == [0x0a, 0x0d, 0x0d, 0x0a] {
        let reader = PcapNGReader::new(LARGEST_BLOCK, whole).map_err(|_| broken_header())?;
        read_blocks(reader, &mut |block, sections| {
            sections.take(block, &mut sink);
        })
    } else {
        let reader = LegacyPcapReader::new(LARGEST_BLOCK, whole).map_err(|_| broken_header())?;
        read_blocks(reader, &mut |block, sections| {
            sections.take(block, &mut sink);
        })
    };
    match input.failure {
        None => {}
        // A compressed file that ends too early is cut short like any other.
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => end.cut_short = true,
        Some(source) => {
            let offset = end.offset;
            end.damage = Some(CaptureError::Read { offset, source });
        }
    }
    match end.damage {
        Some(error) if packets == 0 => Err(error),
        damage => Ok(FileEnd {
            cut_short: end.cut_short,
            damage,
        }),
    }
}

const fn broken_header() -> CaptureError {
    CaptureError::Malformed {
        what: "file header",
        offset: 0,
    }
}

/// How the reading of blocks ended, and after how many bytes.
struct BlocksEnd {
    offset: u64,
    cut_short: bool,
    damage: Option<CaptureError>,
}

/// Drives either reader to its end.
fn read_blocks(
    mut reader: impl PcapReaderIterator,
    take: &mut dyn FnMut(&PcapBlockOwned<'_>, &mut Sections),
) -> BlocksEnd {
    let mut sections = Sections::default();
    let mut refilled_at = None;
    loop {
        let offset = u64::try_from(reader.consumed()).unwrap_or(u64::MAX);
        let ended = |cut_short, damage| BlocksEnd {
            offset,
            cut_short,
            damage,
        };
        let error = match reader.next() {
            Ok((length, block)) => {
                take(&block, &mut sections);
                reader.consume(length);
                continue;
            }
            Err(error) => error,
        };
        match error {
            PcapError::Eof => return ended(false, None),
            PcapError::UnexpectedEof => return ended(true, None),
            PcapError::Incomplete(needed) => {
                // A refill that brings nothing twice at the same place would go on for ever.
                if refilled_at == Some((offset, needed)) || reader.refill().is_err() {
                    return ended(true, None);
                }
                refilled_at = Some((offset, needed));
            }
            PcapError::ReadError
            | PcapError::BufferTooSmall
            | PcapError::HeaderNotRecognized
            | PcapError::NomError(..)
            | PcapError::OwnedNomError(..) => {
                let what = "record";
                return ended(false, Some(CaptureError::Malformed { what, offset }));
            }
        }
    }
}

/// What the file said about the packets to come.
#[derive(Debug, Default)]
struct Sections {
    interfaces: Vec<Interface>,
    /// Nanoseconds per unit of a legacy timestamp's fraction.
    fraction_nanos: u64,
    /// Byte order of a pcapng section.
    big_endian: bool,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Linktype,
    snaplen: u32,
    /// Units per second.
    resolution: u64,
    offset_secs: i64,
}

impl Sections {
    fn take(&mut self, block: &PcapBlockOwned<'_>, sink: &mut dyn FnMut(Packet<'_>)) {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.fraction_nanos = if header.is_nanosecond_precision() {
                    1
                } else {
                    1000
                };
                self.interfaces = vec![Interface {
                    link: link_type(header.network),
                    snaplen: header.snaplen,
                    resolution: 1,
                    offset_secs: 0,
                }];
            }
            PcapBlockOwned::Legacy(record) => {
                let Some(interface) = self.interfaces.first() else {
                    return;
                };
                let fraction = u64::from(record.ts_usec) * self.fraction_nanos;
                sink(Packet {
                    unix_nanos: u64::from(record.ts_sec) * 1_000_000_000 + fraction,
                    link: interface.link,
                    data: record.data,
                    cut: cut(record.origlen, record.data),
                });
            }
            PcapBlockOwned::NG(block) => self.take_block(block, sink),
        }
    }

    fn take_block(&mut self, block: &Block<'_>, sink: &mut dyn FnMut(Packet<'_>)) {
        match block {
            Block::SectionHeader(section) => {
                self.interfaces.clear();
                self.big_endian = section.big_endian();
            }
            Block::InterfaceDescription(description) => {
                if self.interfaces.len() < MAX_INTERFACES {
                    self.interfaces.push(Interface {
                        link: link_type(description.linktype),
                        snaplen: description.snaplen,
                        resolution: description.ts_resolution().unwrap_or(1_000_000).max(1),
                        offset_secs: description.ts_offset(),
                    });
                }
            }
            Block::EnhancedPacket(packet) => {
                let kept = kept(packet.data, packet.caplen);
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.packet(packet.if_id, units, kept, packet.origlen, sink);
            }
            Block::SimplePacket(packet) => {
                let Some(interface) = self.interfaces.first() else {
                    return;
                };
                let most = if interface.snaplen == 0 {
                    u32::MAX
                } else {
                    interface.snaplen
                };
                let data = kept(packet.data, packet.origlen.min(most));
                sink(Packet {
                    unix_nanos: 0,
                    link: interface.link,
                    data,
                    cut: cut(packet.origlen, data),
                });
            }
            // The parser takes the number for little-endian always.
            Block::Unknown(block) if self.order(block.block_type.to_le_bytes()) == PACKET_BLOCK => {
                self.old_packet(block.data, sink);
            }
            Block::NameResolution(_)
            | Block::InterfaceStatistics(_)
            | Block::SystemdJournalExport(_)
            | Block::DecryptionSecrets(_)
            | Block::ProcessInformation(_)
            | Block::Custom(_)
            | Block::Unknown(_) => {}
        }
    }

    /// A number in the section's byte order.
    const fn order(&self, octets: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(octets)
        } else {
            u32::from_le_bytes(octets)
        }
    }

    /// The packet block that pcapng had first, found in old files: an interface and a count of drops
    /// in 16 bits each, time, kept and original length.
    fn old_packet(&self, block: &[u8], sink: &mut dyn FnMut(Packet<'_>)) {
        let Some((fixed, data)) = block.split_first_chunk::<20>() else {
            return;
        };
        let (&[first, second, _, _], fields) = fixed.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let interface = if self.big_endian {
            u16::from_be_bytes([first, second])
        } else {
            u16::from_le_bytes([first, second])
        };
        let (fields, _) = fields.as_chunks::<4>();
        if let [high, low, length, original] = *fields {
            let units = u64::from(self.order(high)) << 32 | u64::from(self.order(low));
            let kept = kept(data, self.order(length));
            self.packet(
                u32::from(interface),
                units,
                kept,
                self.order(original),
                sink,
            );
        }
    }

    fn packet(
        &self,
        interface: u32,
        units: u64,
        data: &[u8],
        original: u32,
        sink: &mut dyn FnMut(Packet<'_>),
    ) {
        let interface = usize::try_from(interface).unwrap_or(usize::MAX);
        if let Some(interface) = self.interfaces.get(interface) {
            sink(Packet {
                unix_nanos: interface.unix_nanos(units),
                link: interface.link,
                data,
                cut: cut(original, data),
            });
        }
    }
}

/// A block's data without the padding behind it.
fn kept(data: &[u8], length: u32) -> &[u8] {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    data.get(..length).unwrap_or(data)
}

/// Octets of a packet that were not kept.
fn cut(original: u32, data: &[u8]) -> usize {
    usize::try_from(original)
        .unwrap_or(usize::MAX)
        .saturating_sub(data.len())
}

impl Interface {
    fn unix_nanos(&self, units: u64) -> u64 {
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.resolution);
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
        let offset = i128::from(self.offset_secs) * 1_000_000_000;
        u64::try_from(nanos.saturating_add(offset).max(0)).unwrap_or(u64::MAX)
    }
}

/// The upper bits of the field tell of frame checksums, not of the link.
const fn link_type(field: Linktype) -> Linktype {
    Linktype(field.0 & 0xffff)
}

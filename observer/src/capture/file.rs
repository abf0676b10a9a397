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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FileEnd {
    /// The file ends within a record: its writer was interrupted.
    pub cut_short: bool,
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// pcap or pcapng.
    Capture,
    /// gzip; what is inside shows only after decompression.
    Gzip,
    /// Neither: perhaps an events file, which is JSON lines.
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
            _ => Self::Other,
        }
    }
}

/// Hands every packet to `sink`, in the order of the file.
pub fn read_packets(
    input: impl Read,
    sink: &mut dyn FnMut(Packet<'_>),
) -> Result<FileEnd, CaptureError> {
    let mut input = Full(BufReader::new(input));
    let first = peek(&mut input)?;
    let input = Cursor::new(first).chain(input);
    if FileKind::of(&first) == FileKind::Gzip {
        let mut input = Full(MultiGzDecoder::new(input));
        let first = peek(&mut input)?;
        return read_plain(first, Cursor::new(first).chain(input), sink);
    }
    read_plain(first, input, sink)
}

/// Reads until the buffer is full or the input ends, as one call of `read`: the parser takes a short
/// read for the end of the header.
struct Full<R>(R);

impl<R: Read> Read for Full<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
            match self.0.read(free) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before the failure is not lost; the failure comes again.
                Err(_) if filled != 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

fn peek(input: &mut impl Read) -> Result<[u8; 4], CaptureError> {
    let mut first = [0; 4];
    match input.read_exact(&mut first) {
        Ok(()) => Ok(first),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(CaptureError::NotACapture)
        }
        Err(source) => Err(CaptureError::Read { offset: 0, source }),
    }
}

fn read_plain(
    first: [u8; 4],
    input: impl Read,
    sink: &mut dyn FnMut(Packet<'_>),
) -> Result<FileEnd, CaptureError> {
    if FileKind::of(&first) != FileKind::Capture {
        return Err(CaptureError::NotACapture);
    }
    let input = Full(input);
    let broken = |what| CaptureError::Malformed { what, offset: 0 };
    if first == [0x0a, 0x0d, 0x0d, 0x0a] {
        let reader =
            PcapNGReader::new(LARGEST_BLOCK, input).map_err(|_| broken("pcapng header"))?;
        read_blocks(reader, &mut |block, sections| sections.take(block, sink))
    } else {
        let reader =
            LegacyPcapReader::new(LARGEST_BLOCK, input).map_err(|_| broken("pcap header"))?;
        read_blocks(reader, &mut |block, sections| sections.take(block, sink))
    }
}

/// Drives either reader to its end.
fn read_blocks(
    mut reader: impl PcapReaderIterator,
    take: &mut dyn FnMut(&PcapBlockOwned<'_>, &mut Sections),
) -> Result<FileEnd, CaptureError> {
    let mut sections = Sections::default();
    let mut refilled_at = None;
    loop {
        let offset = u64::try_from(reader.consumed()).unwrap_or(u64::MAX);
        let malformed = CaptureError::Malformed {
            what: "record",
            offset,
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
            PcapError::Eof => return Ok(FileEnd { cut_short: false }),
            PcapError::UnexpectedEof => return Ok(FileEnd { cut_short: true }),
            PcapError::Incomplete(needed) => {
                // A refill that brings nothing twice at the same place would go on for ever.
                if refilled_at == Some((offset, needed)) {
                    return Ok(FileEnd { cut_short: true });
                }
                refilled_at = Some((offset, needed));
                if reader.refill().is_err() {
                    let source = io::Error::other("the file's end cannot be read or decompressed");
                    return Err(CaptureError::Read { offset, source });
                }
            }
            PcapError::ReadError => {
                let source = io::Error::other("the file's end cannot be read or decompressed");
                return Err(CaptureError::Read { offset, source });
            }
            PcapError::BufferTooSmall
            | PcapError::HeaderNotRecognized
            | PcapError::NomError(..)
            | PcapError::OwnedNomError(..) => return Err(malformed),
        }
    }
}

/// What the file said about the packets to come.
#[derive(Debug, Default)]
struct Sections {
    interfaces: Vec<Interface>,
    /// Nanoseconds per unit of a legacy timestamp's fraction.
    fraction_nanos: u64,
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
                });
            }
            PcapBlockOwned::NG(block) => self.take_block(block, sink),
        }
    }

    fn take_block(&mut self, block: &Block<'_>, sink: &mut dyn FnMut(Packet<'_>)) {
        match block {
            Block::SectionHeader(_) => self.interfaces.clear(),
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
                let interface = usize::try_from(packet.if_id).unwrap_or(usize::MAX);
                let Some(interface) = self.interfaces.get(interface) else {
                    return;
                };
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let kept = usize::try_from(packet.caplen).unwrap_or(usize::MAX);
                sink(Packet {
                    unix_nanos: interface.unix_nanos(units),
                    link: interface.link,
                    data: packet.data.get(..kept).unwrap_or(packet.data),
                });
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
                let kept = usize::try_from(packet.origlen.min(most)).unwrap_or(usize::MAX);
                sink(Packet {
                    unix_nanos: 0,
                    link: interface.link,
                    data: packet.data.get(..kept).unwrap_or(packet.data),
                });
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

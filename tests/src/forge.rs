//! Segments that nobody's TCP sent: made by hand, put on the wire by a raw socket.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    capture::{Frame, frames},
    netns,
};

/// `IPPROTO_RAW`: the IPv4 header comes with the packet; the kernel fills in length and checksum.
const RAW: i32 = 255;
/// Of a header without options, IPv4's as TCP's.
const HEADER: usize = 20;

/// TCP's flags, RFC 9293 §3.1.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags {
    /// No more data from the sender.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
}

/// A segment to be.
#[derive(Clone, Debug)]
pub struct Forged {
    /// Whom it claims to be from.
    pub from: SocketAddrV4,
    /// Whom it is for.
    pub to: SocketAddrV4,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags beside ACK.
    pub flags: Flags,
    /// Data.
    pub payload: Vec<u8>,
    /// Its checksum is wrong.
    pub corrupt: bool,
}

/// Where a connection's sender stands: what its next segment would be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stand {
    /// The sender.
    pub from: SocketAddrV4,
    /// The receiver.
    pub to: SocketAddrV4,
    /// The sender's next number.
    pub seq: u32,
    /// What it has acknowledged.
    pub ack: u32,
}

impl Stand {
    /// By the latest segment from `from` to `to` in a capture.
    pub fn of(file: &std::path::Path, from: Ipv4Addr, to: Ipv4Addr) -> Result<Self> {
        let filter = format!("ip.src == {from} && ip.dst == {to}");
        let fields = [
            "tcp.srcport",
            "tcp.dstport",
            "tcp.seq_raw",
            "tcp.ack_raw",
            "tcp.len",
        ];
        let frames = frames(file, &filter, &fields)?;
        let last: &Frame = frames.last().context("no segment of it")?;
        let seq: u32 = last.number("tcp.seq_raw")?;
        Ok(Self {
            from: SocketAddrV4::new(from, last.number("tcp.srcport")?),
            to: SocketAddrV4::new(to, last.number("tcp.dstport")?),
            seq: seq.wrapping_add(last.number("tcp.len")?),
            ack: last.number("tcp.ack_raw")?,
        })
    }

    /// A segment `ahead` of the next number, acknowledging `beyond` what was acknowledged.
    pub fn forge(&self, ahead: i32, beyond: u32, flags: Flags, payload: &[u8]) -> Forged {
        Forged {
            from: self.from,
            to: self.to,
            seq: self.seq.wrapping_add_signed(ahead),
            ack: self.ack.wrapping_add(beyond),
            flags,
            payload: payload.to_vec(),
            corrupt: false,
        }
    }
}

impl Forged {
    /// The same with a checksum that no receiver accepts.
    #[must_use]
    pub fn corrupt(self) -> Self {
        Self {
            corrupt: true,
            ..self
        }
    }

    /// Sends it from namespace `ns`.
    pub fn send(&self, ns: &str) -> Result<()> {
        let packet = self.packet()?;
        let to = SockAddr::from(SocketAddrV4::new(*self.to.ip(), 0));
        netns::inside(ns, || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
            let sent = socket.send_to(&packet, &to)?;
            ensure!(sent == packet.len(), "{sent} of {} octets", packet.len());
            Ok(())
        })?
    }

    fn packet(&self) -> Result<Vec<u8>> {
        let mut segment = Vec::with_capacity(HEADER + self.payload.len());
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.seq.to_be_bytes());
        segment.extend(self.ack.to_be_bytes());
        let flags = 0x10 | u8::from(self.flags.fin) | u8::from(self.flags.rst) << 2;
        segment.extend([0x50, flags]);
        segment.extend(512_u16.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.payload);
        let sum = self.checksum(&segment)? ^ if self.corrupt { 0x5555 } else { 0 };
        segment
            .get_mut(16..18)
            .context("a header")?
            .copy_from_slice(&sum.to_be_bytes());

        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        packet.extend(segment);
        Ok(packet)
    }

    /// RFC 9293 §3.1, over the pseudo header and the segment.
    fn checksum(&self, segment: &[u8]) -> Result<u16> {
        let length = u16::try_from(segment.len()).context("a segment too long")?;
        let mut text = Vec::from(self.from.ip().octets());
        text.extend(self.to.ip().octets());
        text.extend([0, 6]);
        text.extend(length.to_be_bytes());
        text.extend(segment);
        let word = |pair: &[u8]| {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            u32::from(u16::from_be_bytes([high, low]))
        };
        let mut sum: u32 = text.chunks(2).map(word).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        Ok(!u16::try_from(sum)?)
    }
}

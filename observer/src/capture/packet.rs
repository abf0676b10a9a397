//! TCP segments out of packets: link layers, VLAN tags, IPv4 and IPv6 with extension headers.
//!
//! Headers up to IP are `etherparse`'s (weighed: MIT or Apache-2.0, maintained, no dependencies but
//! arrayvec, and its lax slices read what a snap length cut off). TCP's header is read here, because
//! a header that was cut within its options still tells sequence numbers and flags.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket};
use observer_core::stream::Segment;
use pcap_parser::Linktype;

/// A TCP segment and its ends.
#[derive(Clone, Copy, Debug)]
pub struct TcpPacket<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// What it says.
    pub segment: Segment<'a>,
}

/// What a packet is.
#[derive(Clone, Copy, Debug)]
pub enum Dissected<'a> {
    /// A TCP segment.
    Tcp(TcpPacket<'a>),
    /// A piece of a fragmented IP packet: not put together here.
    Fragment,
    /// Cut off or broken before TCP's flags.
    Unreadable,
    /// Something else.
    Other,
    /// A link layer that is not known here.
    UnknownLink,
}

/// Reads a packet's headers.
pub fn dissect(link: Linktype, data: &[u8]) -> Dissected<'_> {
    let sliced = match link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(data).ok(),
        // BSD's loopback: an address family in the byte order of the capturing host.
        Linktype::NULL | Linktype::LOOP => data
            .get(4..)
            .and_then(|data| LaxSlicedPacket::from_ip(data).ok()),
        // Raw IP by its assigned number and by the numbers that BSDs used for it.
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 | Linktype(12 | 14) => {
            LaxSlicedPacket::from_ip(data).ok()
        }
        Linktype::LINUX_SLL => by_ether_type(data, 14, 16),
        Linktype::LINUX_SLL2 => by_ether_type(data, 0, 20),
        _ => return Dissected::UnknownLink,
    };
    match sliced {
        Some(sliced) => sliced.net.as_ref().map_or(Dissected::Other, dissect_ip),
        None => Dissected::Unreadable,
    }
}

/// A header of `length` octets with the `EtherType` at `at`.
fn by_ether_type(data: &[u8], at: usize, length: usize) -> Option<LaxSlicedPacket<'_>> {
    let ether_type = u16::from_be_bytes(*data.get(at..)?.first_chunk()?);
    Some(LaxSlicedPacket::from_ether_type(
        EtherType(ether_type),
        data.get(length..)?,
    ))
}

fn dissect_ip<'a>(net: &LaxNetSlice<'a>) -> Dissected<'a> {
    let (from, to, declared) = match net {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let declared = usize::from(header.total_len()).checked_sub(header.slice().len());
            (
                IpAddr::V4(header.source_addr()),
                IpAddr::V4(header.destination_addr()),
                declared.and_then(|left| {
                    left.checked_sub(ip.extensions().auth.map_or(0, |auth| auth.slice().len()))
                }),
            )
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let declared = usize::from(header.payload_length());
            (
                IpAddr::V6(header.source_addr()),
                IpAddr::V6(header.destination_addr()),
                declared.checked_sub(ip.extensions().slice().len()),
            )
        }
        LaxNetSlice::Arp(_) => return Dissected::Other,
    };
    let Some(payload) = net.ip_payload_ref() else {
        return Dissected::Other;
    };
    if payload.ip_number != IpNumber::TCP {
        return Dissected::Other;
    }
    if payload.fragmented {
        return Dissected::Fragment;
    }
    let missing = match declared {
        Some(declared) if payload.incomplete => declared.saturating_sub(payload.payload.len()),
        _ => 0,
    };
    match tcp(payload.payload, missing) {
        Some((from_port, to_port, segment)) => Dissected::Tcp(TcpPacket {
            from: SocketAddr::new(from.to_canonical(), from_port),
            to: SocketAddr::new(to.to_canonical(), to_port),
            segment,
        }),
        None => Dissected::Unreadable,
    }
}

/// RFC 9293 §3.1. `missing` octets of the segment were cut off by the capture.
fn tcp(bytes: &[u8], missing: usize) -> Option<(u16, u16, Segment<'_>)> {
    let (fixed, _) = bytes.split_first_chunk::<14>()?;
    let [
        s1,
        s0,
        d1,
        d0,
        n3,
        n2,
        n1,
        n0,
        a3,
        a2,
        a1,
        a0,
        offset,
        flags,
    ] = *fixed;
    let header = usize::from(offset >> 4) * 4;
    if header < 20 {
        return None;
    }
    let (payload, missing) = match bytes.get(header..) {
        Some(payload) => (payload, missing),
        None => (&[][..], missing.saturating_sub(header - bytes.len())),
    };
    let flag = |bit: u8| flags & bit != 0;
    let segment = Segment {
        seq: u32::from_be_bytes([n3, n2, n1, n0]),
        ack: flag(0x10).then_some(u32::from_be_bytes([a3, a2, a1, a0])),
        syn: flag(0x02),
        fin: flag(0x01),
        rst: flag(0x04),
        payload,
        missing: u32::try_from(missing).unwrap_or(u32::MAX),
    };
    Some((
        u16::from_be_bytes([s1, s0]),
        u16::from_be_bytes([d1, d0]),
        segment,
    ))
}

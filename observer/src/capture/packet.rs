//! TCP segments out of packets: link layers, tags and tunnels, IPv4 and IPv6 with extension headers.
//!
//! IP's headers are `etherparse`'s (weighed: MIT or Apache-2.0, maintained, no dependencies but
//! arrayvec, and its lax slices read what a snap length cut off). TCP's header is read here, because
//! a header that was cut within its options still tells sequence numbers and flags.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, LaxIpSlice, checksum::Sum16BitWords};
use observer_core::stream::Segment;
use pcap_parser::Linktype;

/// IP headers in one another (IPIP, GRE): more is no network but an attack.
const MAX_TUNNELS: u8 = 4;

/// LINKTYPE_C_HDLC.
const CISCO_HDLC: Linktype = Linktype(104);

/// A TCP segment and its ends.
#[derive(Clone, Copy, Debug)]
pub struct TcpPacket<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// What it says.
    pub segment: Segment<'a>,
    /// All of it from TCP's header on, as far as captured.
    pub octets: &'a [u8],
}

impl TcpPacket<'_> {
    /// Whether its checksum is wrong (RFC 9293 §3.1, RFC 8200 §8.1), which shows only in a whole
    /// segment. Many a packet captured where it was sent has none yet: whoever asks must know.
    pub fn is_corrupt(&self) -> bool {
        let sum = self.pseudo_header();
        self.segment.missing == 0 && sum.add_slice(self.octets).ones_complement() != 0
    }

    /// Whether its checksum covers the pseudo-header alone: it is left to a device to finish, and a
    /// packet that never leaves this machine comes to none.
    pub fn is_unfinished(&self) -> bool {
        let field = self.octets.get(16..18).and_then(number);
        // The sum is of words in this machine's order.
        field == Some(!self.pseudo_header().ones_complement().to_be())
    }

    fn pseudo_header(&self) -> Sum16BitWords {
        let length = u32::try_from(self.octets.len()).unwrap_or(u32::MAX);
        let mut sum = Sum16BitWords::new().add_2bytes([0, IpNumber::TCP.0]);
        for end in [self.from.ip(), self.to.ip()] {
            sum = match end {
                IpAddr::V4(ip) => sum.add_4bytes(ip.octets()),
                IpAddr::V6(ip) => sum.add_16bytes(ip.octets()),
            };
        }
        sum.add_4bytes(length.to_be_bytes())
    }
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

/// Reads a packet's headers. `cut` octets of it, beyond `data`, were not kept by the capture.
pub fn dissect(link: Linktype, data: &[u8], cut: usize) -> Dissected<'_> {
    let dissected = match link {
        Linktype::ETHERNET => by_ether_type(data, 12, 14, cut),
        Linktype::LINUX_SLL => by_ether_type(data, 14, 16, cut),
        Linktype::LINUX_SLL2 => by_ether_type(data, 0, 20, cut),
        CISCO_HDLC => by_ether_type(data, 2, 4, cut),
        // PPP (RFC 1661 §2), with or without RFC 1662's address and control octets.
        Linktype(9 | 50) => ppp(data.strip_prefix(&[0xff, 0x03]).unwrap_or(data), cut),
        // BSD's loopback: an address family in the byte order of the capturing host.
        Linktype::NULL | Linktype::LOOP => data.get(4..).map(|data| ip(data, cut, MAX_TUNNELS)),
        // Raw IP by its assigned number and by the numbers that BSDs used for it.
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 | Linktype(12 | 14) => {
            Some(ip(data, cut, MAX_TUNNELS))
        }
        _ => return Dissected::UnknownLink,
    };
    dissected.unwrap_or(Dissected::Unreadable)
}

/// A header of `length` octets with the EtherType at `at`, and the tags behind it.
fn by_ether_type(data: &[u8], at: usize, length: usize, cut: usize) -> Option<Dissected<'_>> {
    let mut ether_type = number(data.get(at..)?)?;
    let mut data = data.get(length..)?;
    loop {
        match ether_type {
            0x0800 | 0x86dd => return Some(ip(data, cut, MAX_TUNNELS)),
            // IEEE 802.1Q, 802.1ad and the numbers used before it.
            0x8100 | 0x88a8 | 0x9100 | 0x9200 => {
                ether_type = number(data.get(2..)?)?;
                data = data.get(4..)?;
            }
            // MPLS (RFC 3032): labels up to the one marked as bottom of the stack.
            0x8847 | 0x8848 => {
                let (entries, _) = data.as_chunks::<4>();
                let bottom = entries.iter().position(|entry| entry[2] & 1 != 0)?;
                return Some(ip(data.get(4 * (bottom + 1)..)?, cut, MAX_TUNNELS));
            }
            // PPPoE session (RFC 2516 §4).
            0x8864 => return ppp(data.get(6..)?, cut),
            // IEEE 802.3: a length, and behind it LLC, perhaps with SNAP (RFC 1042).
            0..=1500 => {
                let Some(rest) = data.strip_prefix(&[0xaa, 0xaa, 0x03, 0, 0, 0]) else {
                    return Some(Dissected::Other);
                };
                ether_type = number(rest)?;
                data = rest.get(2..)?;
            }
            _ => return Some(Dissected::Other),
        }
    }
}

/// What follows PPP's framing.
fn ppp(data: &[u8], cut: usize) -> Option<Dissected<'_>> {
    Some(match number(data)? {
        0x0021 | 0x0057 => ip(data.get(2..)?, cut, MAX_TUNNELS),
        _ => Dissected::Other,
    })
}

/// GRE (RFC 2784, RFC 2890): flags say which optional fields precede the packet.
fn gre(data: &[u8], cut: usize, tunnels: u8) -> Option<Dissected<'_>> {
    let flags = number(data)?;
    let protocol = number(data.get(2..)?)?;
    let options = [0x8000, 0x2000, 0x1000];
    let length = 4 + 4 * options.iter().filter(|&&bit| flags & bit != 0).count();
    Some(match protocol {
        // Version 0 without the routing that nobody used.
        0x0800 | 0x86dd if flags & 0x4007 == 0 => ip(data.get(length..)?, cut, tunnels),
        _ => Dissected::Other,
    })
}

/// The first two octets.
fn number(data: &[u8]) -> Option<u16> {
    data.first_chunk().map(|octets| u16::from_be_bytes(*octets))
}

fn ip(data: &[u8], cut: usize, tunnels: u8) -> Dissected<'_> {
    let Ok((ip, broken)) = LaxIpSlice::from_slice(data) else {
        return Dissected::Unreadable;
    };
    if broken.is_some() {
        return Dissected::Unreadable;
    }
    let payload = ip.payload();
    let inner = |within: fn(&[u8], usize, u8) -> Dissected<'_>| match tunnels.checked_sub(1) {
        Some(left) if !payload.fragmented => within(payload.payload, cut, left),
        Some(_) => Dissected::Fragment,
        None => Dissected::Other,
    };
    match payload.ip_number {
        IpNumber::TCP if payload.fragmented => return Dissected::Fragment,
        IpNumber::TCP => {}
        IpNumber::IPV4 | IpNumber::IPV6 => return inner(self::ip),
        IpNumber::GRE => {
            return inner(|data, cut, tunnels| {
                gre(data, cut, tunnels).unwrap_or(Dissected::Unreadable)
            });
        }
        _ => return Dissected::Other,
    }
    let missing = match length_behind_headers(&ip) {
        Some(length) if payload.incomplete => length.saturating_sub(payload.payload.len()),
        Some(_) => 0,
        // A segment for the network card to cut: what the capture kept is all that tells.
        None => cut,
    };
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    match tcp(payload.payload, missing) {
        Some((from_port, to_port, segment)) => Dissected::Tcp(TcpPacket {
            from: SocketAddr::new(from.to_canonical(), from_port),
            to: SocketAddr::new(to.to_canonical(), to_port),
            segment,
            octets: payload.payload,
        }),
        None => Dissected::Unreadable,
    }
}

/// Octets of payload that IP's length field declares; none where it is 0, as it is on segments
/// longer than it can say (Linux's BIG TCP, and TSO of some drivers).
fn length_behind_headers(ip: &LaxIpSlice<'_>) -> Option<usize> {
    match ip {
        LaxIpSlice::Ipv4(ip) => {
            let auth = ip.extensions().auth.map_or(0, |auth| auth.slice().len());
            usize::from(ip.header().total_len())
                .checked_sub(ip.header().slice().len())?
                .checked_sub(auth)
        }
        LaxIpSlice::Ipv6(ip) => match ip.header().payload_length() {
            0 => None,
            length => usize::from(length).checked_sub(ip.extensions().slice().len()),
        },
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

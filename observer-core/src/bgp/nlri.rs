//! Network layer reachability information: prefixes, read where they stand (RFC 4271 §4.3,
//! RFC 4760 §5, RFC 7911 §3).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use super::{DecodeError, DecodeErrorKind, Family, cursor::Cursor};

/// An IPv4 or IPv6 prefix; bits beyond its length are zero.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Prefix {
    /// Network address.
    pub address: IpAddr,
    /// Bits.
    pub length: u8,
}

impl Prefix {
    /// As [`Display`](fmt::Display) shows it; an address alone is its own prefix.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(full);
        (length <= full).then(|| Self::masked(address, length))
    }

    /// The prefix of `length` bits, or of all there are, that has `address`.
    pub const fn masked(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let length = if length > 32 { 32 } else { length };
                let mask = match u32::MAX.checked_shl(32 - length as u32) {
                    Some(mask) => mask,
                    None => 0,
                };
                let address = IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask));
                Self { address, length }
            }
            IpAddr::V6(v6) => {
                let length = if length > 128 { 128 } else { length };
                let mask = match u128::MAX.checked_shl(128 - length as u32) {
                    Some(mask) => mask,
                    None => 0,
                };
                let address = IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask));
                Self { address, length }
            }
        }
    }

    /// Whether it is one address.
    pub const fn is_host(self) -> bool {
        self.length
            == match self.address {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            }
    }

    /// Whether `address` lies in it.
    pub const fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= self.length as u32
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= self.length as u32
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether all of `other` lies in it.
    pub const fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// One entry of an NLRI field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NlriEntry {
    /// The prefix.
    pub prefix: Prefix,
    /// Path identifier, where ADD-PATH is spoken.
    pub path_id: Option<u32>,
    /// Bits beyond the prefix length were set. RFC 4271 §4.3 calls them irrelevant; as everybody
    /// sends zeros they tell a wrong reading.
    pub stray_bits: bool,
}

/// A field of NLRI of one family. Iterating over it yields prefixes of IPv4 and IPv6 unicast and
/// nothing for other families, which [`count`](Self::count) counts all the same.
#[derive(Clone, Debug)]
pub struct Nlri<'a> {
    family: Family,
    add_path: bool,
    cursor: Cursor<'a>,
}

/// How the entries of a family that is only counted are told apart.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// An octet of bits: labelled, VPN and route target NLRI (RFC 8277, 4364, 4684).
    Bits,
    /// A type octet and an octet of length (RFC 7432 §7).
    TypeLength,
    /// 16 bits of type and 16 bits of length (RFC 9552 §5.2).
    WideTypeLength,
    /// 16 bits of length (RFC 4761 §3.2.2).
    WideLength,
    /// One or two octets of length (RFC 8955 §4.1).
    FlowSpec,
    /// Not known: the whole field counts as one.
    Whole,
}

impl<'a> Nlri<'a> {
    /// `bytes` stand `offset` octets into the message.
    pub fn new(family: Family, add_path: bool, bytes: &'a [u8], offset: usize) -> Self {
        Self {
            family,
            add_path,
            cursor: Cursor::new(bytes, offset),
        }
    }

    /// Whose entries these are.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Whether every entry begins with a path identifier.
    pub const fn has_path_ids(&self) -> bool {
        self.add_path
    }

    /// The field as it stands.
    pub const fn bytes(&self) -> &'a [u8] {
        self.cursor.rest()
    }

    /// Entries up to the first that is malformed, and what is wrong with that one.
    pub fn count(self) -> (u32, Option<DecodeError>) {
        let mut count = 0;
        if self.family.prefix_bits().is_some() {
            for entry in self {
                match entry {
                    Ok(_) => count += 1,
                    Err(error) => return (count, Some(error)),
                }
            }
            return (count, None);
        }
        let framing = Framing::of(self.family);
        let mut cursor = self.cursor;
        while !cursor.is_empty() {
            let at = cursor.offset();
            if self.add_path && cursor.u32().is_none() || framing.skip(&mut cursor).is_none() {
                return (
                    count,
                    Some(DecodeError::at(DecodeErrorKind::PrefixTruncated, at)),
                );
            }
            count += 1;
        }
        (count, None)
    }

    fn stop(&mut self, kind: DecodeErrorKind, at: usize) -> Result<NlriEntry, DecodeError> {
        self.cursor = Cursor::new(&[], at);
        Err(DecodeError::at(kind, at))
    }
}

impl Iterator for Nlri<'_> {
    type Item = Result<NlriEntry, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let most = self.family.prefix_bits()?;
        if self.cursor.is_empty() {
            return None;
        }
        let at = self.cursor.offset();
        let path_id = if self.add_path {
            match self.cursor.u32() {
                Some(path_id) => Some(path_id),
                None => return Some(self.stop(DecodeErrorKind::PrefixTruncated, at)),
            }
        } else {
            None
        };
        let Some(length) = self.cursor.u8() else {
            return Some(self.stop(DecodeErrorKind::PrefixTruncated, at));
        };
        if length > most {
            return Some(self.stop(DecodeErrorKind::PrefixLength, at));
        }
        let Some(octets) = self.cursor.take(usize::from(length.div_ceil(8))) else {
            return Some(self.stop(DecodeErrorKind::PrefixTruncated, at));
        };
        let (prefix, stray_bits) = prefix(octets, length, most);
        Some(Ok(NlriEntry {
            prefix,
            path_id,
            stray_bits,
        }))
    }
}

/// At most 16 octets, as many as `length` bits need.
fn prefix(octets: &[u8], length: u8, most: u8) -> (Prefix, bool) {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().zip(octets) {
        *to = *from;
    }
    let bits = u128::from_be_bytes(padded);
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    let masked = bits & mask;
    let address = if most == 32 {
        let high = u32::try_from(masked >> 96).unwrap_or(0);
        IpAddr::V4(Ipv4Addr::from_bits(high))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(masked))
    };
    (Prefix { address, length }, masked != bits)
}

impl Framing {
    const fn of(family: Family) -> Self {
        match (family.afi, family.safi) {
            (1 | 2, 1 | 2 | 4 | 128 | 129 | 132) => Self::Bits,
            (1 | 2, 133 | 134) => Self::FlowSpec,
            (25, 70) => Self::TypeLength,
            (25, 65) => Self::WideLength,
            (16388, 71 | 72) => Self::WideTypeLength,
            _ => Self::Whole,
        }
    }

    fn skip(self, cursor: &mut Cursor<'_>) -> Option<()> {
        let length = match self {
            Self::Bits => usize::from(cursor.u8()?.div_ceil(8)),
            Self::TypeLength => {
                cursor.u8()?;
                usize::from(cursor.u8()?)
            }
            Self::WideTypeLength => {
                cursor.u16()?;
                usize::from(cursor.u16()?)
            }
            Self::WideLength => usize::from(cursor.u16()?),
            Self::FlowSpec => match cursor.u8()? {
                short @ 0..0xf0 => usize::from(short),
                high => usize::from(high & 0x0f) << 8 | usize::from(cursor.u8()?),
            },
            Self::Whole => cursor.len(),
        };
        cursor.take(length).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        family: Family,
        add_path: bool,
        bytes: &[u8],
    ) -> (Vec<String>, Option<DecodeErrorKind>) {
        let mut shown = Vec::new();
        for entry in Nlri::new(family, add_path, bytes, 0) {
            match entry {
                Ok(NlriEntry {
                    prefix,
                    path_id: Some(id),
                    ..
                }) => {
                    shown.push(format!("{prefix} path {id}"));
                }
                Ok(entry) => shown.push(entry.prefix.to_string()),
                Err(error) => return (shown, Some(error.kind)),
            }
        }
        (shown, None)
    }

    #[test]
    fn prefixes_of_both_families() {
        let (v4, _) = read(
            Family::IPV4_UNICAST,
            false,
            &[0, 26, 10, 244, 1, 64, 32, 1, 2, 3, 4, 9, 10, 0xff],
        );
        assert_eq!(
            v4,
            ["0.0.0.0/0", "10.244.1.64/26", "1.2.3.4/32", "10.128.0.0/9"]
        );
        let (v6, _) = read(Family::IPV6_UNICAST, false, &[32, 0x20, 1, 0xd, 0xb8, 0]);
        assert_eq!(v6, ["2001:db8::/32", "::/0"]);
        let (paths, error) = read(
            Family::IPV4_UNICAST,
            true,
            &[0, 0, 0, 7, 8, 10, 0, 0, 0, 8, 8, 11],
        );
        assert_eq!(paths, ["10.0.0.0/8 path 7", "11.0.0.0/8 path 8"]);
        assert_eq!(error, None);
    }

    #[test]
    fn stray_bits_are_masked_and_told() {
        let entry = Nlri::new(Family::IPV4_UNICAST, false, &[9, 10, 0xff], 0).next();
        assert!(entry.unwrap().unwrap().stray_bits);
        let entry = Nlri::new(Family::IPV4_UNICAST, false, &[9, 10, 0x80], 0).next();
        assert!(!entry.unwrap().unwrap().stray_bits);
    }

    #[test]
    fn what_comes_before_an_error_counts() {
        let (shown, error) = read(Family::IPV4_UNICAST, false, &[8, 10, 33, 1, 2]);
        assert_eq!(
            (shown.len(), error),
            (1, Some(DecodeErrorKind::PrefixLength))
        );
        let (shown, error) = read(Family::IPV4_UNICAST, false, &[8, 10, 24, 1, 2]);
        assert_eq!(
            (shown.len(), error),
            (1, Some(DecodeErrorKind::PrefixTruncated))
        );
        let (shown, error) = read(Family::IPV4_UNICAST, true, &[0, 0, 1]);
        assert_eq!(
            (shown.len(), error),
            (0, Some(DecodeErrorKind::PrefixTruncated))
        );
    }

    #[test]
    fn other_families_are_counted_by_their_framing() {
        let count =
            |afi, safi, bytes: &[u8]| Nlri::new(Family::new(afi, safi), false, bytes, 0).count();
        // Two labelled VPN prefixes of 112 bits.
        let vpn: Vec<u8> = [[112; 15], [112; 15]].concat();
        assert_eq!(count(1, 128, &vpn), (2, None));
        assert_eq!(count(25, 70, &[2, 3, 0, 0, 0, 3, 0]), (2, None));
        assert_eq!(count(1, 133, &[1, 9, 0xf0, 2, 1, 1]), (2, None));
        assert_eq!(count(16388, 71, &[0, 1, 0, 1, 9]), (1, None));
        assert_eq!(count(4242, 42, &[1, 2, 3]), (1, None));
        assert_eq!(count(4242, 42, &[]), (0, None));
        assert_eq!(count(1, 128, &vpn[..20]).0, 1);
        assert!(count(1, 128, &vpn[..20]).1.is_some());
    }
}

//! Path attributes (RFC 4271 §4.3, §5), one by one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DecodeError, DecodeErrorKind, Severity, cursor::Cursor, iana::attribute as code};

const FLAG_OPTIONAL: u8 = 0x80;
const FLAG_TRANSITIVE: u8 = 0x40;
const FLAG_EXTENDED_LENGTH: u8 = 0x10;

/// One path attribute, not yet judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attribute<'a> {
    /// Its flags as sent.
    pub flags: u8,
    /// Its type code.
    pub code: u8,
    /// Its value.
    pub value: &'a [u8],
    /// Octets from the message's beginning to the value's.
    pub offset: usize,
}

/// Iterates over a field of path attributes; ends after the first that overruns it.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Attributes<'a> {
    pub(crate) const fn new(cursor: Cursor<'a>) -> Self {
        Self { cursor }
    }

    /// The field as it stands.
    pub const fn bytes(&self) -> &'a [u8] {
        self.cursor.rest()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_empty() {
            return None;
        }
        let at = self.cursor.offset();
        let mut code = 0;
        let mut read = || {
            let flags = self.cursor.u8()?;
            code = self.cursor.u8()?;
            let length = if flags & FLAG_EXTENDED_LENGTH == 0 {
                u16::from(self.cursor.u8()?)
            } else {
                self.cursor.u16()?
            };
            let offset = self.cursor.offset();
            let value = self.cursor.take(usize::from(length))?;
            Some(Attribute {
                flags,
                code,
                value,
                offset,
            })
        };
        let attribute = read();
        Some(attribute.ok_or_else(|| {
            self.cursor = Cursor::new(&[], at);
            DecodeError::at(DecodeErrorKind::AttributeTruncated(code), at)
        }))
    }
}

impl Attribute<'_> {
    /// What is wrong with the attribute taken alone, and what RFC 7606 §7 has a receiver do about
    /// it. NLRI and next hops of `MP_REACH_NLRI` and `MP_UNREACH_NLRI` are not looked at.
    pub(crate) fn fault(&self, width: AsWidth) -> Option<(DecodeErrorKind, Severity)> {
        let Some(flags) = Self::expected_flags(self.code) else {
            // RFC 4271 §6.3: who calls an attribute well-known must mean one that all know.
            return (self.flags & FLAG_OPTIONAL == 0).then_some((
                DecodeErrorKind::AttributeUnrecognized(self.code),
                Severity::SessionReset,
            ));
        };
        if self.flags & (FLAG_OPTIONAL | FLAG_TRANSITIVE) != flags {
            return Some((
                DecodeErrorKind::AttributeFlags(self.code),
                Severity::TreatAsWithdraw,
            ));
        }
        let length = self.value.len();
        let list_of = |size: usize| length != 0 && length.is_multiple_of(size);
        let withdraw = Severity::TreatAsWithdraw;
        let (fits, severity) = match self.code {
            code::ORIGIN => (length == 1, withdraw),
            code::NEXT_HOP | code::MULTI_EXIT_DISC | code::LOCAL_PREF | code::ORIGINATOR_ID => {
                (length == 4, withdraw)
            }
            code::ATOMIC_AGGREGATE => (length == 0, Severity::AttributeDiscard),
            code::AGGREGATOR => (length == 4 + width.octets(), Severity::AttributeDiscard),
            code::AS4_AGGREGATOR => (length == 8, Severity::AttributeDiscard),
            code::COMMUNITIES | code::CLUSTER_LIST => (list_of(4), withdraw),
            code::EXTENDED_COMMUNITIES => (list_of(8), withdraw),
            code::LARGE_COMMUNITY => (list_of(12), withdraw),
            code::IPV6_EXTENDED_COMMUNITIES => (list_of(20), withdraw),
            _ => (true, withdraw),
        };
        if !fits {
            return Some((DecodeErrorKind::AttributeLength(self.code), severity));
        }
        let (possible, severity) = match self.code {
            code::ORIGIN => (Origin::read(self.value).is_some(), withdraw),
            code::AS_PATH => (AsPath::new(self.value, width).is_valid(), withdraw),
            code::AS4_PATH => (
                AsPath::new(self.value, AsWidth::Four).is_valid(),
                Severity::AttributeDiscard,
            ),
            _ => (true, withdraw),
        };
        (!possible).then_some((DecodeErrorKind::AttributeValue(self.code), severity))
    }

    /// Optional and transitive bits of the attributes known here.
    const fn expected_flags(attribute: u8) -> Option<u8> {
        Some(match attribute {
            code::ORIGIN
            | code::AS_PATH
            | code::NEXT_HOP
            | code::LOCAL_PREF
            | code::ATOMIC_AGGREGATE => FLAG_TRANSITIVE,
            code::MULTI_EXIT_DISC
            | code::ORIGINATOR_ID
            | code::CLUSTER_LIST
            | code::MP_REACH_NLRI
            | code::MP_UNREACH_NLRI => FLAG_OPTIONAL,
            code::AGGREGATOR
            | code::COMMUNITIES
            | code::EXTENDED_COMMUNITIES
            | code::AS4_PATH
            | code::AS4_AGGREGATOR
            | code::IPV6_EXTENDED_COMMUNITIES
            | code::LARGE_COMMUNITY => FLAG_OPTIONAL | FLAG_TRANSITIVE,
            _ => return None,
        })
    }
}

/// ORIGIN (RFC 4271 §5.1.1).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// 0.
    Igp,
    /// 1.
    Egp,
    /// 2.
    Incomplete,
}

impl Origin {
    pub(crate) const fn read(value: &[u8]) -> Option<Self> {
        match *value {
            [0] => Some(Self::Igp),
            [1] => Some(Self::Egp),
            [2] => Some(Self::Incomplete),
            _ => None,
        }
    }
}

/// Octets of an AS number in `AS_PATH` and AGGREGATOR: four when both sides said so (RFC 6793 §4).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AsWidth {
    /// Two octets.
    Two,
    /// Four octets.
    #[default]
    Four,
}

impl AsWidth {
    /// 2 or 4.
    pub const fn octets(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// An `AS_PATH` or `AS4_PATH`.
#[derive(Clone, Copy, Debug)]
pub struct AsPath<'a> {
    bytes: &'a [u8],
    width: AsWidth,
}

/// Segment types of RFC 4271 §4.3 b and RFC 5065 §3.
const AS_SET: u8 = 1;
const AS_SEQUENCE: u8 = 2;
const AS_CONFED_SEQUENCE: u8 = 3;
const AS_CONFED_SET: u8 = 4;

impl<'a> AsPath<'a> {
    /// The attribute's value.
    pub const fn new(bytes: &'a [u8], width: AsWidth) -> Self {
        Self { bytes, width }
    }

    /// Known segment types, none empty, nothing left over (RFC 7606 §7.2).
    pub fn is_valid(&self) -> bool {
        self.segments().all(|segment| segment.is_some())
    }

    /// Length as route selection counts it: a set is one, confederation segments are none
    /// (RFC 4271 §9.1.2.2 a, RFC 5065 §5.3).
    pub fn length(&self) -> usize {
        let width = self.width.octets();
        self.segments()
            .flatten()
            .map(|(kind, members)| match kind {
                AS_SEQUENCE => members.len() / width,
                AS_SET => 1,
                _ => 0,
            })
            .sum()
    }

    /// The AS that originated the route: the last of the path, when it is not in a set.
    pub fn origin_as(&self) -> Option<u32> {
        match self.segments().flatten().last()? {
            (AS_SEQUENCE, members) => self.numbers(members).last(),
            _ => None,
        }
    }

    /// Segments; a malformed one is none and the last.
    fn segments(&self) -> impl Iterator<Item = Option<(u8, &'a [u8])>> + use<'a> {
        let width = self.width.octets();
        let mut cursor = Cursor::new(self.bytes, 0);
        std::iter::from_fn(move || {
            if cursor.is_empty() {
                return None;
            }
            let mut read = || {
                let kind = cursor.u8()?;
                let count = usize::from(cursor.u8()?);
                let members = cursor.take(count * width)?;
                ((AS_SET..=AS_CONFED_SET).contains(&kind) && count != 0).then_some((kind, members))
            };
            let segment = read();
            if segment.is_none() {
                cursor = Cursor::new(&[], 0);
            }
            Some(segment)
        })
    }

    fn numbers(&self, members: &'a [u8]) -> impl Iterator<Item = u32> + use<'a> {
        members.chunks_exact(self.width.octets()).map(|octets| {
            octets
                .iter()
                .fold(0, |number, octet| number << 8 | u32::from(*octet))
        })
    }
}

impl fmt::Display for AsPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, members)) in self.segments().flatten().enumerate() {
            let (open, separator, close) = match kind {
                AS_SET => ("{", ",", "}"),
                AS_CONFED_SEQUENCE => ("(", " ", ")"),
                AS_CONFED_SET => ("[", ",", "]"),
                _ => ("", " ", ""),
            };
            f.write_str(if index == 0 { "" } else { " " })?;
            f.write_str(open)?;
            for (index, number) in self.numbers(members).enumerate() {
                f.write_str(if index == 0 { "" } else { separator })?;
                write!(f, "{number}")?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DecodeErrorKind::{AttributeFlags, AttributeLength, AttributeUnrecognized, AttributeValue};
    use Severity::{AttributeDiscard, SessionReset, TreatAsWithdraw};

    #[test]
    fn as_path_lengths_and_words() {
        for (bytes, width, valid, length, origin, words) in [
            (&[][..], AsWidth::Four, true, 0, None, ""),
            (
                &[2, 2, 0, 100, 0, 200],
                AsWidth::Two,
                true,
                2,
                Some(200),
                "100 200",
            ),
            (
                &[2, 1, 0, 1, 0, 0],
                AsWidth::Four,
                true,
                1,
                Some(65536),
                "65536",
            ),
            (
                &[2, 1, 0, 1, 1, 2, 0, 2, 0, 3],
                AsWidth::Two,
                true,
                2,
                None,
                "1 {2,3}",
            ),
            (
                &[3, 2, 0, 1, 0, 2, 2, 1, 0, 3],
                AsWidth::Two,
                true,
                1,
                Some(3),
                "(1 2) 3",
            ),
            (&[4, 1, 0, 1], AsWidth::Two, true, 0, None, "[1]"),
            (&[2, 0], AsWidth::Two, false, 0, None, ""),
            (&[5, 1, 0, 1], AsWidth::Two, false, 0, None, ""),
            (&[2, 2, 0, 1], AsWidth::Two, false, 0, None, ""),
            (&[2, 2, 0, 100, 0, 200], AsWidth::Four, false, 0, None, ""),
        ] {
            let path = AsPath::new(bytes, width);
            assert_eq!(path.is_valid(), valid, "{bytes:?}");
            assert_eq!(path.length(), length, "{bytes:?}");
            assert_eq!(path.origin_as(), origin, "{bytes:?}");
            assert_eq!(path.to_string(), words, "{bytes:?}");
        }
    }

    #[test]
    fn faults_and_what_rfc_7606_makes_of_them() {
        let fault = |flags, code, value: &'static [u8]| {
            Attribute {
                flags,
                code,
                value,
                offset: 0,
            }
            .fault(AsWidth::Four)
        };
        for (flags, code, value, expected) in [
            (0x40, 1, &[0][..], None),
            (0x40, 1, &[3], Some((AttributeValue(1), TreatAsWithdraw))),
            (0x40, 1, &[], Some((AttributeLength(1), TreatAsWithdraw))),
            (0xc0, 1, &[0], Some((AttributeFlags(1), TreatAsWithdraw))),
            (0x40, 2, &[9, 1], Some((AttributeValue(2), TreatAsWithdraw))),
            (
                0x40,
                3,
                &[1, 2, 3],
                Some((AttributeLength(3), TreatAsWithdraw)),
            ),
            (0x80, 4, &[0, 0, 0, 1], None),
            (0x80, 4, &[1], Some((AttributeLength(4), TreatAsWithdraw))),
            (0x40, 5, &[1], Some((AttributeLength(5), TreatAsWithdraw))),
            (0x40, 6, &[1], Some((AttributeLength(6), AttributeDiscard))),
            (
                0xc0,
                7,
                &[0; 6],
                Some((AttributeLength(7), AttributeDiscard)),
            ),
            (0xc0, 7, &[0; 8], None),
            (0xe0, 8, &[0; 8], None),
            (0xc0, 8, &[], Some((AttributeLength(8), TreatAsWithdraw))),
            (
                0x80,
                9,
                &[0; 5],
                Some((AttributeLength(9), TreatAsWithdraw)),
            ),
            (
                0x80,
                10,
                &[0; 6],
                Some((AttributeLength(10), TreatAsWithdraw)),
            ),
            (
                0xc0,
                16,
                &[0; 12],
                Some((AttributeLength(16), TreatAsWithdraw)),
            ),
            (
                0xc0,
                17,
                &[2, 0],
                Some((AttributeValue(17), AttributeDiscard)),
            ),
            (
                0xc0,
                18,
                &[0; 6],
                Some((AttributeLength(18), AttributeDiscard)),
            ),
            (
                0xc0,
                32,
                &[0; 13],
                Some((AttributeLength(32), TreatAsWithdraw)),
            ),
            (0xc0, 99, &[1], None),
            (
                0x40,
                99,
                &[1],
                Some((AttributeUnrecognized(99), SessionReset)),
            ),
        ] {
            assert_eq!(
                fault(flags, code, value),
                expected,
                "attribute {code} {value:?}"
            );
        }
    }
}

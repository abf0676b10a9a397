//! The message header (RFC 4271 §4.1, RFC 8654).

use super::{DecodeError, DecodeErrorKind, iana::message_type};

/// Octets of a header.
pub const HEADER_LENGTH: usize = 19;
/// What every message begins with.
pub const MARKER: [u8; 16] = [0xff; 16];
/// Longest message without RFC 8654.
pub const MAX_LENGTH: u16 = 4096;
/// Longest message with RFC 8654.
pub const MAX_EXTENDED_LENGTH: u16 = u16::MAX;

/// A message's type.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum MessageKind {
    /// 1.
    Open,
    /// 2.
    Update,
    /// 3.
    Notification,
    /// 4.
    Keepalive,
    /// 5.
    RouteRefresh,
    /// Any other number.
    Unknown(u8),
}

impl MessageKind {
    /// By number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            message_type::OPEN => Self::Open,
            message_type::UPDATE => Self::Update,
            message_type::NOTIFICATION => Self::Notification,
            message_type::KEEPALIVE => Self::Keepalive,
            message_type::ROUTE_REFRESH => Self::RouteRefresh,
            other => Self::Unknown(other),
        }
    }

    /// Shortest and longest message of this kind, RFC 8654 aside: OPEN and KEEPALIVE never exceed
    /// 4096 octets.
    const fn lengths(self) -> (u16, u16) {
        match self {
            Self::Open => (29, MAX_LENGTH),
            Self::Update | Self::RouteRefresh => (23, MAX_EXTENDED_LENGTH),
            Self::Notification => (21, MAX_EXTENDED_LENGTH),
            Self::Keepalive => (19, 19),
            Self::Unknown(_) => (19, MAX_EXTENDED_LENGTH),
        }
    }
}

/// A header whose marker is right and whose length is possible.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Octets of the message, header included.
    pub length: u16,
    /// Its type.
    pub kind: MessageKind,
}

impl Header {
    /// Reads the first 19 octets. What cannot be framed is an error: a wrong marker or a length
    /// below 19. A length that this *type* cannot have is left to the body's decoding, because the
    /// stream can be followed across it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((marker, rest)) = bytes.split_first_chunk::<16>() else {
            return Err(DecodeError::at(DecodeErrorKind::MessageLength, bytes.len()));
        };
        if *marker != MARKER {
            let wrong = marker.iter().position(|octet| *octet != 0xff).unwrap_or(0);
            return Err(DecodeError::at(DecodeErrorKind::Marker, wrong));
        }
        let Some(&[high, low, kind]) = rest.first_chunk::<3>() else {
            return Err(DecodeError::at(DecodeErrorKind::MessageLength, bytes.len()));
        };
        let length = u16::from_be_bytes([high, low]);
        if usize::from(length) < HEADER_LENGTH {
            return Err(DecodeError::at(DecodeErrorKind::MessageLength, 16));
        }
        let kind = MessageKind::from_number(kind);
        Ok(Self { length, kind })
    }

    /// Whether the type is a known one.
    pub const fn is_known(self) -> bool {
        !matches!(self.kind, MessageKind::Unknown(_))
    }

    /// Whether this can be the header it seems to be when nothing but its bytes says so: a known
    /// type, and a length which that type can have, at most `longest`.
    pub fn is_plausible(self, longest: u16) -> bool {
        let (least, most) = self.kind.lengths();
        self.is_known() && (least..=most.min(longest)).contains(&self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u16, kind: u8) -> Vec<u8> {
        let mut bytes = MARKER.to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes
    }

    #[test]
    fn lengths_and_markers_are_checked_where_they_stand() {
        assert_eq!(
            Header::decode(&header(19, 4)),
            Ok(Header {
                length: 19,
                kind: MessageKind::Keepalive
            })
        );
        assert_eq!(
            Header::decode(&header(18, 4)).unwrap_err(),
            DecodeError::at(DecodeErrorKind::MessageLength, 16)
        );
        let mut bad = header(19, 4);
        bad[5] = 0xfe;
        assert_eq!(
            Header::decode(&bad).unwrap_err(),
            DecodeError::at(DecodeErrorKind::Marker, 5)
        );
        assert!(Header::decode(&header(19, 4)[..18]).is_err());
    }

    #[test]
    fn plausibility_knows_each_type() {
        let plausible = |length, kind, longest| {
            Header::decode(&header(length, kind))
                .unwrap()
                .is_plausible(longest)
        };
        assert!(plausible(19, 4, 4096));
        assert!(!plausible(20, 4, 4096));
        assert!(!plausible(19, 2, 4096));
        assert!(plausible(23, 2, 4096));
        assert!(!plausible(5000, 2, MAX_LENGTH));
        assert!(plausible(5000, 2, MAX_EXTENDED_LENGTH));
        assert!(!plausible(5000, 1, MAX_EXTENDED_LENGTH));
        assert!(!plausible(23, 6, 4096));
    }
}

//! Capabilities (RFC 5492) as an OPEN carries them.

use serde::{Deserialize, Serialize};

use super::{DecodeError, DecodeErrorKind, Family, cursor::Cursor, iana::capability as code};

/// One capability. What is not read further is kept raw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capability<'a> {
    /// RFC 4760 §8: the sender speaks this family.
    Multiprotocol(Family),
    /// RFC 2918.
    RouteRefresh,
    /// RFC 8950 §4: (NLRI AFI, NLRI SAFI, next hop AFI) in triples of 16 bits.
    ExtendedNextHop(&'a [u8]),
    /// RFC 8654.
    ExtendedMessage,
    /// RFC 9234 §4.1: 0 provider, 1 route server, 2 its client, 3 customer, 4 peer.
    Role(u8),
    /// RFC 4724 §3.
    GracefulRestart(GracefulRestart<'a>),
    /// RFC 6793 §3: the sender's AS number.
    FourOctetAs(u32),
    /// RFC 7911 §4: (AFI, SAFI, mode) in entries of four octets.
    AddPath(&'a [u8]),
    /// RFC 7313.
    EnhancedRouteRefresh,
    /// RFC 9494 §3.1: (AFI, SAFI, flags, 24 bits of seconds) in entries of seven octets.
    LongLivedGracefulRestart(&'a [u8]),
    /// draft-walton-bgp-hostname-capability: host and domain name, as sent.
    Fqdn {
        /// Host name.
        host: &'a [u8],
        /// Domain name.
        domain: &'a [u8],
    },
    /// Any other.
    Other {
        /// Its code.
        code: u8,
        /// Its value.
        value: &'a [u8],
    },
}

/// The graceful restart capability (RFC 4724 §3, RFC 8538 §2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GracefulRestart<'a> {
    /// R bit: the sender has restarted.
    pub restarted: bool,
    /// N bit: NOTIFICATIONs and hold timer expiry keep the routes too.
    pub notification: bool,
    /// Seconds the routes are to be kept.
    pub restart_secs: u16,
    /// (AFI, SAFI, flags) in entries of four octets; flag 0x80 says forwarding was preserved.
    pub families: &'a [u8],
}

/// An entry of the long-lived graceful restart capability (RFC 9494 §3.1).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LongLived {
    /// Which routes.
    pub family: Family,
    /// F bit: forwarding was preserved.
    pub forwarding: bool,
    /// Seconds the routes may be kept as long-lived stale.
    pub stale_secs: u32,
}

/// What a speaker offers to do with several paths per prefix (RFC 7911 §4).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddPathMode {
    /// 1: it can receive them.
    Receive,
    /// 2: it wants to send them.
    Send,
    /// 3: both.
    Both,
}

impl AddPathMode {
    /// By number; others are ignored (RFC 7911 §4).
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Receive),
            2 => Some(Self::Send),
            3 => Some(Self::Both),
            _ => None,
        }
    }

    /// Whether it sends path identifiers to who receives them.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    /// Whether it takes path identifiers from who sends them.
    pub const fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

impl<'a> Capability<'a> {
    /// Reads one capability's value. `offset` is where the value stands in the message.
    pub(crate) fn decode(kind: u8, value: &'a [u8], offset: usize) -> Result<Self, DecodeError> {
        let wrong = || DecodeError::at(DecodeErrorKind::CapabilityLength(kind), offset);
        let multiple_of = |size: usize| {
            if value.len().is_multiple_of(size) {
                Ok(value)
            } else {
                Err(wrong())
            }
        };
        let empty = |capability| {
            if value.is_empty() {
                Ok(capability)
            } else {
                Err(wrong())
            }
        };
        match kind {
            code::MULTIPROTOCOL => match *value {
                [high, low, _reserved, safi] => {
                    let afi = u16::from_be_bytes([high, low]);
                    Ok(Self::Multiprotocol(Family::new(afi, safi)))
                }
                _ => Err(wrong()),
            },
            code::ROUTE_REFRESH => empty(Self::RouteRefresh),
            code::EXTENDED_NEXT_HOP => multiple_of(6).map(Self::ExtendedNextHop),
            code::EXTENDED_MESSAGE => empty(Self::ExtendedMessage),
            code::ROLE => match *value {
                [role] => Ok(Self::Role(role)),
                _ => Err(wrong()),
            },
            code::GRACEFUL_RESTART => {
                let (&[high, low], families) = value.split_first_chunk().ok_or_else(wrong)?;
                if !families.len().is_multiple_of(4) {
                    return Err(wrong());
                }
                Ok(Self::GracefulRestart(GracefulRestart {
                    restarted: high & 0x80 != 0,
                    notification: high & 0x40 != 0,
                    restart_secs: u16::from_be_bytes([high & 0x0f, low]),
                    families,
                }))
            }
            code::FOUR_OCTET_AS => {
                let octets = value.try_into().map_err(|_| wrong())?;
                Ok(Self::FourOctetAs(u32::from_be_bytes(octets)))
            }
            code::ADD_PATH => multiple_of(4).map(Self::AddPath),
            code::ENHANCED_ROUTE_REFRESH => empty(Self::EnhancedRouteRefresh),
            code::LONG_LIVED_GRACEFUL_RESTART => multiple_of(7).map(Self::LongLivedGracefulRestart),
            code::FQDN => {
                let mut cursor = Cursor::new(value, offset);
                let mut name = || {
                    let length = cursor.u8()?;
                    cursor.take(usize::from(length))
                };
                match (name(), name()) {
                    (Some(host), Some(domain)) => Ok(Self::Fqdn { host, domain }),
                    _ => Err(wrong()),
                }
            }
            code => Ok(Self::Other { code, value }),
        }
    }
}

/// Entries of four octets: AFI, SAFI and one octet more. What is shorter is left out.
pub(crate) fn family_entries(bytes: &[u8]) -> impl Iterator<Item = (Family, u8)> + '_ {
    bytes.chunks_exact(4).filter_map(|entry| match *entry {
        [high, low, safi, flags] => {
            Some((Family::new(u16::from_be_bytes([high, low]), safi), flags))
        }
        _ => None,
    })
}

/// Entries of the long-lived graceful restart capability.
pub(crate) fn long_lived_entries(bytes: &[u8]) -> impl Iterator<Item = LongLived> + '_ {
    bytes.chunks_exact(7).filter_map(|entry| match *entry {
        [high, low, safi, flags, t2, t1, t0] => Some(LongLived {
            family: Family::new(u16::from_be_bytes([high, low]), safi),
            forwarding: flags & 0x80 != 0,
            stale_secs: u32::from_be_bytes([0, t2, t1, t0]),
        }),
        _ => None,
    })
}

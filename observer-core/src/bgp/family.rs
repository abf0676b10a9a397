//! Address families (AFI and SAFI, RFC 4760).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::iana;

/// What an NLRI is about. Shown and serialized as `ipv4-unicast`, or `afi-N-safi-M` for what has no
/// name here.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct Family {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
}

impl Family {
    /// AFI 1, SAFI 1.
    pub const IPV4_UNICAST: Self = Self::new(1, 1);
    /// AFI 2, SAFI 1.
    pub const IPV6_UNICAST: Self = Self::new(2, 1);

    /// By numbers.
    pub const fn new(afi: u16, safi: u8) -> Self {
        Self { afi, safi }
    }

    /// Bits of an address whose prefixes are read as such; none for families that are only counted.
    pub const fn prefix_bits(self) -> Option<u8> {
        match (self.afi, self.safi) {
            (1, 1) => Some(32),
            (2, 1) => Some(128),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match iana::family_name(self.afi, self.safi) {
            Some(name) => f.pad(name),
            None => write!(f, "afi-{}-safi-{}", self.afi, self.safi),
        }
    }
}

/// The text names no family.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no address family is called {0:?}")]
pub struct UnknownFamily(String);

impl FromStr for Family {
    type Err = UnknownFamily;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        for afi in [1, 2, 25, 16388] {
            for safi in 0..=u8::MAX {
                if iana::family_name(afi, safi) == Some(text) {
                    return Ok(Self::new(afi, safi));
                }
            }
        }
        text.strip_prefix("afi-")
            .and_then(|rest| rest.split_once("-safi-"))
            .and_then(|(afi, safi)| Some(Self::new(afi.parse().ok()?, safi.parse().ok()?)))
            .ok_or_else(|| UnknownFamily(text.to_owned()))
    }
}

impl From<Family> for String {
    fn from(family: Family) -> Self {
        family.to_string()
    }
}

impl TryFrom<String> for Family {
    type Error = UnknownFamily;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for family in [
            Family::IPV4_UNICAST,
            Family::IPV6_UNICAST,
            Family::new(1, 128),
            Family::new(25, 70),
            Family::new(16388, 71),
            Family::new(7, 9),
        ] {
            assert_eq!(family.to_string().parse(), Ok(family));
        }
        assert!("ipv5-unicast".parse::<Family>().is_err());
    }
}

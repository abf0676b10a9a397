//! The types of single settings, as people write them on the command line, in the environment and in
//! the file.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use bytesize::ByteSize;
use clap::ValueEnum;
use observer_core::event::forwarding::Protocol;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{reach::ReachBy, source::bird::BirdSocket};

/// Smaller than this a store holds nothing worth having.
const STORE_MIN_SIZE: u64 = 1 << 20;

/// A named namespace and the node it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetnsSpec {
    /// Name as in `ip netns`.
    pub netns: String,
    /// Name of the node; the namespace's unless given.
    pub node: String,
}

impl FromStr for NetnsSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (netns, node) = text.split_once('=').unwrap_or((text, text));
        if netns.is_empty() || netns.contains('/') || netns.starts_with('.') {
            return Err(format!("'{netns}' is no name of a network namespace"));
        }
        if node.is_empty() {
            return Err("the node's name after '=' is empty".to_owned());
        }
        Ok(Self {
            netns: netns.to_owned(),
            node: node.to_owned(),
        })
    }
}

impl fmt::Display for NetnsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.netns == self.node {
            f.write_str(&self.netns)
        } else {
            write!(f, "{}={}", self.netns, self.node)
        }
    }
}

/// Where a listener listens, if at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().or_else(|_| bracketed(text).ok_or(())).map(Self::At).map_err(|()| {
            format!("'{text}' is neither off nor an address with a port, like 127.0.0.1:9743 or [::]:9742")
        })
    }
}

/// `[10.0.0.1]:9742`: brackets around IPv4 too, so that a manifest can put them around an address of
/// which it does not know the version.
fn bracketed(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.strip_prefix('[')?.split_once("]:")?;
    let ip: Ipv4Addr = ip.parse().ok()?;
    Some(SocketAddr::new(ip.into(), port.parse().ok()?))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// A length of time as people write it: `24h`, `1h 30m`, `7d`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_span = || format!("'{text}' is no length of time; write it like 24h, 90m or 7d");
        // Days are not of one length to jiff, but they are to whoever writes 7d here.
        let days = text
            .trim()
            .strip_suffix('d')
            .and_then(|days| days.trim().parse::<u64>().ok());
        let span = match days {
            Some(days) => days.checked_mul(86_400).map(Duration::from_secs),
            None => text
                .parse::<jiff::SignedDuration>()
                .ok()
                .and_then(|span| Duration::try_from(span).ok()),
        }
        .ok_or_else(no_span)?;
        if span < Duration::from_secs(1) {
            return Err(format!("'{text}' is shorter than a second"));
        }
        Ok(Self(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

/// A number of octets as people write it: `256MiB`, `1 GB`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse::<ByteSize>();
        let ByteSize(octets) =
            size.map_err(|_| format!("'{text}' is no size; write it like 256MiB or 1GB"))?;
        if octets < STORE_MIN_SIZE {
            return Err(format!("'{text}' is less than 1MiB"));
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for Size {
    /// In the largest unit in which it is a whole number, for it is read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = units
            .iter()
            .find(|(shift, _)| self.0.trailing_zeros() >= *shift);
        match whole {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A route's protocol as `ip route` names it, or as a number.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RouteProtocol(pub u8);

impl FromStr for RouteProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Protocol::named(text).map(|Protocol(number)| Self(number));
        found.ok_or_else(|| {
            format!("'{text}' is no routing protocol; write it like bird, kernel or 80")
        })
    }
}

impl fmt::Display for RouteProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Protocol(self.0).name())
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// These types are strings in the file, parsed as on the command line.
macro_rules! string_in_file {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

string_in_file!(
    BirdSocket,
    NetnsSpec,
    Listen,
    ReachBy,
    RouteProtocol,
    Size,
    Span
);

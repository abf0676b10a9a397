//! BGP messages as bytes on a wire: header, OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH.
//!
//! Everything borrows from the bytes it reads; nothing allocates, panics or looks further than a
//! message's own length. What the session around a message negotiated is an argument
//! ([`UpdateContext`]). It does *not* know TCP, time, or what came before: that is
//! [`conversation`](crate::conversation).
//!
//! **Why our own.** Weighed in 2026 against the maintained parsers:
//! - `bgpkit-parser` 0.23 (MIT): one ADD-PATH flag for a whole message, which it overrules by guessing
//!   (a default route becomes a path identifier), so no control per family;
//!   a framing error in the attributes discards the whole message as text; every prefix, path and
//!   attribute is allocated; brings regex, chrono and zerocopy. Good as an oracle: it is ours in the
//!   tests.
//! - `netgauze-bgp-pkt` 0.13 (Apache-2.0): precise and per family, but owned, nom-style and strict:
//!   one bad attribute is an error for the message; serde and a dozen crates of its own.
//! - `routecore` 0.7 (BSD-3-Clause): lazy and close to what we need, session configuration per
//!   message, but malformed input ends in one `ParseError` without a place, RFC 7606 classes are left
//!   to the caller, and its API is declared unstable.
//!
//! A passive reader needs what none of them gives: count what can be counted in a message that is
//! broken further on, say what is wrong and where, and try both readings of an NLRI field when the
//! OPENs were not seen.

mod agreement;
mod attributes;
mod capability;
mod cursor;
mod error;
mod family;
mod header;
pub mod iana;
mod nlri;
mod notification;
mod open;
mod refresh;
mod update;

#[cfg(test)]
mod oracle;

pub use agreement::{CapabilityView, Lacking, capabilities};
pub use attributes::{AsPath, AsWidth, Attribute, Attributes, Origin};
pub use capability::{AddPathMode, Capability, GracefulRestart, LongLived};
pub use error::{DecodeError, DecodeErrorKind, Severity};
pub use family::Family;
pub use header::{HEADER_LENGTH, Header, MARKER, MAX_EXTENDED_LENGTH, MAX_LENGTH, MessageKind};
pub use nlri::{Nlri, NlriEntry, Prefix};
pub use notification::{Notification, NotificationFacts};
pub use open::{AddPathFamily, Open, OpenFacts, RestartFacts, RestartFamily};
pub use refresh::{RefreshKind, RouteRefresh};
pub use update::{FamilyCount, Update, UpdateContext, UpdateFacts};

/// A decoded message, borrowing from its bytes.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// RFC 4271 §4.2.
    Open(Open<'a>),
    /// RFC 4271 §4.3.
    Update(Update<'a>),
    /// RFC 4271 §4.5.
    Notification(Notification<'a>),
    /// RFC 4271 §4.4.
    Keepalive,
    /// RFC 2918, RFC 7313.
    RouteRefresh(RouteRefresh<'a>),
}

impl<'a> Message<'a> {
    /// Reads one whole message, header included. The bytes must be exactly as long as the header
    /// says.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let header = Header::decode(bytes)?;
        let Some(body) = bytes.get(HEADER_LENGTH..usize::from(header.length)) else {
            return Err(DecodeError::at(DecodeErrorKind::MessageLength, 16));
        };
        Self::decode_body(header, body)
    }

    /// Reads what follows a header that was already checked.
    pub fn decode_body(header: Header, body: &'a [u8]) -> Result<Self, DecodeError> {
        match header.kind {
            MessageKind::Open => Open::decode(body).map(Self::Open),
            MessageKind::Update => Update::decode(body).map(Self::Update),
            MessageKind::Notification => Notification::decode(body).map(Self::Notification),
            MessageKind::Keepalive if body.is_empty() => Ok(Self::Keepalive),
            MessageKind::Keepalive => Err(DecodeError::at(DecodeErrorKind::MessageLength, 16)),
            MessageKind::RouteRefresh => RouteRefresh::decode(body).map(Self::RouteRefresh),
            MessageKind::Unknown(_) => Err(DecodeError::at(DecodeErrorKind::MessageType, 18)),
        }
    }
}

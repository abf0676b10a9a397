//! What can be wrong with a message, where, and how serious that is for the session.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::iana;

/// One thing wrong in a message.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{kind} at octet {offset}")]
pub struct DecodeError {
    /// What.
    #[serde(flatten)]
    pub kind: DecodeErrorKind,
    /// Octets from the first of the message's marker to where it was noticed.
    pub offset: u32,
}

impl DecodeError {
    /// `kind`, noticed `offset` octets into the message.
    pub(crate) fn at(kind: DecodeErrorKind, offset: usize) -> Self {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        Self { kind, offset }
    }
}

/// Kinds of malformed input. The numbers are path attribute or capability codes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(tag = "kind", content = "code", rename_all = "snake_case")]
pub enum DecodeErrorKind {
    /// The marker is not all ones: the stream is not at a message's beginning (RFC 4271 §6.1).
    Marker,
    /// A length that this message cannot have (RFC 4271 §6.1).
    MessageLength,
    /// No such message type (RFC 4271 §6.1).
    MessageType,
    /// The message is longer than a session without extended messages allows (RFC 8654 §4).
    NotExtended,
    /// An OPEN shorter than its fixed part.
    OpenTruncated,
    /// A version other than 4.
    OpenVersion,
    /// A hold time of 1 or 2 s (RFC 4271 §4.2).
    HoldTime,
    /// A BGP identifier of zero (RFC 6286 §2.2).
    BgpIdentifier,
    /// An optional parameter reaches beyond its list.
    OptionalParameter,
    /// A capability reaches beyond its parameter (RFC 5492 §4).
    CapabilityTruncated,
    /// A known capability has a length it cannot have.
    CapabilityLength(u8),
    /// The withdrawn routes reach beyond the message (RFC 4271 §6.3).
    WithdrawnLength,
    /// The path attributes reach beyond the message (RFC 4271 §6.3).
    AttributesLength,
    /// One or two octets of an attribute's header are missing, or its value reaches beyond the
    /// attributes (RFC 7606 §4).
    AttributeTruncated(u8),
    /// Flags that this attribute cannot have (RFC 7606 §3 c).
    AttributeFlags(u8),
    /// A length that this attribute cannot have.
    AttributeLength(u8),
    /// A value that this attribute cannot have.
    AttributeValue(u8),
    /// The attribute occurs more than once (RFC 7606 §3 g).
    AttributeRepeated(u8),
    /// A mandatory attribute is missing (RFC 7606 §3 d).
    AttributeMissing(u8),
    /// Well-known by its flags, and unknown (RFC 4271 §6.3).
    AttributeUnrecognized(u8),
    /// A prefix length above 32 or 128 (RFC 7606 §5.3).
    PrefixLength,
    /// A prefix reaches beyond its field.
    PrefixTruncated,
    /// A next hop of a length that the family cannot have (RFC 7606 §7.11).
    NextHopLength,
    /// A NOTIFICATION without code and subcode.
    NotificationTruncated,
    /// A shutdown communication of a wrong length or not in UTF-8 (RFC 9003 §2).
    ShutdownText,
    /// A hard reset without the code and subcode that it wraps (RFC 8538 §3).
    HardReset,
    /// A ROUTE-REFRESH of a wrong length (RFC 7313 §5).
    RefreshLength,
}

/// What RFC 7606 has a receiver do about a malformed UPDATE, least to worst.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Goes on without the attribute.
    AttributeDiscard,
    /// Takes the announced routes as withdrawn.
    TreatAsWithdraw,
    /// Sends a NOTIFICATION and closes the session.
    SessionReset,
}

impl Severity {
    /// Every class: their counters exist from the start.
    pub const ALL: [Self; 3] = [
        Self::AttributeDiscard,
        Self::TreatAsWithdraw,
        Self::SessionReset,
    ];

    /// The RFC's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AttributeDiscard => "attribute discard",
            Self::TreatAsWithdraw => "treat-as-withdraw",
            Self::SessionReset => "session reset",
        }
    }

    /// The `treatment` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AttributeDiscard => "attribute_discard",
            Self::TreatAsWithdraw => "treat_as_withdraw",
            Self::SessionReset => "session_reset",
        }
    }
}

impl DecodeErrorKind {
    /// The `kind` label of `bgp_observer_decode_errors_total`: a closed set, without numbers that a
    /// peer controls.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Marker => "marker",
            Self::MessageLength => "message_length",
            Self::MessageType => "message_type",
            Self::NotExtended => "not_extended",
            Self::OpenTruncated
            | Self::OpenVersion
            | Self::HoldTime
            | Self::BgpIdentifier
            | Self::OptionalParameter => "open",
            Self::CapabilityTruncated | Self::CapabilityLength(_) => "capability",
            Self::WithdrawnLength | Self::AttributesLength => "update_length",
            Self::AttributeTruncated(_)
            | Self::AttributeFlags(_)
            | Self::AttributeLength(_)
            | Self::AttributeValue(_)
            | Self::AttributeRepeated(_)
            | Self::AttributeMissing(_)
            | Self::AttributeUnrecognized(_)
            | Self::NextHopLength => "attribute",
            Self::PrefixLength | Self::PrefixTruncated => "nlri",
            Self::NotificationTruncated | Self::ShutdownText | Self::HardReset => "notification",
            Self::RefreshLength => "route_refresh",
        }
    }

    /// Every value of [`label`](Self::label).
    pub const LABELS: [&'static str; 11] = [
        "marker",
        "message_length",
        "message_type",
        "not_extended",
        "open",
        "capability",
        "update_length",
        "attribute",
        "nlri",
        "notification",
        "route_refresh",
    ];
}

impl fmt::Display for DecodeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, code) = match *self {
            Self::Marker => return f.write_str("marker is not all ones"),
            Self::MessageLength => return f.write_str("bad message length"),
            Self::MessageType => return f.write_str("unknown message type"),
            Self::NotExtended => {
                return f.write_str("longer than 4096 without extended messages negotiated");
            }
            Self::OpenTruncated => return f.write_str("OPEN cut short"),
            Self::OpenVersion => return f.write_str("version is not 4"),
            Self::HoldTime => return f.write_str("hold time of 1 or 2 s"),
            Self::BgpIdentifier => return f.write_str("BGP identifier is zero"),
            Self::OptionalParameter => return f.write_str("optional parameter overruns its list"),
            Self::CapabilityTruncated => return f.write_str("capability overruns its parameter"),
            Self::CapabilityLength(code) => {
                let name = iana::capability::name(code).unwrap_or("unknown");
                return write!(f, "bad length of capability {code} ({name})");
            }
            Self::WithdrawnLength => return f.write_str("withdrawn routes overrun the message"),
            Self::AttributesLength => return f.write_str("path attributes overrun the message"),
            Self::PrefixLength => return f.write_str("impossible prefix length"),
            Self::PrefixTruncated => return f.write_str("prefix overruns its field"),
            Self::NextHopLength => return f.write_str("impossible next hop length"),
            Self::NotificationTruncated => return f.write_str("NOTIFICATION cut short"),
            Self::ShutdownText => return f.write_str("malformed shutdown communication"),
            Self::HardReset => return f.write_str("hard reset without the reason it wraps"),
            Self::RefreshLength => return f.write_str("bad ROUTE-REFRESH length"),
            Self::AttributeTruncated(code) => ("overruns the attributes", code),
            Self::AttributeFlags(code) => ("has wrong flags", code),
            Self::AttributeLength(code) => ("has a wrong length", code),
            Self::AttributeValue(code) => ("has an impossible value", code),
            Self::AttributeRepeated(code) => ("occurs more than once", code),
            Self::AttributeMissing(code) => ("is missing", code),
            Self::AttributeUnrecognized(code) => ("claims to be well-known and is not", code),
        };
        match iana::attribute_name(code) {
            Some(name) => write!(f, "{name} {what}"),
            None => write!(f, "attribute {code} {what}"),
        }
    }
}

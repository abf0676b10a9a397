//! NOTIFICATION (RFC 4271 §4.5) and what its data say: shutdown communication (RFC 9003), hard
//! reset (RFC 8538).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DecodeError, DecodeErrorKind, HEADER_LENGTH, cursor::Cursor, iana};

/// Octets of shutdown text kept; RFC 9003 allows 255.
const MAX_TEXT: usize = 255;

/// A NOTIFICATION, borrowing its data.
#[derive(Clone, Copy, Debug)]
pub struct Notification<'a> {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What follows them.
    pub data: &'a [u8],
}

/// A NOTIFICATION as it is kept with a flap for ever.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NotificationFacts {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Shutdown communication, as sent; [`Display`](fmt::Display) escapes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Code and subcode that a hard reset wraps (RFC 8538 §3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped: Option<(u8, u8)>,
}

impl<'a> Notification<'a> {
    /// Reads what follows the header.
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        match body.split_first_chunk() {
            Some((&[code, subcode], data)) => Ok(Self {
                code,
                subcode,
                data,
            }),
            None => Err(DecodeError::at(
                DecodeErrorKind::NotificationTruncated,
                HEADER_LENGTH + body.len(),
            )),
        }
    }
}

impl NotificationFacts {
    /// Takes everything that can be read, and reports the rest.
    pub fn read(notification: &Notification<'_>, mut report: impl FnMut(DecodeError)) -> Self {
        let mut facts = Self {
            code: notification.code,
            subcode: notification.subcode,
            ..Self::default()
        };
        let mut data = Cursor::new(notification.data, HEADER_LENGTH + 2);
        let mut reason = (facts.code, facts.subcode);
        if reason == (iana::error_code::CEASE, iana::cease::HARD_RESET) {
            let Some([code, subcode]) = data.array() else {
                report(DecodeError::at(DecodeErrorKind::HardReset, data.offset()));
                return facts;
            };
            facts.wrapped = Some((code, subcode));
            reason = (code, subcode);
        }
        if let (
            iana::error_code::CEASE,
            iana::cease::ADMINISTRATIVE_SHUTDOWN | iana::cease::ADMINISTRATIVE_RESET,
        ) = reason
        {
            facts.text = shutdown_text(data, report);
        }
        facts
    }

    /// The code's registry name, or its number.
    pub fn code_name(&self) -> String {
        match iana::error_code::name(self.code) {
            Some(name) => name.to_owned(),
            None => format!("code {}", self.code),
        }
    }
}

/// RFC 9003 §2: an octet of length and UTF-8 text. An empty field means none was given.
fn shutdown_text(mut data: Cursor<'_>, mut report: impl FnMut(DecodeError)) -> Option<String> {
    let at = data.offset();
    let length = usize::from(data.u8()?);
    let available = data.len();
    let octets = data.take(length.min(available))?;
    let octets = octets.get(..MAX_TEXT).unwrap_or(octets);
    let text = String::from_utf8_lossy(octets);
    if length > available || matches!(text, std::borrow::Cow::Owned(_)) {
        report(DecodeError::at(DecodeErrorKind::ShutdownText, at));
    }
    (!text.is_empty()).then(|| text.into_owned())
}

impl fmt::Display for NotificationFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_reason(f, self.code, self.subcode)?;
        if let Some((code, subcode)) = self.wrapped {
            f.write_str(" of ")?;
            write_reason(f, code, subcode)?;
        }
        match &self.text {
            Some(text) => write!(f, " '{}'", text.escape_debug()),
            None => Ok(()),
        }
    }
}

fn write_reason(f: &mut fmt::Formatter<'_>, code: u8, subcode: u8) -> fmt::Result {
    match iana::error_code::name(code) {
        Some(name) => f.write_str(name)?,
        None => write!(f, "error {code}")?,
    }
    match (iana::error_subcode_name(code, subcode), subcode) {
        (Some(name), _) => write!(f, "/{name}"),
        (None, 0) => Ok(()),
        (None, subcode) => write!(f, "/subcode {subcode}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(code: u8, subcode: u8, data: &[u8]) -> (NotificationFacts, Vec<DecodeErrorKind>) {
        let mut errors = Vec::new();
        let facts = NotificationFacts::read(
            &Notification {
                code,
                subcode,
                data,
            },
            |error| {
                errors.push(error.kind);
            },
        );
        (facts, errors)
    }

    #[test]
    fn reasons_in_the_words_of_the_registries() {
        for (code, subcode, data, words) in [
            (6, 2, &b""[..], "Cease/Administrative Shutdown"),
            (6, 2, b"\x05maint", "Cease/Administrative Shutdown 'maint'"),
            (6, 4, b"\x02no", "Cease/Administrative Reset 'no'"),
            (6, 10, b"", "Cease/BFD Down"),
            (
                6,
                9,
                b"\x06\x02\x03now",
                "Cease/Hard Reset of Cease/Administrative Shutdown 'now'",
            ),
            (4, 0, b"", "Hold Timer Expired"),
            (8, 0, b"", "Send Hold Timer Expired"),
            (
                5,
                3,
                b"",
                "Finite State Machine Error/Receive Unexpected Message in Established State",
            ),
            (2, 2, b"\xfd\xe9", "OPEN Message Error/Bad Peer AS"),
            (6, 99, b"", "Cease/subcode 99"),
            (77, 1, b"", "error 77/subcode 1"),
        ] {
            let (facts, errors) = facts(code, subcode, data);
            assert_eq!(facts.to_string(), words);
            assert_eq!(errors, []);
        }
    }

    #[test]
    fn hostile_text_is_escaped_on_display_only() {
        let (facts, errors) = facts(6, 2, b"\x07\x1b[31mhi");
        assert_eq!(facts.text.as_deref(), Some("\u{1b}[31mhi"));
        assert_eq!(
            facts.to_string(),
            "Cease/Administrative Shutdown '\\u{1b}[31mhi'"
        );
        assert_eq!(errors, []);
    }

    #[test]
    fn malformed_data_are_facts() {
        assert_eq!(facts(6, 9, b"").1, [DecodeErrorKind::HardReset]);
        assert_eq!(facts(6, 9, b"\x06").1, [DecodeErrorKind::HardReset]);
        let (cut, errors) = facts(6, 2, b"\x09maint");
        assert_eq!(cut.text.as_deref(), Some("maint"));
        assert_eq!(errors, [DecodeErrorKind::ShutdownText]);
        assert_eq!(facts(6, 2, b"\x01\xff").1, [DecodeErrorKind::ShutdownText]);
        assert!(Notification::decode(&[6]).is_err());
    }
}

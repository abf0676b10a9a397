//! Messages out of a byte stream (RFC 4271 §4.1): where one begins and ends, and how to find the
//! next one again.

use crate::bgp::{
    DecodeError, DecodeErrorKind, HEADER_LENGTH, Header, MARKER, MAX_LENGTH, MessageKind,
};

/// Octets looked at together with what was kept while searching, so that a stream without any
/// header costs no more than reading it.
const SEARCH_STEP: usize = 4096;

/// What the framer finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framed<'a> {
    /// A whole message: its header and what follows it.
    Message(Header, &'a [u8]),
    /// The stream cannot be framed here.
    Broken(DecodeError),
    /// Octets were passed over to find the next message.
    Skipped(u64),
}

/// Keeps at most the beginning of one message.
#[derive(Clone, Debug, Default)]
pub(super) struct Framer {
    partial: Vec<u8>,
    /// Looking for a marker, and so many octets passed over.
    searching: Option<u64>,
}

impl Framer {
    /// The stream was entered in its middle.
    pub(super) fn enter_midway(&mut self) {
        self.searching = Some(0);
    }

    /// Bytes are missing from here on.
    pub(super) fn interrupt(&mut self) {
        let lost = u64::try_from(self.partial.len()).unwrap_or(u64::MAX);
        self.partial.clear();
        self.searching = Some(self.searching.unwrap_or(0) + lost);
    }

    /// Whether a message has begun of which the rest is still to come.
    pub(super) const fn is_within_message(&self) -> bool {
        self.searching.is_none() && !self.partial.is_empty()
    }

    /// Octets of the message that is not complete yet.
    pub(super) fn pending(&self) -> usize {
        self.partial.len()
    }

    /// Takes the next bytes. No message may be longer than `longest`.
    pub(super) fn push(&mut self, mut bytes: &[u8], longest: u16, out: &mut dyn FnMut(Framed<'_>)) {
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                let used = self.scan(bytes, longest, out);
                self.partial
                    .extend_from_slice(bytes.get(used..).unwrap_or(&[]));
                return;
            }
            let (now, later) = bytes
                .split_at_checked(self.wanted())
                .unwrap_or((bytes, &[]));
            bytes = later;
            let mut partial = std::mem::take(&mut self.partial);
            partial.extend_from_slice(now);
            let used = self.scan(&partial, longest, out);
            partial.drain(..used);
            self.partial = partial;
        }
    }

    /// Octets to add to the partial message before it is worth looking at again.
    fn wanted(&self) -> usize {
        if self.searching.is_some() {
            return SEARCH_STEP;
        }
        match Header::decode(&self.partial) {
            Ok(header) => usize::from(header.length)
                .saturating_sub(self.partial.len())
                .max(1),
            Err(_) => HEADER_LENGTH.saturating_sub(self.partial.len()).max(1),
        }
    }

    /// Hands out everything that is complete, and tells how many octets that used up.
    fn scan(&mut self, bytes: &[u8], longest: u16, out: &mut dyn FnMut(Framed<'_>)) -> usize {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            if let Some(passed) = self.searching {
                // Where a segment begins a message usually does: there a header need not be flawless.
                let (skip, found) = match Header::decode(rest) {
                    Ok(header) if passed == 0 && header.is_known() => (0, true),
                    _ => search(rest, longest),
                };
                used += skip;
                let passed = passed + u64::try_from(skip).unwrap_or(u64::MAX);
                if !found {
                    self.searching = Some(passed);
                    return used;
                }
                self.searching = None;
                if passed != 0 {
                    out(Framed::Skipped(passed));
                }
                continue;
            }
            match frame(rest, longest) {
                Ok(None) => return used,
                Ok(Some((header, body))) => {
                    out(Framed::Message(header, body));
                    used += usize::from(header.length);
                }
                Err(error) => {
                    out(Framed::Broken(error));
                    // Past the marker's first octet, or the same would be found again.
                    self.searching = Some(1);
                    used += 1;
                }
            }
        }
        used
    }
}

/// The message at the beginning; none when it is not complete yet.
fn frame(bytes: &[u8], longest: u16) -> Result<Option<(Header, &[u8])>, DecodeError> {
    if bytes.len() < HEADER_LENGTH {
        return match bytes
            .iter()
            .take(MARKER.len())
            .position(|octet| *octet != 0xff)
        {
            Some(at) => Err(DecodeError::at(DecodeErrorKind::Marker, at)),
            None => Ok(None),
        };
    }
    let header = Header::decode(bytes)?;
    if header.length > longest {
        return Err(DecodeError::at(DecodeErrorKind::NotExtended, 16));
    }
    // RFC 4271 §6.1: nothing can be said about the length of what is no message.
    if matches!(header.kind, MessageKind::Unknown(_)) && header.length > MAX_LENGTH {
        return Err(DecodeError::at(DecodeErrorKind::MessageType, 18));
    }
    Ok(bytes
        .get(HEADER_LENGTH..usize::from(header.length))
        .map(|body| (header, body)))
}

/// How many octets to pass over, and whether a plausible header begins there. When not, what could
/// be the beginning of one is left.
fn search(bytes: &[u8], longest: u16) -> (usize, bool) {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..) {
        let Some(start) = rest.iter().position(|octet| *octet == 0xff) else {
            break;
        };
        let start = at + start;
        let run = bytes
            .get(start..)
            .unwrap_or(&[])
            .iter()
            .take_while(|octet| **octet == 0xff);
        let end = start + run.count();
        // The length that follows the marker is below 0xff00, so the marker ends where the run does.
        let marker = end.saturating_sub(MARKER.len()).max(start);
        if end == bytes.len() {
            return (marker, false);
        }
        if end - start >= MARKER.len() {
            match Header::decode(bytes.get(marker..).unwrap_or(&[])) {
                Ok(header) if header.is_plausible(longest) => return (marker, true),
                _ if bytes.len() - marker < HEADER_LENGTH => return (marker, false),
                _ => {}
            }
        }
        at = end;
    }
    (bytes.len(), false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = MARKER.to_vec();
        message.extend(
            u16::try_from(HEADER_LENGTH + body.len())
                .unwrap()
                .to_be_bytes(),
        );
        message.push(kind);
        message.extend(body);
        message
    }

    /// What comes out, in words.
    fn words(framer: &mut Framer, bytes: &[u8]) -> Vec<String> {
        let mut words = Vec::new();
        framer.push(bytes, u16::MAX, &mut |framed| {
            words.push(match framed {
                Framed::Message(header, body) => format!("{:?} {}", header.kind, body.len()),
                Framed::Broken(error) => format!("broken {:?} {}", error.kind, error.offset),
                Framed::Skipped(count) => format!("skipped {count}"),
            });
        });
        words
    }

    #[test]
    fn messages_of_one_piece_and_of_many() {
        let stream = [message(4, &[]), message(2, &[0; 4]), message(4, &[])].concat();
        let expected = ["Keepalive 0", "Update 4", "Keepalive 0"];
        assert_eq!(words(&mut Framer::default(), &stream), expected);
        for size in 1..stream.len() {
            let mut framer = Framer::default();
            let found: Vec<_> = stream
                .chunks(size)
                .flat_map(|piece| words(&mut framer, piece))
                .collect();
            assert_eq!(found, expected, "pieces of {size}");
            assert_eq!(framer.pending(), 0);
        }
    }

    #[test]
    fn an_entry_midway_finds_the_next_message() {
        let stream = [&[1, 2, 0xff, 3][..], &message(4, &[])].concat();
        for size in 1..=stream.len() {
            let mut framer = Framer::default();
            framer.enter_midway();
            let found: Vec<_> = stream
                .chunks(size)
                .flat_map(|piece| words(&mut framer, piece))
                .collect();
            assert_eq!(found.last().unwrap(), "Keepalive 0", "pieces of {size}");
        }
        let mut framer = Framer::default();
        framer.enter_midway();
        assert_eq!(
            words(&mut framer, &message(4, &[])),
            ["Keepalive 0"],
            "nothing was skipped"
        );
    }

    #[test]
    fn a_broken_marker_is_told_at_once_and_passed() {
        let mut framer = Framer::default();
        assert_eq!(words(&mut framer, &[0xff, 0xff, 7]), ["broken Marker 2"]);
        assert_eq!(
            words(&mut framer, &message(4, &[])),
            ["skipped 3", "Keepalive 0"]
        );
    }

    #[test]
    fn ones_before_a_marker_do_not_hide_it() {
        let mut framer = Framer::default();
        framer.enter_midway();
        let stream = [&[0xff; 40][..], &message(2, &[0; 4])].concat();
        assert_eq!(words(&mut framer, &stream), ["skipped 40", "Update 4"]);
    }

    #[test]
    fn an_unknown_type_is_passed_by_its_length() {
        let stream = [message(9, &[1, 2]), message(4, &[])].concat();
        assert_eq!(
            words(&mut Framer::default(), &stream),
            ["Unknown(9) 2", "Keepalive 0"]
        );
    }

    #[test]
    fn lengths_that_cannot_be_break_the_stream() {
        let mut bad = message(4, &[]);
        bad[17] = 18;
        assert_eq!(
            words(&mut Framer::default(), &bad),
            ["broken MessageLength 16"]
        );
        let long = message(2, &[0; 5000]);
        let mut framer = Framer::default();
        let mut errors = 0;
        framer.push(&long, MAX_LENGTH, &mut |framed| {
            errors += usize::from(matches!(framed, Framed::Broken(_)));
        });
        assert_eq!((errors, framer.pending()), (1, 0));
    }

    #[test]
    fn an_interruption_drops_the_beginning_of_a_message() {
        let mut framer = Framer::default();
        let update = message(2, &[0; 40]);
        assert_eq!(words(&mut framer, &update[..30]), Vec::<String>::new());
        framer.interrupt();
        let rest = [&[9, 9, 9][..], &message(4, &[])].concat();
        assert_eq!(words(&mut framer, &rest), ["skipped 33", "Keepalive 0"]);
    }

    #[test]
    fn a_stream_without_a_header_is_not_kept() {
        let mut framer = Framer::default();
        framer.enter_midway();
        for filler in [0xff, 0x00] {
            for _ in 0..1000 {
                framer.push(&[filler; 1000], u16::MAX, &mut |_| {});
                assert!(framer.pending() <= HEADER_LENGTH);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_stay_within_a_message(
            bytes in proptest::collection::vec(prop_oneof![3 => Just(0xff), 2 => any::<u8>()], 0..600),
            size in 1..50_usize,
        ) {
            let mut framer = Framer::default();
            for piece in bytes.chunks(size) {
                framer.push(piece, u16::MAX, &mut |_| {});
                prop_assert!(framer.pending() < 1 << 16);
            }
        }
    }
}

//! What the two OPENs agreed on, and what is inferred when one or both were not seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bgp::{
    AddPathMode, AsPath, AsWidth, Family, MAX_EXTENDED_LENGTH, MAX_LENGTH, Nlri, OpenFacts,
    UpdateContext, iana,
};

/// The OPENs seen so far, from the view of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opens<'a> {
    /// Of who sends.
    pub(super) sender: Option<&'a OpenFacts>,
    /// Of who receives.
    pub(super) receiver: Option<&'a OpenFacts>,
}

impl Opens<'_> {
    /// Whether the sender puts path identifiers into this family's entries (RFC 7911 §4); none
    /// while neither OPEN rules it out and not both are known.
    fn path_ids(self, family: Family) -> Option<bool> {
        let sends = self
            .sender
            .map(|open| open.add_path_mode(family).is_some_and(AddPathMode::sends));
        let receives = self.receiver.map(|open| {
            open.add_path_mode(family)
                .is_some_and(AddPathMode::receives)
        });
        both(sends, receives)
    }

    /// Octets per AS number (RFC 6793 §4).
    fn as_width(self) -> Option<AsWidth> {
        let has = |open: &OpenFacts| open.has(iana::capability::FOUR_OCTET_AS);
        let four = both(self.sender.map(has), self.receiver.map(has))?;
        Some(if four { AsWidth::Four } else { AsWidth::Two })
    }

    /// Longest message (RFC 8654 §4): who receives must have said that it can.
    pub(super) fn longest_message(self) -> u16 {
        match self.receiver {
            Some(open) if !open.extended_message => MAX_LENGTH,
            _ => MAX_EXTENDED_LENGTH,
        }
    }
}

/// Both, where known; one that says no decides alone.
fn both(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// What one direction's UPDATEs say about the session when its OPENs do not.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Inference {
    /// Families whose entries were found to carry path identifiers, or not to.
    pub add_path: BTreeMap<Family, bool>,
    /// Octets per AS number, found from an `AS_PATH`.
    pub as_width: Option<AsWidth>,
    /// UPDATEs in which something had to be inferred.
    pub updates: u64,
    /// Times a later UPDATE contradicted what was inferred before.
    pub corrections: u64,
}

/// Reads UPDATEs of one direction: negotiated where known, else inferred.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) opens: Opens<'a>,
    pub(super) inference: &'a mut Inference,
    /// Something had to be inferred for this UPDATE.
    pub(super) inferred: bool,
}

impl UpdateContext for Reading<'_> {
    fn has_path_ids(&mut self, family: Family, field: &[u8]) -> bool {
        if let Some(known) = self.opens.path_ids(family) {
            return known;
        }
        self.inferred = true;
        if family.prefix_bits().is_none() {
            return false;
        }
        let before = self.inference.add_path.get(&family).copied();
        let plain = is_clean(family, false, field);
        let with_ids = is_clean(family, true, field);
        if plain == with_ids {
            // Both readings make sense, or none does: as before, or as the other family does.
            let sibling = || self.inference.add_path.values().next().copied();
            return before.or_else(sibling).unwrap_or(false);
        }
        if before.is_some_and(|before| before != with_ids) {
            self.inference.corrections += 1;
        }
        self.inference.add_path.insert(family, with_ids);
        with_ids
    }

    fn as_width(&mut self, as_path: &[u8]) -> AsWidth {
        if let Some(known) = self.opens.as_width() {
            return known;
        }
        self.inferred = true;
        let two = AsPath::new(as_path, AsWidth::Two).is_valid();
        let four = AsPath::new(as_path, AsWidth::Four).is_valid();
        if two == four {
            return self.inference.as_width.unwrap_or_default();
        }
        let width = if four { AsWidth::Four } else { AsWidth::Two };
        if self
            .inference
            .as_width
            .is_some_and(|before| before != width)
        {
            self.inference.corrections += 1;
        }
        self.inference.as_width = Some(width);
        width
    }
}

/// Whether a field read this way is what a speaker would send: nothing left over, no bits beyond a
/// prefix, at most one default route. A small path identifier read as prefixes is a row of default
/// routes.
fn is_clean(family: Family, add_path: bool, field: &[u8]) -> bool {
    let mut defaults = 0;
    let clean = Nlri::new(family, add_path, field, 0).all(|entry| {
        entry.is_ok_and(|entry| {
            defaults += usize::from(entry.prefix.length == 0);
            !entry.stray_bits
        })
    });
    clean && (defaults <= 1 || add_path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::AddPathFamily;

    fn open(mode: Option<AddPathMode>, four: bool) -> OpenFacts {
        OpenFacts {
            capabilities: if four { vec![65] } else { vec![] },
            add_path: mode
                .map(|mode| AddPathFamily {
                    family: Family::IPV4_UNICAST,
                    mode,
                })
                .into_iter()
                .collect(),
            ..OpenFacts::default()
        }
    }

    #[test]
    fn add_path_needs_a_sender_and_a_receiver() {
        use AddPathMode::{Both, Receive, Send};
        for (sender, receiver, expected) in [
            (Some(Both), Some(Both), true),
            (Some(Send), Some(Receive), true),
            (Some(Receive), Some(Send), false),
            (Some(Both), Some(Send), false),
            (Some(Receive), Some(Both), false),
            (None, Some(Both), false),
            (Some(Both), None, false),
        ] {
            let (sender, receiver) = (open(sender, true), open(receiver, true));
            let opens = Opens {
                sender: Some(&sender),
                receiver: Some(&receiver),
            };
            assert_eq!(opens.path_ids(Family::IPV4_UNICAST), Some(expected));
            assert_eq!(opens.path_ids(Family::IPV6_UNICAST), Some(false));
        }
    }

    #[test]
    fn one_open_can_say_no_but_not_yes() {
        let (able, unable) = (open(Some(AddPathMode::Both), true), open(None, false));
        let seen = |open| Opens {
            sender: Some(open),
            receiver: None,
        };
        assert_eq!(seen(&able).path_ids(Family::IPV4_UNICAST), None);
        assert_eq!(seen(&unable).path_ids(Family::IPV4_UNICAST), Some(false));
        assert_eq!(seen(&able).as_width(), None);
        assert_eq!(seen(&unable).as_width(), Some(AsWidth::Two));
    }

    /// What is inferred from these fields, one after the other.
    fn infer(fields: &[&[u8]]) -> (Vec<bool>, Inference) {
        let mut inference = Inference::default();
        let mut answers = Vec::new();
        for field in fields {
            let mut reading = Reading {
                opens: Opens::default(),
                inference: &mut inference,
                inferred: false,
            };
            answers.push(reading.has_path_ids(Family::IPV4_UNICAST, field));
            assert!(reading.inferred);
        }
        (answers, inference)
    }

    #[test]
    fn path_identifiers_are_inferred_and_corrected() {
        let with_ids: &[u8] = &[0, 0, 0, 1, 26, 10, 244, 1, 64];
        let plain: &[u8] = &[26, 10, 244, 1, 64];
        let either: &[u8] = &[24, 10, 244, 1, 26, 10, 244, 2, 64];
        assert_eq!(infer(&[with_ids]).0, [true]);
        assert_eq!(infer(&[plain]).0, [false]);
        assert_eq!(
            infer(&[either]).0,
            [false],
            "without evidence as most sessions are"
        );
        assert_eq!(infer(&[with_ids, either]).0, [true, true]);
        let (answers, inference) = infer(&[plain, with_ids]);
        assert_eq!(answers, [false, true]);
        assert_eq!(inference.corrections, 1);
    }

    #[test]
    fn as_width_is_inferred() {
        let mut inference = Inference::default();
        let mut width = |path: &[u8]| {
            Reading {
                opens: Opens::default(),
                inference: &mut inference,
                inferred: false,
            }
            .as_width(path)
        };
        assert_eq!(width(&[]), AsWidth::Four);
        assert_eq!(width(&[2, 2, 0, 100, 0, 200]), AsWidth::Two);
        assert_eq!(width(&[]), AsWidth::Two);
        assert_eq!(width(&[2, 1, 0, 0, 0xfd, 0xe9]), AsWidth::Four);
    }
}

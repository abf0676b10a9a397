//! What was counted in one direction of a connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Inference;
use crate::{
    bgp::{DecodeError, Family, NotificationFacts, OpenFacts, UpdateFacts},
    message_counts::{MalformedUpdates, MessageCounts},
};

/// Families, End-of-RIBs, NOTIFICATIONs, OPENs and places of errors kept per direction: a session
/// has a few, a hostile stream as many as it likes.
const MAX_KEPT: usize = 64;
/// OPENs likewise; each is some kilobytes when its sender wants it to be.
const MAX_OPENS: usize = 8;

/// Counts of one direction, and the few messages worth keeping whole.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DirectionCounters {
    /// Messages by type.
    #[serde(flatten)]
    pub messages: MessageCounts,
    /// NLRI entries announced, per family.
    pub announced: BTreeMap<Family, u64>,
    /// NLRI entries withdrawn, per family.
    pub withdrawn: BTreeMap<Family, u64>,
    /// Families of the End-of-RIBs, in the order sent.
    pub end_of_rib: Vec<Family>,
    /// The first NOTIFICATIONs; a session has one.
    pub notifications: Vec<NotificationFacts>,
    /// The first OPENs; a connection has one.
    pub opens: Vec<OpenFacts>,
    /// Things wrong.
    pub decode_errors: u64,
    /// The first of them, with their places.
    pub first_errors: Vec<DecodeError>,
    /// Malformed UPDATEs.
    pub malformed: MalformedUpdates,
    /// Holes in the stream.
    pub gaps: u64,
    /// Octets in them.
    pub gap_bytes: u64,
    /// Times the next message had to be searched for and was found further on.
    pub resyncs: u64,
    /// Octets passed over then.
    pub skipped_bytes: u64,
    /// Messages of which the rest had not come when the connection was over.
    #[serde(default)]
    pub unfinished: u64,
    /// What was inferred because OPENs were not seen.
    pub inference: Inference,
}

impl DirectionCounters {
    pub(super) fn error(&mut self, error: DecodeError) {
        self.decode_errors += 1;
        keep(&mut self.first_errors, error);
    }

    pub(super) fn open(&mut self, open: &OpenFacts) {
        if self.opens.len() < MAX_OPENS {
            self.opens.push(open.clone());
        }
    }

    pub(super) fn notification(&mut self, notification: &NotificationFacts) {
        if self.notifications.len() < MAX_KEPT {
            self.notifications.push(notification.clone());
        }
    }

    pub(super) fn update(&mut self, facts: &UpdateFacts<'_>, inferred: bool) {
        for entry in facts.counts() {
            let counts = if entry.announced {
                &mut self.announced
            } else {
                &mut self.withdrawn
            };
            if let Some(count) = counts.get_mut(&entry.family) {
                *count += u64::from(entry.count);
            } else if entry.count != 0 && counts.len() < MAX_KEPT {
                counts.insert(entry.family, u64::from(entry.count));
            }
        }
        if let Some(family) = facts.end_of_rib {
            keep(&mut self.end_of_rib, family);
        }
        if let Some(severity) = facts.severity {
            self.malformed.count(severity);
        }
        self.inference.updates += u64::from(inferred);
    }
}

fn keep<T>(kept: &mut Vec<T>, new: T) {
    if kept.len() < MAX_KEPT {
        kept.push(new);
    }
}

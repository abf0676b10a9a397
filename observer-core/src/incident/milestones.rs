//! The list of what happened: the first and the last ones of a long story, and how many between.

use super::record::{Incident, Milestone, MilestoneKind};
use crate::{time::Timestamp, turn::Turn};

/// Milestones kept from the beginning and from the end.
const FIRST: usize = 48;
const LAST: usize = 48;

/// Between which moments something happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Within {
    pub earliest: Timestamp,
    pub latest: Timestamp,
}

impl Within {
    /// At a moment known exactly.
    pub const fn exactly(at: Timestamp) -> Self {
        Self {
            earliest: at,
            latest: at,
        }
    }
}

/// Adds one.
pub(super) fn add(
    record: &mut Incident,
    turn: &Turn<'_>,
    kind: MilestoneKind,
    within: Within,
    what: String,
    evidence: &str,
) {
    let milestone = Milestone {
        kind,
        earliest: turn.wall.wall(within.earliest),
        latest: turn.wall.wall(within.latest),
        what,
        evidence: evidence.to_owned(),
    };
    insert(record, milestone);
}

/// Puts one in its place.
pub(super) fn insert(record: &mut Incident, milestone: Milestone) {
    let list = &mut record.milestones;
    // What has the same stamp is told in the order of cause and effect.
    let order = |milestone: &Milestone| (milestone.latest, milestone.kind);
    let at = list.partition_point(|other| order(other) <= order(&milestone));
    list.insert(at, milestone);
    if list.len() > FIRST + LAST {
        list.remove(FIRST);
        record.milestones_dropped = record.milestones_dropped.saturating_add(1);
    }
}

/// Replaces the one of this kind, or adds it.
pub(super) fn renew(
    record: &mut Incident,
    turn: &Turn<'_>,
    kind: MilestoneKind,
    within: Within,
    what: String,
    evidence: &str,
) {
    record.milestones.retain(|milestone| milestone.kind != kind);
    add(record, turn, kind, within, what, evidence);
}

//! Records of several nodes that tell of one event.

use observer_core::incident::{
    Incident,
    record::{Proof, Span, SubjectKind, Verdict},
};
use serde::Serialize;

/// What happened once, and everybody's record of it, never empty.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The one that speaks for all: that of the node which it happened to, else the first.
    pub speaker: Incident,
    /// The others, in order of their opening.
    pub witnesses: Vec<Incident>,
}

/// Records that share a group key are of one event, newest event first. One node has one record of one
/// event: where it has two, they are of two events that came soon after one another.
pub fn of(mut records: Vec<Incident>) -> Vec<Group> {
    records.sort_by(|one, other| (one.opened_at, &one.id).cmp(&(other.opened_at, &other.id)));
    let mut events: Vec<Vec<Incident>> = Vec::new();
    for record in records {
        let same = events
            .iter_mut()
            .filter(|event| belongs(&record, event))
            .min_by_key(|event| distance(&record, event));
        match same {
            Some(event) => event.push(record),
            None => events.push(vec![record]),
        }
    }
    events.into_iter().rev().filter_map(Group::new).collect()
}

fn belongs(record: &Incident, event: &[Incident]) -> bool {
    event.iter().all(|other| other.node != record.node)
        && event.iter().any(|other| {
            let mut keys = other.group_keys.iter();
            keys.any(|key| record.group_keys.contains(key))
        })
}

/// Milliseconds between a record and the beginning of an event.
fn distance(record: &Incident, event: &[Incident]) -> i128 {
    event.first().map_or(i128::MAX, |first| {
        let apart = record.opened_at.duration_since(first.opened_at);
        apart.as_millis().abs()
    })
}

impl Group {
    fn new(mut records: Vec<Incident>) -> Option<Self> {
        let own = records
            .iter()
            .position(|record| record.subject.kind == SubjectKind::Local);
        if records.is_empty() {
            return None;
        }
        let speaker = records.remove(own.unwrap_or(0));
        Some(Self {
            speaker,
            witnesses: records,
        })
    }

    /// All records, the speaker's first.
    pub fn records(&self) -> impl Iterator<Item = &Incident> {
        std::iter::once(&self.speaker).chain(&self.witnesses)
    }

    /// Whether one of them is `id`.
    pub fn has(&self, id: &str) -> bool {
        self.records().any(|record| record.id == id)
    }

    /// When it began, by the clocks of its witnesses: the first thing that had surely happened.
    pub fn opened(&self) -> jiff::Timestamp {
        let begun = |record: &Incident| {
            let happened = record.milestones.iter().map(|milestone| milestone.latest);
            happened.min().unwrap_or(record.opened_at)
        };
        let witnesses = self.witnesses.iter().map(begun);
        witnesses.fold(begun(&self.speaker), Ord::min)
    }

    /// When it was over for everybody.
    pub fn closed(&self) -> Option<jiff::Timestamp> {
        let mut closed = self.speaker.closed_at?;
        for witness in &self.witnesses {
            closed = closed.max(witness.closed_at?);
        }
        Some(closed)
    }

    /// The worst that it came to for anybody, and whether packets prove that.
    pub fn verdict(&self) -> (Verdict, Proof) {
        let judged = self.records().map(|record| (record.verdict, record.proof));
        judged
            .max_by_key(|(verdict, proof)| (severity(*verdict), *proof))
            .unwrap_or((self.speaker.verdict, self.speaker.proof))
    }

    /// The most prefixes that one node lost.
    pub fn routes(&self) -> u64 {
        let lost = self.records().map(|record| record.prefixes.lost);
        lost.max().unwrap_or(0)
    }

    /// The longest that one node could not reach something; none where nobody measured.
    pub fn unreachable(&self) -> Option<Span> {
        let measured = self
            .records()
            .filter_map(|record| record.unreachable_seconds);
        measured.max_by(|one, other| {
            // No upper bound is the longest there is.
            let most = |span: &Span| span.max.unwrap_or(f64::INFINITY);
            most(one).total_cmp(&most(other))
        })
    }
}

const fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Decommissioned => 0,
        Verdict::NoImpact => 1,
        Verdict::Graceful => 2,
        Verdict::MicroGap => 3,
        Verdict::RoutesLost => 4,
        Verdict::ReachabilityLost => 5,
        Verdict::Blackholed => 6,
    }
}

#[cfg(test)]
mod tests {
    use observer_core::incident::record::Subject;

    use super::*;

    fn record(node: &str, second: i64, keys: [&str; 2]) -> Incident {
        let kind = if node == "b" {
            SubjectKind::Local
        } else {
            SubjectKind::Peer
        };
        let subject = Subject {
            kind,
            identity: "10.0.0.2".to_owned(),
            name: Some("b".to_owned()),
        };
        let at = jiff::Timestamp::from_second(second).unwrap();
        let mut record = Incident::blank(node, subject, at);
        record.id = format!("{second}-{node}");
        record.group_keys = keys.map(str::to_owned).to_vec();
        record.closed_at = Some(at);
        record
    }

    fn ids(groups: &[Group]) -> Vec<Vec<&str>> {
        groups
            .iter()
            .map(|group| group.records().map(|record| record.id.as_str()).collect())
            .collect()
    }

    #[test]
    fn who_shares_a_key_tells_of_the_same_and_the_subject_speaks_for_all() {
        let groups = of(vec![
            record("c", 12, ["2", "3"]),
            record("a", 10, ["1", "2"]),
            record("b", 11, ["1", "2"]),
            record("c", 90, ["8", "9"]),
        ]);
        assert_eq!(ids(&groups), [vec!["90-c"], vec!["11-b", "10-a", "12-c"]]);
        assert_eq!(groups[1].opened().as_second(), 10);
        assert_eq!(groups[1].closed().unwrap().as_second(), 12);
        assert!(groups[1].has("12-c") && !groups[0].has("12-c"));
    }

    #[test]
    fn two_records_of_one_node_are_two_events_and_others_go_to_the_nearer() {
        let groups = of(vec![
            record("a", 10, ["1", "2"]),
            record("a", 15, ["1", "2"]),
            record("c", 16, ["1", "2"]),
        ]);
        assert_eq!(ids(&groups), [vec!["15-a", "16-c"], vec!["10-a"]]);
    }

    #[test]
    fn the_worst_counts_and_no_end_is_the_longest() {
        let mut records = vec![record("a", 10, ["1", "2"]), record("b", 10, ["1", "2"])];
        records[0].verdict = Verdict::ReachabilityLost;
        records[0].proof = Proof::Proven;
        records[0].prefixes.lost = 3;
        let span = |min, max| Some(Span { min, max });
        records[0].unreachable_seconds = span(6.0, None);
        records[1].unreachable_seconds = span(0.0, Some(9.0));
        records[0].closed_at = None;
        let group = of(records).remove(0);
        assert_eq!(group.speaker.node, "b");
        assert_eq!(group.verdict(), (Verdict::ReachabilityLost, Proof::Proven));
        assert_eq!(group.routes(), 3);
        assert_eq!(group.unreachable(), span(6.0, None));
        assert_eq!(group.closed(), None);
    }
}

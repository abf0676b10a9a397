//! The last changes of this run, for `events` and for who begins to follow.

use std::{collections::VecDeque, sync::Arc};

use observer_core::change::{Change, ChangeRecord};

/// Changes that are remembered at most.
const CHANGES: usize = 10_000;
/// What they tell at most, in lines: each is one, but for an incident's record, which can be a hundred.
const LINES: usize = 40_000;

/// Bounded by number and by size; the oldest go first.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    changes: VecDeque<Arc<ChangeRecord>>,
    lines: usize,
}

impl Remembered {
    /// Remembers one more.
    pub(super) fn push(&mut self, record: Arc<ChangeRecord>) {
        self.lines += lines(&record);
        self.changes.push_back(record);
        while (self.changes.len() > CHANGES || self.lines > LINES)
            && self.changes.len() > 1
            && let Some(oldest) = self.changes.pop_front()
        {
            self.lines -= lines(&oldest);
        }
    }

    /// The number of the last one; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.changes.back().map_or(0, |record| record.seq)
    }

    /// Those with a higher number than `seq`, oldest first.
    pub(super) fn since(&self, seq: u64) -> impl Iterator<Item = &Arc<ChangeRecord>> {
        let at = self.changes.partition_point(|record| record.seq <= seq);
        self.changes.range(at..)
    }

    /// How many with a higher number than `seq` are not remembered any more.
    pub(super) fn missed(&self, seq: u64) -> u64 {
        let first = self.changes.front().map_or(0, |record| record.seq);
        first.saturating_sub(1).saturating_sub(seq)
    }
}

fn lines(record: &ChangeRecord) -> usize {
    let (Change::IncidentOpened { incident }
    | Change::IncidentUpdated { incident }
    | Change::IncidentClosed { incident }) = &record.change
    else {
        return 1;
    };
    incident.lines()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use observer_core::{
        change::{Change, ChangeRecord},
        event::LossStage,
        incident::record::SessionLoss,
        time::Timestamp,
    };

    use super::{CHANGES, LINES, Remembered};
    use crate::testing::{incident, noon};

    fn numbered(seq: u64, change: Change) -> Arc<ChangeRecord> {
        Arc::new(ChangeRecord {
            seq,
            at: Timestamp::default(),
            time: noon(),
            node: "n1".to_owned(),
            change,
        })
    }

    #[test]
    fn the_oldest_go_by_number() {
        let mut remembered = Remembered::default();
        let most = CHANGES as u64;
        for seq in 1..=most + 3 {
            let (stage, count) = (LossStage::Ring, 1);
            remembered.push(numbered(seq, Change::Lost { stage, count }));
        }
        assert_eq!(remembered.missed(0), 3);
        assert_eq!(remembered.missed(2), 1);
        assert_eq!(remembered.last(), most + 3);
        let after = remembered.since(most + 1).map(|record| record.seq);
        assert_eq!(after.collect::<Vec<_>>(), [most + 2, most + 3]);
    }

    #[test]
    fn long_records_go_earlier() {
        let mut long = incident("20260102T030405.000000-n1", "10.0.0.2");
        let session = SessionLoss {
            peer: "10.0.0.2".to_owned(),
            flap: None,
            down_at: noon(),
            up_at: None,
            cause: "peer closed the connection".to_owned(),
        };
        long.sessions = vec![session; 99];
        let lines = long.lines();
        assert!(lines >= 100, "{lines}");
        let mut remembered = Remembered::default();
        for seq in 1..=1_000 {
            let incident = Box::new(long.clone());
            remembered.push(numbered(seq, Change::IncidentUpdated { incident }));
        }
        let kept = remembered.since(0).count();
        assert_eq!(kept, LINES / lines);
        assert_eq!(remembered.missed(0), 1_000 - kept as u64);
    }
}

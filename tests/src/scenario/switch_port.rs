//! A blackhole: the switch port of n2 is down, and neither sessions nor routes show it before hold
//! timers do. Only who asks pods knows.

use std::time::Duration;

use observer_core::incident::record::Verdict;

use super::{Act, Cast, Expected, Extent, Script, at};

const DOWN: u64 = 12;

pub(super) fn script(cast: &Cast<'_>) -> Script {
    Script {
        title: "the switch port of n2 is down for 12 s",
        steps: vec![at(0, Act::Unplug), at(DOWN, Act::Plug)],
        expected: Expected {
            incidents: cast.others_record(&[Verdict::Blackholed], "stopped answering", Some(0)),
            recovers: true,
            // The baseline asks every 5 s.
            loss: cast.loss(Extent::Within(
                Duration::from_secs(DOWN - 2),
                Duration::from_secs(DOWN + 4),
            )),
            ..Expected::default()
        },
    }
}

//! A block is withdrawn by an UPDATE on healthy sessions, as if it were planned, and the pod in it lives.

use std::time::Duration;

use observer_core::incident::record::Verdict;

use super::{Act, Cast, Expected, Extent, Script, at};

const GONE: u64 = 6;

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let lost = &[Verdict::ReachabilityLost];
    Script {
        title: "n2 withdraws the block in which its pod lives",
        steps: vec![at(0, Act::WithdrawBlock), at(GONE, Act::AnnounceBlock)],
        expected: Expected {
            recovers: true,
            incidents: cast.others_record(lost, "withdrew 10.244.2.0/26", Some(1)),
            told: vec![("n1", format!("withdrawn: {}", cast.victim.block))],
            loss: cast.loss(Extent::Within(
                Duration::from_secs(GONE - 1),
                Duration::from_secs(GONE + 4),
            )),
            ..Expected::default()
        },
    }
}

//! RST: n2's kernel aborts its established BGP connections.

use std::time::Duration;

use observer_core::incident::record::Verdict;

use super::{Act, Cast, Expected, Extent, Script, at};

/// Which routes BIRD exchanges when the session is back, and how quickly, is its business: it drops the
/// stale ones at once, and the UPDATE comes tens of milliseconds later, into which an echo may fall.
const KEPT: &[Verdict] = &[
    Verdict::Graceful,
    Verdict::MicroGap,
    Verdict::NoImpact,
    Verdict::ReachabilityLost,
];
/// No pod may be lost for longer than that, whatever it is called.
const MOMENT: Duration = Duration::from_secs(1);

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(&["rst_received"], &[]);
    flaps.extend(cast.victim_sees(&["rst_sent"], &[]));
    Script {
        title: "the connections of n2 are reset",
        steps: vec![at(0, Act::Reset)],
        expected: Expected {
            flaps,
            incidents: cast.others_record(KEPT, "RST received", None),
            recovers: true,
            loss: cast.loss(Extent::Within(Duration::ZERO, MOMENT)),
            ..Expected::default()
        },
    }
}

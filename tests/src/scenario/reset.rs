//! RST: n2's kernel aborts its established BGP connections.

use observer_core::incident::record::Verdict;

use super::{Act, Cast, Expected, Script, at};

/// Which routes BIRD exchanges when the session is back, and how quickly, is its business: it drops the
/// stale ones at once, and an echo may fall into the tens of milliseconds until the UPDATE.
const KEPT: &[Verdict] = &[
    Verdict::Graceful,
    Verdict::MicroGap,
    Verdict::NoImpact,
    Verdict::ReachabilityLost,
];

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
            ..Expected::default()
        },
    }
}

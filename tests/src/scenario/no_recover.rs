//! A crash after which BIRD is started without `-R`: it says in its OPEN that it kept nothing, so its
//! peers exchange its routes at once. What hurts is the other direction: n2 flushes what it had
//! programmed itself, and its pods' answers have no way back.

use std::time::Duration;

use nix::sys::signal::Signal;
use observer_core::incident::record::Verdict;

use super::{
    Act, Cast, Expected, ExpectedLoss, Extent, Script, at,
    cast::{closed, session},
    record::LOSS,
};
use crate::rights::Overlay;

/// Whether the exchange is seen as a gap depends on who asks first.
const EXCHANGED: &[Verdict] = &[Verdict::MicroGap, Verdict::NoImpact];

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(closed(cast.victim), &[]);
    flaps.extend(cast.victim_ends(Signal::SIGKILL));
    let mut incidents = cast.others_record(EXCHANGED, "FIN received", None);
    let mut own = cast.victim_records_its_end(Signal::SIGKILL);
    own.verdicts = LOSS;
    // Beside many other labs one of its sessions may be back before its route counts as lost.
    if cast.overlay == Overlay::Ebpf {
        own.lost = u64::try_from(cast.others.len()).ok();
    }
    incidents.push(own);
    let witnesses = vec![session(cast.victim, cast.victim)];
    Script {
        title: "the speaker of n2 is killed and comes back without -R",
        steps: vec![at(0, Act::End(Signal::SIGKILL)), at(3, Act::StartAnew)],
        expected: Expected {
            flaps,
            incidents,
            recovers: true,
            restarts: cast.keep_stale(&["stale", "not_preserved"]),
            loss: cast
                .loss(Extent::About(Duration::from_secs(2)))
                .map(|loss| ExpectedLoss { witnesses, ..loss }),
            ..Expected::default()
        },
    }
}

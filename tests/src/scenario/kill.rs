//! A crash: SIGKILL, so the kernel closes what the speaker held; back after 3 s.

use std::time::Duration;

use nix::sys::signal::Signal;
use observer_core::incident::record::Verdict;

use super::{Act, Cast, Expected, Extent, Script, at, cast::closed, record::LOSS};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(closed(cast.victim), &[]);
    flaps.extend(cast.victim_ends(Signal::SIGKILL));
    // Without graceful restart it is a loss like any other.
    let (mut incidents, extent) = if cast.manners.graceful_restart {
        let recorded = cast.others_record(&[Verdict::Graceful], "FIN received", Some(0));
        (recorded, Extent::Nothing)
    } else {
        let recorded = cast.others_record(LOSS, "FIN received", Some(1));
        (recorded, Extent::About(Duration::from_secs(5)))
    };
    incidents.push(cast.victim_records_its_end(Signal::SIGKILL));
    let title = if cast.manners.graceful_restart {
        "the speaker of n2 is killed and comes back"
    } else {
        "the speaker of n2, without graceful restart, is killed and comes back"
    };
    Script {
        title,
        steps: vec![at(0, Act::End(Signal::SIGKILL)), at(3, Act::Start)],
        expected: Expected {
            flaps,
            incidents,
            recovers: true,
            restarts: cast.keep_stale(&["stale", "end_of_rib"]),
            loss: cast.loss(extent),
            ..Expected::default()
        },
    }
}

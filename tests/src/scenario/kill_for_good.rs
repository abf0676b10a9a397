//! A crash that nobody repairs: SIGKILL, and the peers keep the routes until the restart timer expires
//! (RFC 4724 §4.2). The loss begins long after the session's end.

use nix::sys::signal::Signal;

use super::{Act, Cast, Expected, Extent, Script, at, cast::closed, record::LOSS};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(closed(cast.victim), &[]);
    flaps.extend(cast.victim_ends(Signal::SIGKILL));
    // Nothing comes back, so they stay open.
    let mut incidents = cast.others_record(LOSS, "FIN received", Some(1));
    incidents.push(cast.victim_records_its_end(Signal::SIGKILL));
    for incident in &mut incidents {
        incident.over = false;
    }
    Script {
        title: "the speaker of n2 is killed and stays away",
        steps: vec![at(0, Act::End(Signal::SIGKILL))],
        expected: Expected {
            flaps,
            incidents,
            restarts: cast.keep_stale(&["stale", "expired"]),
            loss: cast.loss(Extent::Unending),
            ..Expected::default()
        },
    }
}

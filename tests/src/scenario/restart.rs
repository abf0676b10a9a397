//! A rolling restart: SIGTERM, so BIRD says Cease and closes; back after 3 s.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Act, Cast, Expected, Extent, Script, at, record::LOSS};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(&["notification_received"], &["peer sent Cease"]);
    flaps.extend(cast.victim_ends(Signal::SIGTERM));
    let mut incidents = cast.others_record(LOSS, "peer sent Cease", Some(1));
    incidents.push(cast.victim_records_its_end(Signal::SIGTERM));
    Script {
        title: "the speaker of n2 is restarted",
        steps: vec![at(0, Act::End(Signal::SIGTERM)), at(3, Act::Start)],
        expected: Expected {
            flaps,
            incidents,
            recovers: true,
            loss: cast.loss(Extent::About(Duration::from_secs(7))),
            ..Expected::default()
        },
    }
}

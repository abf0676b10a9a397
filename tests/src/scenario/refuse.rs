//! Nobody home: n2's speaker ends and stays away; who dials it gets RST for its SYN.

use nix::sys::signal::Signal;

use super::{Act, Cast, Expected, Extent, Script, at, record::LOSS};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(&["notification_received"], &["peer sent Cease"]);
    flaps.extend(cast.victim_ends(Signal::SIGTERM));
    // Nothing comes back, so they stay open.
    let mut incidents = cast.others_record(LOSS, "peer sent Cease", Some(1));
    incidents.push(cast.victim_records_its_end(Signal::SIGTERM));
    for incident in &mut incidents {
        incident.over = false;
    }
    Script {
        title: "the speaker of n2 ends for good",
        steps: vec![at(0, Act::End(Signal::SIGTERM))],
        expected: Expected {
            flaps,
            incidents,
            loss: cast.loss(Extent::Unending),
            failures: cast
                .dial_victim()
                .map(|session| (session, "refused"))
                .collect(),
            ..Expected::default()
        },
    }
}

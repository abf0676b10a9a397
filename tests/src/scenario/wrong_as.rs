//! A misconfiguration: n2's speaker is ended and comes back with another AS than its peers have
//! configured for it: they refuse its OPEN.

use nix::sys::signal::Signal;

use super::{Act, Cast, Expected, Extent, Script, at, cast::session, record::LOSS};

const SENT: &str = "OPEN Message Error/Bad Peer AS sent";
const RECEIVED: &str = "OPEN Message Error/Bad Peer AS received";

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(&["notification_received"], &["peer sent Cease"]);
    flaps.extend(cast.victim_ends(Signal::SIGTERM));
    let mut incidents = cast.others_record(LOSS, "peer sent Cease", Some(1));
    for incident in &mut incidents {
        incident.over = false;
    }
    let mut failures = Vec::new();
    for other in &cast.others {
        failures.push((session(other, cast.victim), SENT));
        failures.push((session(cast.victim, other), RECEIVED));
    }
    Script {
        title: "the speaker of n2 comes back with a wrong AS",
        steps: vec![at(0, Act::End(Signal::SIGTERM)), at(1, Act::StartForeign)],
        expected: Expected {
            flaps,
            incidents,
            loss: cast.loss(Extent::Unending),
            failures,
            ..Expected::default()
        },
    }
}

//! n2 reflects the routes of all others (RFC 4456): its end concerns pods that are not on n2.

use std::time::Duration;

use nix::sys::signal::Signal;
use observer_core::incident::record::Verdict;

use super::{
    Act, Cast, Expected, ExpectedIncident, ExpectedLoss, Extent, Script, at, record::LOSS,
};

/// The new process numbers its paths anew (RFC 7911), so routes may be replaced: by a delete and an add.
const KEPT: &[Verdict] = &[Verdict::Graceful, Verdict::MicroGap];

/// One that is killed keeps nobody from forwarding: graceful restart covers all it reflected.
pub(super) fn killed(cast: &Cast<'_>) -> Script {
    let mut incidents = cast.others_record(KEPT, "FIN received", None);
    incidents.push(cast.victim_records_its_end(Signal::SIGKILL));
    let loss = between_clients(cast, Extent::Nothing);
    let mut script = script(cast, Signal::SIGKILL, &["fin_received"], incidents, loss);
    script.title = "the route reflector n2 is killed and comes back";
    script.expected.restarts = cast.keep_stale(&["stale", "end_of_rib"]);
    script
}

/// One that says Cease takes the routes of all clients with it, in one incident.
pub(super) fn restarted(cast: &Cast<'_>) -> Script {
    // Its own block, and that of each client but the one that looks.
    let reflected = u64::try_from(cast.others.len()).ok();
    let mut incidents = cast.others_record(LOSS, "peer sent Cease", reflected);
    incidents.push(cast.victim_records_its_end(Signal::SIGTERM));
    let loss = between_clients(cast, Extent::About(Duration::from_secs(7)));
    let sees = &["notification_received"];
    let mut script = script(cast, Signal::SIGTERM, sees, incidents, loss);
    script.title = "the route reflector n2 is restarted";
    script
}

/// With another one, clients lose no more than the routes of n2 itself, which the other one withdraws.
pub(super) fn one_of_two(cast: &Cast<'_>) -> Script {
    let mut incidents = cast.others_record(LOSS, "peer sent Cease", Some(1));
    incidents.push(cast.victim_records_its_end(Signal::SIGTERM));
    let loss = between_clients(cast, Extent::Nothing).map(|loss| ExpectedLoss {
        to: 4,
        // Those of n1 tell of the pod on n2.
        witnesses: Vec::new(),
        ..loss
    });
    let sees = &["notification_received"];
    let mut script = script(cast, Signal::SIGTERM, sees, incidents, loss);
    script.title = "n2, one of two route reflectors, is restarted";
    script
}

/// Pods of n1 to pods of n3, which both are clients.
fn between_clients(cast: &Cast<'_>, extent: Extent) -> Option<ExpectedLoss> {
    cast.loss(extent).map(|loss| ExpectedLoss { to: 3, ..loss })
}

fn script(
    cast: &Cast<'_>,
    signal: Signal,
    sees: &'static [&'static str],
    incidents: Vec<ExpectedIncident>,
    loss: Option<ExpectedLoss>,
) -> Script {
    let mut flaps = cast.others_see(sees, &[]);
    flaps.extend(cast.victim_ends(signal));
    Script {
        title: "",
        steps: vec![at(0, Act::End(signal)), at(3, Act::Start)],
        expected: Expected {
            flaps,
            incidents,
            recovers: true,
            loss,
            ..Expected::default()
        },
    }
}

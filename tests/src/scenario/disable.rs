//! An operator takes the sessions out of service and back: `birdc disable` and `enable`.

use std::time::Duration;

use super::{Act, Cast, Expected, Extent, Script, at, record::LOSS};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let words = &["Cease/Administrative Shutdown"];
    let mut flaps = cast.others_see(&["notification_received"], words);
    flaps.extend(cast.victim_sees(&["notification_sent"], words));
    Script {
        title: "BIRD of n2 has its sessions disabled for 4 s",
        steps: vec![at(0, Act::DisableSessions), at(4, Act::EnableSessions)],
        expected: Expected {
            flaps,
            incidents: cast.others_record(LOSS, "Administrative Shutdown", Some(1)),
            recovers: true,
            loss: cast.loss(Extent::About(Duration::from_secs(7))),
            ..Expected::default()
        },
    }
}

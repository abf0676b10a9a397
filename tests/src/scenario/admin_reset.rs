//! An operator restarts the sessions: `birdc restart`, which BIRD tells its peers (RFC 4486 §4).

use std::time::Duration;

use super::{Act, Cast, Expected, Extent, Script, at, record::LOSS};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let words = &["Cease/Administrative Reset"];
    let mut flaps = cast.others_see(&["notification_received"], words);
    flaps.extend(cast.victim_sees(&["notification_sent"], words));
    Script {
        title: "BIRD of n2 restarts its sessions",
        steps: vec![at(0, Act::RestartSessions)],
        expected: Expected {
            flaps,
            incidents: cast.others_record(LOSS, "Administrative Reset", Some(1)),
            recovers: true,
            loss: cast.loss(Extent::About(Duration::from_secs(2))),
            ..Expected::default()
        },
    }
}

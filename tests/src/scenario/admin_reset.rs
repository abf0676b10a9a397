//! An operator restarts the sessions: `birdc restart`, which BIRD tells its peers (RFC 4486 §4).

use super::{Act, Cast, Expected, Script, at};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let words = &["Cease/Administrative Reset"];
    let mut flaps = cast.others_see(&["notification_received"], words);
    flaps.extend(cast.victim_sees(&["notification_sent"], words));
    Script {
        title: "BIRD of n2 restarts its sessions",
        steps: vec![at(0, Act::RestartSessions)],
        expected: Expected {
            flaps,
            recovers: true,
            ..Expected::default()
        },
    }
}

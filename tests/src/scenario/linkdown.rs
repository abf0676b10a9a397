//! The uplink of n2 is down for 4 s: routes suffer, sessions live through it.

use std::time::Duration;

use super::{Act, Cast, Expected, Script, at};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    Script {
        title: "the uplink of n2 is down for 4 s",
        steps: vec![at(0, Act::LinkDown), at(4, Act::LinkUp)],
        expected: Expected {
            calm: Duration::from_secs(3),
            incidents: vec![cast.victim_loses("link eth0 down")],
            recovers: true,
            ..Expected::default()
        },
    }
}

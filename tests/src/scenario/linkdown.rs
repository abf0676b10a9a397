//! The uplink of n2 is down for 4 s: routes suffer, sessions live through it.

use std::time::Duration;

use super::{Act, Cast, Expected, ExpectedLoss, Extent, Script, at};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let witnesses = cast.ends().split_off(1);
    Script {
        title: "the uplink of n2 is down for 4 s",
        steps: vec![at(0, Act::LinkDown), at(4, Act::LinkUp)],
        expected: Expected {
            calm: Duration::from_secs(3),
            incidents: vec![cast.victim_loses("link eth0 down")],
            recovers: true,
            loss: cast
                .loss(Extent::About(Duration::from_secs(4)))
                .map(|loss| ExpectedLoss { witnesses, ..loss }),
            ..Expected::default()
        },
    }
}

//! Silence: tcp/179 is dropped in n2's namespace until every session fell, then passes again.

use super::{Act, Cast, Expected, Script, Step, When, at};

/// Which comes first is the speaker's business: its hold timer, or TCP's patience.
const SILENCE: &[&str] = &["hold_timer_expired", "tcp_error"];

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(SILENCE, &[]);
    flaps.extend(cast.victim_sees(SILENCE, &[]));
    Script {
        title: "a firewall cuts n2 off",
        steps: vec![
            at(0, Act::Drop),
            Step {
                when: When::Fallen,
                act: Act::Pass,
            },
        ],
        expected: Expected {
            flaps,
            recovers: true,
            ..Expected::default()
        },
    }
}

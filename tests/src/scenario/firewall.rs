//! Silence: tcp/179 is dropped in n2's namespace until every session fell. Then only new connections
//! pass, and when these carry the sessions again, what the old ones have queued: KEEPALIVEs and the
//! NOTIFICATION of a hold timer long expired (DOMAIN §3).

use std::time::Duration;

use super::{Act, Cast, Expected, ExpectedLoss, Extent, Script, When, at, record::LOSS, step};

/// BIRD's own hold time, in seconds.
const HOLD: u16 = 240;

/// Which comes first is the speaker's business: its hold timer, or TCP's patience.
const SILENCE: &[&str] = &["hold_timer_expired", "tcp_error"];

pub(super) fn script(cast: &Cast<'_>) -> Script {
    // From the first hold timer that runs out to the last session that is back; the timers run out up to a
    // keepalive interval apart.
    let keepalive = u64::from(cast.manners.hold.unwrap_or(HOLD)) / 3;
    let extent = Extent::Within(
        Duration::from_secs(3),
        Duration::from_secs(14 + keepalive + keepalive / 2),
    );
    let mut flaps = cast.others_see(SILENCE, &[]);
    flaps.extend(cast.victim_sees(SILENCE, &[]));
    let mut incidents = cast.others_record(LOSS, "", Some(1));
    incidents.push(cast.victim_loses("nothing is heard from any of"));
    Script {
        title: "a firewall cuts n2 off",
        steps: vec![
            at(0, Act::Drop),
            step(When::Fallen, Act::Admit),
            step(When::Risen, Act::Pass),
        ],
        expected: Expected {
            flaps,
            incidents,
            recovers: true,
            // Whose hold timer expires first breaks the way there or the way back for both: the other one's event
            // comes later than the loss, which began at some time after its last answer.
            loss: cast.loss(extent).map(|loss| ExpectedLoss {
                witnesses: cast.ends(),
                ..loss
            }),
            // The old connections' retransmission timers have backed off to about as much.
            calm: Duration::from_secs(15),
            ..Expected::default()
        },
    }
}

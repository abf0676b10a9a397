//! A crash loop: n2's speaker is killed again before it sent End-of-RIB, so n1, which still keeps the
//! routes from the first time, drops them (RFC 4724 §4.2). A BIRD that recovers sends End-of-RIB when
//! all its peers are back: n3 is kept from it until the second crash.

use std::time::Duration;

use nix::sys::signal::Signal;
use observer_core::incident::record::Verdict;

use super::{
    Act, Cast, Expected, Extent, Script, When, at,
    cast::{closed, session},
    record::LOSS,
    step,
};

const ONCE: &[&str] = &["stale", "end_of_rib"];
const TWICE: &[&str] = &["stale", "second_restart", "stale", "end_of_rib"];
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let (observer, victim) = (cast.observer, cast.victim);
    let of_observer = |one: &super::Session| one.node == observer.name;
    let mut flaps = cast.others_see(closed(victim), &[]);
    flaps.extend(cast.victim_ends(Signal::SIGKILL));
    let again = { flaps.iter().cloned() }
        .filter(|flap| of_observer(&flap.session) || flap.session == session(victim, observer));
    let again: Vec<_> = again.collect();
    flaps.extend(again);
    let mut incidents = cast.others_record(&[Verdict::Graceful], "FIN received", Some(0));
    for incident in incidents.iter_mut().filter(|one| of_observer(&one.session)) {
        (incident.verdicts, incident.lost) = (LOSS, Some(1));
    }
    incidents.push(cast.victim_records_its_end(Signal::SIGKILL));
    let mut restarts = cast.keep_stale(ONCE);
    for (_, course) in restarts.iter_mut().filter(|(one, _)| of_observer(one)) {
        *course = TWICE;
    }
    Script {
        title: "the speaker of n2 is killed twice",
        steps: vec![
            at(0, Act::End(Signal::SIGKILL)),
            at(1, Act::Drop).to(3),
            at(2, Act::Start),
            step(When::Back(1), Act::End(Signal::SIGKILL)),
            step(When::Then(SECOND), Act::Pass).to(3),
            step(When::Then(SECOND), Act::Start),
        ],
        expected: Expected {
            flaps,
            incidents,
            recovers: true,
            restarts,
            loss: cast.loss(Extent::About(5 * SECOND)),
            ..Expected::default()
        },
    }
}

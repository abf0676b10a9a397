//! A reboot of n2 while n3 is away. A BIRD that starts with `-R` waits for all its peers, and until then
//! neither announces nor programs anything, though its session with n1 is Established: by default for
//! 240 s (`graceful restart wait`).

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Act, Cast, Expected, ExpectedFlap, Extent, Script, at, cast::session, record::LOSS};

/// BIRD's own wait for peers that are away, in seconds.
const WAIT: u64 = 240;

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let (observer, victim) = (cast.observer, cast.victim);
    let away = cast.others.iter().copied();
    let away: Vec<_> = away.filter(|node| node.name != observer.name).collect();
    let mut flaps = Vec::new();
    let mut stay_down = Vec::new();
    let received = |from, to| ExpectedFlap {
        session: session(from, to),
        causes: &["notification_received"],
        words: Vec::new(),
        unseen: None,
    };
    let ended = |from, to| cast.own_end(session(from, to), Signal::SIGTERM);
    flaps.extend([received(observer, victim), ended(victim, observer)]);
    for gone in away {
        for node in [observer, victim] {
            let fallen = [received(node, gone), ended(gone, node)];
            stay_down.extend(fallen.iter().map(|flap| flap.session.clone()));
            flaps.extend(fallen);
        }
    }
    // Whoever has waited for a minute is asked once a second.
    let extent = cast.manners.recovery_wait.map_or(
        Extent::Within(Duration::from_secs(WAIT), Duration::from_secs(WAIT + 10)),
        |wait| Extent::About(Duration::from_secs(u64::from(wait) + 2)),
    );
    let mut incidents = cast.others_record(LOSS, "peer sent Cease", Some(1));
    incidents.retain(|one| one.session.node == observer.name);
    Script {
        title: "n2 reboots while n3 is away",
        steps: vec![
            at(0, Act::End(Signal::SIGTERM)).to(3),
            at(2, Act::End(Signal::SIGTERM)),
            at(2, Act::Flush),
            at(4, Act::Start),
        ],
        expected: Expected {
            flaps,
            stay_down,
            incidents,
            recovers: true,
            told: vec![("n2", "prefixes is in the kernel".to_owned())],
            loss: cast.loss(extent),
            ..Expected::default()
        },
    }
}

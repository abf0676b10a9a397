//! A crash: SIGKILL, so the kernel closes what the speaker held; back after 3 s.

use nix::sys::signal::Signal;

use super::{Act, Cast, Expected, Script, at, closed};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(closed(cast.victim), &[]);
    flaps.extend(cast.victim_sees(
        &["local_speaker_gone"],
        &[cast.victim.speaker.comm(), "SIGKILL from"],
    ));
    Script {
        title: "the speaker of n2 is killed and comes back",
        steps: vec![at(0, Act::End(Signal::SIGKILL)), at(3, Act::Start)],
        expected: Expected {
            flaps,
            recovers: true,
            restarts: cast.keep_stale(),
            ..Expected::default()
        },
    }
}

//! Nobody home: n2's speaker ends and stays away; who dials it gets RST for its SYN.

use nix::sys::signal::Signal;

use super::{Act, Cast, Expected, Script, at};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(&["notification_received"], &["peer sent Cease"]);
    flaps.extend(cast.victim_sees(&["local_speaker_gone"], &["SIGTERM from"]));
    Script {
        title: "the speaker of n2 ends for good",
        steps: vec![at(0, Act::End(Signal::SIGTERM))],
        expected: Expected {
            flaps,
            failures: cast
                .dial_victim()
                .map(|session| (session, "refused"))
                .collect(),
            ..Expected::default()
        },
    }
}

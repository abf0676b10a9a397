//! Stories of this node's own speaker: what its end costs by what it had offered its peers.

use super::{record::Verdict, testing::Story};
use crate::{
    config::ReachMode,
    event::TcpState,
    testing::{PEER, bird, outbound},
    testing_wire::{Offer, Talk},
};

/// What comes of SIGKILL when both sides had offered this.
fn killed(restart: Option<(u16, bool)>) -> Verdict {
    let mut story = Story::new(ReachMode::Off);
    let offer = Offer {
        restart,
        ..Offer::default()
    };
    let dialled = outbound(1, PEER);
    let mut talk = Talk::new(dialled);
    talk.connect(&mut story.scene);
    talk.greet(&mut story.scene, offer, offer);
    story.pass(5_000);
    story.speaker_ends(Some(9));
    let (from, to) = (TcpState::Established, TcpState::FinWait1);
    story.scene.state_by(dialled, from, to, Some(bird()));
    story.pass(1_000);
    let all = story.all();
    assert_eq!(all.len(), 1, "{all:#?}");
    all[0].verdict
}

#[test]
fn only_a_speaker_that_offered_to_keep_a_family_restarts_gracefully() {
    assert_eq!(killed(Some((120, true))), Verdict::Graceful);
    // RFC 4724 §3: a capability without families helps others to restart, no more.
    assert_eq!(killed(Some((0, false))), Verdict::NoImpact);
    assert_eq!(killed(None), Verdict::NoImpact);
}

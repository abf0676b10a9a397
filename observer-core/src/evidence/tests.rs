//! What each kind of end is concluded to be.

use super::*;
use crate::cause::Signal;

const WAIT: Duration = Duration::from_millis(250);
const AT: Timestamp = Timestamp::from_nanos(100_000_000_000);

fn bird() -> Process {
    Process {
        pid: 40,
        comm: "bird".to_owned(),
    }
}

fn ended(way: Way, clues: &[Clue]) -> Evidence {
    let mut evidence = Evidence::default();
    for clue in clues {
        evidence.add(AT, clue.clone());
    }
    evidence.end = Some(End {
        at: AT,
        way,
        process: None,
        by_call: false,
        silent: Duration::from_secs(1),
        unanswered: 0,
        stuck: false,
        hold: None,
    });
    evidence
}

#[test]
fn each_kind_of_end_has_its_cause_and_says_whether_more_may_come() {
    use Clue::{Error, ResetReceived, ResetSent};
    let errno = |errno| Cause::TcpError { errno };
    for (way, clues, cause, settled) in [
        (Way::FinReceived, &[][..], Cause::FinReceived, true),
        (Way::FinReceived, &[ResetSent], Cause::FinReceived, true),
        (Way::FinSent, &[], Cause::FinSent, false),
        (Way::Closed, &[ResetReceived], Cause::ResetReceived, true),
        (
            Way::Closed,
            &[ResetReceived, Error(104)],
            Cause::ResetReceived,
            true,
        ),
        (Way::Closed, &[Error(104)], Cause::ResetReceived, true),
        (
            Way::Closed,
            &[ResetSent, Error(103)],
            Cause::ResetSent,
            true,
        ),
        (Way::Closed, &[ResetSent], Cause::ResetSent, false),
        (
            Way::Closed,
            &[ResetSent, Error(104)],
            Cause::ResetSent,
            false,
        ),
        (Way::Closed, &[Error(110)], errno(110), true),
        (Way::Closed, &[Error(113)], errno(113), true),
        (Way::Closed, &[], Cause::Unknown, false),
        (Way::Missing, &[], Cause::Unobserved, true),
        (Way::Missing, &[ResetReceived], Cause::ResetReceived, true),
    ] {
        let verdict = ended(way, clues).conclude(&Speakers::default(), WAIT);
        assert_eq!(
            (&verdict.cause, verdict.settled),
            (&cause, settled),
            "{way:?} {clues:?}"
        );
    }
}

#[test]
fn a_silent_unanswered_connection_that_our_side_closes_is_a_hold_timer() {
    for (way, silent, unanswered, stuck, hold) in [
        (Way::FinSent, 9_000, 5, false, true),
        (Way::FinSent, 9_000, 0, true, true),
        (Way::FinSent, 9_000, 0, false, false),
        (Way::FinSent, 1_000, 5, false, false),
        (Way::FinReceived, 9_000, 5, false, false),
        (Way::Closed, 9_000, 5, false, false),
    ] {
        let mut evidence = ended(way, &[]);
        if let Some(end) = &mut evidence.end {
            end.silent = Duration::from_millis(silent);
            end.unanswered = unanswered;
            end.stuck = stuck;
        }
        let verdict = evidence.conclude(&Speakers::default(), WAIT);
        let is_hold = matches!(
            verdict.cause,
            Cause::HoldTimerExpired {
                silent_millis: 9_000,
                told_by: None
            }
        );
        assert_eq!(is_hold, hold, "{way:?} {silent} {unanswered} {stuck}");
    }
}

#[test]
fn where_the_hold_time_is_known_the_silence_alone_decides() {
    for (hold, silent, unanswered, expired) in [
        (9, 9_000, 0, true),
        (9, 6_000, 0, true),
        (9, 5_000, 3, false),
        (240, 9_000, 5, false),
        (0, 9_000, 5, false),
    ] {
        let mut evidence = ended(Way::FinSent, &[]);
        if let Some(end) = &mut evidence.end {
            end.hold = Some(Duration::from_secs(hold));
            end.silent = Duration::from_millis(silent);
            end.unanswered = unanswered;
        }
        let verdict = evidence.conclude(&Speakers::default(), WAIT);
        let found = matches!(verdict.cause, Cause::HoldTimerExpired { told_by: None, .. });
        assert_eq!(found, expired, "hold {hold}, silent {silent}");
    }
}

#[test]
fn a_hold_timer_that_ends_in_a_reset_is_a_hold_timer_too() {
    let mut evidence = ended(Way::Closed, &[Clue::ResetSent]);
    if let Some(end) = &mut evidence.end {
        end.silent = Duration::from_secs(9);
        end.unanswered = 3;
    }
    let verdict = evidence.conclude(&Speakers::default(), WAIT);
    assert!(matches!(verdict.cause, Cause::HoldTimerExpired { .. }));
    assert_eq!(
        verdict.evidence,
        [
            "RST sent",
            "nothing received for 9.0 s",
            "3 retransmissions unanswered"
        ]
    );
}

#[test]
fn a_dead_speaker_outranks_the_inferred_hold_timer_but_not_a_received_reset() {
    let mut speakers = Speakers::default();
    let killed = Signal {
        number: 9,
        sender: None,
    };
    speakers.signal(AT, &bird(), killed);
    speakers.exit(AT, &bird(), None, Some(9));
    let mut evidence = ended(Way::FinSent, &[]);
    if let Some(end) = &mut evidence.end {
        end.silent = Duration::from_secs(9);
        end.unanswered = 3;
        end.process = Some(bird());
        end.by_call = true;
    }
    let verdict = evidence.conclude(&speakers, WAIT);
    assert!(matches!(verdict.cause, Cause::LocalSpeakerGone { .. }));
    assert!(verdict.settled);
    let reset = ended(Way::Closed, &[Clue::ResetReceived]).conclude(&speakers, WAIT);
    assert_eq!(reset.cause, Cause::ResetReceived);
}

#[test]
fn clues_long_before_the_end_are_no_cause_of_it() {
    let mut evidence = Evidence::default();
    evidence.add(AT.before(Duration::from_secs(1)), Clue::ResetReceived);
    evidence.end = ended(Way::Closed, &[]).end;
    let verdict = evidence.conclude(&Speakers::default(), WAIT);
    assert_eq!(verdict.cause, Cause::Unknown);
}

#[test]
fn failed_attempts_are_named_as_an_operator_would() {
    use Clue::{Error, ResetReceived, ResetSent};
    for (way, clues, connected, words) in [
        (
            Way::Closed,
            &[ResetReceived][..],
            false,
            "connection refused",
        ),
        (
            Way::Closed,
            &[ResetReceived, Error(111)],
            false,
            "connection refused",
        ),
        (Way::Closed, &[Error(110)], false, "timed out (ETIMEDOUT)"),
        (
            Way::Closed,
            &[Error(113)],
            false,
            "no route to host (EHOSTUNREACH)",
        ),
        (
            Way::Closed,
            &[],
            false,
            "no answer until the local speaker gave up",
        ),
        (
            Way::FinReceived,
            &[],
            true,
            "closed by the peer before Established (FIN received)",
        ),
        (
            Way::Closed,
            &[ResetSent, Error(103)],
            true,
            "reset by this node before Established (RST sent)",
        ),
    ] {
        assert_eq!(ended(way, clues).failure(WAIT).words(connected), words);
    }
}

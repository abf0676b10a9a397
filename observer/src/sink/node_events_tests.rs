use observer_core::incident::record::Verdict;

use super::*;
use crate::testing::{incident, noon};

fn own(id: &str) -> Incident {
    let mut own = incident(id, "10.0.0.1");
    own.subject.kind = SubjectKind::Local;
    own.cause = "local bird (pid 7) ended".to_owned();
    own
}

fn lost(peer: &str) -> SessionLoss {
    SessionLoss {
        peer: peer.to_owned(),
        flap: None,
        down_at: noon(),
        up_at: None,
        cause: String::new(),
    }
}

fn opened(incident: Incident) -> Change {
    Change::IncidentOpened {
        incident: Box::new(incident),
    }
}

fn closed(mut incident: Incident) -> Change {
    incident.closed_at = Some(noon() + Duration::from_secs(5));
    Change::IncidentClosed {
        incident: Box::new(incident),
    }
}

fn of(id: &str, over: bool) -> Telling {
    let change = if over {
        closed(own(id))
    } else {
        opened(own(id))
    };
    telling(&change).unwrap()
}

const fn second(number: u64) -> Timestamp {
    Timestamp::from_nanos(number * 1_000_000_000)
}

/// All that may be told at a moment: the incident and how many others it stands for.
fn told(backlog: &mut Backlog, now: u64) -> Vec<(String, u64)> {
    let mut told = Vec::new();
    while let Some((waiting, _)) = backlog.next(second(now)) {
        told.push((waiting.telling.incident, waiting.others));
    }
    told
}

#[test]
fn only_the_subject_s_own_agent_tells_and_only_beginning_and_end() {
    for kind in [SubjectKind::Peer, SubjectKind::RouteReflector] {
        let mut of_another = own("1");
        of_another.subject.kind = kind;
        assert_eq!(telling(&opened(of_another.clone())), None, "{kind:?}");
        assert_eq!(telling(&closed(of_another)), None, "{kind:?}");
    }
    let news = Change::IncidentUpdated {
        incident: Box::new(own("1")),
    };
    assert_eq!(telling(&news), None);
    let begun = telling(&opened(own("1"))).unwrap();
    assert_eq!((begun.node.as_str(), begun.at), ("a", noon()));
    let ended = telling(&closed(own("1"))).unwrap();
    assert_eq!(ended.at, noon() + Duration::from_secs(5));
}

#[test]
fn the_reason_is_of_a_closed_set() {
    type Edit = fn(&mut Incident);
    let cases: [(bool, Edit, &str, &str); 7] = [
        (
            false,
            |one| one.cause_label = Some("local_speaker_gone".to_owned()),
            "BgpSpeakerGone",
            "Warning",
        ),
        (
            false,
            |one| one.sessions.push(lost("10.0.0.2")),
            "BgpSessionsLost",
            "Warning",
        ),
        (
            false,
            |one| one.prefixes.lost = 1,
            "BgpRoutesLost",
            "Warning",
        ),
        (false, |_| {}, "BgpIncident", "Warning"),
        (true, |one| one.prefixes.lost = 1, "BgpRecovered", "Normal"),
        (
            true,
            |one| one.prefixes.still_gone = 1,
            "BgpNotRecovered",
            "Warning",
        ),
        (
            true,
            |one| one.sessions.push(lost("10.0.0.2")),
            "BgpNotRecovered",
            "Warning",
        ),
    ];
    for (over, edit, reason, severity) in cases {
        let mut incident = own("1");
        edit(&mut incident);
        let change = if over {
            closed(incident)
        } else {
            opened(incident)
        };
        let told = telling(&change).unwrap();
        assert_eq!(
            (told.reason.name(), told.reason.severity()),
            (reason, severity)
        );
    }
}

#[test]
fn the_text_says_what_an_operator_wants_to_know() {
    let mut incident = own("20261125T120000-a");
    incident.sessions = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]
        .map(lost)
        .into();
    incident.next_check = "who stopped BIRD?".to_owned();
    let note = |change: &Change| {
        let mut backlog = Backlog::default();
        backlog.take(second(0), telling(change).unwrap());
        backlog.next(second(0)).unwrap().0.note()
    };
    assert_eq!(
        note(&opened(incident.clone())),
        "BGP incident 20261125T120000-a: local bird (pid 7) ended. Sessions lost: 4 (10.0.0.2, 10.0.0.3, \
         10.0.0.4, …). Look at next: who stopped BIRD?"
    );
    incident.verdict = Verdict::RoutesLost;
    incident.sessions.truncate(2);
    incident.sessions[0].up_at = Some(noon());
    incident.prefixes.lost = 3;
    incident.prefixes.still_gone = 1;
    assert_eq!(
        note(&closed(incident)),
        "BGP incident 20261125T120000-a is over after 5.0 s: routes were gone. Cause: local bird (pid 7) \
         ended. Sessions lost: 2 (10.0.0.2, 10.0.0.3), 1 still down. Routes lost: 3, 1 still gone."
    );
}

#[test]
fn what_a_peer_wrote_is_escaped_and_the_text_bounded() {
    let mut incident = own("1");
    incident.cause = format!("peer sent '\u{1b}[2J{}'", "ä".repeat(2_000));
    let mut backlog = Backlog::default();
    backlog.take(second(0), telling(&opened(incident)).unwrap());
    let (mut waiting, _) = backlog.next(second(0)).unwrap();
    waiting.others = 7;
    let note = waiting.note();
    assert!(
        note.len() <= NOTE && note.len() > NOTE - 8,
        "{}",
        note.len()
    );
    assert!(
        !note.contains('\u{1b}') && note.contains("\\u{1b}"),
        "{note}"
    );
    assert!(note.contains("… 7 more not told here"), "{note}");
}

#[test]
fn an_end_takes_the_place_of_a_beginning_that_was_not_told() {
    let mut backlog = Backlog::default();
    assert_eq!(backlog.take(second(0), of("1", false)), 0);
    assert_eq!(backlog.take(second(1), of("1", true)), 1);
    let (waiting, merged) = backlog.next(second(1)).unwrap();
    assert_eq!((waiting.telling.reason, merged), (Reason::Recovered, 0));
    assert_eq!(backlog.next(second(1)), None);
    assert_eq!(backlog.due(), None);
}

#[test]
fn a_node_that_flaps_is_told_of_a_bounded_number_of_times_and_what_is_left_out_is_counted() {
    let mut backlog = Backlog::default();
    let (mut events, mut stood_for, mut merged) = (Vec::new(), 0, 0);
    // An incident each ten seconds for three hours, each over after five.
    for now in (0..3 * 3_600).step_by(5) {
        let telling = of(&(now / 10).to_string(), now % 10 != 0);
        merged += backlog.take(second(now), telling);
        while let Some((waiting, more)) = backlog.next(second(now)) {
            merged += more;
            stood_for += waiting.others;
            events.push(now);
        }
    }
    for (number, at) in events.iter().enumerate() {
        let lately = |window: u64| {
            { events[..=number].iter() }
                .filter(|other| at - **other < window)
                .count()
        };
        assert!(
            lately(60) <= 2 && lately(3_600) <= 20,
            "at {at}: {events:?}"
        );
    }
    assert_eq!(events.len(), 60, "{events:?}");
    let waiting = &backlog.0["a"].waiting;
    let waits = u64::try_from(waiting.len()).unwrap();
    let told = u64::try_from(events.len()).unwrap();
    assert_eq!(told + merged + waits, 2 * 3 * 360, "each is accounted for");
    // And an Event says so, or will.
    let will_stand_for: u64 = waiting.iter().map(|one| one.others).sum();
    let known = told + stood_for + waits + will_stand_for;
    assert!(known >= 3 * 360, "{known}");
}

#[test]
fn more_than_may_be_told_are_told_as_one_that_goes_on() {
    let mut backlog = Backlog::default();
    for (id, over) in [("1", true), ("2", false), ("3", true)] {
        backlog.take(second(0), of(id, over));
    }
    assert_eq!(told(&mut backlog, 0), [("2".to_owned(), 2)]);
    // Others nodes have their own measure.
    let mut elsewhere = of("4", false);
    elsewhere.node = "b".to_owned();
    backlog.take(second(1), elsewhere);
    assert_eq!(told(&mut backlog, 1), [("4".to_owned(), 0)]);
    for id in ["5", "6", "7"] {
        backlog.take(second(2), of(id, false));
    }
    assert_eq!(told(&mut backlog, 2), [("7".to_owned(), 2)]);
    backlog.take(second(3), of("8", false));
    assert_eq!(told(&mut backlog, 3), []);
    assert_eq!(backlog.due(), Some(second(60)));
    assert_eq!(told(&mut backlog, 59), []);
    assert_eq!(told(&mut backlog, 60), [("8".to_owned(), 0)]);
}

#[test]
fn what_waits_is_bounded() {
    let mut backlog = Backlog::default();
    let all = WAITING + 10;
    let merged: u64 = { 0..all }
        .map(|id| backlog.take(second(0), of(&id.to_string(), false)))
        .sum();
    assert_eq!((merged, backlog.0["a"].waiting.len()), (10, WAITING));
    let rest = u64::try_from(all).unwrap() - 1;
    assert_eq!(told(&mut backlog, 0), [((all - 1).to_string(), rest)]);
}

#[test]
fn what_the_api_did_not_take_is_told_later_or_given_up_after_an_hour() {
    let mut backlog = Backlog::default();
    backlog.take(second(0), of("1", false));
    // What was not told leaves room: however often it is tried, it may be told at once.
    let mut last = None;
    for at in 0..10 {
        let (waiting, _) = backlog.next(second(at)).unwrap();
        assert!(backlog.put_back(second(at), waiting.clone()));
        assert_eq!(backlog.due(), Some(Timestamp::default()));
        last = Some(waiting);
    }
    // What came to be known meanwhile is told instead.
    backlog.take(second(21), of("1", true));
    let (later, _) = backlog.next(second(25)).unwrap();
    assert_eq!(later.telling.reason, Reason::Recovered);
    assert!(!backlog.put_back(second(3_600), later));
    assert_eq!(backlog.due(), None);
    assert!(backlog.put_back(second(3_599), last.unwrap()));
}

#[test]
fn a_full_queue_costs_a_count_and_no_time() {
    let counts = fates();
    let (announcer, tellings) = queue(&counts);
    for id in 0..QUEUE + 3 {
        announcer.offer(&opened(own(&id.to_string())));
    }
    assert!(counts.shown().contains(&("dropped", 3)), "{counts:?}");
    drop(tellings);
    announcer.offer(&opened(own("last")));
    assert!(counts.shown().contains(&("dropped", 4)), "{counts:?}");
}

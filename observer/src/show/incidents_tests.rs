use observer_core::incident::record::{
    AffectedPod, AffectedPods, DroppedPackets, ImpactRow, LostPrefix, LostPrefixes, MilestoneKind,
    SessionLoss,
};

use super::*;
use crate::testing::{incident, noon};

fn restart() -> Incident {
    let at = |millis: i64| noon() + jiff::SignedDuration::from_millis(millis);
    let milestone = |kind, from, to, what: &str| Milestone {
        kind,
        earliest: at(from),
        latest: at(to),
        what: what.to_owned(),
        evidence: "the test".to_owned(),
    };
    Incident {
        closed_at: Some(at(7_200)),
        verdict: Verdict::ReachabilityLost,
        proof: Proof::Proven,
        cause: "peer sent Cease/Administrative Shutdown".to_owned(),
        sessions: vec![SessionLoss {
            peer: "10.0.0.2".to_owned(),
            flap: Some(1),
            down_at: at(0),
            up_at: Some(at(4_600)),
            cause: "peer sent Cease/Administrative Shutdown".to_owned(),
        }],
        milestones: vec![
            milestone(
                MilestoneKind::SessionDown,
                0,
                0,
                "session with 10.0.0.2 down",
            ),
            milestone(
                MilestoneKind::ReachableAgain,
                7_000,
                7_200,
                "10.244.2.2 answers again",
            ),
        ],
        prefixes: LostPrefixes {
            brief: 0,
            lost: 1,
            still_gone: 0,
            by_owner: [("bird".to_owned(), 1)].into(),
            deleted_by: [("bird (pid 40)".to_owned(), 1)].into(),
            by_node: [("b".to_owned(), 1)].into(),
            listed: vec![LostPrefix {
                prefix: "10.244.2.0/26".to_owned(),
                node: Some("b".to_owned()),
                peers: vec!["10.0.0.2".to_owned()],
                how: "absent".to_owned(),
                deleted_by: "bird (pid 40)".to_owned(),
                gap_seconds: Some(7.0),
            }],
        },
        pods: Some(AffectedPods {
            count: 1,
            workloads: [("shop/Deployment/web".to_owned(), 1)].into(),
            listed: vec![AffectedPod {
                pod: "shop/web-7d9-x2".to_owned(),
                node: "b".to_owned(),
                addresses: vec!["10.244.2.7".parse().unwrap()],
            }],
            missing: Some("those of 3 further nodes were not asked for".to_owned()),
        }),
        route_gap_seconds: Some(Span {
            min: 7.0,
            max: Some(7.0),
        }),
        dropped: vec![DroppedPackets {
            prefix: "10.244.2.0/26".to_owned(),
            reason: "no route".to_owned(),
            packets: 40,
            first: at(100),
            last: at(6_900),
        }],
        unanswered: vec![DroppedPackets {
            prefix: "10.244.2.0/26".to_owned(),
            reason: "TCP sent it again".to_owned(),
            packets: 3,
            first: at(300),
            last: at(1_300),
        }],
        unreachable_seconds: Some(Span {
            min: 6.8,
            max: Some(7.2),
        }),
        impact: vec![ImpactRow {
            traffic: "this node -> pods on b".to_owned(),
            affected: Affected::Yes,
            reason: "targets that had answered did not".to_owned(),
        }],
        rests_on: "1 routes gone".to_owned(),
        would_change: "answers".to_owned(),
        next_check: "who stopped BIRD?".to_owned(),
        ..incident("20260102T030405.000000-a", "10.0.0.2")
    }
}

#[test]
fn an_incident_is_a_story_that_a_stranger_can_read() {
    let shown = story(&restart());
    for part in [
        "Incident 20260102T030405.000000-a, over",
        "To whom       10.0.0.2",
        "reachability_lost: pods could not be reached; proven",
        "1 lost (1 of bird), all back; from the first gone to the last back 7.0 s",
        "Unreachable   6.8 s to 7.2 s; 40 packets dropped on this node",
        "| 10.244.2.0/26    | 40      | no route | 6.8 s |",
        "| 10.244.2.0/26        | 3     | TCP sent it again | 1.0 s |",
        "| +0.000 s ",
        "| +7.200 s (or up to 200.0 ms before) | 03:04:12.200 |",
        "| 10.244.2.0/26 | b    | 10.0.0.2 | absent | 7.0 s    | bird (pid 40) |",
        "1 pods of shop/Deployment/web (1)",
        "| shop/web-7d9-x2 | b    | 10.244.2.7 |",
        "Pods are missing: those of 3 further nodes",
        "| this node -> pods on b | yes ",
        "Look at next  who stopped BIRD?",
    ] {
        assert!(shown.contains(part), "no '{part}' in\n{shown}");
    }
    assert!(
        shown.lines().all(|line| line.chars().count() < 160),
        "{shown}"
    );
}

#[test]
fn what_goes_on_says_so() {
    let mut open = restart();
    open.closed_at = None;
    open.unreachable_seconds = Some(Span {
        min: 6.8,
        max: None,
    });
    open.prefixes.still_gone = 1;
    let shown = story(&open);
    assert!(shown.contains("still open"), "{shown}");
    assert!(shown.contains("at least 6.8 s, going on"), "{shown}");
    assert!(shown.contains("1 still gone"), "{shown}");
}

#[test]
fn routes_that_were_gone_briefly_are_told_apart_and_what_is_waited_for_has_an_end() {
    let mut brief = restart();
    (brief.prefixes.lost, brief.prefixes.brief) = (0, 1);
    let shown = story(&brief);
    let words = "none lost, 1 gone for no longer than the gap threshold";
    assert!(shown.contains(words), "{shown}");
    let mut waits = restart();
    waits.closed_at = None;
    waits.prefixes.still_gone = 1;
    waits.routes_by = "2026-01-02T03:08:05Z".parse().ok();
    let shown = story(&waits).replace("\n                ", " ");
    let words = "if BIRD waits for peers that are away, back by 03:08:05 UTC";
    assert!(shown.contains(words), "{shown}");
}

#[test]
fn the_list_has_one_line_each() {
    let shown = lines(&[restart(), incident("20260102T030406.000000-a", "10.0.0.3")]);
    assert!(
        shown.contains("| 7.2 s  | reachability lost | proven   | 1      | 6.8 s to 7.2 s |"),
        "{shown}"
    );
    assert!(shown.contains("| open   | no impact"), "{shown}");
}

#[test]
fn the_own_restart_is_told_as_one_direction() {
    let mut own = restart();
    own.subject.kind = SubjectKind::Local;
    own.cause_label = Some("local_speaker_gone".to_owned());
    own.verdict = Verdict::NoImpact;
    own.unreachable_seconds = Some(Span {
        min: 0.0,
        max: Some(0.0),
    });
    let listed = lines(&[own.clone()]);
    assert!(listed.contains("| no impact from here |"), "{listed}");
    assert!(listed.contains("| never from here |"), "{listed}");
    let told = story(&own);
    assert!(
        told.contains("no_impact for what this node could reach"),
        "{told}"
    );
    assert!(told.contains("not observable from this node"), "{told}");
}

#[test]
fn names_from_outside_cannot_move_the_cursor() {
    let mut odd = restart();
    odd.cause = "\x1b[2J".to_owned();
    odd.note = Some("a\nb\r".to_owned());
    odd.subject.name = Some("\u{202e}x".to_owned());
    if let Some(pods) = &mut odd.pods {
        pods.workloads.insert("\x1b[1m".to_owned(), 1);
        pods.listed[0].pod = "\x1b[2J".to_owned();
        pods.missing = Some("\r".to_owned());
    }
    let shown = format!("{}{}", story(&odd), lines(&[odd.clone()]));
    assert!(!shown.contains(['\x1b', '\r', '\u{202e}']), "{shown:?}");
}

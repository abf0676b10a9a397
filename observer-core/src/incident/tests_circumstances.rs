//! What Kubernetes says of an incident's node: when it is asked, and what of it belongs to the story.

use super::{record::Incident, testing::*};
use crate::{
    config::CoreConfig,
    event::{
        Fact, TcpState,
        circumstances::{Circumstances, ContainerEnd, NodeCondition, SpeakerPod},
    },
    testing::{PEER, bird, outbound},
    testing_wire::{Talk, notification},
};

fn story(kubernetes: bool) -> (Story, Talk) {
    let mut story = Story::configured(CoreConfig {
        kubernetes,
        ..CoreConfig::default()
    });
    story.inventory("n2");
    let talk = story.begin();
    (story, talk)
}

/// n2 takes its leave and is back.
fn restart(story: &mut Story, talk: &mut Talk) -> Incident {
    talk.says(&mut story.scene, false, &notification(6, 2, ""));
    talk.peer_closes(&mut story.scene);
    story.pass(2_000);
    story.session(2);
    story.closed()
}

fn told(begun: jiff::Timestamp) -> Circumstances {
    let at = |seconds: i64| {
        let seconds = jiff::SignedDuration::from_secs(seconds);
        Some(begun.checked_add(seconds).unwrap())
    };
    Circumstances {
        node: Some(NodeCondition {
            name: "n2".to_owned(),
            cordoned: true,
            ready: Some(true),
            reason: Some("KubeletReady".to_owned()),
            since: at(-86_400),
        }),
        speakers: vec![SpeakerPod {
            pod: "calico-system/calico-node-x".to_owned(),
            made_at: at(-3_600),
            restarts: 3,
            started_at: at(1),
            last_end: Some(ContainerEnd {
                reason: Some("OOMKilled".to_owned()),
                exit_code: 137,
                at: at(0),
            }),
            ..SpeakerPod::default()
        }],
        missing: None,
    }
}

fn remarks(incident: &Incident) -> Vec<&str> {
    let all = incident.milestones.iter();
    all.filter(|milestone| milestone.evidence.starts_with("Kubernetes"))
        .map(|milestone| milestone.what.as_str())
        .collect()
}

#[test]
fn the_node_of_an_incident_is_asked_about_when_it_is_told_and_when_it_is_over() {
    let (mut story, mut talk) = story(true);
    let incident = restart(&mut story, &mut talk);
    let asked = (incident.id.clone(), "n2".to_owned());
    assert_eq!(story.asked, [asked.clone(), asked]);
    let (mut without, mut talk) = self::story(false);
    restart(&mut without, &mut talk);
    assert_eq!(without.asked, []);
}

#[test]
fn what_came_to_pass_about_then_is_in_the_timeline_and_what_is_old_is_not() {
    let (mut story, mut talk) = story(true);
    let incident = restart(&mut story, &mut talk);
    let answer = |story: &mut Story, told: &Circumstances| {
        story.scene.tell(Fact::Circumstances {
            incident: incident.id.clone(),
            told: told.clone(),
        });
        story.all().pop().unwrap()
    };
    let told = told(incident.opened_at);
    let record = answer(&mut story, &told);
    assert_eq!(
        remarks(&record),
        [
            "container of calico-system/calico-node-x ended: OOMKilled (exit code 137)",
            "container of calico-system/calico-node-x started, restart 3",
        ]
    );
    assert_eq!(record.circumstances.as_ref(), Some(&told));

    // The same again is no news; an answer that is missing takes nothing away.
    let again = answer(&mut story, &told);
    assert_eq!(again, record);
    let silent = Circumstances {
        missing: Some("no answer".to_owned()),
        ..Circumstances::default()
    };
    assert_eq!(answer(&mut story, &silent), record);

    // What is newer replaces it.
    let mut newer = told.clone();
    newer.speakers.clear();
    assert_eq!(remarks(&answer(&mut story, &newer)), [""; 0]);
}

#[test]
fn of_its_own_restart_a_node_asks_about_itself() {
    let (mut story, _talk) = story(true);
    story.speaker_ends(Some(9));
    let (from, to) = (TcpState::Established, TcpState::FinWait1);
    story
        .scene
        .state_by(outbound(1, PEER), from, to, Some(bird()));
    story.pass(3_000);
    let incident = story.all().pop().unwrap();
    assert_eq!(story.asked, [(incident.id, incident.node)]);
}

//! How an incident's node fared in Kubernetes' eyes, in one line.

use observer_core::{
    event::circumstances::{Circumstances, NodeCondition, SpeakerPod},
    incident::{Incident, circumstances},
};

use super::words;
use crate::terminal::plain;

/// What Kubernetes said of the node of `incident`, if it was asked and answered.
pub fn of(incident: &Incident) -> Option<String> {
    let told = incident.circumstances.as_ref()?;
    let Circumstances {
        node,
        speakers,
        missing,
    } = told;
    let node = node.iter().map(condition);
    let said = node.chain(speakers.iter().map(speaker));
    let said: Vec<String> = said.chain(missing.clone()).collect();
    Some(plain(&said.join("; ")))
}

fn condition(node: &NodeCondition) -> String {
    let ready = match node.ready {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "of unknown readiness",
    };
    let reason = node.reason.as_ref().filter(|_| node.ready != Some(true));
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let since = node.since.filter(|_| node.ready != Some(true));
    let since = since.map_or_else(String::new, |at| format!(" since {}", words::moment(at)));
    let cordoned = if node.cordoned { ", cordoned" } else { "" };
    format!("{} is {ready}{reason}{since}{cordoned}", node.name)
}

fn speaker(pod: &SpeakerPod) -> String {
    let restarts = match pod.restarts {
        0 => "never restarted".to_owned(),
        1 => "restarted once".to_owned(),
        times => format!("restarted {times} times"),
    };
    let end = pod.last_end.as_ref().map_or_else(String::new, |end| {
        let at = end
            .at
            .map_or_else(String::new, |at| format!(" at {}", words::moment(at)));
        format!(", the last end{at} was {}", circumstances::words(end))
    });
    let state = match &pod.waiting {
        Some(why) => format!(", does not run: {why}"),
        None if pod.leaving => ", is being deleted".to_owned(),
        None if pod.ready => String::new(),
        None => ", is not ready".to_owned(),
    };
    let revision = pod
        .revision
        .as_deref()
        .map_or_else(String::new, |revision| format!(", of revision {revision}"));
    format!("{} {restarts}{end}{state}{revision}", pod.pod)
}

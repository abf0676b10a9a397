//! How the node of an incident fared in Kubernetes' eyes: asked when the incident is told, and again
//! when it is over, for a kubelet tells of a restart only when the container runs again.

use std::time::Duration;

use super::{
    Incidents, milestones,
    record::{Incident, Milestone, MilestoneKind},
};
use crate::{
    change::{Output, Request},
    event::circumstances::{Circumstances, ContainerEnd},
    turn::Turn,
};

/// Who says so.
const EVIDENCE: &str = "Kubernetes' API (whole seconds, the kubelet's clock)";
/// What came to pass longer before the incident has nothing to do with it.
const LOOK_BACK: Duration = Duration::from_mins(2);

impl Incidents {
    /// Asks once for an incident that was told.
    pub(super) fn ask_for_circumstances(&mut self, turn: &mut Turn<'_>, number: u64) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if open.told && !open.circumstances_asked {
            open.circumstances_asked = true;
            ask(turn, &open.record);
        }
    }

    /// The answer came, in time or after the incident was over.
    pub fn circumstances_told(&mut self, turn: &mut Turn<'_>, id: &str, told: &Circumstances) {
        self.write_down(turn, id, |mut named| take(named.record(), told));
    }
}

/// Asks for the node that an incident happened to, where it has a name.
pub(super) fn ask(turn: &mut Turn<'_>, record: &Incident) {
    if let Some(node) = record
        .subject
        .name
        .clone()
        .filter(|_| turn.config.kubernetes)
    {
        let incident = record.id.clone();
        turn.out.push(Output::Request(Request::AskCircumstances {
            incident,
            node,
        }));
    }
}

/// Takes an answer in; whether it says anything that the last one did not.
fn take(record: &mut Incident, told: &Circumstances) -> bool {
    let known = record.circumstances.as_ref();
    let nothing = *told == Circumstances::default();
    // An answer that is missing does not make untrue what was answered before.
    let worse = told.missing.is_some() && known.is_some_and(|known| known.missing.is_none());
    if nothing || worse || known == Some(told) {
        return false;
    }
    record
        .milestones
        .retain(|milestone| milestone.evidence != EVIDENCE);
    let from = record.opened_at.saturating_sub(LOOK_BACK);
    let from = from.unwrap_or(record.opened_at);
    for (at, what) in marks(told).into_iter().filter(|(at, _)| *at >= from) {
        let milestone = Milestone {
            kind: MilestoneKind::Remark,
            earliest: at,
            latest: at.saturating_add(Duration::from_secs(1)).unwrap_or(at),
            what,
            evidence: EVIDENCE.to_owned(),
        };
        milestones::insert(record, milestone);
    }
    record.circumstances = Some(told.clone());
    true
}

/// All that has a moment.
fn marks(told: &Circumstances) -> Vec<(jiff::Timestamp, String)> {
    let mut marks = Vec::new();
    let mut mark = |at: Option<jiff::Timestamp>, what: String| {
        marks.extend(at.map(|at| (at, what)));
    };
    if let Some(node) = &told.node {
        let became = if node.ready == Some(true) {
            "Ready"
        } else {
            "NotReady"
        };
        let why = node.reason.as_deref();
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        mark(node.since, format!("{} became {became}{why}", node.name));
    }
    for speaker in &told.speakers {
        let pod = &speaker.pod;
        let revision = speaker.revision.as_deref().unwrap_or("unknown");
        mark(
            speaker.made_at,
            format!("pod {pod} made, of revision {revision}: no crash, somebody replaced it"),
        );
        mark(
            speaker.started_at,
            format!("container of {pod} started, restart {}", speaker.restarts),
        );
        if let Some(end) = &speaker.last_end {
            mark(end.at, format!("container of {pod} ended: {}", words(end)));
        }
    }
    marks
}

/// `OOMKilled (exit code 137)`.
pub fn words(end: &ContainerEnd) -> String {
    let reason = end.reason.as_deref().unwrap_or("no reason told");
    format!("{reason} (exit code {})", end.exit_code)
}

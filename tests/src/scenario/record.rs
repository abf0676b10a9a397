//! What the incident of each witness must say.

use nix::sys::signal::Signal;
use observer_core::incident::{
    Incident,
    record::{SubjectKind, Verdict},
};

use super::{Cast, Session, cast::session};
use crate::rights::Overlay;

/// Packets were lost, whether or not a probe was there to prove it.
pub(super) const LOSS: &[Verdict] = &[Verdict::RoutesLost, Verdict::ReachabilityLost];

/// One incident of one witness.
#[derive(Clone, Debug)]
pub struct ExpectedIncident {
    /// Who saw it, and to whom it happened.
    pub session: Session,
    /// Verdicts that are right; any when there is none.
    pub verdicts: &'static [Verdict],
    /// Words that the cause must say.
    pub words: &'static str,
    /// Prefixes that must have been lost, where that does not depend on who is quicker.
    pub lost: Option<u64>,
    /// It must be over.
    pub over: bool,
    /// What kind of subject it is.
    pub kind: SubjectKind,
    /// Words by which it must say what could not be seen.
    pub unseen: Option<&'static str>,
}

impl ExpectedIncident {
    /// What is not as expected of `incidents`, in words.
    pub fn differences(&self, incidents: &[Incident]) -> Vec<String> {
        let Self { session, words, .. } = self;
        let of = |incident: &&Incident| {
            incident.node == session.node && incident.subject.identity == session.peer
        };
        let mine: Vec<&Incident> = incidents.iter().filter(of).collect();
        let [incident] = mine[..] else {
            return vec![format!(
                "{session}: one incident expected, there are {}",
                mine.len()
            )];
        };
        let mut differences = Vec::new();
        let verdict = incident.verdict;
        if !self.verdicts.is_empty() && !self.verdicts.contains(&verdict) {
            let names: Vec<&str> = self.verdicts.iter().map(|one| one.name()).collect();
            differences.push(format!(
                "{session}: the verdict should be {}, is {}: {}",
                names.join(" or "),
                verdict.name(),
                incident.rests_on
            ));
        }
        if incident.subject.kind != self.kind {
            differences.push(format!(
                "{session}: it should have happened to a {:?}: {:?}",
                self.kind, incident.subject
            ));
        }
        if !incident.cause.contains(words) {
            differences.push(format!(
                "{session}: the incident's cause should name `{words}`, says `{}`",
                incident.cause
            ));
        }
        if self.lost.is_some_and(|lost| incident.prefixes.lost != lost) {
            differences.push(format!(
                "{session}: {:?} lost prefixes expected: {:?}",
                self.lost, incident.prefixes
            ));
        }
        let missing = &incident.evidence.missing;
        if let Some(unseen) = self.unseen
            && !missing.iter().any(|line| line.contains(unseen))
        {
            differences.push(format!(
                "{session}: it should say that it could not see `{unseen}`: {missing:?}"
            ));
        }
        if self.over && incident.closed_at.is_none() {
            differences.push(format!("{session}: its incident should be over"));
        }
        differences
    }
}

impl Cast<'_> {
    /// Every other node that runs BIRD as the victim does, whose routes are watched, records what
    /// happened to the victim.
    pub(super) fn others_record(
        &self,
        verdicts: &'static [Verdict],
        words: &'static str,
        lost: Option<u64>,
    ) -> Vec<ExpectedIncident> {
        let bird =
            |node: &&&crate::lab::Node| node.speaker.is_bird() && self.victim.speaker.is_bird();
        let nodes = self.others.iter().filter(bird);
        nodes
            .map(|node| ExpectedIncident {
                session: session(node, self.victim),
                verdicts,
                words,
                lost,
                over: true,
                kind: if self.victim.reflects {
                    SubjectKind::RouteReflector
                } else {
                    SubjectKind::Peer
                },
                // rtnetlink names nobody.
                unseen: (self.overlay == Overlay::Base && lost.is_some_and(|lost| lost > 0))
                    .then_some("who removed routes"),
            })
            .collect()
    }

    /// The victim records one incident of its own, however many sessions it cost.
    pub(super) fn victim_records_itself(&self, words: &'static str) -> ExpectedIncident {
        ExpectedIncident {
            session: session(self.victim, self.victim),
            verdicts: &[],
            words,
            lost: None,
            over: true,
            kind: SubjectKind::Local,
            unseen: None,
        }
    }

    /// The same of the end of its speaker by `signal`. Who sees no process sees that all its sessions fell
    /// at once.
    pub(super) fn victim_records_its_end(&self, signal: Signal) -> ExpectedIncident {
        match self.overlay {
            Overlay::Ebpf if signal == Signal::SIGKILL => self.victim_records_itself("SIGKILL"),
            Overlay::Ebpf => self.victim_records_itself("SIGTERM"),
            Overlay::Base => ExpectedIncident {
                unseen: Some("this node's BGP daemon is not seen"),
                ..self.victim_records_itself("sessions fell at once, so look at this node")
            },
        }
    }

    /// The victim records one loss of its own, towards every other node.
    pub(super) fn victim_loses(&self, words: &'static str) -> ExpectedIncident {
        ExpectedIncident {
            verdicts: LOSS,
            lost: Some(u64::try_from(self.others.len()).unwrap_or(u64::MAX)),
            ..self.victim_records_itself(words)
        }
    }
}

//! What must follow from a scenario, and what of it did not.

use std::time::Duration;

use observer_core::{
    cause::Cause,
    peer::{Flap, PeerView},
    words::describe,
};

use super::{ExpectedIncident, ExpectedLoss, Session};
use crate::agent::Told;

/// What must follow. Sessions that are not named must stay up and count no flap.
#[derive(Debug, Default)]
pub struct Expected {
    /// Sessions that fall, each as often as it is named.
    pub flaps: Vec<ExpectedFlap>,
    /// Whether they come back; those that do not must show down.
    pub recovers: bool,
    /// Sessions that cannot be built up, and a word of why that must be told.
    pub failures: Vec<(Session, &'static str)>,
    /// Sessions whose routes are kept as stale, and the course that takes.
    pub restarts: Vec<(Session, &'static [&'static str])>,
    /// Sessions that stay down though the others come back.
    pub stay_down: Vec<Session>,
    /// Changes that must be told: by which node, and words of them.
    pub told: Vec<(&'static str, String)>,
    /// There must be no incident.
    pub quiet: bool,
    /// What the incidents must say.
    pub incidents: Vec<ExpectedIncident>,
    /// What pods suffer, and what the incidents must say of it; none where it is not measured.
    pub loss: Option<ExpectedLoss>,
    /// How long the agent is watched when nothing is to follow.
    pub calm: Duration,
}

/// A session that falls.
#[derive(Clone, Debug)]
pub struct ExpectedFlap {
    /// Which.
    pub session: Session,
    /// Causes that are right, as labels.
    pub causes: &'static [&'static str],
    /// Words that the cause must say.
    pub words: Vec<&'static str>,
    /// Words by which its evidence must say what is not seen.
    pub unseen: Option<&'static str>,
}

impl Expected {
    /// How often a session falls.
    fn falls(&self, session: &Session) -> usize {
        let all = self.flaps.iter();
        all.filter(|flap| flap.session == *session).count()
    }

    /// Whether all expected flaps are recorded.
    pub fn fallen(&self, flaps: &[Flap]) -> bool {
        self.flaps.iter().all(|ExpectedFlap { session, .. }| {
            flaps.iter().filter(|flap| session.is(flap)).count() >= self.falls(session)
        })
    }

    /// Whether all expected flaps are over.
    pub fn risen(&self, flaps: &[Flap]) -> bool {
        self.flaps.iter().all(|ExpectedFlap { session, .. }| {
            let over = |flap: &&Flap| session.is(flap) && flap.up_at.is_some();
            self.stay_down.contains(session)
                || flaps.iter().filter(over).count() >= self.falls(session)
        })
    }

    /// What is not as expected, in words; `before` are the peers before the first step, `flaps`
    /// those recorded since, `told` the changes.
    pub fn differences(
        &self,
        before: &[PeerView],
        after: &[PeerView],
        flaps: &[Flap],
        told: &[Told],
    ) -> Vec<String> {
        let mut differences = self.outstanding(before, after, flaps, told);
        for (number, expected) in self.flaps.iter().enumerate() {
            let session = &expected.session;
            let before = { self.flaps.iter().take(number) }
                .filter(|before| before.session == *session)
                .count();
            let mut flaps: Vec<&Flap> = flaps.iter().filter(|flap| session.is(flap)).collect();
            flaps.sort_by_key(|flap| flap.number);
            if let Some(flap) = flaps.get(before) {
                differences.extend(expected.differences(flap));
            }
        }
        differences
    }

    /// What time may still bring: which sessions are up, how many flaps were counted.
    pub fn outstanding(
        &self,
        before: &[PeerView],
        after: &[PeerView],
        flaps: &[Flap],
        told: &[Told],
    ) -> Vec<String> {
        let mut differences = Vec::new();
        for peer in after {
            let session = Session {
                node: peer.node.clone(),
                peer: peer.peer.clone(),
            };
            let wanted = u64::try_from(self.falls(&session)).unwrap_or(u64::MAX);
            let counted_before = before
                .iter()
                .find(|old| old.node == peer.node && old.peer == peer.peer)
                .map_or(0, |old| old.flaps);
            let counted = peer.flaps.saturating_sub(counted_before);
            let recorded = flaps.iter().filter(|flap| session.is(flap)).count() as u64;
            if counted != wanted || recorded != wanted {
                differences.push(format!(
                    "{session}: {wanted} flap(s) expected, {counted} counted, {recorded} recorded"
                ));
            }
            let up = wanted == 0 || (self.recovers && !self.stay_down.contains(&session));
            if peer.up != up {
                let should = if up { "up" } else { "down" };
                differences.push(format!(
                    "{session}: should be {should}, is {:?}",
                    peer.state
                ));
            }
            if peer.cause_pending {
                differences.push(format!("{session}: its cause is still pending"));
            }
        }
        for old in before {
            if !after
                .iter()
                .any(|peer| peer.node == old.node && peer.peer == old.peer)
            {
                differences.push(format!("{} → {}: no longer known", old.node, old.peer));
            }
        }
        for (node, words) in &self.told {
            let says = |told: &&Told| {
                told.record.node == *node && describe(&told.record.change).1.contains(words)
            };
            if !told.iter().any(|told| says(&told)) {
                differences.push(format!("{node} should tell `{words}`"));
            }
        }
        for (session, word) in &self.failures {
            let reasons = session.failures(told);
            if !reasons.iter().any(|reason| reason.contains(word)) {
                differences.push(format!(
                    "{session}: a failure should say `{word}`, told were {reasons:?}"
                ));
            }
        }
        for (session, expected) in &self.restarts {
            let course = session.restart(told);
            if course != *expected {
                differences.push(format!(
                    "{session}: the course of its restart should be {expected:?}, told was {course:?}"
                ));
            }
        }
        differences
    }
}

impl ExpectedFlap {
    fn differences(&self, flap: &Flap) -> Vec<String> {
        let Self {
            session,
            causes,
            words,
            unseen,
        } = self;
        let label = flap.cause.label();
        let mut differences = Vec::new();
        if !causes.contains(&label) {
            differences.push(format!(
                "{session}: cause should be {}, is {label} ({})",
                causes.join(" or "),
                flap.cause_text
            ));
        } else if let Some(word) = words.iter().find(|word| !flap.cause_text.contains(**word)) {
            differences.push(format!(
                "{session}: the cause should name `{word}`, says `{}`",
                flap.cause_text
            ));
        }
        if flap.evidence.is_empty() && !matches!(flap.cause, Cause::Unknown | Cause::Unobserved) {
            differences.push(format!("{session}: the cause has no evidence"));
        }
        if let Some(unseen) = unseen
            && !flap.evidence.iter().any(|line| line.contains(unseen))
        {
            differences.push(format!(
                "{session}: its evidence should say `{unseen}`: {:?}",
                flap.evidence
            ));
        }
        differences
    }
}

//! What pods suffered, asked by somebody who is not the agent, and what the agent says of it.

use std::time::Duration;

use observer_core::incident::{
    Incident,
    record::{MilestoneKind, Span},
};

use super::Session;
use crate::{pinger::Outage, wait};

/// How far the agent's figure may be from what was measured, where the event itself fires its echoes.
const NEAR: f64 = 0.3;
/// Where none does, the baseline's last answer is up to so old: it asks every 5 s.
const BASELINE: f64 = 5.0;
/// A single question may fall between two routes of a replacement.
const BLINK: f64 = 0.11;

/// Whether one node's pod reaches another's meanwhile.
#[derive(Clone, Debug)]
pub struct ExpectedLoss {
    /// The number of the node whose pod asks.
    pub from: usize,
    /// And of that whose pod answers.
    pub to: usize,
    /// How long that takes.
    pub extent: Extent,
    /// Whose incident must say so: that of any of these, the one whose tables break first.
    pub witnesses: Vec<Session>,
}

/// How long a loss is, and how well it must be known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// Nothing is lost.
    Nothing,
    /// About so long; the agent knows it to 0.3 s, since the event fires its echoes.
    About(Duration),
    /// At least and at most so long; the agent knows bounds between which it lies, no further apart than
    /// its baseline's echoes.
    Within(Duration, Duration),
    /// It does not end; the agent knows to 0.3 s when it began.
    Unending,
}

impl ExpectedLoss {
    /// What is not as expected, in words: of what was measured, and of what the agent says of it.
    pub fn differences(&self, outages: &[Outage], incidents: &[Incident]) -> Vec<String> {
        let real: Vec<Outage> = { outages.iter().copied() }
            .filter(|one| one.seconds().is_none_or(|seconds| seconds > BLINK))
            .collect();
        let measured: Option<f64> = real.iter().map(|one| one.seconds()).sum();
        let mut differences = self.premise(&real, measured);
        let wrong: Vec<Option<String>> = { self.witnesses(incidents) }
            .map(|incident| self.wrong(&real, measured, incident))
            .collect();
        if wrong.iter().all(Option::is_some) {
            differences.extend(wrong.into_iter().flatten());
        }
        differences
    }

    /// What is wrong about what an incident says.
    fn wrong(
        &self,
        outages: &[Outage],
        measured: Option<f64>,
        incident: &Incident,
    ) -> Option<String> {
        let slack = NEAR * f64::from(wait::slowness());
        // What must be said and is not was waited for.
        let said = incident.unreachable_seconds?;
        let wrong = match (self.extent, measured) {
            (Extent::Nothing, _) => (said.max != Some(0.0))
                .then(|| format!("nothing was lost, the incident says {}", words(said))),
            (Extent::Unending, _) if said.max.is_some() => {
                Some("the incident says that the loss ended".to_owned())
            }
            (Extent::Unending, _) => outages
                .first()
                .and_then(|first| began_elsewhere(*first, incident, slack)),
            (Extent::About(_), Some(measured)) => {
                astray(measured, said, slack + blur(outages), 2.0 * slack)
            }
            (Extent::Within(..), Some(measured)) => {
                outside(measured, said, blur(outages), BASELINE + 2.0 * slack)
            }
            (Extent::About(_) | Extent::Within(..), None) => None,
        };
        wrong.map(|wrong| format!("{}: {wrong}", incident.node))
    }

    /// Whether what it must say rests on a target that was seen alive before.
    pub const fn needs_alive(&self) -> bool {
        matches!(self.extent, Extent::Within(..) | Extent::Unending) && !self.may_be_none()
    }

    /// Whether all is well where nothing is lost; then an agent that came too late to know any target
    /// need not say anything.
    const fn may_be_none(&self) -> bool {
        match self.extent {
            Extent::Nothing => true,
            Extent::Within(least, _) => least.is_zero(),
            Extent::About(_) | Extent::Unending => false,
        }
    }

    /// The incident whose word is awaited, while it has none to say.
    pub fn awaited(&self, incidents: &[Incident]) -> Option<String> {
        // What answers yet may be asked once more before it is missed.
        let silent = self.witnesses(incidents).all(|incident| {
            let said = incident.unreachable_seconds;
            said.is_none_or(|said| said.max == Some(0.0))
        });
        (silent && !self.may_be_none())
            .then(|| format!("no incident of {:?} tells of pods", self.witnesses))
    }

    fn witnesses<'a>(&self, incidents: &'a [Incident]) -> impl Iterator<Item = &'a Incident> {
        let of = |session: &Session, one: &Incident| {
            one.node == session.node && one.subject.identity == session.peer
        };
        let witnesses = self.witnesses.clone();
        let told = move |one: &&Incident| witnesses.iter().any(|session| of(session, one));
        incidents.iter().filter(told)
    }

    /// What of the scenario itself is not as it should be.
    fn premise(&self, outages: &[Outage], measured: Option<f64>) -> Vec<String> {
        let holds = match (self.extent, measured) {
            (Extent::Nothing, _) => outages.is_empty(),
            (Extent::Unending, measured) => measured.is_none(),
            (Extent::About(length), Some(measured)) => {
                let length = length.as_secs_f64();
                (length * 0.5..=length * 2.0 + 5.0).contains(&measured)
            }
            (Extent::Within(least, most), Some(measured)) => {
                (least.as_secs_f64()..=most.as_secs_f64()).contains(&measured)
            }
            (Extent::About(_) | Extent::Within(..), None) => false,
        };
        let differs = (!holds).then(|| {
            format!(
                "pods of n{} to n{}: {:?} expected, not reached were they for {:?} s",
                self.from,
                self.to,
                self.extent,
                outages.iter().map(|one| one.seconds()).collect::<Vec<_>>()
            )
        });
        differs.into_iter().collect()
    }

    /// What was measured, and what the agent says, as a line.
    pub fn tell(&self, outages: &[Outage], incidents: &[Incident]) -> String {
        let told: Vec<String> = outages
            .iter()
            .map(|one| {
                one.seconds().map_or_else(
                    || "until now".to_owned(),
                    |seconds| format!("{seconds:.2} s"),
                )
            })
            .collect();
        let measured = if told.is_empty() {
            "was reached all the time".to_owned()
        } else {
            format!("was not reached for {}", told.join(", then for "))
        };
        let said: Vec<String> = { self.witnesses(incidents) }
            .map(|incident| {
                let said = incident.unreachable_seconds;
                let said = said.map_or_else(|| "nothing of pods".to_owned(), words);
                format!("the incident of {} says {said}", incident.node)
            })
            .collect();
        let said = if said.is_empty() {
            "nobody has an incident".to_owned()
        } else {
            said.join(", ")
        };
        format!(
            "Asked every 50 ms from the pod of n{}, the pod of n{} {measured}; {said}.",
            self.from, self.to
        )
    }
}

/// How inexact the measurement itself is: as far apart as its questions were where a loss began and ended.
fn blur(outages: &[Outage]) -> f64 {
    outages.iter().map(|one| one.blur.as_secs_f64()).sum()
}

/// The loss that was measured lies further than `slack` from what is said, the middle of bounds that may
/// be `width` apart.
fn astray(measured: f64, said: Span, slack: f64, width: f64) -> Option<String> {
    let near = |max: f64| (measured - f64::midpoint(said.min, max)).abs() <= slack;
    let fits = said
        .max
        .is_some_and(|max| near(max) && max - said.min <= width);
    (!fits).then(|| differs(measured, said))
}

/// The loss that was measured, exact to `blur`, lies outside of the bounds that are said, or those are
/// further apart than `width`.
fn outside(measured: f64, said: Span, blur: f64, width: f64) -> Option<String> {
    let fits = said.max.is_some_and(|max| {
        (said.min - blur..=max + blur).contains(&measured) && max - said.min <= width
    });
    (!fits).then(|| differs(measured, said))
}

fn differs(measured: f64, said: Span) -> String {
    format!(
        "a pod was not reached for {measured:.2} s, its incident says {}",
        words(said)
    )
}

fn began_elsewhere(first: Outage, incident: &Incident, slack: f64) -> Option<String> {
    let mut losses = incident.milestones.iter();
    let Some(loss) = losses.find(|milestone| milestone.kind == MilestoneKind::FirstLoss) else {
        return Some("its incident does not say when the loss began".to_owned());
    };
    let apart = loss.latest.duration_since(first.from).as_secs_f64();
    (apart.abs() > slack)
        .then(|| format!("its incident sees the loss begin {apart:+.2} s from where it did"))
}

fn words(span: Span) -> String {
    match (span.min, span.max) {
        (_, Some(0.0)) => "never".to_owned(),
        (min, Some(max)) => format!("{min:.2} s to {max:.2} s"),
        (min, None) => format!("{min:.2} s and on"),
    }
}

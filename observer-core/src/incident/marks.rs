//! What an incident's record shows of its routes and targets, and what could not be seen of it.

use super::{
    impact::UNSEEN,
    milestones::{self, Within},
    open::Open,
    probe::Probe,
    record::{MilestoneKind, Span},
    verdict::{Known, routes_of},
};
use crate::turn::Turn;

impl Open {
    pub(super) fn mark_routes(&mut self, turn: &Turn<'_>) {
        // rtnetlink has no times: what is known to the moment was stamped by a probe.
        let evidence = |at: Within| {
            if at.earliest == at.latest {
                "the kernel's routes (probe)"
            } else {
                "the kernel's routes (rtnetlink)"
            }
        };
        let routes = &self.routes;
        let gone = u64::try_from(routes.gone.len()).unwrap_or(u64::MAX);
        let total = self.record.prefixes.lost + self.record.prefixes.brief;
        let writers: Vec<&str> = self
            .record
            .prefixes
            .deleted_by
            .keys()
            .map(String::as_str)
            .collect();
        let by = writers.join(", ");
        let marks = [
            (
                MilestoneKind::FirstRouteGone,
                routes.first_gone,
                format!("first route gone, removed by: {by}"),
            ),
            (
                MilestoneKind::LastRouteGone,
                routes.last_gone,
                format!("last route gone, {} in all", routes_of(total)),
            ),
            (
                MilestoneKind::FirstRouteBack,
                routes.first_back,
                "first route back".to_owned(),
            ),
            (
                MilestoneKind::LastRouteBack,
                routes.last_back.filter(|_| gone == 0),
                "last route back".to_owned(),
            ),
        ];
        for (kind, at, what) in marks {
            match at {
                Some(at) => {
                    milestones::renew(&mut self.record, turn, kind, at, what, evidence(at));
                }
                None => self
                    .record
                    .milestones
                    .retain(|milestone| milestone.kind != kind),
            }
        }
    }

    pub(super) fn mark_reach(&mut self, turn: &Turn<'_>) {
        let echo = turn.config.reach.probe.to_string();
        self.record.targets = self.probes.iter().map(Probe::report).collect();
        let silenced: Vec<&Probe> = self
            .probes
            .iter()
            .filter(|probe| probe.was_unreachable())
            .collect();
        let first = silenced.iter().filter_map(|probe| probe.first_loss).min();
        let last = silenced.iter().filter_map(|probe| probe.last_loss).max();
        let silent = silenced.iter().any(|probe| probe.is_silent());
        let again = silenced.iter().filter_map(|probe| probe.again_at).max();
        let spans: Vec<Span> = silenced
            .iter()
            .filter_map(|probe| probe.unreachable())
            .collect();
        let names: Vec<String> = silenced
            .iter()
            .map(|probe| probe.target.to_string())
            .collect();
        self.record.unreachable_seconds = widest(&spans).or_else(|| {
            let alive = self
                .probes
                .iter()
                .any(|probe| probe.seen_alive && probe.sent > 0);
            alive.then_some(Span {
                min: 0.0,
                max: Some(0.0),
            })
        });
        let names = names.join(", ");
        if let (Some(first), Some(last)) = (first, last) {
            let what = format!("no answer from {names}");
            let record = &mut self.record;
            milestones::renew(
                record,
                turn,
                MilestoneKind::FirstLoss,
                Within::exactly(first),
                what,
                &echo,
            );
            let what = format!("last echo without answer from {names}");
            milestones::renew(
                record,
                turn,
                MilestoneKind::LastLoss,
                Within::exactly(last),
                what,
                &echo,
            );
        }
        if let Some((missed, heard)) = again.filter(|_| !silent) {
            let within = Within {
                earliest: missed,
                latest: heard,
            };
            let verb = if silenced.len() == 1 {
                "answers"
            } else {
                "answer"
            };
            let what = format!("{names} {verb} again");
            milestones::renew(
                &mut self.record,
                turn,
                MilestoneKind::ReachableAgain,
                within,
                what,
                &echo,
            );
        }
    }
}

/// The widest of several spans.
pub(super) fn widest(spans: &[Span]) -> Option<Span> {
    let mut spans = spans.iter().copied();
    let first = spans.next()?;
    Some(spans.fold(first, |one, other| Span {
        min: one.min.max(other.min),
        max: one.max.zip(other.max).map(|(one, other)| one.max(other)),
    }))
}

/// What could not be seen.
pub(super) fn missing(known: &Known, probes: &[Probe]) -> Vec<String> {
    let mut missing = Vec::new();
    if !known.routes_seen {
        missing.push("the kernel's routes were not observed".to_owned());
    }
    if known.own_restart {
        missing.push(format!("{UNSEEN}: not observable from this node"));
    }
    if probes.is_empty() {
        missing.push("nothing was probed: reachability is inferred".to_owned());
    }
    let answers = |peer| {
        probes
            .iter()
            .any(|probe| probe.peer == peer && probe.seen_alive)
    };
    for probe in probes.iter().filter(|probe| !answers(probe.peer)) {
        missing.push(format!(
            "{} was never seen alive: its silence proves nothing",
            probe.target
        ));
    }
    missing
}

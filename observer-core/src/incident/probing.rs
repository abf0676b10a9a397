//! When which targets are probed (DESIGN §3): at once and every 200 ms because of an incident, bounded
//! in targets, rate and time. Sending is the edges' work; `baseline` is what is asked all the time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use super::{
    Incidents, Nodes,
    milestones::Within,
    probe::Probe,
    record::MilestoneKind,
    targets::{Alive, Of, PREFIXES, targets},
};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    change::Request,
    config::{ReachConfig, ReachMode},
    deadline::Due,
    event::NetnsId,
    node::Node,
    reach::ProbeResult,
    time::Timestamp,
    turn::Turn,
};

/// The quick rhythm lasts this long, then one a second.
const QUICK: Duration = Duration::from_mins(1);
/// Once a minute after the time limit.
const SLOW: Duration = Duration::from_mins(1);
/// So often an incident that has grown old is probed quickly again, because its routes go or are back.
const QUICKENED: u32 = 16;
/// What happens this soon after an echo needs none of its own.
const JUST_NOW: Duration = Duration::from_millis(50);

/// Whose echo it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Echo {
    Incident(u64),
    /// Sent at a moment; already said to be unreachable, or not.
    Baseline(NetnsId, PeerAddress, IpAddr, Timestamp, bool),
}

/// What is out, what is known to be alive, and how much may go out.
#[derive(Debug, Default)]
pub(super) struct Reach {
    token: u64,
    pub out: BTreeMap<u64, Echo>,
    pub alive: Alive,
    /// How many turns each peer had in the baseline.
    pub turn: BTreeMap<Of, usize>,
    /// When the baseline of a node asks next.
    pub rounds: BTreeMap<NetnsId, Timestamp>,
    /// When the echoes of the last second were sent.
    sent: VecDeque<Timestamp>,
    /// Targets of all incidents.
    targets: usize,
}

impl Reach {
    /// A token, if one more echo may go out.
    pub fn allow(&mut self, config: &ReachConfig, now: Timestamp) -> Option<u64> {
        let over = |at: &Timestamp| now.since(*at) >= Duration::from_secs(1);
        while self.sent.front().is_some_and(over) {
            self.sent.pop_front();
        }
        let limit = usize::try_from(config.per_second).unwrap_or(usize::MAX);
        if self.sent.len() >= limit {
            return None;
        }
        self.sent.push_back(now);
        self.token += 1;
        Some(self.token)
    }

    /// What belonged to several incidents belongs to one.
    pub fn rename(&mut self, from: &BTreeSet<u64>, to: u64) {
        for echo in self.out.values_mut() {
            if matches!(echo, Echo::Incident(number) if from.contains(number)) {
                *echo = Echo::Incident(to);
            }
        }
    }

    /// An incident is over.
    pub fn forget(&mut self, gone: u64) {
        self.out
            .retain(|_, echo| !matches!(echo, Echo::Incident(number) if *number == gone));
    }

    /// Nobody asks for what is behind a peer any more.
    pub fn forget_peer(&mut self, of: Of) {
        self.alive.forget_all(of);
        self.turn.remove(&of);
    }
}

impl Incidents {
    /// Targets behind the peers of an incident are probed from now on.
    pub(super) fn begin_probing(&mut self, turn: &mut Turn<'_>, node: &Node, number: u64) {
        let reach = &turn.config.reach;
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if reach.mode == ReachMode::Off {
            return;
        }
        let limit = usize::try_from(reach.targets_per_incident).unwrap_or(usize::MAX);
        let peers: Vec<PeerAddress> = open.peers.iter().copied().collect();
        for address in peers {
            if open.probes.len() >= limit {
                break;
            }
            if open.probes.iter().any(|probe| probe.peer == address) {
                continue;
            }
            let of = (node.netns, address);
            let mut prefixes: Vec<Prefix> = open
                .members
                .get(&address)
                .map(|member| member.prefixes.clone())
                .unwrap_or_default();
            prefixes.extend(open.behind.get(&address).into_iter().flatten());
            let gone = open
                .routes
                .gone
                .iter()
                .filter(|(_, gone)| gone.peers.contains(&address));
            prefixes.extend(gone.map(|(prefix, _)| *prefix).take(PREFIXES));
            let found = targets(turn, node, address, self.reach.alive.of(of), &prefixes);
            for target in found.into_iter().take(limit - open.probes.len()) {
                let seen = self.reach.alive.at(of, target);
                open.probes
                    .push(Probe::new(target, address, open.begun, seen));
                self.reach.targets += 1;
            }
        }
        if !open.probes.is_empty() && open.next_echo.is_none() {
            self.echo_due(turn, number);
        }
    }

    /// Incidents that had targets are gone or one.
    pub(super) fn count_probes(&mut self) {
        self.reach.targets = self.open.values().map(|open| open.probes.len()).sum();
    }

    /// It is time for an incident's echoes.
    pub(super) fn echo_due(&mut self, turn: &mut Turn<'_>, number: u64) {
        let reach = &turn.config.reach;
        let all = self.reach.targets;
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        let now = turn.at;
        let deadline = now.before(Duration::from_millis(reach.timeout_millis));
        for probe in &mut open.probes {
            let was_silent = probe.is_silent();
            let lost = probe.expire(deadline);
            for token in &lost {
                self.reach.out.remove(token);
            }
            let lost = u64::try_from(lost.len()).unwrap_or(u64::MAX);
            { turn.totals.reach(&open.record.node) }.count(ProbeResult::Lost, lost);
            open.news |= was_silent != probe.is_silent();
            if !probe.may_send() {
                continue;
            }
            let Some(token) = self.reach.allow(reach, turn.now) else {
                break;
            };
            probe.send(token, now);
            self.reach.out.insert(token, Echo::Incident(number));
            turn.out.push(crate::change::Output::Request(Request::Echo {
                netns: open.netns,
                target: probe.target,
                token,
            }));
        }
        let pause = pause(reach, now.since(open.quick_from), all);
        let next = turn.again(pause);
        open.last_echo = Some(now);
        open.next_echo = Some(next);
        turn.deadlines.set(Due::Echo(number), next);
        if open.news || open.is_well(now) {
            self.look_again(turn, number);
        }
    }

    /// Routes of an incident went or are back: its targets are asked at once, and quickly from now on.
    pub(super) fn quicken(&mut self, turn: &mut Turn<'_>, number: u64) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        let now = turn.at;
        let just_now = open.last_echo.is_some_and(|at| now.since(at) < JUST_NOW);
        if open.next_echo.is_none() || just_now {
            return;
        }
        if now.since(open.quick_from) >= QUICK && open.quickened < QUICKENED {
            open.quickened += 1;
            open.quick_from = now;
        }
        self.echo_due(turn, number);
    }

    /// An echo was answered.
    pub fn echo_replied(&mut self, turn: &mut Turn<'_>, node: &str, token: u64, rtt: Duration) {
        // One that comes too late was counted as lost.
        if self.reach.out.contains_key(&token) {
            turn.totals.reach(node).answered(rtt);
        }
        self.settle_echo(turn, token, true);
    }

    /// An echo failed. What does not say that the target cannot be reached says nothing.
    pub fn echo_failed(&mut self, turn: &mut Turn<'_>, node: &str, token: u64, errno: i32) {
        const ENETDOWN: i32 = 100;
        const ENETUNREACH: i32 = 101;
        const EHOSTDOWN: i32 = 112;
        const EHOSTUNREACH: i32 = 113;
        // A blackhole route's.
        const EINVAL: i32 = 22;
        // What a moment later may go out: the edge's own ceiling, and full buffers.
        const ENOBUFS: i32 = 105;
        const ENOMEM: i32 = 12;
        const EAGAIN: i32 = 11;
        let unreachable = [ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, EINVAL].contains(&errno);
        if self.reach.out.contains_key(&token) {
            let result = if unreachable {
                ProbeResult::Unreachable
            } else {
                ProbeResult::Unsent
            };
            turn.totals.reach(node).count(result, 1);
        }
        if unreachable {
            self.settle_echo(turn, token, false);
            return;
        }
        // Of a baseline's, nothing is known that way: it is sent again.
        let Some(Echo::Incident(number)) = self.reach.out.remove(&token) else {
            return;
        };
        if [ENOBUFS, ENOMEM, EAGAIN].contains(&errno) {
            if let Some(open) = self.open.get_mut(&number) {
                open.probes
                    .iter_mut()
                    .for_each(|probe| probe.withdraw(token));
            }
            return;
        }
        if let Some(open) = self.open.get_mut(&number) {
            let what = format!("echoes cannot be sent: {}", crate::cause::Errno(errno));
            let mute = open.probes.iter().all(|probe| probe.mute);
            for probe in &mut open.probes {
                probe.mute = true;
            }
            if !mute {
                open.note(
                    turn,
                    MilestoneKind::Remark,
                    Within::exactly(turn.at),
                    what,
                    "the echo source",
                );
            }
        }
        self.look_again(turn, number);
    }

    fn settle_echo(&mut self, turn: &mut Turn<'_>, token: u64, answered: bool) {
        match self.reach.out.remove(&token) {
            Some(Echo::Incident(number)) => {
                let Some(open) = self.open.get_mut(&number) else {
                    return;
                };
                let before: Vec<bool> = open.probes.iter().map(Probe::is_settled).collect();
                for probe in &mut open.probes {
                    probe.settle(token, answered);
                }
                let after = open.probes.iter().map(Probe::is_settled);
                if !after.eq(before) {
                    open.news = true;
                    self.look_again(turn, number);
                }
            }
            Some(Echo::Baseline(netns, peer, target, sent, _)) if answered => {
                self.reach.alive.remember((netns, peer), target, sent);
            }
            // Refused is no answer: the next look at the baseline finds it silent.
            Some(Echo::Baseline(netns, peer, target, sent, _)) => {
                let echo = Echo::Baseline(netns, peer, target, sent, true);
                self.reach.out.insert(token, echo);
            }
            None => {}
        }
    }

    /// Carries out what is due of incidents.
    pub fn run_due(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, due: Due) {
        if let Due::Incident(number) = due {
            self.incident_due(turn, nodes, number);
        } else if let Due::Echo(number) = due {
            self.echo_due(turn, number);
        } else if let Due::Gone(netns) = due
            && let Some(node) = nodes.get(&netns)
        {
            self.gone_due(turn, node);
            self.attend(turn, nodes);
        } else if let Due::Baseline(netns) = due
            && let Some(node) = nodes.get(&netns)
        {
            self.baseline_due(turn, node);
        }
    }
}

/// How long to the next echoes of an incident that is `age` old, `all` targets being probed in all.
fn pause(reach: &ReachConfig, age: Duration, all: usize) -> Duration {
    let base = if age >= Duration::from_secs(reach.give_up_secs) {
        SLOW
    } else if age >= QUICK {
        Duration::from_secs(1)
    } else {
        Duration::from_millis(reach.every_millis)
    };
    let all = u64::try_from(all).unwrap_or(u64::MAX);
    let fair = all.saturating_mul(1_000) / u64::from(reach.per_second.max(1));
    base.max(Duration::from_millis(fair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_echoes_than_are_allowed_wherever_it_begins() {
        let config = ReachConfig {
            per_second: 200,
            ..ReachConfig::default()
        };
        let mut reach = Reach::default();
        let mut sent = Vec::new();
        for millis in (0..10_000_u64).step_by(10) {
            let now = Timestamp::from_nanos(millis * 1_000_000);
            // Nothing for most of a second, then as much as may be.
            let asked = if millis % 1_000 < 900 { 0 } else { 100 };
            sent.extend(
                (0..asked)
                    .filter_map(|_| reach.allow(&config, now))
                    .map(|_| millis),
            );
        }
        for from in (0..9_000).step_by(10) {
            let within = sent.iter().filter(|at| (from..from + 1_000).contains(*at));
            assert!(within.count() <= 200, "from {from} ms on");
        }
        assert_eq!(sent.len(), 2_000, "and no fewer");
    }

    #[test]
    fn the_rhythm_slows_down_with_age_and_with_the_number_of_targets() {
        let reach = ReachConfig::default();
        for (age, all, millis) in [
            (0, 8, 200),
            (61, 8, 1_000),
            (601, 8, 60_000),
            (0, 8_000, 40_000),
        ] {
            let pause = pause(&reach, Duration::from_secs(age), all);
            assert_eq!(pause, Duration::from_millis(millis));
        }
    }
}

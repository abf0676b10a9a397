//! A mesh in which something breaks all the time, watched for what grows: memory, file descriptors,
//! threads. That nothing does says nothing of what is told; other tests do that.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    agent::{Agent, Options},
    fib,
    lab::{Lab, Node, Plan},
    scenario::Act,
    stage::observed,
    story::CONVERGES,
};

/// What is done to a node, and what mends it.
const BREAKS: [(Act, Option<Act>); 7] = [
    (Act::DisableSessions, Some(Act::EnableSessions)),
    (Act::Reset, None),
    (Act::WithdrawBlock, Some(Act::AnnounceBlock)),
    (Act::End(Signal::SIGKILL), Some(Act::Start)),
    (Act::RestartSessions, None),
    (Act::LinkDown, Some(Act::LinkUp)),
    (Act::Announce, Some(Act::Withdraw)),
];
/// How often Prometheus scrapes.
const SCRAPE: Duration = Duration::from_secs(15);
/// Descriptors that are open for a moment: a scrape, a question, a speaker that is being looked at.
const PASSING: u64 = 24;
/// Growth of memory from one part of the run to a later one that is the allocator's, not the agent's.
const SLACK_PERCENT: u64 = 10;
const MIB: u64 = 1 << 20;

/// How to soak.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Nodes of the mesh.
    pub nodes: u8,
    /// How long.
    pub length: Duration,
    /// From one break to the next.
    pub every: Duration,
}

/// What the agent has at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the beginning.
    pub after: Duration,
    /// Memory, in octets.
    pub resident: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Soaked {
    /// Breaks.
    pub breaks: u64,
    /// Sessions lost.
    pub flaps: f64,
    /// Events that never reached the core.
    pub lost: f64,
    /// Processor time of the agent.
    pub processor: Duration,
    /// One after each break.
    pub samples: Vec<Sample>,
}

impl Soak {
    /// A mesh of twenty nodes in which something breaks every four seconds.
    pub const fn of_twenty(length: Duration) -> Self {
        Self {
            nodes: 20,
            length,
            every: Duration::from_secs(4),
        }
    }

    /// Breaks and mends until the time is over; then everything must be well again.
    pub fn run(self, tell: &mut dyn FnMut(&Sample, u64)) -> Result<Soaked> {
        let (lab, agent) = observed(Plan::of(self.nodes), &Options::default())?;
        let begun = Instant::now();
        let (mut samples, mut breaks) = (Vec::new(), 0);
        let mut scraped = Instant::now();
        let victims = lab.nodes().iter().cycle();
        for (victim, (breaks_it, mends_it)) in victims.zip(BREAKS.iter().cycle()) {
            if begun.elapsed() >= self.length {
                break;
            }
            breaks_it.perform(&lab, victim)?;
            sleep(self.every / 2);
            if let Some(mends_it) = mends_it {
                mends_it.perform(&lab, victim)?;
            }
            sleep(self.every / 2);
            breaks += 1;
            if scraped.elapsed() >= SCRAPE {
                scraped = Instant::now();
                agent.scrape()?;
                // A follower comes and goes.
                agent.follow(&lab)?.next(Duration::from_millis(100))?;
            }
            let sample = Sample::of(&agent, begun.elapsed())?;
            tell(&sample, breaks);
            samples.push(sample);
        }
        well(&lab, &agent)?;
        let scrape = agent.scrape()?;
        Ok(Soaked {
            breaks,
            flaps: scrape.sum("bgp_observer_session_flaps_total", &[]),
            lost: scrape.sum("bgp_observer_events_lost_total", &[]),
            processor: crate::process::cpu(agent.process().pid())?,
            samples,
        })
    }
}

/// Every session is up, and the agent knows every route.
fn well(lab: &Lab, agent: &Agent) -> Result<()> {
    lab.await_established(CONVERGES * 2)?;
    agent.await_all_up(lab.sessions(), CONVERGES)?;
    let equal = |node: &Node| fib::await_equal(agent, node, CONVERGES).map(drop);
    lab.nodes().iter().try_for_each(equal)
}

impl Sample {
    fn of(agent: &Agent, after: Duration) -> Result<Self> {
        let pid = agent.process().pid();
        let count = |of: &str| -> Result<u64> {
            let path = format!("/proc/{pid}/{of}");
            let entries = fs::read_dir(&path).with_context(|| path.clone())?.count();
            Ok(u64::try_from(entries)?)
        };
        Ok(Self {
            after,
            resident: agent.resident_bytes()?,
            descriptors: count("fd")?,
            threads: count("task")?,
        })
    }
}

impl Soaked {
    /// The most of something in the second quarter of the run, when all that fills up has had time to,
    /// and in the last.
    pub fn most(&self, of: impl Fn(&Sample) -> u64) -> (u64, u64) {
        let quarter = self.samples.len() / 4;
        let most = |samples: &[Sample]| samples.iter().map(&of).max().unwrap_or_default();
        let at = |from: usize, to: usize| self.samples.get(from..to).unwrap_or_default();
        (
            most(at(quarter, 2 * quarter)),
            most(at(3 * quarter, self.samples.len())),
        )
    }

    /// Whether nothing grew; `filling` is what memory may still fill up by in so short a run.
    pub fn is_flat(&self, filling: u64) -> Result<()> {
        for (what, (before, after), slack) in [
            ("descriptors", self.most(|one| one.descriptors), PASSING),
            ("threads", self.most(|one| one.threads), PASSING),
        ] {
            ensure!(
                after <= before + slack,
                "{what}: {before} at most became {after}"
            );
        }
        let (before, after) = self.most(|one| one.resident);
        let allowed = before + before * SLACK_PERCENT / 100 + filling;
        ensure!(
            after <= allowed,
            "{} MiB resident at most became {}",
            before / MIB,
            after / MIB
        );
        Ok(())
    }
}

impl std::fmt::Display for Soaked {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (memory, descriptors) = (
            self.most(|one| one.resident),
            self.most(|one| one.descriptors),
        );
        let threads = self.most(|one| one.threads);
        let length = self
            .samples
            .last()
            .map_or(Duration::ZERO, |last| last.after);
        write!(
            out,
            "{} breaks and {} flaps in {length:.0?}, {} events lost, {:.0?} of CPU; at most in the second \
             quarter and in the last: {} and {} MiB resident, {} and {} descriptors, {} and {} threads",
            self.breaks,
            self.flaps,
            self.lost,
            self.processor,
            memory.0 / MIB,
            memory.1 / MIB,
            descriptors.0,
            descriptors.1,
            threads.0,
            threads.1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(descriptors: impl Fn(u64) -> u64, mebibytes: impl Fn(u64) -> u64) -> Soaked {
        let sample = |number| Sample {
            after: Duration::from_secs(number),
            resident: mebibytes(number) * MIB,
            descriptors: descriptors(number),
            threads: 4,
        };
        Soaked {
            breaks: 100,
            flaps: 0.0,
            lost: 0.0,
            processor: Duration::ZERO,
            samples: (0..100).map(sample).collect(),
        }
    }

    #[test]
    fn what_grows_is_told_from_what_fills_up() {
        let full = |number: u64| 60 + number.min(20);
        assert!(soaked(|_| 90, full).is_flat(0).is_ok());
        assert!(soaked(|number| 90 + number, full).is_flat(0).is_err());
        assert!(soaked(|_| 90, |number| 60 + number).is_flat(0).is_err());
        assert!(
            soaked(|_| 90, |number| 60 + number)
                .is_flat(50 * MIB)
                .is_ok()
        );
    }
}

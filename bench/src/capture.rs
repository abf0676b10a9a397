//! Routes that BIRD installs and withdraws, with nobody listening but BIRD itself, and with the agent
//! and others beside: what each costs BIRD's speed, what it costs in CPU time, and what it sees.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use observer_core::event::forwarding::RouteSource;
use observer_tests::{
    agent::{Agent, Options},
    burst, fib,
    lab::{Lab, Node, Plan},
    listeners::{Heard, IpMonitor, Reader},
    process,
    speaker::Manners,
    wait,
};

use crate::measure::{Figure, float};

/// How long BIRD may take for a million.
const LIMIT: Duration = Duration::from_mins(5);
/// Routes of all turns of one comparison: with more, fewer turns are made.
const MOST: u32 = 1_000_000;

/// Who listens, beside BIRD.
#[derive(Clone, Copy, Debug)]
enum Who {
    Nobody,
    /// With these probes of routes.
    Agent(&'static str),
    Monitor,
    MonitorStamped,
    Reader,
}

const ALL: [Who; 5] = [
    Who::Nobody,
    Who::Agent("auto"),
    Who::Monitor,
    Who::MonitorStamped,
    Who::Reader,
];

/// The agent by each kind of probe, beside itself without any.
const PROBED: [Who; 4] = [
    Who::Agent("off"),
    Who::Agent("fentry"),
    Who::Agent("kprobe"),
    Who::Nobody,
];

/// One that listens.
enum Listener {
    Nobody,
    Agent(Box<Agent>, f64),
    Monitor(IpMonitor),
    Reader(Reader),
}

/// What came of one turn.
struct Turn {
    installed: Duration,
    withdrawn: Duration,
    bird: Duration,
    heard: Option<Heard>,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "BIRD alone",
            Self::Agent("off") => "bgp-observer by rtnetlink",
            Self::Agent("fentry") => "bgp-observer by fentry",
            Self::Agent("kprobe") => "bgp-observer by kprobe",
            Self::Agent(_) => "bgp-observer",
            Self::Monitor => "ip monitor route",
            Self::MonitorStamped => "ip -ts monitor route",
            Self::Reader => "a reader with the default buffer",
        }
    }

    fn start(self, lab: &Lab, node: &Node) -> Result<Listener> {
        Ok(match self {
            Self::Nobody => Listener::Nobody,
            Self::Agent(probes) => {
                let options = Options {
                    more: vec![format!("--route-probes={probes}")],
                    ..Options::default()
                };
                let agent = Agent::start(lab, &options)?;
                ensure!(
                    matches!(probes, "auto" | "off")
                        || fib::source(&agent, node)? == RouteSource::Probe,
                    "this kernel does not let its functions be traced by {probes}"
                );
                let before = counted(&agent)?;
                Listener::Agent(Box::new(agent), before)
            }
            Self::Monitor => Listener::Monitor(IpMonitor::start(lab, node, &[])?),
            Self::MonitorStamped => Listener::Monitor(IpMonitor::start(lab, node, &["-ts"])?),
            Self::Reader => Listener::Reader(Reader::start(node)?),
        })
    }
}

/// Changes of BIRD's routes that the agent counted at n1.
fn counted(agent: &Agent) -> Result<f64> {
    let labels = [("node", "n1"), ("protocol", "bird")];
    let scrape = agent.scrape()?;
    Ok(scrape.sum("bgp_observer_fib_changes_total", &labels))
}

impl Listener {
    /// Ends it once it has had the time to hear `expected` changes.
    fn end(self, expected: f64) -> Result<Option<Heard>> {
        Ok(match self {
            Self::Nobody => None,
            Self::Monitor(monitor) => Some(monitor.end()?),
            Self::Reader(reader) => Some(reader.end()?),
            Self::Agent(agent, before) => Some(end_agent(*agent, before, expected)?),
        })
    }
}

fn end_agent(agent: Agent, before: f64, expected: f64) -> Result<Heard> {
    // A removal is counted when it has lasted for a second.
    let pause = Duration::from_millis(500);
    let told = wait::until("the agent has all", LIMIT, pause, || {
        let told = counted(&agent)? - before;
        ensure!(told >= expected - 0.5, "{told} of {expected}");
        Ok::<_, anyhow::Error>(told)
    })?;
    let cpu = process::cpu(agent.process().pid())?;
    let lost = [("stage", "netlink")];
    let lost = agent.scrape()?.sum("bgp_observer_events_lost_total", &lost);
    agent.stop()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of a few millions"
    )]
    Ok(Heard {
        changes: told.round() as u64,
        overruns: lost.round() as u64,
        cpu,
    })
}

/// BIRD has exactly `count` routes in the kernel, and says so.
fn await_exported(lab: &Lab, node: &Node, count: u64) -> Result<()> {
    let pause = Duration::from_millis(5);
    wait::until("BIRD wrote its routes", LIMIT, pause, || {
        let there = burst::exported(lab, node)?;
        ensure!(there == count, "{there} of {count}");
        Ok::<_, anyhow::Error>(())
    })
}

fn turn(lab: &Lab, node: &Node, who: Who, count: u32) -> Result<Turn> {
    let bird = node.pid().context("BIRD does not run")?;
    let own = burst::exported(lab, node)?;
    let listener = who.start(lab, node)?;
    let before = process::cpu(bird)?;
    let go = |verb: &str, count: u64| -> Result<Duration> {
        let begun = Instant::now();
        lab.birdc(node, &format!("{verb} {}", burst::PROTOCOL))?;
        await_exported(lab, node, count)?;
        Ok(begun.elapsed())
    };
    let installed = go("enable", own + u64::from(count))?;
    let withdrawn = go("disable", own)?;
    let bird = process::cpu(bird)?.saturating_sub(before);
    let heard = listener.end(2.0 * f64::from(count))?;
    Ok(Turn {
        installed,
        withdrawn,
        bird,
        heard,
    })
}

/// One comparison with `count` routes.
fn compare(all: &[Who], count: u32, turns: usize) -> Result<Vec<Figure>> {
    let lab = Lab::build(Plan::of(2))?;
    burst::configure(&lab, count)?;
    let node = lab.node(1)?;
    // One that recovers waits for its peers before it programs anything.
    let manners = Manners {
        recover: false,
        ..lab.manners()
    };
    lab.start_with(node, manners)?;
    await_exported(&lab, node, 1)?;
    // The first time BIRD and the kernel get their memory.
    turn(&lab, node, Who::Nobody, count)?;
    let most = usize::try_from(MOST / count).unwrap_or(1);
    let mut done: Vec<Vec<Turn>> = all.iter().map(|_| Vec::new()).collect();
    for number in 0..turns.min(most).max(1) {
        // Each is first once: what came before may leave the machine warm.
        for place in 0..all.len() {
            let place = (place + number) % all.len();
            if let (Some(who), Some(done)) = (all.get(place), done.get_mut(place)) {
                done.push(turn(&lab, node, *who, count).with_context(|| who.name())?);
            }
        }
    }
    let mut figures = Vec::new();
    for (who, turns) in all.iter().zip(&done) {
        figures.extend(speeds(*who, turns, count));
    }
    figures.extend(cpu(all, &done, count));
    for (who, turns) in all.iter().zip(&done) {
        figures.extend(seen(*who, turns, count));
    }
    Ok(figures)
}

fn what(count: u32, what: &str) -> String {
    let count = crate::measure::number(f64::from(count));
    format!("{count} routes of BIRD, {what}")
}

/// How fast BIRD is with `who` beside it.
fn speeds(who: Who, turns: &[Turn], count: u32) -> [Figure; 2] {
    let speed = |took: fn(&Turn) -> Duration| {
        let rate = |turn: &Turn| f64::from(count) / took(turn).as_secs_f64();
        turns.iter().map(rate).collect::<Vec<f64>>()
    };
    let figure =
        |verb: &str, values| Figure::of(&what(count, verb), who.name(), "routes/s", values);
    [
        figure("installed", speed(|turn| turn.installed)),
        figure("withdrawn", speed(|turn| turn.withdrawn)),
    ]
}

/// What each listener takes, beside what BIRD takes when it is alone.
fn cpu(all: &[Who], done: &[Vec<Turn>], count: u32) -> Vec<Figure> {
    let what = what(count, "CPU time for both");
    let mut figures = Vec::new();
    for (who, turns) in all.iter().zip(done) {
        let own = |turn: &Turn| match (who, turn.heard) {
            (Who::Nobody, _) => Some(turn.bird),
            (_, heard) => heard.map(|heard| heard.cpu),
        };
        let seconds = turns.iter().filter_map(own).map(|took| took.as_secs_f64());
        figures.push(Figure::of(&what, who.name(), "s", seconds.collect()));
    }
    figures
}

/// How much of it a listener saw.
fn seen(who: Who, turns: &[Turn], count: u32) -> Option<Figure> {
    let expected = 2.0 * f64::from(count);
    let share = |turn: &Turn| Some(100.0 * float(turn.heard?.changes) / expected);
    let shares: Vec<f64> = turns.iter().filter_map(share).collect();
    let overruns = turns.iter().filter_map(|turn| turn.heard);
    let overruns: u64 = overruns.map(|heard| heard.overruns).sum();
    let name = format!("{} ({overruns} overruns)", who.name());
    let what = what(count, "changes seen");
    (!shares.is_empty()).then(|| Figure::of(&what, &name, "%", shares))
}

/// With a fifth of `routes`, as many, and twice as many.
pub fn measure(routes: u32, turns: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for count in [routes / 5, routes, routes.saturating_mul(2)] {
        figures.extend(compare(&ALL, count.max(1), turns)?);
    }
    Ok(figures)
}

/// What the probes of routes cost BIRD, where the kernel lets its functions be traced.
pub fn probes(routes: u32, turns: usize) -> Result<Vec<Figure>> {
    compare(&PROBED, routes.max(1), turns)
}

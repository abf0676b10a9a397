//! Plays a scenario under the agent's eyes and tells what happened, in words for someone who has
//! never seen the tool.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_core::{
    change::Change,
    incident::Incident,
    peer::{Flap, PeerView},
    words::describe,
};

use crate::{
    agent::{Told, boot_nanos},
    agents::{Agents, Events},
    lab::Lab,
    pinger::{Outage, Pinger},
    scenario::{Scenario, Script, Session, When},
    wait,
};

/// How long a lab may take to converge. `GoBGP` is the slowest.
pub const CONVERGES: Duration = Duration::from_mins(1);
/// How long after the last step everything must be as expected.
const FOLLOWS: Duration = Duration::from_secs(75);
/// The same where BIRD's own timers run out first: 240 s, and the session's way back.
const FOLLOWS_LONG: Duration = Duration::from_mins(8);
/// How long an incident may take to be over, once its sessions are up.
const TOLD_BY: Duration = Duration::from_secs(30);
/// How long changes are listened for between two looks at the agent.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// What is not as expected; nothing when all is well.
    pub differences: Vec<String>,
    /// The peers before the first step.
    pub before: Vec<PeerView>,
    /// The peers at the end.
    pub after: Vec<PeerView>,
    /// The flaps recorded meanwhile.
    pub flaps: Vec<Flap>,
    /// The incidents since.
    pub incidents: Vec<Incident>,
    /// The changes since the first step.
    pub told: Vec<Told>,
    /// When a pod was not reached, where that was asked.
    pub outages: Vec<Outage>,
    /// By session, from the kernel's stamp of its end to the first scrape that showed it down.
    pub visible_after: BTreeMap<Session, Duration>,
    /// By session, from the kernel's stamp of its end until the counted flap, cause and all, reached
    /// a client.
    pub final_after: BTreeMap<Session, Duration>,
}

/// Plays `scenario` on a converged `lab`. Fails only when something could not be done or asked.
pub fn play(
    scenario: Scenario,
    lab: &Lab,
    agents: Agents<'_>,
    out: &mut dyn Write,
) -> Result<Outcome> {
    let stage = Stage {
        script: scenario.script(lab, agents.overlay)?,
        before: agents.peers()?,
        flaps_before: agents.flaps()?,
        incidents_before: agents.incidents()?.len(),
        events: agents.follow(lab)?,
        lab,
        agents,
    };
    stage.events.drain(Duration::from_millis(200))?;
    let expected = &stage.script.expected;
    let mut watched: Vec<Session> = expected
        .flaps
        .iter()
        .map(|flap| flap.session.clone())
        .collect();
    watched.sort();
    watched.dedup();
    let pinger = stage.ping()?;
    let stop = AtomicBool::new(false);
    let mut told = Vec::new();
    let (begun, seen) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch_down(agents, &watched, &stop));
        let played = stage.perform(&mut told, out);
        stop.store(true, Ordering::Relaxed);
        let seen = watch.join().unwrap_or_default();
        played.map(|begun| (begun, seen))
    })?;

    let after = agents.peers()?;
    let flaps = stage.flaps()?;
    while let Some(change) = stage.events.next(Duration::from_millis(100))? {
        tell(out, begun, &change)?;
        told.push(change);
    }
    let mut differences = expected.differences(&stage.before, &after, &flaps, &told);
    let incidents = stage.incidents(&mut differences)?;
    let outages = pinger.map_or_else(|| Ok(Vec::new()), Pinger::stop)?;
    if let Some(loss) = &expected.loss {
        writeln!(out, "\n{}", loss.tell(&outages, &incidents))?;
        differences.extend(loss.differences(&outages, &incidents));
    }
    let mut visible_after = BTreeMap::new();
    let mut final_after = BTreeMap::new();
    for session in watched {
        let Some(down) = told.iter().find(|told| is_down(told, &session)) else {
            continue;
        };
        let stamp = i128::from(down.record.at.nanos());
        let since = |at: i128| Duration::from_nanos(u64::try_from(at - stamp).unwrap_or_default());
        if let Some(at) = seen.get(&session) {
            visible_after.insert(session.clone(), since(*at));
        }
        if let Some(flap) = told.iter().find(|told| is_flap(told, &session)) {
            final_after.insert(session, since(flap.at));
        }
    }
    let before = stage.before;
    Ok(Outcome {
        differences,
        before,
        after,
        flaps,
        incidents,
        told,
        outages,
        visible_after,
        final_after,
    })
}

/// A scenario about to be played.
struct Stage<'a> {
    script: Script,
    lab: &'a Lab,
    agents: Agents<'a>,
    events: Events,
    before: Vec<PeerView>,
    flaps_before: Vec<Flap>,
    incidents_before: usize,
}

impl Stage<'_> {
    /// Does the steps, tells the changes meanwhile, until nothing is outstanding or time is up;
    /// gives the moment of the first step.
    fn perform(&self, told: &mut Vec<Told>, out: &mut dyn Write) -> Result<i128> {
        let begun = boot_nanos()?;
        let clock = Instant::now();
        let mut before = clock;
        let listen = |told: &mut Vec<Told>, out: &mut dyn Write, limit: Duration| -> Result<()> {
            let until = Instant::now() + limit;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if let Some(change) = self.events.next(left)? {
                    tell(out, begun, &change)?;
                    told.push(change);
                }
            }
            Ok(())
        };
        let expected = &self.script.expected;
        let follows = self.patience(FOLLOWS);
        for step in &self.script.steps {
            match step.when {
                When::After(delay) => listen(told, out, delay.saturating_sub(clock.elapsed()))?,
                When::Then(delay) => listen(told, out, delay.saturating_sub(before.elapsed()))?,
                When::Back(number) => {
                    let back = Session::with_victim(self.lab, number)?;
                    wait::until("the session", follows, Duration::ZERO, || {
                        listen(told, out, PAUSE)?;
                        let peers = self.agents.peers()?;
                        let up = peers.iter().any(|peer| back.is_of(peer) && peer.up);
                        up.then_some(()).context("it has not come back")
                    })?;
                }
                When::Fallen => wait::until("every flap", follows, Duration::ZERO, || {
                    listen(told, out, PAUSE)?;
                    let fallen = expected.fallen(&self.flaps()?);
                    fallen
                        .then_some(())
                        .context("some sessions have not fallen")
                })?,
                When::Risen => wait::until("every recovery", follows, Duration::ZERO, || {
                    listen(told, out, PAUSE)?;
                    let risen = expected.risen(&self.flaps()?);
                    risen
                        .then_some(())
                        .context("some sessions have not come back")
                })?,
            }
            let now = seconds(boot_nanos()? - begun);
            let node = self.lab.node(step.node)?;
            writeln!(out, "{now:>10}  ▶ {}", step.act.describe(node))?;
            step.act.perform(self.lab, node)?;
            before = Instant::now();
        }
        listen(told, out, expected.calm)?;
        let last = Instant::now();
        while last.elapsed() < follows {
            let (after, flaps) = (self.agents.peers()?, self.flaps()?);
            if expected
                .outstanding(&self.before, &after, &flaps, told)
                .is_empty()
            {
                break;
            }
            listen(told, out, PAUSE)?;
        }
        Ok(begun)
    }

    /// How long something may take that takes `quick` where timers are short.
    fn patience(&self, quick: Duration) -> Duration {
        if self.lab.own_timers() {
            FOLLOWS_LONG
        } else {
            quick
        }
    }

    /// Somebody who is not the agent asks for a pod from now on, if that is to be measured.
    fn ping(&self) -> Result<Option<Pinger>> {
        let Some(loss) = &self.script.expected.loss else {
            return Ok(None);
        };
        let (from, to) = (self.lab.node(loss.from)?, self.lab.node(loss.to)?);
        self.lab.await_pod_reaches(from, to, CONVERGES)?;
        if loss.needs_alive() {
            // What was never seen alive proves nothing by its silence.
            wait::soon("the agents know the pod", CONVERGES, || {
                let (echoes, observers) = (self.lab.echoes(to)?, self.lab.nodes().len() - 1);
                ensure!(echoes >= observers.min(3), "{echoes} echoes so far");
                Ok(())
            })?;
        }
        Pinger::start(from, to).map(Some)
    }

    /// Incidents since before the first step, once they are as expected or time is up.
    fn incidents(&self, differences: &mut Vec<String>) -> Result<Vec<Incident>> {
        let last = Instant::now();
        loop {
            let incidents = self.agents.incidents()?.split_off(self.incidents_before);
            let expected = self.script.expected.incidents.iter();
            let mut missing: Vec<String> = expected
                .flat_map(|expected| expected.differences(&incidents))
                .collect();
            if self.script.expected.quiet && !incidents.is_empty() {
                let told = incidents
                    .iter()
                    .map(|one| (&one.node, one.verdict, &one.cause));
                let told: Vec<_> = told.collect();
                differences.push(format!("there should be no incident: {told:?}"));
                return Ok(incidents);
            }
            let loss = self.script.expected.loss.as_ref();
            missing.extend(loss.and_then(|loss| loss.awaited(&incidents)));
            if missing.is_empty() || last.elapsed() > self.patience(TOLD_BY) {
                differences.extend(missing);
                return Ok(incidents);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Flaps recorded since before the first step.
    fn flaps(&self) -> Result<Vec<Flap>> {
        let known = |flap: &Flap| {
            self.flaps_before.iter().any(|old| {
                old.node == flap.node && old.peer == flap.peer && old.number == flap.number
            })
        };
        let mut flaps = self.agents.flaps()?;
        flaps.retain(|flap| !known(flap));
        Ok(flaps)
    }
}

/// Scrapes without a pause until each session was seen down, and gives the moments.
fn watch_down(
    agents: Agents<'_>,
    sessions: &[Session],
    stop: &AtomicBool,
) -> BTreeMap<Session, i128> {
    let mut seen = BTreeMap::new();
    while seen.len() < sessions.len() && !stop.load(Ordering::Relaxed) {
        for scrape in agents.all.iter().filter_map(|agent| agent.scrape().ok()) {
            let Ok(now) = boot_nanos() else { continue };
            for session in sessions {
                if scrape.down(&session.node, &session.peer) {
                    seen.entry(session.clone()).or_insert(now);
                }
            }
        }
    }
    seen
}

fn is_down(told: &Told, session: &Session) -> bool {
    matches!(&told.record.change, Change::SessionDown { peer } if *peer == session.peer)
        && told.record.node == session.node
}

fn is_flap(told: &Told, session: &Session) -> bool {
    matches!(&told.record.change, Change::Flap { flap } if session.is(flap))
}

/// One change as a line, its time relative to the first step: when it was told, and if that was later,
/// when it happened.
fn tell(out: &mut dyn Write, begun: i128, told: &Told) -> Result<()> {
    let record = &told.record;
    let at = i128::from(record.at.nanos()) - begun;
    let (peer, what) = describe(&record.change);
    let late = if let Change::Routes(routes) = &record.change {
        // Told when a burst is over, or a gap too long to be a replacement.
        let late = record.time.as_nanosecond() - routes.first.as_nanosecond();
        format!(" (at {})", seconds(at - late))
    } else {
        String::new()
    };
    writeln!(
        out,
        "{:>10}    {:<4} {peer:<10} {what}{late}",
        seconds(at),
        record.node
    )?;
    Ok(())
}

fn seconds(nanos: i128) -> String {
    let millis = nanos.div_euclid(100_000);
    let sign = if millis < 0 { '-' } else { '+' };
    format!(
        "{sign}{}.{:04} s",
        millis.abs() / 10_000,
        millis.abs() % 10_000
    )
}

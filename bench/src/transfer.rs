//! A table goes from one real BIRD to another, and the agent reads the messages at both ends. The
//! routes stay out of the kernel. Needs root.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use observer_tests::{
    agent::{Agent, Options},
    gate,
    lab::{Lab, Plan},
    metrics::Scrape,
    story::CONVERGES,
    transfer::{PROTOCOL, configure, say},
    wait,
};

use crate::measure::{Figure, float, processor_seconds};

const N1: &str = "10.0.0.1";
const LIMIT: Duration = Duration::from_mins(4);
const PAUSE: Duration = Duration::from_millis(50);

/// What one transfer came to.
struct Transfer {
    /// Until the second BIRD had every route, and until the agent had counted them.
    bird: Duration,
    agent: Duration,
    /// UPDATEs that the agent read at both ends.
    messages: f64,
    /// Seconds of processor time.
    bird_seconds: f64,
    agent_seconds: f64,
    /// Resident octets of the agent before and after.
    resident: (u64, u64),
    /// Events that the agent lost, and holes in what its taps saw.
    lost: f64,
}

pub fn measure(routes: u32, turns: usize) -> Result<Vec<Figure>> {
    if !gate::open()? {
        return Ok(Vec::new());
    }
    let transfers = (0..turns)
        .map(|_| transfer(routes))
        .collect::<Result<Vec<_>>>()?;
    let what = format!("{routes} routes from BIRD to BIRD");
    let figure = |who: &str, unit: &str, of: &dyn Fn(&Transfer) -> f64| {
        Figure::of(&what, who, unit, transfers.iter().map(of).collect())
    };
    let mebibytes = |octets: u64| float(octets) / f64::from(1 << 20);
    Ok(vec![
        figure("BIRD", "s", &|one| one.bird.as_secs_f64()),
        figure("agent", "s", &|one| one.agent.as_secs_f64()),
        figure("agent, both ends", "UPDATEs/s", &|one| {
            one.messages / one.agent.as_secs_f64()
        }),
        figure("both BIRDs", "s of CPU", &|one| one.bird_seconds),
        figure("agent", "s of CPU", &|one| one.agent_seconds),
        figure("agent", "lost", &|one| one.lost),
        figure("agent, before", "MiB resident", &|one| {
            mebibytes(one.resident.0)
        }),
        figure("agent, after", "MiB resident", &|one| {
            mebibytes(one.resident.1)
        }),
    ])
}

fn transfer(routes: u32) -> Result<Transfer> {
    let lab = Lab::build(Plan::of(2))?;
    configure(&lab, routes)?;
    let options = Options {
        inventory: true,
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    lab.start_all()?;
    lab.await_established(CONVERGES.max(LIMIT))?;
    agent.await_all_up(lab.sessions(), CONVERGES)?;
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    let wanted = u64::from(routes) + 1;
    let birds = [n1.pid(), n2.pid()].map(Option::unwrap_or_default);
    let spent = || -> Result<(f64, f64)> {
        let [one, other] = birds;
        Ok((
            processor_seconds(one)? + processor_seconds(other)?,
            processor_seconds(agent.process().pid())?,
        ))
    };
    let before = (spent()?, agent.resident_bytes()?);
    let begun = Instant::now();
    lab.birdc(n1, &format!("enable {PROTOCOL}"))?;
    let bird = wait::until("n2's BIRD has the routes", LIMIT, PAUSE, || {
        let said = say(&lab, n2, N1)?;
        ensure!(said.imported == wanted, "{said:?}, and {wanted} wanted");
        Ok::<_, anyhow::Error>(begun.elapsed())
    })?;
    let (scrape, seen) = wait::until("the agent has them", LIMIT, PAUSE, || {
        let scrape = agent.scrape()?;
        let prefixes = scrape.sum("bgp_observer_prefixes", &[("node", "n2"), ("peer", N1)]);
        ensure!(
            (prefixes - float(wanted)).abs() < 0.5 || lost(&scrape) > 0.0,
            "{prefixes} of {wanted}"
        );
        Ok::<_, anyhow::Error>((scrape, begun.elapsed()))
    })?;
    let updates = [("sent", "n1"), ("received", "n2")].map(|(direction, node)| {
        let labels = [("node", node), ("direction", direction), ("type", "update")];
        scrape.sum("bgp_observer_messages_total", &labels)
    });
    let after = (spent()?, agent.resident_bytes()?);
    Ok(Transfer {
        bird,
        agent: seen,
        messages: updates.iter().sum(),
        bird_seconds: after.0.0 - before.0.0,
        agent_seconds: after.0.1 - before.0.1,
        resident: (before.1, after.1),
        lost: lost(&agent.scrape()?),
    })
}

/// What the agent says that it missed.
fn lost(scrape: &Scrape) -> f64 {
    scrape.sum("bgp_observer_events_lost_total", &[])
        + scrape.sum("bgp_observer_tap_gaps_total", &[])
}

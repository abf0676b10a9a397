//! A table goes from a real BIRD to another, and to a `GoBGP`, and the agent reads the messages at both
//! ends. The routes stay out of the kernel. Needs root.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use observer_tests::{
    gate,
    speaker::Speaker,
    transfer::{PROTOCOL, imported, missed, scene, updates},
    wait,
};

use crate::measure::{Figure, float, processor_seconds, resident_of};

const N1: &str = "10.0.0.1";
const LIMIT: Duration = Duration::from_mins(4);
const PAUSE: Duration = Duration::from_millis(50);
/// To whom, and how it is called here.
const RECEIVERS: [(Speaker, &str); 2] = [(Speaker::Bird, "BIRD"), (Speaker::Gobgp, "GoBGP")];

/// What one transfer came to.
struct Transfer {
    /// Until the receiver had every route, and until the agent had counted them.
    receiver: Duration,
    agent: Duration,
    /// UPDATEs that the agent read at both ends.
    messages: f64,
    /// Seconds of processor time.
    speakers_seconds: f64,
    agent_seconds: f64,
    /// Resident octets of the agent before and after, and of the receiver.
    resident: (u64, u64),
    receiver_resident: (u64, u64),
    /// Events that the agent lost, and holes in what its taps saw.
    lost: f64,
}

pub fn measure(routes: u32, turns: usize) -> Result<Vec<Figure>> {
    if !gate::open()? {
        return Ok(Vec::new());
    }
    let mut transfers = RECEIVERS.map(|_| Vec::new());
    for _ in 0..turns {
        for ((receiver, _), transfers) in RECEIVERS.iter().zip(&mut transfers) {
            transfers.push(transfer(*receiver, routes)?);
        }
    }
    let named = RECEIVERS.iter().zip(&transfers);
    let all = named.flat_map(|((_, receiver), transfers)| figures(routes, receiver, transfers));
    Ok(all.collect())
}

fn figures(routes: u32, receiver: &str, transfers: &[Transfer]) -> Vec<Figure> {
    let what = format!("{routes} routes from BIRD to {receiver}");
    let figure = |who: &str, unit: &str, of: &dyn Fn(&Transfer) -> f64| {
        Figure::of(&what, who, unit, transfers.iter().map(of).collect())
    };
    let mebibytes = |octets: u64| float(octets) / f64::from(1 << 20);
    let each =
        |(before, after): (u64, u64)| float(after.saturating_sub(before)) / f64::from(routes);
    vec![
        figure(receiver, "s", &|one| one.receiver.as_secs_f64()),
        figure("agent", "s", &|one| one.agent.as_secs_f64()),
        figure("agent, both ends", "UPDATEs/s", &|one| {
            one.messages / one.agent.as_secs_f64()
        }),
        figure("both speakers", "s of CPU", &|one| one.speakers_seconds),
        figure("agent", "s of CPU", &|one| one.agent_seconds),
        figure("agent", "lost", &|one| one.lost),
        figure("agent, before", "MiB resident", &|one| {
            mebibytes(one.resident.0)
        }),
        figure("agent, after", "MiB resident", &|one| {
            mebibytes(one.resident.1)
        }),
        figure("agent", "octets more a route", &|one| each(one.resident)),
        figure(receiver, "octets more a route", &|one| {
            each(one.receiver_resident)
        }),
    ]
}

fn transfer(receiver: Speaker, routes: u32) -> Result<Transfer> {
    let (lab, agent) = scene(receiver, routes, LIMIT)?;
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    // n1's own block is one more.
    let wanted = u64::from(routes) + 1;
    let speakers = [n1.pid(), n2.pid()].map(Option::unwrap_or_default);
    let spent = || -> Result<(f64, f64)> {
        let [one, other] = speakers;
        Ok((
            processor_seconds(one)? + processor_seconds(other)?,
            processor_seconds(agent.process().pid())?,
        ))
    };
    let [_, receiver] = speakers;
    let before = (spent()?, agent.resident_bytes()?, resident_of(receiver)?);
    let begun = Instant::now();
    lab.birdc(n1, &format!("enable {PROTOCOL}"))?;
    let has = wait::until("n2's speaker has the routes", LIMIT, PAUSE, || {
        let imported = imported(&lab, n2, N1)?;
        ensure!(imported == wanted, "{imported}, and {wanted} wanted");
        Ok::<_, anyhow::Error>(begun.elapsed())
    })?;
    let (scrape, seen) = wait::until("the agent has them", LIMIT, PAUSE, || {
        let scrape = agent.scrape()?;
        let prefixes = scrape.sum("bgp_observer_prefixes", &[("node", "n2"), ("peer", N1)]);
        ensure!(
            (prefixes - float(wanted)).abs() < 0.5 || missed(&scrape) > 0.0,
            "{prefixes} of {wanted}"
        );
        Ok::<_, anyhow::Error>((scrape, begun.elapsed()))
    })?;
    let messages = updates(&scrape, "n1", "sent") + updates(&scrape, "n2", "received");
    let after = (spent()?, agent.resident_bytes()?, resident_of(receiver)?);
    Ok(Transfer {
        receiver: has,
        agent: seen,
        messages,
        speakers_seconds: after.0.0 - before.0.0,
        agent_seconds: after.0.1 - before.0.1,
        resident: (before.1, after.1),
        receiver_resident: (before.2, after.2),
        lost: missed(&agent.scrape()?),
    })
}

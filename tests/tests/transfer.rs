//! A table of many routes goes from one BIRD to another, and what the agent counted is what both say.
#![expect(clippy::print_stdout, reason = "measurements, for --nocapture")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    agent::Agent,
    gate,
    lab::Lab,
    metrics::Scrape,
    speaker::Speaker,
    transfer::{PROTOCOL, TOGETHER, missed, say, scene, updates},
    wait,
};

const N1: &str = "10.0.0.1";
const N2: &str = "10.0.0.2";

/// A counter of n2's session with n1.
fn counted(scrape: &Scrape, name: &str) -> f64 {
    let labels = [("node", "n2"), ("peer", N1)];
    scrape.sum(&format!("bgp_observer_{name}"), &labels)
}

/// How many prefixes n1 has announced to n2.
fn advertised(agent: &Agent) -> Result<f64> {
    let peers = agent.peers()?;
    let view = peers.iter().find(|view| view.node == "n1");
    let families = &view.context("n1 has no peer")?.bgp.advertised;
    Ok(float(families.values().sum()))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Waits until n2's BIRD has `wanted` routes of n1, and both ends of the agent counted all that the
/// BIRDs say; gives when the BIRD and when the agent was there.
fn settle(lab: &Lab, agent: &Agent, wanted: u64, limit: Duration) -> Result<(Duration, Duration)> {
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    let begun = Instant::now();
    let pause = Duration::from_millis(100);
    let there = wait::until("n2's BIRD has the routes", limit, pause, || {
        let said = say(lab, n2, N1)?;
        ensure!(said.imported == wanted, "{said:?}, and {wanted} wanted");
        Ok::<_, anyhow::Error>(begun.elapsed())
    })?;
    let seen = wait::until("the agent counted them", limit, pause, || {
        let (origin, other) = (say(lab, n1, N2)?, say(lab, n2, N1)?);
        let scrape = agent.scrape()?;
        let prefixes = counted(&scrape, "prefixes");
        let announced = counted(&scrape, "announcements_total");
        let withdrawn = counted(&scrape, "withdrawals_total");
        let advertised = advertised(agent)?;
        let (sent, received) = (
            updates(&scrape, "n1", "sent"),
            updates(&scrape, "n2", "received"),
        );
        let whole = [
            (prefixes, other.imported),
            (advertised, other.imported),
            (announced, other.updates),
            (announced, origin.updates_sent),
            (withdrawn, other.withdraws),
            (withdrawn, origin.withdraws_sent),
        ];
        let equal = |one: f64, two: f64| (one - two).abs() < 0.5;
        let whole = equal(sent, received)
            && whole
                .iter()
                .all(|(counted, said)| equal(*counted, float(*said)));
        ensure!(missed(&scrape) == 0.0, "{} missed", missed(&scrape));
        ensure!(
            whole,
            "{prefixes} prefixes, {advertised} at their origin, {announced} announced, {withdrawn} withdrawn, {sent} UPDATEs \
             sent, {received} received; the BIRDs: {origin:?}, {other:?}"
        );
        Ok::<_, anyhow::Error>(begun.elapsed())
    })?;
    Ok((there, seen))
}

/// One BIRD announces that many to another and withdraws them.
fn transfer(count: u32, limit: Duration) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = scene(Speaker::Bird, count, limit)?;
    // The nodes' own blocks.
    settle(&lab, &agent, 1, limit)?;
    let small = agent.resident_bytes()?;

    lab.birdc(lab.node(1)?, &format!("enable {PROTOCOL}"))?;
    let (bird, seen) = settle(&lab, &agent, u64::from(count) + 1, limit)?;
    let messages = updates(&agent.scrape()?, "n2", "received");
    ensure!(
        messages >= f64::from(count / TOGETHER),
        "{messages} UPDATEs for {count} routes"
    );
    let large = agent.resident_bytes()?;

    lab.birdc(lab.node(1)?, &format!("disable {PROTOCOL}"))?;
    let (gone, unseen) = settle(&lab, &agent, 1, limit)?;
    let scrape = agent.scrape()?;
    println!(
        "{count} routes in {messages} UPDATEs at each end: BIRD had them after {bird:?}, the agent \
         {seen:?} ({:.0} UPDATEs/s at both ends together); withdrawn after {gone:?}, {unseen:?}; \
         {} events lost, {} gaps; {} MiB resident before, {} with them",
        2.0 * messages / seen.as_secs_f64(),
        scrape.sum("bgp_observer_events_lost_total", &[]),
        scrape.sum("bgp_observer_tap_gaps_total", &[]),
        small >> 20,
        large >> 20,
    );
    for name in [
        "decode_errors_total",
        "malformed_updates_total",
        "session_flaps_total",
    ] {
        let wrong = scrape.sum(&format!("bgp_observer_{name}"), &[]);
        ensure!(wrong == 0.0, "{name}: {wrong}");
    }
    Ok(())
}

#[test]
fn fifty_thousand_routes_are_counted_as_both_birds_count_them() -> Result<()> {
    transfer(50_000, Duration::from_mins(1))
}

#[test]
#[ignore = "long: half a million routes"]
fn half_a_million_routes_are_counted_as_both_birds_count_them() -> Result<()> {
    transfer(500_000, Duration::from_mins(4))
}

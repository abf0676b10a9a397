//! Many routes at once: the mirror is the kernel's tables afterwards, and nothing was lost in silence.
#![expect(clippy::print_stdout, reason = "measurements, for --nocapture")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use observer_tests::{
    agent::{Agent, Options},
    burst, fib, gate,
    lab::{Lab, Node, Plan},
    listeners::{Heard, IpMonitor, Reader},
    netns,
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(20);
/// The agent may grow by this much, beyond what each route costs.
const ROOM: u64 = 256 << 20;
/// What a route may cost while it comes and goes: the mirror, and what is remembered of a lost one.
const PER_ROUTE: u64 = 700;

fn lost(agent: &Agent, stage: &str) -> Result<f64> {
    let labels = [("stage", stage)];
    Ok(agent
        .scrape()?
        .sum("bgp_observer_events_lost_total", &labels))
}

fn say(who: &str, heard: Heard, expected: u64) {
    let Heard {
        changes, overruns, ..
    } = heard;
    let missed = expected.saturating_sub(changes);
    println!("  {who}: {changes} changes, {missed} missed, {overruns} overruns");
}

/// BIRD installs and withdraws that many, with others listening beside the agent.
fn come_and_go(count: u32, limit: Duration) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::build(Plan::of(2))?;
    burst::configure(&lab, count)?;
    let agent = Agent::start(&lab, &Options::default())?;
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    lab.start(n1)?;
    lab.start(n2)?;
    lab.await_established(CONVERGES)?;
    // Else n2's block may be programmed after all of the burst, which BIRD does in one go.
    lab.await_pod_reaches(n1, n2, SOON)?;
    let small = fib::await_equal(&agent, n1, SOON)?;
    let before = agent.resident_bytes()?;
    let (monitor, reader) = (IpMonitor::start(&lab, n1, &[])?, Reader::start(n1)?);
    let mut most = before;
    let mut counted = |wanted: u32| {
        wait::until("BIRD's routes", limit, Duration::from_millis(100), || {
            most = most.max(agent.resident_bytes()?);
            let scrape = agent.scrape()?;
            let labels = [("node", "n1"), ("protocol", "bird"), ("ip_version", "4")];
            let there = scrape.sum("bgp_observer_fib_routes", &labels);
            ensure!(
                (there - f64::from(wanted)).abs() < 10.0,
                "{there} of {wanted}"
            );
            Ok::<_, anyhow::Error>(())
        })
    };
    let begun = Instant::now();
    lab.birdc(n1, &format!("enable {}", burst::PROTOCOL))?;
    counted(count)?;
    let added = begun.elapsed();
    let there = fib::await_equal_paged(&agent, n1, &burst::pages(count), limit)?;
    ensure!(there >= count as usize, "{there} of {count} in the kernel");
    let begun = Instant::now();
    lab.birdc(n1, &format!("disable {}", burst::PROTOCOL))?;
    counted(0)?;
    let removed = begun.elapsed();
    // The last few of them may still be there, in the kernel as in the mirror.
    wait::soon("as before", limit, || {
        let there = fib::await_equal(&agent, n1, limit)?;
        ensure!(there == small, "{there} routes, {small} before");
        Ok::<_, anyhow::Error>(())
    })?;
    let changes = agent.ask(&["events", "-o", "json"])?.lines().count();
    let (overruns, queue) = (lost(&agent, "netlink")?, lost(&agent, "queue")?);
    println!(
        "{count} routes: installed and mirrored in {added:?}, withdrawn in {removed:?}; \
         {changes} changes told, {} MiB resident before, {} at most\n  agent: {overruns} overruns, \
         {queue} events lost in its queue",
        before >> 20,
        most >> 20,
    );
    let expected = 2 * u64::from(count);
    say("ip monitor", monitor.end()?, expected);
    say("a reader with the default buffer", reader.end()?, expected);
    ensure!(changes < 500, "{changes} changes were told");
    ensure!(queue == 0.0, "{queue} events did not fit into the queue");
    let allowed = before + ROOM + u64::from(count) * PER_ROUTE;
    ensure!(most < allowed, "{} MiB resident", most >> 20);
    Ok(())
}

#[test]
fn a_burst_through_bird_ends_as_the_kernel_has_it() -> Result<()> {
    come_and_go(40_000, Duration::from_secs(90))
}

#[test]
#[ignore = "long: half a million routes"]
fn a_burst_of_half_a_million_ends_as_the_kernel_has_it() -> Result<()> {
    come_and_go(500_000, Duration::from_mins(4))
}

#[test]
#[ignore = "long: a million routes"]
fn a_burst_of_a_million_ends_as_the_kernel_has_it() -> Result<()> {
    come_and_go(1_000_000, Duration::from_mins(8))
}

/// That many routes hang on a link of their own, which goes down.
fn vanish(count: u32, limit: Duration) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let node = lab.node(1)?;
    lay_many(node, count)?;
    let there = fib::await_equal_paged(&agent, node, &burst::pages(count), limit)?;
    ensure!(there == count as usize, "{there} of {count} in the kernel");
    let labels = [("node", "n1"), ("protocol", "bird"), ("ip_version", "4")];
    let begun = Instant::now();
    fib::ip(node, &["link set v0 down"])?;
    let down = Instant::now();
    let pause = Duration::from_millis(5);
    let took = wait::until("the mirror is empty", limit, pause, || {
        let there = agent.scrape()?.sum("bgp_observer_fib_routes", &labels);
        ensure!(there == 0.0, "{there} routes left");
        Ok::<_, anyhow::Error>(down.elapsed())
    })?;
    println!(
        "{count} routes gone with their link in {:?}, mirrored {took:?} after it",
        down - begun
    );
    fib::await_equal(&agent, node, SOON)?;
    wait::soon("they are told as one change", limit, || {
        let told = agent.ask(&["events"])?;
        let wanted = format!("{count} bird routes gone silently");
        ensure!(told.contains(&wanted), "{told}");
        Ok(())
    })
}

/// A link of its own, and that many routes of BIRD's over it.
fn lay_many(node: &Node, count: u32) -> Result<()> {
    fib::lay_link(node)?;
    let lines: Vec<String> = (0..count)
        .map(|number| {
            format!(
                "route add {} via 192.168.50.2 proto bird",
                burst::prefix(number)
            )
        })
        .collect();
    netns::ip(Some(&node.namespace), &lines)
}

#[test]
fn a_link_that_takes_many_routes_along_is_mirrored_soon() -> Result<()> {
    vanish(50_000, SOON)
}

#[test]
#[ignore = "long: half a million routes"]
fn a_link_that_takes_half_a_million_routes_along_is_mirrored_soon() -> Result<()> {
    vanish(500_000, Duration::from_mins(2))
}

//! What must not deceive the agent: memory that runs out, strangers in numbers.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_core::{cause::Cause, peer::Flap};
use observer_tests::{
    agent::{Agent, Options},
    cgroup::MemoryCap,
    gate,
    lab::{Lab, Plan},
    stage::observed,
    story::CONVERGES,
    strangers, wait,
};

const SOON: Duration = Duration::from_secs(20);

/// The newest flap of a session, once it is recorded.
fn await_flap(agent: &Agent, node: &str, peer: &str, number: u64) -> Result<Flap> {
    wait::soon("flap", SOON, || {
        let flaps = agent.flaps()?;
        let newest = flaps
            .into_iter()
            .rfind(|flap| flap.node == node && flap.peer == peer);
        newest
            .filter(|flap| flap.number == number)
            .with_context(|| format!("{node} → {peer} has no flap {number}"))
    })
}

#[test]
fn a_speaker_that_runs_out_of_memory_is_told_as_such() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    let n2 = lab.node(2)?;
    let cap = MemoryCap::new(lab.estate(), "oom")?;
    cap.hold(n2.pid().context("n2 runs no speaker")?)?;
    cap.limit(4 << 20)?;
    let mut table = String::from("\nprotocol static big {\n");
    for number in 0..300_000_u32 {
        let _ = writeln!(
            table,
            "  route 11.{}.{}.{}/32 blackhole;",
            number >> 16,
            number >> 8 & 255,
            number & 255
        );
    }
    table.push_str("}\n");
    lab.configure(n2, &table)?;
    // BIRD does not live to answer.
    ensure!(
        lab.birdc(n2, "configure").is_err(),
        "BIRD took 300,000 routes into 4 MiB"
    );
    lab.await_end(n2, SOON)?;

    for peer in ["10.0.0.1", "10.0.0.3"] {
        let flap = await_flap(&agent, "n2", peer, 1)?;
        ensure!(
            flap.cause.label() == "local_speaker_gone",
            "{}",
            flap.cause_text
        );
        ensure!(flap.cause_text.contains("OOM"), "{}", flap.cause_text);
    }
    for node in ["n1", "n3"] {
        let flap = await_flap(&agent, node, "10.0.0.2", 1)?;
        ensure!(
            matches!(flap.cause, Cause::FinReceived | Cause::ResetReceived),
            "{}",
            flap.cause_text
        );
    }
    Ok(())
}

/// Who floods: the lab's bridge, which speaks no BGP.
const STRANGER: &str = "10.0.0.254";

fn stranger_series(agent: &Agent) -> Result<Vec<String>> {
    let series = agent.scrape()?.series();
    Ok(series
        .into_iter()
        .filter(|series| series.contains(STRANGER))
        .collect())
}

/// The series that are of none of the lab's peers: what is measured of a peer has a series from its
/// first measurement, which may come at any time and is no stranger's doing.
fn series_of_no_peer(agent: &Agent) -> Result<BTreeSet<String>> {
    let peers = [1, 2, 3].map(|number| format!("\"peer\": \"10.0.0.{number}\""));
    let mut series = agent.scrape()?.series();
    series.retain(|series| !peers.iter().any(|peer| series.contains(peer)));
    Ok(series)
}

fn flap_n2(lab: &Lab, agent: &Agent, number: u64) -> Result<Flap> {
    let n2 = lab.node(2)?;
    lab.end(n2, Signal::SIGKILL)?;
    let flap = await_flap(agent, "n1", "10.0.0.2", number)?;
    lab.start(n2)?;
    lab.await_established(CONVERGES)?;
    agent.await_all_up(lab.sessions(), SOON)?;
    Ok(flap)
}

#[test]
fn ten_thousand_strangers_cost_a_counter_and_nothing_else() -> Result<()> {
    const STRANGERS: usize = 10_000;
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    let n1 = lab.node(1)?;
    // A first flap and a first few strangers, so that what they create is there before we count.
    flap_n2(&lab, &agent, 1)?;
    strangers::flood(&lab.bridge(), n1.address, 200)?;
    let total = |agent: &Agent| -> Result<f64> {
        Ok(agent.scrape()?.sum("bgp_observer_strangers_total", &[]))
    };
    wait::soon("first strangers counted", SOON, || {
        let counted = total(&agent)?;
        ensure!(counted >= 200.0, "{counted}");
        Ok(())
    })?;
    let (series, memory, counted) = (
        series_of_no_peer(&agent)?,
        agent.resident_bytes()?,
        total(&agent)?,
    );

    let flap = std::thread::scope(|scope| {
        let flood = scope.spawn(|| strangers::flood(&lab.bridge(), n1.address, STRANGERS));
        let flap = flap_n2(&lab, &agent, 2);
        flood
            .join()
            .map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        flap
    })?;
    ensure!(
        flap.cause == Cause::FinReceived,
        "in the flood the cause was {}",
        flap.cause_text
    );

    // A probe that interrupts itself (a softirq in the middle of a system call) is skipped by the
    // kernel, which counts that: such an event is told as lost, and makes the agent look again.
    let missed = || -> Result<f64> {
        let lost = agent.scrape()?;
        Ok(lost.sum("bgp_observer_events_lost_total", &[("stage", "ring")]))
    };
    wait::soon("strangers counted", SOON, || {
        let (more, missed) = (total(&agent)? - counted, missed()?);
        ensure!(more + missed >= 10_000.0, "{more} counted, {missed} missed");
        Ok(())
    })?;
    ensure!(missed()? < 100.0, "{} events were lost", missed()?);
    agent.await_all_up(lab.sessions(), SOON)?;
    let now = series_of_no_peer(&agent)?;
    let left: Vec<&String> = now.difference(&series).collect();
    ensure!(left.is_empty(), "new series: {left:?}");
    ensure!(
        stranger_series(&agent)?.is_empty(),
        "the stranger has series"
    );
    let grown = agent.resident_bytes()?.saturating_sub(memory);
    ensure!(
        grown < 4 << 20,
        "the agent grew by {} KiB from {}",
        grown >> 10,
        memory >> 10
    );
    println!("memory {} KiB, grown by {} KiB", memory >> 10, grown >> 10);
    Ok(())
}

#[test]
fn bare_syns_create_nothing() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    let before = series_of_no_peer(&agent)?;
    let total = |agent: &Agent| -> Result<f64> {
        Ok(agent.scrape()?.sum("bgp_observer_strangers_total", &[]))
    };
    let strangers = total(&agent)?;
    strangers::bare_syns(&lab.bridge(), lab.node(1)?.address, 2_000)?;
    let after = series_of_no_peer(&agent)?;
    ensure!(before == after, "before:\n{before:#?}\nafter:\n{after:#?}");
    let events = agent.ask(&["events", "-o", "json"])?;
    ensure!(!events.contains(STRANGER), "{events}");
    ensure!(
        total(&agent)? <= strangers,
        "a SYN without a handshake was counted"
    );

    // They were SYNs indeed: with the answers let through, the same are strangers.
    strangers::flood(&lab.bridge(), lab.node(1)?.address, 20)?;
    wait::soon("strangers counted", SOON, || {
        ensure!(total(&agent)? >= strangers + 20.0, "{}", total(&agent)?);
        Ok(())
    })
}

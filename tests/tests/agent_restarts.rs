//! The agent comes late, dies and comes back: what it knows, and what it leaves behind.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use observer_core::{change::ChangeRecord, peer::PeerView};
use observer_tests::{
    agent::{Agent, Options, free_address},
    gate, http,
    lab::{Lab, Plan},
    metrics::Scrape,
    scenario::Scenario,
    stage::{hold, observed},
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(10);

/// Every session Established and inherited, no flap, and the guides' metric says so.
fn all_inherited(lab: &Lab, agent: &Agent) -> Result<()> {
    let peers = agent.peers()?;
    ensure!(peers.len() == lab.sessions(), "{} peers", peers.len());
    for PeerView {
        node,
        peer,
        up,
        inherited,
        flaps,
        since,
        ..
    } in &peers
    {
        ensure!(*up, "{node} → {peer} is not up at once");
        ensure!(
            *inherited,
            "{node} → {peer} was not seen to begin, yet is not marked inherited"
        );
        ensure!(*flaps == 0, "{node} → {peer} has {flaps} flaps");
        ensure!(since.is_some(), "{node} → {peer} is up since never");
    }
    let scrape = agent.scrape()?;
    for node in lab.nodes() {
        for peer in lab.nodes().iter().filter(|peer| peer.name != node.name) {
            let peer = peer.address.to_string();
            let value = |name, state| {
                let labels = [
                    ("node", node.name.as_str()),
                    ("peer", peer.as_str()),
                    ("state", state),
                ];
                scrape.value(name, labels.get(..if state.is_empty() { 2 } else { 3 })?)
            };
            ensure!(
                value("calico_bgp_peers_state", "up") == Some(1.0),
                "{} {peer}",
                node.name
            );
            ensure!(
                value("calico_bgp_peers_state", "down") == Some(0.0),
                "{} {peer}",
                node.name
            );
            ensure!(
                value("bgp_observer_session_flaps_total", "") == Some(0.0),
                "{peer}"
            );
            ensure!(
                value("bgp_observer_session_state", "") == Some(6.0),
                "{peer}"
            );
        }
    }
    Ok(())
}

#[test]
fn an_agent_that_comes_late_shows_every_session_at_once() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::up(Plan::default())?;
    lab.await_established(CONVERGES)?;
    let agent = Agent::start(&lab, &Options::default())?;
    all_inherited(&lab, &agent)?;
    hold(Scenario::Reset, &lab, &agent)?;
    agent.stop()
}

#[test]
fn an_agent_killed_leaves_nothing_in_the_kernel_and_comes_back_knowing_all() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    let held = bpf_ids(agent.process().pid())?;
    ensure!(!held.is_empty(), "the agent holds no eBPF program");
    agent.kill();
    // The kernel frees programs after a grace period.
    wait::soon("eBPF programs are gone", SOON, || {
        let left: Vec<u32> = loaded()?
            .into_iter()
            .filter(|id| held.contains(id))
            .collect();
        ensure!(left.is_empty(), "programs {left:?} are still loaded");
        Ok(())
    })?;
    let agent = Agent::start(&lab, &Options::default())?;
    all_inherited(&lab, &agent)?;
    // Not `kill`: whether routes are kept stale is in the OPENs, which this agent has not seen.
    hold(Scenario::Restart, &lab, &agent).map(drop)
}

/// Ids of the eBPF programs that a process holds open.
fn bpf_ids(pid: u32) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // Descriptors come and go.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// Ids of all eBPF programs in the kernel.
fn loaded() -> Result<Vec<u32>> {
    aya::programs::loaded_programs()
        .map(|program| Ok(program?.id()))
        .collect()
}

#[test]
fn a_passive_sides_outage_survives_the_agents_restart_in_every_scrape() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let metrics = free_address()?;
    let options = Options {
        metrics: Some(metrics),
        ..Options::default()
    };
    let (lab, agent) = observed(Plan::default(), &options)?;
    let n2 = lab.node(2)?;
    // n1 never dials n2: only the state directory can know of it.
    lab.end(n2, Signal::SIGTERM)?;
    wait::soon("n1 shows n2 down", SOON, || {
        let scrape = agent.scrape()?;
        ensure!(scrape.down("n1", "10.0.0.2"), "not down");
        ensure!(
            scrape.sum(
                "bgp_observer_session_flaps_total",
                &[("node", "n1"), ("peer", "10.0.0.2")]
            ) > 0.0,
            "not counted"
        );
        Ok(())
    })?;
    let flaps = wait::soon("four flaps are final", SOON, || {
        let flaps = agent.flaps()?;
        ensure!(flaps.len() == 4, "{} flaps", flaps.len());
        Ok(flaps)
    })?;
    agent.stop()?;

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scrapes = scope.spawn(|| {
            let mut scrapes = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                scrapes.extend(http::get(metrics, "/metrics"));
            }
            scrapes
        });
        let agent = Agent::start(&lab, &options);
        stop.store(true, Ordering::Relaxed);
        let scrapes = scrapes
            .join()
            .map_err(|_| anyhow::anyhow!("scraping panicked"))?;
        let agent = agent?;
        for (text, number) in scrapes
            .iter()
            .chain([&http::get(metrics, "/metrics")?])
            .zip(1..)
        {
            let scrape: Scrape = text.parse()?;
            ensure!(
                scrape.down("n1", "10.0.0.2"),
                "the alert resolves at scrape {number}:\n{text}"
            );
        }
        let remembered = agent.flaps()?;
        ensure!(
            remembered == flaps,
            "flaps before:\n{flaps:#?}\nand after:\n{remembered:#?}"
        );

        lab.start(n2)?;
        lab.await_established(CONVERGES)?;
        let peers = agent.await_all_up(lab.sessions(), SOON)?;
        let peer = peers
            .iter()
            .find(|peer| peer.node == "n1" && peer.peer == "10.0.0.2");
        ensure!(
            peer.is_some_and(|peer| peer.flaps == 1),
            "one flap before, one after: {peer:?}"
        );
        Ok(())
    })
}

#[test]
fn a_peer_is_forgotten_on_command() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    lab.end(lab.node(2)?, Signal::SIGKILL)?;
    wait::soon("n1 shows n2 down", SOON, || {
        ensure!(agent.scrape()?.down("n1", "10.0.0.2"), "not down");
        Ok(())
    })?;
    let down = agent.command(&["status", "--exit-code"]).output()?;
    ensure!(
        down.status.code() == Some(3),
        "status --exit-code: {}",
        down.status
    );

    agent.ask(&["peers", "forget", "10.0.0.2", "--node", "n1"])?;
    let gone = |agent: &Agent| -> Result<()> {
        let known = agent
            .peers()?
            .iter()
            .any(|peer| peer.node == "n1" && peer.peer == "10.0.0.2");
        ensure!(!known, "status still shows it");
        let labels = [("node", "n1"), ("peer", "10.0.0.2")];
        let left: Vec<String> = agent
            .scrape()?
            .0
            .iter()
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(k, v)| sample.labels.get(*k).is_some_and(|l| l == v))
            })
            .map(|sample| sample.name.clone())
            .collect();
        ensure!(left.is_empty(), "series are left: {left:?}");
        Ok(())
    };
    wait::soon("n2 forgotten by n1", SOON, || gone(&agent))?;
    let others = agent.peers()?;
    ensure!(
        others.len() == lab.sessions() - 1,
        "{} peers are left",
        others.len()
    );
    agent.stop()?;
    let agent = Agent::start(&lab, &Options::default())?;
    gone(&agent)
}

#[test]
fn a_recorded_run_replays_to_the_same_changes() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::up(Plan::default())?;
    let record = lab.estate().folder().join("record.jsonl");
    let options = Options {
        record: Some(record.clone()),
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    lab.await_established(CONVERGES)?;
    agent.await_all_up(lab.sessions(), SOON)?;
    hold(Scenario::Kill, &lab, &agent)?;
    hold(Scenario::Reset, &lab, &agent)?;
    let live = changes(&agent.ask(&["events", "-o", "json"])?)?;
    ensure!(live.len() > 20, "only {} changes", live.len());
    let replayed = replay(&agent, &record)?;
    agent.stop()?;
    // What came between the two questions may be in one only.
    for (number, (live, replayed)) in live.iter().zip(&replayed).enumerate() {
        ensure!(
            live == replayed,
            "change {number}: live\n{live:#?}\nreplayed\n{replayed:#?}"
        );
    }
    ensure!(
        replayed.len() >= live.len(),
        "{} changes of {}",
        replayed.len(),
        live.len()
    );
    Ok(())
}

fn replay(agent: &Agent, record: &Path) -> Result<Vec<ChangeRecord>> {
    let copy = record.with_extension("copy");
    fs::copy(record, &copy)?;
    // The agent may be in the middle of the last line.
    let text = fs::read_to_string(&copy)?;
    let whole = text.rfind('\n').context("an empty record")?;
    fs::write(&copy, text.get(..=whole).unwrap_or_default())?;
    let output = std::process::Command::new(agent.program())
        .arg("replay")
        .arg(&copy)
        .args(["-o", "json"])
        .output()?;
    if !output.status.success() {
        bail!("replay: {}", String::from_utf8_lossy(&output.stderr));
    }
    changes(&String::from_utf8(output.stdout)?)
}

fn changes(text: &str) -> Result<Vec<ChangeRecord>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a change: {line}")))
        .collect()
}

#[test]
fn two_agents_side_by_side_each_see_their_own() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    let (quiet_lab, quiet) = observed(Plan::of(2), &Options::default())?;
    let before = quiet.ask(&["events", "-o", "json"])?;
    hold(Scenario::Reset, &lab, &agent)?;
    ensure!(
        quiet.ask(&["events", "-o", "json"])? == before,
        "one lab's agent told of the other"
    );
    quiet.await_all_up(quiet_lab.sessions(), SOON).map(drop)
}

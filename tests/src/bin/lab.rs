//! `lab`: builds a mesh of real BGP speakers, breaks it, and tells what bgp-observer saw.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use observer_tests::{
    agent::{self, Agent, Options},
    agents::Agents,
    estate,
    lab::{Lab, Plan},
    programs,
    rights::Overlay,
    scenario::Scenario,
    speaker::Speaker,
    story::{self, CONVERGES, Outcome},
};

/// How long an incident may take to be over, once its sessions are up.
const INCIDENT_ENDS: Duration = Duration::from_secs(30);

/// Build a mesh of real BGP speakers in network namespaces, break it, and tell what bgp-observer
/// saw. Ends with 0 only when it saw what it should have.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "cargo xtask lab")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct Arguments {
    /// Nodes in the mesh
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=200))]
    nodes: u8,
    /// What happens to n2
    #[arg(long, default_value = "restart")]
    scenario: Scenario,
    /// What every node but n1 runs; n1 runs BIRD 1.6, Calico's
    #[arg(long, default_value = "bird")]
    speaker: Speaker,
    /// BGP hold time in seconds [default: 240 as in Calico; 9 for firewall]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(3..))]
    hold: Option<u16>,
    /// Leave the timers as Calico leaves them: scenarios that wait for one take minutes
    #[arg(long)]
    long: bool,
    /// Do without graceful restart
    #[arg(long)]
    no_graceful_restart: bool,
    /// Leave everything running at the end, also after a failure
    #[arg(long)]
    keep: bool,
    /// Write what the agent was told to this file, for `bgp-observer replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// List the scenarios
    #[arg(long)]
    list: bool,
    /// Remove a lab that was kept
    #[arg(long, value_name = "ID")]
    remove: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = io::stdout();
    match run(&arguments, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<bool> {
    if arguments.list {
        for scenario in Scenario::value_variants() {
            let value = scenario
                .to_possible_value()
                .context("a scenario without a name")?;
            let help = value
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            writeln!(out, "{:<18} {help}", value.get_name())?;
        }
        return Ok(true);
    }
    if let Some(id) = &arguments.remove {
        estate::remove(id)?;
        return Ok(true);
    }

    agent::program()?;
    let begun = Instant::now();
    let mut plan = Plan {
        nodes: arguments.nodes,
        speaker: arguments.speaker,
        own_timers: arguments.long,
        ..Plan::default()
    };
    plan.manners.hold = arguments.hold;
    plan.manners.graceful_restart = !arguments.no_graceful_restart;
    let plan = arguments.scenario.plan(plan);
    let lab = build(plan, out)?;
    let agent = Agent::start(
        &lab,
        &Options {
            inventory: true,
            record: arguments.record.clone(),
            ..Options::default()
        },
    )?;
    let all_well = observe(arguments, &lab, &agent, out)
        .with_context(|| format!("the agent's last words:\n{}", agent.process().last_words()));
    writeln!(out, "\n{:.0} s in all.", begun.elapsed().as_secs_f32())?;
    if arguments.keep {
        keep(lab, &agent, out)?;
    }
    all_well
}

/// The story; true when all was as expected.
fn observe(arguments: &Arguments, lab: &Lab, agent: &Agent, out: &mut dyn Write) -> Result<bool> {
    writeln!(
        out,
        "One agent (pid {}) watches all nodes.",
        agent.process().pid()
    )?;
    let waited = Instant::now();
    lab.await_established(CONVERGES)?;
    agent.await_all_up(lab.sessions(), Duration::from_secs(10))?;
    writeln!(
        out,
        "Every session is Established after {:.1} s. bgp-observer status:\n\n{}",
        waited.elapsed().as_secs_f32(),
        agent.ask(&["status"])?
    )?;
    writeln!(
        out,
        "Now {}:\n",
        arguments.scenario.script(lab, Overlay::Ebpf)?.title
    )?;
    let outcome = story::play(arguments.scenario, lab, Agents::one(agent), out)?;
    tell_end(agent, &outcome, out)?;
    if outcome.differences.is_empty() {
        writeln!(out, "\nAs expected.")?;
        return Ok(true);
    }
    writeln!(out, "\nNOT as expected:")?;
    for difference in &outcome.differences {
        writeln!(out, "  {difference}")?;
    }
    Ok(false)
}

fn build(plan: Plan, out: &mut dyn Write) -> Result<Lab> {
    let begun = Instant::now();
    let lab = Lab::up(plan)?;
    writeln!(
        out,
        "Lab {} (built in {:.2} s): {} nodes on a bridge, a pod behind each, full mesh{}.",
        lab.estate().id(),
        begun.elapsed().as_secs_f32(),
        plan.nodes,
        plan.manners
            .hold
            .map(|hold| format!(", hold time {hold} s"))
            .unwrap_or_default()
    )?;
    for node in lab.nodes() {
        writeln!(
            out,
            "  {:<4} {:<12} {:<9} (pid {}), pods {}",
            node.name,
            node.address,
            node.speaker.title(),
            node.pid().unwrap_or_default(),
            node.block
        )?;
    }
    Ok(lab)
}

/// The story of the latest incident, once it is over.
fn tell_incident(agent: &Agent, out: &mut dyn Write) -> Result<()> {
    if agent.incidents()?.is_empty() {
        writeln!(out, "There was no incident.")?;
        return Ok(());
    }
    // One that goes on is told as it is.
    let _ = agent.await_incidents_over(INCIDENT_ENDS);
    writeln!(
        out,
        "bgp-observer incidents:\n\n{}",
        agent.ask(&["incidents"])?
    )?;
    let seen_by_others = agent
        .incidents()?
        .into_iter()
        .find(|incident| incident.node == "n1");
    if let Some(incident) = seen_by_others {
        writeln!(
            out,
            "bgp-observer incident {}:\n\n{}",
            incident.id,
            agent.ask(&["incident", &incident.id])?
        )?;
    }
    Ok(())
}

fn tell_end(agent: &Agent, outcome: &Outcome, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "\nbgp-observer status:\n\n{}", agent.ask(&["status"])?)?;
    if outcome.flaps.is_empty() {
        writeln!(out, "No flap was counted.")?;
    } else {
        writeln!(out, "bgp-observer flaps:\n\n{}", agent.ask(&["flaps"])?)?;
    }
    tell_incident(agent, out)?;
    let scrape = agent.scrape()?;
    let mut firing = false;
    for peer in &outcome.after {
        if scrape.down(&peer.node, &peer.peer) {
            firing = true;
            writeln!(
                out,
                "calico_bgp_peers_state{{node=\"{}\",peer=\"{}\",state=\"down\"}} 1",
                peer.node, peer.peer
            )?;
        }
    }
    if !firing {
        writeln!(
            out,
            "calico_bgp_peers_state{{state=\"down\"}} is 0 everywhere."
        )?;
    }
    let millis = |longest: Option<&Duration>| {
        longest.map_or_else(
            || "not seen".to_owned(),
            |d| format!("{:.1} ms", d.as_secs_f64() * 1e3),
        )
    };
    if !outcome.flaps.is_empty() {
        writeln!(
            out,
            "Kernel's state change → visible in /metrics: {} at most; → cause final: {} at most.",
            millis(outcome.visible_after.values().max()),
            millis(outcome.final_after.values().max())
        )?;
    }
    Ok(())
}

fn keep(lab: Lab, agent: &Agent, out: &mut dyn Write) -> Result<()> {
    let id = lab.estate().id().to_owned();
    let folder = lab.estate().folder().display().to_string();
    let Some(node) = lab.nodes().first() else {
        bail!("a lab without nodes")
    };
    writeln!(out, "\nThe lab stays. Look around:")?;
    writeln!(
        out,
        "  {} --socket {} status",
        agent.program().display(),
        agent.socket().display()
    )?;
    writeln!(out, "  curl -s http://{}/metrics", agent.metrics_address())?;
    writeln!(out, "  ip netns exec {} ip route", node.namespace)?;
    let birdc = programs::find("bird", "birdc")?;
    writeln!(
        out,
        "  {} -s {} show protocols all",
        birdc.shell_words(),
        lab.control(node).display()
    )?;
    writeln!(out, "  ls {folder}")?;
    writeln!(out, "and remove it:\n  cargo xtask lab --remove {id}")?;
    agent.process().release();
    lab.keep()
}

//! A healthy mesh in which much happens, as it does in a cluster: nothing of it is an incident.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use observer_core::incident::record::Verdict;
use observer_tests::{
    agent::{Agent, Options},
    fib, gate,
    lab::{Lab, Node, Plan},
    netns, programs, scenario,
    stage::observed,
    wait,
};

const SOON: Duration = Duration::from_secs(20);
/// How long a node that joins may take: BIRD waits between two attempts to connect.
const JOINS: Duration = Duration::from_mins(1);
/// Nodes that stay, beside the one that leaves and joins again.
const STAYING: usize = 3;
/// How often the agent is killed and started again meanwhile.
const RESTARTS: u32 = 2;
/// One of n2's addresses that n3 borrows, as Calico does when its own blocks are full.
const BORROWED: &str = "10.244.2.40/32";
/// A service's address that several nodes announce.
const BALANCED: &str = "10.244.200.1/32";
/// A virtual machine that moves from node to node with its address.
const MIGRATED: &str = "10.244.201.7/32";

/// Beyond its block a node announces these, and no other routes.
fn announce(lab: &Lab, node: &Node, routes: &[&str]) -> Result<()> {
    let mut more = String::new();
    if !routes.is_empty() {
        more.push_str("\nprotocol static more {\n");
        for route in routes {
            let _ = writeln!(more, "  route {route} blackhole;");
        }
        more.push_str("}\n");
    }
    lab.configure(node, &more)?;
    lab.birdc(node, "configure").map(drop)
}

/// Waits until `node` routes `prefix` over exactly these.
fn await_hops(node: &Node, prefix: &str, hops: &[&Node]) -> Result<()> {
    wait::soon("routes follow", SOON, || {
        let mut ip = programs::find("iproute2", "ip")?.command();
        ip.args(["-o", "route", "show", "exact", prefix]);
        let shown = netns::output(&node.namespace, &mut ip)?;
        let over = |hop: &Node| shown.contains(&format!("via {} ", hop.address));
        ensure!(
            shown.matches("via ").count() == hops.len() && hops.iter().all(|hop| over(hop)),
            "{} routes {prefix}: {shown:?}",
            node.name
        );
        Ok(())
    })
}

/// A pod comes, and another one goes.
fn exchange_pods(node: &Node, round: u64) -> Result<()> {
    let [_, _, _, number] = node.address.octets();
    let (come, gone) = (10 + round % 20, 10 + (round + 19) % 20);
    let (new, old) = (
        format!("cali{number}x{come}"),
        format!("cali{number}x{gone}"),
    );
    let mut lines = vec![
        format!("link add {new} type veth peer name pod{come}"),
        format!("link set {new} up"),
        format!("link set pod{come} up"),
        format!("route add 10.244.{number}.{come}/32 dev {new} scope link"),
    ];
    if round > 0 {
        lines.push(format!("link delete {old}"));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    fib::ip(node, &lines)
}

/// One round of what clusters do all day.
fn churn(lab: &Lab, round: u64) -> Result<()> {
    let (n1, n2, n3) = (lab.node(1)?, lab.node(2)?, lab.node(3)?);
    for node in lab.nodes() {
        exchange_pods(node, round)?;
    }
    let block = scenario::spare(n2);
    announce(lab, n2, &[&block])?;
    await_hops(n1, &block, &[n2])?;
    announce(lab, n3, &[BORROWED])?;
    await_hops(n1, BORROWED, &[n3])?;
    announce(lab, n2, &[])?;
    await_hops(n1, &block, &[])?;
    announce(lab, n3, &[])?;
    await_hops(n1, BORROWED, &[])?;

    announce(lab, n2, &[BALANCED, MIGRATED])?;
    await_hops(n1, BALANCED, &[n2])?;
    await_hops(n1, MIGRATED, &[n2])?;
    announce(lab, n3, &[BALANCED, MIGRATED])?;
    await_hops(n1, BALANCED, &[n2, n3])?;
    announce(lab, n2, &[])?;
    await_hops(n1, BALANCED, &[n3])?;
    await_hops(n1, MIGRATED, &[n3])?;
    announce(lab, n3, &[])?;
    await_hops(n1, MIGRATED, &[])
}

/// The node that leaves, and those that stay.
fn leaver(lab: &Lab) -> Result<(&Node, impl Iterator<Item = &Node>)> {
    let leaves = lab.node(STAYING + 1)?;
    Ok((leaves, lab.nodes().iter().take(STAYING)))
}

/// A node is taken out of the cluster: the others' BIRDs are told, and its own is ended.
fn decommission(lab: &Lab, agent: &Agent) -> Result<()> {
    let (leaves, stay) = leaver(lab)?;
    for node in stay {
        lab.configure_without(node, leaves)?;
        lab.birdc(node, "configure")?;
        await_hops(node, &leaves.block, &[])?;
    }
    lab.end(leaves, Signal::SIGTERM)?;
    wait::soon("it is forgotten", SOON, || {
        let peers = agent.peers()?;
        let mut known = peers.iter().filter(|peer| peer.node != leaves.name);
        let known = known.find(|peer| peer.peer == leaves.address.to_string());
        ensure!(known.is_none(), "{known:?}");
        Ok(())
    })
}

/// And joins the cluster again.
fn join(lab: &Lab, agent: &Agent) -> Result<()> {
    let (leaves, stay) = leaver(lab)?;
    lab.start(leaves)?;
    for node in stay {
        announce(lab, node, &[])?;
    }
    lab.await_established(JOINS)?;
    agent.await_all_up(lab.sessions(), SOON)?;
    let (leaves, mut stay) = leaver(lab)?;
    stay.try_for_each(|node| await_hops(node, &leaves.block, &[leaves]))
}

/// Of the nodes that stay: that which leaves takes its agent along.
fn no_incident(lab: &Lab, agent: &Agent) -> Result<()> {
    let harmless = [
        Verdict::Graceful,
        Verdict::MicroGap,
        Verdict::NoImpact,
        Verdict::Decommissioned,
    ];
    let (leaves, _) = leaver(lab)?;
    let mut incidents = agent.incidents()?;
    incidents.retain(|one| one.node != leaves.name && !harmless.contains(&one.verdict));
    ensure!(incidents.is_empty(), "false incidents: {incidents:#?}");
    let mut flaps = agent.flaps()?;
    flaps.retain(|one| one.node != leaves.name && one.peer != leaves.address.to_string());
    ensure!(flaps.is_empty(), "{flaps:#?}");
    Ok(())
}

/// For so long.
fn stay_calm_for(length: Duration) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, mut agent) = observed(Plan::of(4), &Options::default())?;
    let begun = Instant::now();
    let (mut round, mut restarts) = (0, 0);
    while begun.elapsed() < length || round < 2 {
        churn(&lab, round)?;
        no_incident(&lab, &agent)?;
        if begun.elapsed() > length * (restarts + 1) / (RESTARTS + 1) {
            agent.kill();
            agent = Agent::start(&lab, &Options::default())?;
            agent.await_all_up(lab.sessions(), SOON)?;
            restarts += 1;
        }
        decommission(&lab, &agent)?;
        no_incident(&lab, &agent)?;
        join(&lab, &agent)?;
        round += 1;
    }
    for node in lab.nodes() {
        fib::await_equal(&agent, node, SOON)?;
    }
    no_incident(&lab, &agent)?;
    let incidents = agent.incidents()?;
    writeln!(
        io::stdout(),
        "{round} rounds and {restarts} restarts of the agent in {:.0?}: {} incidents, none above a micro gap",
        begun.elapsed(),
        incidents.len()
    )?;
    Ok(())
}

#[test]
fn nothing_that_is_planned_is_an_incident() -> Result<()> {
    stay_calm_for(Duration::from_mins(3))
}

#[test]
#[ignore = "takes half an hour"]
fn nothing_that_is_planned_is_an_incident_for_half_an_hour() -> Result<()> {
    stay_calm_for(Duration::from_mins(30))
}

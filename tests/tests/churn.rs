//! A healthy mesh in which much happens, as it does in a cluster: nothing of it is an incident.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
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

fn no_incident(agent: &Agent) -> Result<()> {
    let harmless = [Verdict::Graceful, Verdict::MicroGap, Verdict::NoImpact];
    let mut incidents = agent.incidents()?;
    incidents.retain(|one| !harmless.contains(&one.verdict));
    ensure!(incidents.is_empty(), "false incidents: {incidents:#?}");
    let flaps = agent.flaps()?;
    ensure!(flaps.is_empty(), "{flaps:#?}");
    Ok(())
}

/// For so long, with an agent that is killed and started again in the middle.
fn stay_calm_for(length: Duration) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, mut agent) = observed(Plan::default(), &Options::default())?;
    let begun = Instant::now();
    let (mut round, mut restarted) = (0, false);
    while begun.elapsed() < length || !restarted {
        if !restarted && begun.elapsed() > length / 2 {
            agent.kill();
            agent = Agent::start(&lab, &Options::default())?;
            agent.await_all_up(lab.sessions(), SOON)?;
            restarted = true;
        }
        churn(&lab, round)?;
        no_incident(&agent)?;
        round += 1;
    }
    for node in lab.nodes() {
        fib::await_equal(&agent, node, SOON)?;
    }
    no_incident(&agent)
}

#[test]
fn nothing_that_is_planned_is_an_incident() -> Result<()> {
    stay_calm_for(Duration::from_secs(45))
}

#[test]
#[ignore = "takes half an hour"]
fn nothing_that_is_planned_is_an_incident_for_half_an_hour() -> Result<()> {
    stay_calm_for(Duration::from_mins(30))
}

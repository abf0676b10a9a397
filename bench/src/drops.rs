//! A storm of packets that a node drops for lack of a route: what each costs with nobody to watch, with an
//! agent that watches nothing, one that watches where others go, and one that watches where these go. And
//! what the kernel says that each of the agent's programs takes. Needs root, and a kernel that lets
//! tracepoints be attached to.

use std::{fs, net::UdpSocket, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use observer_tests::{
    agent::{Agent, Options},
    bpf::{Counting, Runs, runs},
    burst, fib, gate,
    lab::{Lab, Node, Plan},
    netns,
    story::CONVERGES,
    wait,
};

use crate::measure::{Figure, float, processor_nanos};

/// Packets of a storm; four storms make a turn.
const STORM: u32 = 50_000;
/// After so many the processor's other work gets its turn.
const BATCH: u32 = 64;
/// Where nobody is, and where n2's pods were.
const NOWHERE: &str = "10.99.0.1:9";
const LOST: &str = "10.244.2.2:9";
/// Routes that BIRD writes and removes while programs' runs are counted.
const ROUTES: u32 = 500;
const SOON: Duration = Duration::from_secs(20);

const WHO: [&str; 4] = [
    "nobody watches",
    "agent, nothing watched",
    "agent, another prefix watched",
    "agent, this prefix watched",
];

pub fn measure(turns: usize) -> Result<Vec<Figure>> {
    if !gate::open()? {
        return Ok(Vec::new());
    }
    let lab = Lab::build(Plan::of(2))?;
    burst::configure(&lab, ROUTES)?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    // Else they would take the default route, to be dropped by somebody else. What pods have as their gateway
    // must lead somewhere else, or the node answers no ARP for it.
    let n1 = lab.node(1)?;
    let routes = [
        "route add 169.254.1.1 via 10.0.0.254",
        "route delete default",
    ];
    fib::ip(n1, &routes)?;
    // The first time the kernel gets its memory, and neighbours are asked for.
    storm(n1, NOWHERE)?;
    let mut costs = vec![Vec::new(); WHO.len()];
    let mut own = Vec::new();
    for turn in 0..turns {
        // What n1 has no route to yet it cannot lose.
        lab.await_pod_reaches(n1, lab.node(2)?, CONVERGES)?;
        let mut taken = vec![storm(n1, NOWHERE)?];
        let options = Options {
            more: ["--reach", "off"].map(str::to_owned).into(),
            ..Options::default()
        };
        let agent = Agent::start(&lab, &options)?;
        agent.await_all_up(lab.sessions(), CONVERGES)?;
        taken.push(storm(n1, NOWHERE)?);
        lose(&lab, &agent)?;
        taken.push(storm(n1, NOWHERE)?);
        let before = dropped(&agent)?;
        taken.push(storm(n1, LOST)?);
        wait::soon("the agent has counted the packets", SOON, || {
            let counted = dropped(&agent)? - before;
            ensure!(counted == u64::from(STORM), "{counted} of {STORM}");
            Ok::<_, anyhow::Error>(())
        })?;
        for (costs, taken) in costs.iter_mut().zip(taken) {
            costs.push(taken);
        }
        if turn + 1 == turns {
            own = count(&lab, &agent)?;
        }
        agent.stop()?;
        // The next one is to know of none of this one's incidents.
        fs::remove_dir_all(lab.estate().folder().join("state"))?;
        lab.start(lab.node(2)?)?;
        lab.await_established(CONVERGES)?;
    }
    let what = "a packet of 64 octets from a pod, dropped for lack of a route";
    let mut figures: Vec<Figure> = { WHO.iter().zip(costs) }
        .map(|(who, costs)| Figure::of(what, who, "ns of CPU each", costs))
        .collect();
    figures.extend(own.iter().map(|runs| {
        let nanos = float(u64::try_from(runs.time.as_nanos()).unwrap_or(u64::MAX));
        let what = format!("{}, a run by the kernel's count", runs.name);
        let who = format!("{} runs", runs.count);
        Figure::one(&what, &who, "ns", nanos / float(runs.count))
    }));
    Ok(figures)
}

/// Nanoseconds of processor time for each packet: the whole way from the pod's socket to the drop, which is
/// all in the sender's time.
fn storm(node: &Node, to: &str) -> Result<f64> {
    let before = without_route(node)?;
    let bind = || UdpSocket::bind("0.0.0.0:0");
    let socket = netns::inside(&node.pod_namespace, bind)??;
    socket.set_write_timeout(Some(SOON))?;
    let send = |count: u32| -> Result<()> {
        for _ in 0..count {
            socket.send_to(&[0; 64], to)?;
        }
        Ok(())
    };
    send(BATCH)?;
    let begun = processor_nanos()?;
    send(STORM - BATCH)?;
    let spent = processor_nanos()? - begun;
    wait::soon("every packet is dropped", SOON, || {
        let dropped = without_route(node)? - before;
        ensure!(dropped >= u64::from(STORM), "{dropped} of {STORM}");
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(float(spent) / f64::from(STORM - BATCH))
}

/// Packets that had no route at a node (`IpExt: InNoRoutes` of its `/proc/net/netstat`).
fn without_route(node: &Node) -> Result<u64> {
    let read = || fs::read_to_string("/proc/thread-self/net/netstat");
    let text = netns::inside(&node.namespace, read)??;
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = lines.next().zip(lines.next()).context("no IpExt")?;
    let mut both = names.split(' ').zip(values.split(' '));
    let found = both.find(|(name, _)| *name == "InNoRoutes");
    Ok(found.context("no InNoRoutes")?.1.parse()?)
}

/// n2's BIRD ends, so that its routes go and the agent watches them.
fn lose(lab: &Lab, agent: &Agent) -> Result<()> {
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    lab.end(n2, Signal::SIGTERM)?;
    // A packet of a few that is counted proves that all will be.
    let socket = netns::inside(&n1.pod_namespace, || UdpSocket::bind("0.0.0.0:0"))??;
    wait::soon("packets to lost pods are counted", CONVERGES, || {
        socket.send_to(&[0; 64], LOST)?;
        ensure!(dropped(agent)? > 0, "none");
        Ok(())
    })?;
    // What was on its way is counted too.
    let mut last = 0;
    wait::until("no more are", SOON, Duration::from_secs(2), || {
        let now = dropped(agent)?;
        ensure!(std::mem::replace(&mut last, now) == now, "{now}");
        Ok::<_, anyhow::Error>(())
    })
}

/// Packets of which n1's incidents say that they were dropped here.
fn dropped(agent: &Agent) -> Result<u64> {
    let incidents = agent.incidents()?;
    let open = incidents.iter().filter(|one| one.closed_at.is_none());
    let rows = open.flat_map(|one| &one.dropped);
    Ok(rows.map(|row| row.packets).sum())
}

/// What each of the agent's programs takes over a storm, routes that come and go, and a session that does.
fn count(lab: &Lab, agent: &Agent) -> Result<Vec<Runs>> {
    let n1 = lab.node(1)?;
    let own = burst::exported(lab, n1)?;
    let counting = Counting::begin()?;
    storm(n1, LOST)?;
    for (verb, routes) in [("enable", own + u64::from(ROUTES)), ("disable", own)] {
        lab.birdc(n1, &format!("{verb} {}", burst::PROTOCOL))?;
        wait::soon("BIRD wrote its routes", CONVERGES, || {
            let there = burst::exported(lab, n1)?;
            ensure!(there == routes, "{there} of {routes}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    lab.start(lab.node(2)?)?;
    lab.await_established(CONVERGES)?;
    lab.end(lab.node(2)?, Signal::SIGTERM)?;
    let mut counted = runs(agent.process().pid())?;
    drop(counting);
    counted.retain(|runs| runs.count > 0);
    ensure!(!counted.is_empty(), "none of the agent's programs ran");
    counted.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(counted)
}

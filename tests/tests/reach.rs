//! Whether pods could be reached, proven on a real mesh: by what the kernel drops, by what does not
//! answer.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use observer_core::incident::{
    Incident,
    record::{MilestoneKind, Proof, Verdict},
};
use observer_tests::{
    agent::{Agent, Options},
    fib, gate,
    lab::{Lab, Node, Plan},
    netns,
    pinger::Pinger,
    stage::observed,
    story::CONVERGES,
    wait,
};

/// How long an incident may take to be over once all is well.
const OVER: Duration = Duration::from_mins(1);

/// How long the switch's port is dark.
const DARK: Duration = Duration::from_secs(15);

/// Packets from the pod behind one node to that behind another, until it is stopped.
struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Stream {
    fn start(from: &Node, to: &Node) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (namespace, target) = (from.pod_namespace.clone(), (to.pod, 9));
        let send = move || -> Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(target)?;
            while !stopped.load(Ordering::Relaxed) {
                // What ICMP says of the last packet comes as an error of this one.
                let _ = socket.send(b"pod to pod");
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        };
        let thread = thread::spawn(move || netns::inside(&namespace, send)?);
        Self { stop, thread }
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("it panicked"))?
    }
}

/// A mesh in which the pod of n1 reaches that of n2, observed.
fn scene(more: &[&str]) -> Result<(Lab, Agent)> {
    let options = Options {
        more: more.iter().map(|&argument| argument.to_owned()).collect(),
        ..Options::default()
    };
    let plan = Plan::of(2);
    let (lab, agent) = observed(plan, &options)?;
    reaches(&lab)?;
    Ok((lab, agent))
}

fn reaches(lab: &Lab) -> Result<()> {
    let (from, to) = (lab.node(1)?, lab.node(2)?);
    lab.await_pod_reaches(from, to, CONVERGES)
}

/// The one incident of n1, which is over.
fn of_first(agent: &Agent) -> Result<Incident> {
    let all = agent.await_incidents_over(OVER)?;
    let mut mine = all.into_iter().filter(|incident| incident.node == "n1");
    let found = mine.next().context("n1 recorded nothing")?;
    ensure!(mine.next().is_none(), "n1 recorded more than one");
    Ok(found)
}

#[test]
fn packets_dropped_for_lack_of_a_route_prove_the_loss_without_a_probe() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = scene(&["--reach", "off"])?;
    let (from, to) = (lab.node(1)?, lab.node(2)?);
    // Else they would take the default route, to be dropped by somebody else.
    fib::ip(from, &["route delete default"])?;
    let stream = Stream::start(from, to);
    lab.end(to, Signal::SIGTERM)?;
    wait::soon("the packets are dropped", CONVERGES, || {
        let incidents = agent.incidents()?;
        let dropped = incidents.iter().any(|one| !one.dropped.is_empty());
        ensure!(dropped, "{incidents:#?}");
        Ok(())
    })?;
    lab.start(to)?;
    reaches(&lab)?;
    let incident = of_first(&agent)?;
    stream.stop()?;
    ensure!(
        (incident.verdict, incident.proof) == (Verdict::ReachabilityLost, Proof::Proven),
        "{incident:#?}"
    );
    let row = incident.dropped.first().context("nothing was dropped")?;
    ensure!(
        row.prefix == to.block && row.reason == "no route" && row.packets > 10,
        "{row:?}"
    );
    let gap = incident.route_gap_seconds.context("no gap")?;
    let lost = incident.unreachable_seconds.context("not measured")?;
    // A packet every 10 ms: what they prove is as long as the routes were gone, on a busy machine.
    ensure!(
        lost.min <= gap.min + 0.1 && lost.min >= gap.min / 2.0,
        "routes gone for {gap:?}, packets dropped for {lost:?}"
    );
    let kinds = [MilestoneKind::FirstLoss, MilestoneKind::LastLoss];
    for kind in kinds {
        let mut all = incident.milestones.iter();
        let found = all.find(|milestone| milestone.kind == kind);
        let found = found.with_context(|| format!("{kind:?} in {incident:#?}"))?;
        ensure!(found.evidence.contains("kfree_skb"), "{found:?}");
    }
    let told = agent.ask(&["incident", &incident.id])?;
    ensure!(told.contains("DROPPED HERE, TO"), "{told}");
    Ok(())
}

#[test]
fn a_switch_port_that_goes_dark_is_a_blackhole_that_the_baseline_finds() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = scene(&[])?;
    let (from, to) = (lab.node(1)?, lab.node(2)?);
    // What never answered cannot be missed.
    wait::soon("the baseline has an answer", CONVERGES, || {
        let scrape = agent.scrape()?;
        let labels = [("node", from.name.as_str()), ("result", "answered")];
        let answered = scrape.value("bgp_observer_reach_probes_total", &labels);
        ensure!(answered.is_some_and(|many| many > 0.0), "{answered:?}");
        Ok(())
    })?;
    let pinger = Pinger::start(from, to)?;
    let cut = Instant::now();
    // Both links stay up, as those of a switch do whose other port is dark.
    let bridge = lab.bridge();
    netns::ip(Some(&bridge), &["link set n2 nomaster".to_owned()])?;
    wait::soon("the incident opens", CONVERGES, || {
        ensure!(!agent.incidents()?.is_empty(), "none yet");
        Ok(())
    })?;
    println!("the blackhole was told after {:.1?}", cut.elapsed());
    thread::sleep(DARK.saturating_sub(cut.elapsed()));
    netns::ip(Some(&bridge), &["link set n2 master br0".to_owned()])?;
    let incident = of_first(&agent)?;
    let outages = pinger.stop()?;
    let (first, last) = outages
        .first()
        .zip(outages.last())
        .context("the pod was reached all the time")?;
    let until = last.until.context("the pod was not reached again")?;
    let measured = until.duration_since(first.from).as_secs_f64();
    ensure!(
        (incident.verdict, incident.proof) == (Verdict::Blackholed, Proof::Proven),
        "{incident:#?}"
    );
    ensure!(
        incident.sessions.is_empty() && incident.prefixes.lost == 0,
        "{incident:#?}"
    );
    let said = incident.unreachable_seconds.context("not measured")?;
    let most = said.max.context("it goes on")?;
    println!("a pod was not reached for {measured:.2} s, the incident says {said:?}");
    ensure!(
        (said.min - 0.3..=most + 0.3).contains(&measured),
        "measured {measured} s, the incident says {said:?}"
    );
    Ok(())
}

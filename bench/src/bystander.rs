//! What somebody else's packets cost more while BGP is watched: on the link that the tap is on, on a
//! pod's way over that link, and on a pod's own link, where no tap is. Beside the agent stand a
//! program on the speaker's cgroup (`scoped.rs`) and `tcpdump port 179`. Needs root.

mod scoped;
mod traffic;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use observer_tests::{
    agent::{Agent, Options},
    capture::Capture,
    cgroup::Group,
    gate,
    lab::{Lab, Node, Plan},
    netns,
    story::CONVERGES,
    wait,
};

use self::{
    scoped::Scoped,
    traffic::{End, Flow},
};
use crate::measure::Figure;

const SOON: Duration = Duration::from_secs(20);
const KEEPALIVES: u16 = 3;
/// Where a peer is, in every node.
const LINK: &str = "eth0";

/// Who watches.
#[derive(Clone, Copy, Debug)]
enum Watch {
    Nothing,
    Agent,
    Scoped,
    Tcpdump,
}

const WATCHES: [(Watch, &str); 4] = [
    (Watch::Nothing, "nothing"),
    (Watch::Agent, "agent"),
    (Watch::Scoped, "cgroup_skb on the speakers' cgroup"),
    (Watch::Tcpdump, "tcpdump port 179"),
];

/// Something that watches until it is dropped.
#[expect(
    dead_code,
    reason = "what is inside is kept for its effect, and undone when dropped"
)]
enum Watching {
    Nothing,
    Agent(Agent),
    Scoped([Scoped; 2]),
    Tcpdump(Vec<Capture>),
}

/// A lab whose speakers are in a cgroup of their own.
struct Place {
    lab: Lab,
    speakers: Group,
}

impl Place {
    fn build() -> Result<Self> {
        let lab = Lab::build(Plan::of(2).hold(3 * KEEPALIVES))?;
        let speakers = Group::new(lab.estate(), "speakers")?;
        // Sockets belong to the cgroup in which their maker was when it made them.
        speakers.around(|| lab.start_all())??;
        lab.await_established(CONVERGES)?;
        Ok(Self { lab, speakers })
    }

    fn watch(&self, who: Watch) -> Result<Watching> {
        let watching = match who {
            Watch::Nothing => Watching::Nothing,
            Watch::Agent => {
                let options = Options {
                    inventory: true,
                    ..Options::default()
                };
                Watching::Agent(Agent::start(&self.lab, &options)?)
            }
            Watch::Scoped => Watching::Scoped([
                Scoped::attach(&self.speakers, scoped::Way::In)?,
                Scoped::attach(&self.speakers, scoped::Way::Out)?,
            ]),
            Watch::Tcpdump => {
                let nodes = self.lab.nodes().iter();
                let captures = nodes.map(|node| {
                    Capture::start(self.lab.estate(), &node.namespace, LINK, &node.name)
                });
                Watching::Tcpdump(captures.collect::<Result<_>>()?)
            }
        };
        let taps = usize::from(matches!(who, Watch::Agent | Watch::Tcpdump));
        for node in self.lab.nodes() {
            wait::soon("packet sockets", SOON, || {
                let there = packet_sockets(node)?;
                ensure!(there == taps, "{there} at {}, and {taps} wanted", node.name);
                Ok::<_, anyhow::Error>(())
            })?;
        }
        Ok(watching)
    }

    /// Two nodes, two pods, a pod and its node.
    fn flows(&self) -> Result<Vec<(String, Flow)>> {
        let (n1, n2) = (self.lab.node(1)?, self.lab.node(2)?);
        let host = |node: &Node| End::new(&node.namespace, node.address);
        let pod = |node: &Node| End::new(&node.pod_namespace, node.pod);
        let ways = [
            ("node to node, tapped link", host(n1), host(n2)),
            ("pod to pod over the tapped link", pod(n1), pod(n2)),
            ("pod to its node, no tap there", pod(n1), host(n1)),
        ];
        let mut flows = Vec::new();
        for (way, from, to) in &ways {
            for flow in [
                Flow::datagrams(from, to)?,
                Flow::questions(from, to)?,
                Flow::stream(from, to)?,
            ] {
                flows.push((format!("{}, {way}", flow.what()), flow));
            }
        }
        Ok(flows)
    }
}

/// Packet sockets in a node's namespace (`/proc/net/packet`, a line each after the heading).
fn packet_sockets(node: &Node) -> Result<usize> {
    let read = || fs::read_to_string("/proc/thread-self/net/packet");
    let text = netns::inside(&node.namespace, read)?.context("no /proc/net/packet")?;
    Ok(text.lines().skip(1).count())
}

pub fn measure(rounds: usize) -> Result<Vec<Figure>> {
    if !gate::open()? {
        return Ok(Vec::new());
    }
    let place = Place::build()?;
    let mut flows = place.flows()?;
    // By flow, then by who watches.
    let mut costs = vec![vec![Vec::new(); WATCHES.len()]; flows.len()];
    for round in 0..rounds {
        for turn in 0..WATCHES.len() {
            // Nobody is always the first.
            let who = (round + turn) % WATCHES.len();
            let Some((watch, name)) = WATCHES.get(who) else {
                continue;
            };
            let watching = place.watch(*watch).with_context(|| (*name).to_owned())?;
            for ((what, flow), costs) in flows.iter_mut().zip(&mut costs) {
                let cost = flow
                    .cost()
                    .with_context(|| format!("{what} beside {name}"))?;
                if let Some(costs) = costs.get_mut(who) {
                    costs.push(cost);
                }
            }
            if let Watching::Scoped(programs) = &watching {
                await_counted(programs)?;
            }
        }
    }
    let flows = flows.iter().zip(&costs);
    Ok(flows
        .flat_map(|((what, flow), costs)| figures(what, flow, costs))
        .collect())
}

/// It does see the speakers' packets: KEEPALIVEs come every few seconds.
fn await_counted(programs: &[Scoped]) -> Result<()> {
    for program in programs {
        wait::soon("a BGP packet in the speakers' cgroup", SOON, || {
            ensure!(program.counted()? > 0, "none");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(())
}

/// What one costs with nothing, and how much more beside it with each of the others, round by round.
fn figures(what: &str, flow: &Flow, costs: &[Vec<f64>]) -> Vec<Figure> {
    let mut watches = WATCHES.iter().zip(costs);
    let Some(((_, nothing), alone)) = watches.next() else {
        return Vec::new();
    };
    let mut figures = vec![Figure::of(what, nothing, flow.unit(), alone.clone())];
    for ((_, who), costs) in watches {
        let more = costs.iter().zip(alone);
        let more = more.map(|(with, without)| (with / without - 1.0) * 100.0);
        figures.push(Figure::interval(what, who, "% more", more.collect()));
    }
    figures
}

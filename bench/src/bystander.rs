//! What somebody else's packets cost more while BGP is watched: on the link that the tap is on, on a
//! pod's way over that link, and on a pod's own link, where no tap is. Beside the agent, which taps the
//! speakers' cgroups, stand one with packet sockets and `tcpdump port 179`. Needs root.

mod traffic;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use observer_tests::{
    agent::{Agent, Options},
    capture::Capture,
    gate,
    lab::{Lab, Node, Plan},
    netns,
    story::CONVERGES,
    wait,
};

use self::traffic::{End, Flow};
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
    PacketTap,
    Tcpdump,
}

const WATCHES: [(Watch, &str); 4] = [
    (Watch::Nothing, "nothing"),
    (Watch::Agent, "agent"),
    (Watch::PacketTap, "agent with `tap = packet`"),
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
    Tcpdump(Vec<Capture>),
}

/// A lab whose speakers are in cgroups of their own.
struct Place {
    lab: Lab,
}

impl Place {
    fn build() -> Result<Self> {
        let lab = Lab::up(Plan::of(2).hold(3 * KEEPALIVES))?;
        lab.await_established(CONVERGES)?;
        Ok(Self { lab })
    }

    fn watch(&self, who: Watch) -> Result<Watching> {
        let watching = match who {
            Watch::Nothing => Watching::Nothing,
            Watch::Agent | Watch::PacketTap => {
                let packets = matches!(who, Watch::PacketTap);
                let more = packets.then_some("--tap=packet").into_iter();
                let options = Options {
                    inventory: true,
                    more: more.map(str::to_owned).collect(),
                    ..Options::default()
                };
                let agent = Agent::start(&self.lab, &options)?;
                let kind = if packets { "packet" } else { "cgroup_skb" };
                Self::await_tap(&agent, kind)?;
                Watching::Agent(agent)
            }
            Watch::Tcpdump => {
                let nodes = self.lab.nodes().iter();
                let captures = nodes.map(|node| {
                    Capture::start(self.lab.estate(), &node.namespace, LINK, &node.name)
                });
                Watching::Tcpdump(captures.collect::<Result<_>>()?)
            }
        };
        let taps = usize::from(matches!(who, Watch::PacketTap | Watch::Tcpdump));
        for node in self.lab.nodes() {
            wait::soon("packet sockets", SOON, || {
                let there = netns::packet_sockets(&node.namespace)?;
                ensure!(there == taps, "{there} at {}, and {taps} wanted", node.name);
                Ok::<_, anyhow::Error>(())
            })?;
        }
        Ok(watching)
    }

    /// At its start an agent opens packet sockets until it has heard every speaker at its socket.
    fn await_tap(agent: &Agent, kind: &str) -> Result<()> {
        wait::soon("the tap", SOON, || {
            let labels = [("probe", "tap"), ("kind", kind)];
            let attached = agent.scrape()?.sum("bgp_observer_probe_attached", &labels);
            ensure!(attached >= 1.0, "no tap of kind {kind}");
            Ok::<_, anyhow::Error>(())
        })
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
            let _watching = place.watch(*watch).with_context(|| (*name).to_owned())?;
            for ((what, flow), costs) in flows.iter_mut().zip(&mut costs) {
                let cost = flow
                    .cost()
                    .with_context(|| format!("{what} beside {name}"))?;
                if let Some(costs) = costs.get_mut(who) {
                    costs.push(cost);
                }
            }
        }
    }
    let flows = flows.iter().zip(&costs);
    Ok(flows
        .flat_map(|((what, flow), costs)| figures(what, flow, costs))
        .collect())
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

//! IPv6 routes of a running BIRD (1.6's `bird6`, as Calico runs it), from the UPDATE to the kernel, with
//! global and with link-local next hops.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use observer_core::{
    change::{Change, ChangeRecord, RouteEvent},
    route_view::{LatencyView, PathView, RouteState, RouteView},
};
use observer_tests::{
    agent::{Agent, Options},
    birdc, fib, gate,
    lab::{Lab, Node, Plan},
    netns,
    process::Process,
    programs,
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(20);
/// n2's block, and another that is announced when the protocol `more` is enabled.
const BLOCK: &str = "fd00:244:2::/122";
const MORE: &str = "fd00:244:22::/122";
/// What n2 announces and n1 programs not; what n1 programs and nobody announces.
const REFUSED: &str = "fd00:244:99::/122";
const STRAY: &str = "fd00:66::/64";

/// How the sessions, and with them the next hops, are addressed.
#[derive(Clone, Copy)]
enum Addressed {
    Globally,
    ByLink,
}

impl Addressed {
    fn address(self, number: u8) -> String {
        match self {
            Self::Globally => format!("fd00:10::{number}"),
            Self::ByLink => format!("fe80::{number}"),
        }
    }

    /// The configuration of n1's or n2's BIRD, of the shape of Calico's bird6.cfg.
    fn config(self, own: u8, other: u8) -> String {
        let (scope, reach) = match self {
            Self::Globally => ("", "multihop;\n  gateway recursive;"),
            Self::ByLink => (" % 'eth0'", "direct;"),
        };
        let (address, block) = (self.address(other), format!("fd00:244:{own}::/122"));
        let passive = if own < other { "  passive on;\n" } else { "" };
        let statics = if own == 1 {
            format!("protocol static stray {{\n  route {STRAY} via fd00:10::2;\n}}\n")
        } else {
            format!(
                "protocol static more {{\n  disabled;\n  route {MORE} blackhole;\n}}\n\
                 protocol static refused {{\n  route {REFUSED} blackhole;\n}}\n"
            )
        };
        format!(
            "\
router id 10.0.0.{own};
protocol static {{
  route {block} blackhole;
}}
{statics}
filter export_to_peers {{
  if ( net ~ fd00:244::/32 && source = RTS_STATIC ) then {{ accept; }}
  reject;
}}
filter programming {{
  if ( net = {REFUSED} ) then {{ reject; }}
  accept;
}}
protocol kernel {{
  learn;
  persist;
  scan time 2;
  import none;
  export filter programming;
  graceful restart;
  merge paths on;
}}
protocol device {{ scan time 2; }}
protocol direct {{ interface -\"cali*\", \"*\"; }}
protocol bgp Mesh {{
  local as 64512;
  {reach}
  import all;
  export filter export_to_peers;
  add paths on;
  graceful restart;
  connect delay time 1;
  connect retry time 2;
{passive}  neighbor {address}{scope} as 64512;
}}
"
        )
    }
}

/// Two nodes with IPv6 on their link, and a BIRD for it on both.
struct Mesh {
    // Processes go before the lab.
    birds: Vec<Process>,
    agent: Agent,
    lab: Lab,
}

impl Mesh {
    fn up(addressed: Addressed) -> Result<Self> {
        let lab = Lab::build(Plan::of(2))?;
        for (node, number) in lab.nodes().iter().zip(1..) {
            let lines = [
                format!("address add fd00:10::{number}/64 dev eth0 nodad"),
                format!("address add fe80::{number}/64 dev eth0 nodad"),
                format!("route add fd00:244:{number}::2/128 dev cali{number}"),
            ];
            netns::ip(Some(&node.namespace), &lines)?;
        }
        let agent = Agent::start(&lab, &Options::default())?;
        let mut mesh = Self {
            birds: Vec::new(),
            agent,
            lab,
        };
        for (own, other) in [(1, 2), (2, 1)] {
            mesh.start(own, &addressed.config(own, other))?;
        }
        for number in [1, 2] {
            wait::soon("sessions Established", CONVERGES, || {
                let sessions = birdc::sessions(&mesh.control(number)?)?;
                let info = sessions.get("Mesh").context("no session")?;
                ensure!(info == "Established", "{info}");
                Ok::<_, anyhow::Error>(())
            })?;
        }
        Ok(mesh)
    }

    fn start(&mut self, number: u8, config: &str) -> Result<()> {
        let node = self.node(number)?;
        let control = self.control(number)?;
        let file = control.with_extension("conf");
        fs::write(&file, config)?;
        let mut command = programs::find("bird", "bird6")?.command();
        command.arg("-d").arg("-s").arg(control).arg("-c").arg(file);
        let netns = Some(node.namespace.as_str());
        let name = format!("bird6-{number}");
        let bird = Process::start(self.lab.estate(), &name, netns, &mut command, None)?;
        self.birds.push(bird);
        Ok(())
    }

    fn node(&self, number: u8) -> Result<&Node> {
        self.lab.node(usize::from(number))
    }

    fn control(&self, number: u8) -> Result<PathBuf> {
        let name = format!("bird6-{}.ctl", self.node(number)?.name);
        Ok(self.lab.estate().folder().join(name))
    }

    /// What n1 has of `prefix`.
    fn route(&self, prefix: &str) -> Result<Option<RouteView>> {
        let shown = fib::ask(&self.agent, self.node(1)?, &["--prefix", prefix])?;
        let mut routes = shown.routes.into_iter();
        Ok(routes.find(|route| route.prefix == prefix))
    }

    fn await_state(&self, prefix: &str, state: RouteState) -> Result<RouteView> {
        wait::soon(&format!("{prefix} is {}", state.name()), SOON, || {
            let route = self.route(prefix)?;
            let route = route.with_context(|| format!("{prefix}: none"))?;
            ensure!(route.state == state, "{route:?}");
            Ok(route)
        })
    }

    /// How long n1's routes took to follow `peer`.
    fn latency(&self, peer: &str) -> Result<LatencyView> {
        let shown = fib::ask(&self.agent, self.node(1)?, &["--limit", "1"])?;
        let node = shown.nodes.into_iter().find(|node| node.node == "n1");
        let mut latencies = node.context("n1")?.latencies.into_iter();
        let found = latencies.find(|latency| latency.peer.starts_with(peer));
        found.with_context(|| format!("no latency of {peer}"))
    }

    fn told(&self, event: RouteEvent, prefix: &str) -> Result<()> {
        let told = self.agent.ask(&["events", "-o", "json"])?;
        for line in told.lines() {
            let record: ChangeRecord = serde_json::from_str(line)?;
            if let Change::Routes(routes) = record.change
                && routes.event == event
                && routes.prefixes.iter().any(|named| named == prefix)
            {
                return Ok(());
            }
        }
        anyhow::bail!("{prefix} was not told to be {}", event.words())
    }
}

/// Whether `took` is a time that a route may take; with rtnetlink until it was noticed.
fn is_plausible(took: Option<f64>) -> Result<()> {
    let seconds = took.context("not measured")?;
    ensure!((0.0..5.0).contains(&seconds), "{seconds} s");
    Ok(())
}

fn from_update_to_kernel_and_back(addressed: Addressed) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let mesh = Mesh::up(addressed)?;
    let peer = addressed.address(2);
    let block = mesh.await_state(BLOCK, RouteState::Programmed)?;
    let hop = block.next_hops.first().context("no next hop")?;
    ensure!(
        hop.gateway == Some(peer.parse()?) && hop.interface == "eth0",
        "{block:?}"
    );
    let by = block.announced_by.first().context("announced by nobody")?;
    ensure!(
        by.split('%').next() == Some(&peer) && block.since.is_some(),
        "{block:?}"
    );
    for number in [1, 2] {
        fib::await_equal(&mesh.agent, mesh.node(number)?, SOON)?;
    }
    is_plausible(mesh.latency(&peer)?.update_to_fib_seconds)?;
    way_between_pods(&mesh, by)?;
    // What n1's BIRD does not program is missing, and what nobody announces is stray.
    mesh.await_state(REFUSED, RouteState::Missing)?;
    mesh.await_state(STRAY, RouteState::Stray)?;
    come_and_go(&mesh, &peer)
}

fn way_between_pods(mesh: &Mesh, session: &str) -> Result<()> {
    let (from, to) = ("fd00:244:1::2", "fd00:244:2::2");
    let path: PathView = serde_json::from_str(&mesh.agent.ask(&["path", from, to, "-o", "json"])?)?;
    let legs: Vec<&str> = path.legs.iter().map(|leg| leg.node.as_str()).collect();
    ensure!(
        legs == ["n1", "n2"] && path.arrives == Some(true),
        "{path:?}"
    );
    let hop = path.legs.first().and_then(|leg| leg.hops.first());
    let peer = hop
        .and_then(|hop| hop.peers.first())
        .context("no session")?;
    ensure!(peer.peer == session && peer.since.is_some(), "{peer:?}");
    Ok(())
}

/// A block is announced and withdrawn, which is no loss.
fn come_and_go(mesh: &Mesh, peer: &str) -> Result<()> {
    let n2 = mesh.control(2)?;
    birdc::ask(&n2, "enable more")?;
    mesh.await_state(MORE, RouteState::Programmed)?;
    wait::soon("it is told", SOON, || mesh.told(RouteEvent::Added, MORE))?;
    birdc::ask(&n2, "disable more")?;
    wait::soon("its end is told", SOON, || {
        mesh.told(RouteEvent::Withdrawn, MORE)
    })?;
    ensure!(mesh.route(MORE)?.is_none(), "{:?}", mesh.route(MORE)?);
    is_plausible(mesh.latency(peer)?.withdraw_to_fib_seconds)?;
    fib::await_equal(&mesh.agent, mesh.node(1)?, SOON)?;
    let incidents = mesh.agent.incidents()?;
    ensure!(incidents.is_empty(), "{incidents:?}");
    Ok(())
}

#[test]
fn routes_over_global_next_hops_are_followed_from_the_update_to_the_kernel() -> Result<()> {
    from_update_to_kernel_and_back(Addressed::Globally)
}

#[test]
fn routes_over_link_local_next_hops_are_followed_from_the_update_to_the_kernel() -> Result<()> {
    from_update_to_kernel_and_back(Addressed::ByLink)
}

//! The kernel's routes as `ip` shows them, in the same words as the agent's mirror.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use observer_core::{
    event::forwarding::{Protocol, RouteKind, RouteSource, TABLE_MAIN},
    route_view::{HopView, RouteState, RouteView, RoutesView},
};
use serde::Deserialize;

use crate::{
    agent::{Agent, Options},
    gate,
    lab::{Lab, Node, Plan},
    netns, programs, wait,
};

/// Two nodes that nobody routes for but the test, observed.
pub fn playground() -> Result<(Lab, Agent)> {
    let lab = Lab::build(Plan::of(2))?;
    let agent = Agent::start(&lab, &Options::default())?;
    await_equal(&agent, lab.node(1)?, Duration::from_secs(20))?;
    Ok((lab, agent))
}

/// Gives `node` a link of its own, with addresses and nobody at its other end.
pub fn lay_link(node: &Node) -> Result<()> {
    ip(
        node,
        &[
            "link add v0 type veth peer name v1",
            "link set v0 up",
            "link set v1 up",
            "address add 192.168.50.1/24 dev v0",
            "address add fd50::1/64 dev v0 nodad",
        ],
    )
}

/// How often each route is there: once, if all is well.
pub type Routes = BTreeMap<String, usize>;

#[derive(Deserialize)]
struct Shown {
    #[serde(rename = "type")]
    kind: Option<String>,
    dst: String,
    table: Option<String>,
    protocol: String,
    metric: Option<u32>,
    #[serde(default)]
    nexthops: Vec<Hop>,
    #[serde(flatten)]
    hop: Hop,
}

#[derive(Deserialize)]
struct Hop {
    gateway: Option<String>,
    via: Option<Via>,
    dev: Option<String>,
    weight: Option<u16>,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Via {
    host: String,
}

impl Shown {
    fn words(&self, ipv6: bool) -> Result<String> {
        // Numbers were asked for, and the type comes as one, too.
        let kind: u8 = self
            .kind
            .as_deref()
            .unwrap_or("1")
            .parse()
            .context("type")?;
        let kind = RouteKind::from_linux(kind);
        let prefix = match (self.dst.as_str(), ipv6) {
            ("default", true) => "::/0".to_owned(),
            ("default", false) => "0.0.0.0/0".to_owned(),
            (address, _) if address.contains('/') => address.to_owned(),
            (address, true) => format!("{address}/128"),
            (address, false) => format!("{address}/32"),
        };
        let table = match self.table.as_deref() {
            None => TABLE_MAIN,
            Some(number) => number.parse().context("table")?,
        };
        let hops = if self.nexthops.is_empty() {
            std::slice::from_ref(&self.hop)
        } else {
            &self.nexthops
        };
        let mut hops: Vec<String> = { hops.iter() }
            .filter(|hop| hop.dev.is_some() && !kind.drops())
            .map(Hop::words)
            .collect();
        hops.sort();
        let protocol = Protocol(self.protocol.parse().context("protocol")?).name();
        let metric = self.metric.unwrap_or(0);
        Ok(format!(
            "{table} {prefix} {metric} {} {protocol} {hops:?}",
            kind.name()
        ))
    }
}

impl Hop {
    fn words(&self) -> String {
        let via = self.via.as_ref().map(|via| via.host.as_str());
        hop_words(
            self.gateway.as_deref().or(via),
            self.dev.as_deref().unwrap_or_default(),
            self.weight.unwrap_or(1),
            self.flags.iter().any(|flag| flag == "dead"),
        )
    }
}

fn hop_words(gateway: Option<&str>, dev: &str, weight: u16, dead: bool) -> String {
    format!("{} {dev} {weight} {dead}", gateway.unwrap_or("-"))
}

fn mirrored(view: &RouteView) -> String {
    let mut hops: Vec<String> = { view.next_hops.iter() }
        .map(|hop: &HopView| {
            let gateway = hop.gateway.map(|gateway| gateway.to_string());
            hop_words(gateway.as_deref(), &hop.interface, hop.weight, hop.dead)
        })
        .collect();
    hops.sort();
    format!(
        "{} {} {} {} {} {hops:?}",
        view.table,
        view.prefix,
        view.metric.unwrap_or(0),
        view.kind.map_or("-", RouteKind::name),
        view.owner.as_deref().unwrap_or("-"),
    )
}

/// All routes of namespace `name`, as the kernel has them.
pub fn kernel(name: &str) -> Result<Routes> {
    let mut routes = Routes::new();
    for (family, ipv6) in [("-4", false), ("-6", true)] {
        let mut command = programs::find("iproute2", "ip")?.command();
        command.args(["-n", name, family, "-d", "-j", "-N"]);
        command.args(["route", "show", "table", "all"]);
        let output = command.output().context("ip")?;
        if !output.status.success() {
            bail!("ip: {}", String::from_utf8_lossy(&output.stderr));
        }
        let shown: Vec<Shown> = match output.stdout.as_slice() {
            b"" => Vec::new(),
            text => serde_json::from_slice(text).context("ip's JSON")?,
        };
        for route in shown {
            *routes.entry(route.words(ipv6)?).or_default() += 1;
        }
    }
    Ok(routes)
}

/// The agent's answer about `node`, narrowed down by `more` arguments.
pub fn ask(agent: &Agent, node: &Node, more: &[&str]) -> Result<RoutesView> {
    let mut arguments = vec!["routes", "--node", &node.name, "-o", "json"];
    arguments.extend(more);
    Ok(serde_json::from_str(&agent.ask(&arguments)?)?)
}

/// All routes of `node`, as the agent has them.
pub fn mirror(agent: &Agent, node: &Node) -> Result<Routes> {
    Ok(there(&ask(agent, node, &["--all", "--limit", "100000"])?))
}

/// Those of `view` that exist.
fn there(view: &RoutesView) -> Routes {
    let mut routes = Routes::new();
    for route in &view.routes {
        if !matches!(route.state, RouteState::Missing | RouteState::Lost) {
            *routes.entry(mirrored(route)).or_default() += 1;
        }
    }
    routes
}

/// Waits until the agent's mirror of `node` is the kernel's tables.
pub fn await_equal(agent: &Agent, node: &Node, limit: Duration) -> Result<usize> {
    await_same(limit, || {
        Ok((kernel(&node.namespace)?, mirror(agent, node)?))
    })
}

/// Likewise for BIRD's IPv4 routes only, which are asked for page by page: all within one of `pages`,
/// which do not overlap.
pub fn await_equal_paged(
    agent: &Agent,
    node: &Node,
    pages: &[String],
    limit: Duration,
) -> Result<usize> {
    let bird = format!(" {} ", Protocol::BIRD.name());
    await_same(limit, || {
        let mut kernel = kernel(&node.namespace)?;
        kernel.retain(|route, _| route.contains(&bird) && !route.contains("::/"));
        let mut mirror = Routes::new();
        for page in pages {
            let arguments = ["--prefix", page, "--owner", "bird", "--limit", "100000"];
            let view = ask(agent, node, &arguments)?;
            if view.truncated {
                bail!("{page} has more routes than one answer");
            }
            mirror.extend(there(&view));
        }
        Ok((kernel, mirror))
    })
}

fn await_same(
    limit: Duration,
    mut look: impl FnMut() -> Result<(Routes, Routes)>,
) -> Result<usize> {
    wait::soon("the mirror equals the kernel", limit, || {
        let (kernel, mirror) = look()?;
        if kernel == mirror {
            return Ok(kernel.len());
        }
        let missing: Vec<&String> = { kernel.keys() }
            .filter(|route| !mirror.contains_key(*route))
            .take(5)
            .collect();
        let excess: Vec<&String> = { mirror.keys() }
            .filter(|route| !kernel.contains_key(*route))
            .take(5)
            .collect();
        bail!(
            "{} in the kernel, {} in the mirror; not mirrored {missing:?}, not there {excess:?}",
            kernel.len(),
            mirror.len()
        );
    })
}

/// Who tells of route changes at `node`: where functions can be traced, the probes.
pub fn source(agent: &Agent, node: &Node) -> Result<RouteSource> {
    let view = ask(agent, node, &["--limit", "1"])?;
    let own = view.nodes.iter().find(|own| own.node == node.name);
    let source = own.and_then(|own| own.source);
    let source = source.context("nobody tells of routes")?;
    ensure!(
        !gate::traces() || source == RouteSource::Probe,
        "{source:?}"
    );
    Ok(source)
}

/// Runs lines of `ip` at `node`.
pub fn ip(node: &Node, lines: &[&str]) -> Result<()> {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    netns::ip(Some(&node.namespace), &lines)
}

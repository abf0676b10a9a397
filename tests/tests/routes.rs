//! The mirror is the kernel's tables, whatever happens to them, and what went silently is found.

use std::{fmt::Write as _, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use observer_core::{
    change::{Change, ChangeRecord, RouteEvent, RoutesChanged},
    event::{Process, forwarding::RouteSource},
    route_view::{PathView, RouteState},
};
use observer_tests::{
    agent::{Agent, Options},
    fib, gate,
    lab::{Lab, Node, Plan},
    netns, programs,
    story::CONVERGES,
    wait,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// A link of its own, with routes of BIRD's over it.
fn lay(node: &Node) -> Result<()> {
    fib::lay_link(node)?;
    fib::ip(
        node,
        &[
            "route add 198.51.1.0/24 via 192.168.50.2 proto bird",
            "route add 198.51.2.0/24 via 192.168.50.2 proto bird",
            "route add fd99:1::/64 via fd50::2 dev v0 proto bird",
            "route add fd99:2::/64 via fe80::2 dev v0 proto bird",
        ],
    )
}

const LAID: [&str; 4] = [
    "198.51.1.0/24",
    "198.51.2.0/24",
    "fd99:1::/64",
    "fd99:2::/64",
];

/// What the agent said of routes that went silently at `node`: prefixes, and next hops.
fn silent(agent: &Agent, node: &Node) -> Result<(Vec<String>, Vec<String>)> {
    let (mut prefixes, mut hops) = (Vec::new(), Vec::new());
    for routes in changes(agent, node, RouteEvent::SilentlyRemoved)? {
        prefixes.extend(routes.prefixes);
        hops.extend(routes.next_hops);
    }
    prefixes.sort();
    hops.sort();
    hops.dedup();
    Ok((prefixes, hops))
}

fn changes(agent: &Agent, node: &Node, event: RouteEvent) -> Result<Vec<RoutesChanged>> {
    let mut found = Vec::new();
    for line in agent.ask(&["events", "-o", "json"])?.lines() {
        let record: ChangeRecord = serde_json::from_str(line)?;
        if let Change::Routes(routes) = record.change
            && routes.event == event
            && record.node == node.name
        {
            found.push(routes);
        }
    }
    Ok(found)
}

fn await_silent(agent: &Agent, node: &Node, prefixes: &[&str], hops: &[&str]) -> Result<()> {
    wait::soon("silent removals are told", SOON, || {
        let told = silent(agent, node)?;
        ensure!(told.0 == prefixes && told.1 == hops, "{told:?}");
        Ok(())
    })
}

/// What goes silently by whose word: prefixes, and next hops. rtnetlink announces the end of IPv6
/// routes as if somebody had asked for it; only probes see that nobody did.
type Vanishes<'a> = (&'a [&'a str], &'a [&'a str]);

const V4_GOES: Vanishes<'static> = (&["198.51.1.0/24", "198.51.2.0/24"], &["192.168.50.2"]);
const ALL_GO: Vanishes<'static> = (&LAID, &["192.168.50.2", "fd50::2", "fe80::2"]);

/// Does `act` to a link with routes on it; then exactly these must have gone silently.
fn vanish(act: &str, by_netlink: Vanishes<'_>, by_probe: Vanishes<'_>) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let node = lab.node(1)?;
    let source = fib::source(&agent, node)?;
    lay(node)?;
    fib::await_equal(&agent, node, SOON)?;
    let begun = jiff::Timestamp::now();
    fib::ip(node, &[act])?;
    let ended = jiff::Timestamp::now();
    fib::await_equal(&agent, node, SOON)?;
    let (prefixes, hops) = match source {
        RouteSource::Netlink => by_netlink,
        RouteSource::Probe => by_probe,
    };
    await_silent(&agent, node, prefixes, hops)?;
    if source == RouteSource::Probe {
        are_exact(&agent, node, (begun, ended))?;
    }
    Ok(())
}

/// What went silently has the kernel's time, and who made it go: `ip`.
fn are_exact(agent: &Agent, node: &Node, within: (jiff::Timestamp, jiff::Timestamp)) -> Result<()> {
    // Our wall clock and the agent's reading of it.
    const SLACK: Duration = Duration::from_millis(20);
    for told in changes(agent, node, RouteEvent::SilentlyRemoved)? {
        ensure!(
            told.earliest == told.first || told.count > 1,
            "no exact time: {told:?}"
        );
        let (begun, ended) = (within.0 - SLACK, within.1 + SLACK);
        ensure!(
            begun <= told.earliest && told.last <= ended,
            "not within {begun} to {ended}: {told:?}"
        );
        ensure!(by(told.writer.as_ref()) == "ip", "{told:?}");
    }
    Ok(())
}

fn by(writer: Option<&Process>) -> &str {
    writer.map_or("", |writer| writer.comm.as_str())
}

#[test]
fn a_route_that_is_replaced_is_told_with_where_it_led_and_leads() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let node = lab.node(1)?;
    let writer = match fib::source(&agent, node)? {
        RouteSource::Netlink => "",
        RouteSource::Probe => "ip",
    };
    lay(node)?;
    fib::await_equal(&agent, node, SOON)?;
    for (replace, prefix, former, now) in [
        (
            "route replace 198.51.1.0/24 via 192.168.50.3 proto bird",
            "198.51.1.0/24",
            "192.168.50.2",
            "192.168.50.3",
        ),
        (
            "route replace fd99:2::/64 via fe80::3 dev v0 proto bird",
            "fd99:2::/64",
            "fe80::2",
            "fe80::3",
        ),
    ] {
        fib::ip(node, &[replace])?;
        wait::soon("the replacement is told", SOON, || {
            let told = changes(&agent, node, RouteEvent::Replaced)?;
            let exact = |told: &&RoutesChanged| {
                (&told.prefixes, &told.former_next_hops, &told.next_hops)
                    == (
                        &vec![prefix.to_owned()],
                        &vec![former.to_owned()],
                        &vec![now.to_owned()],
                    )
            };
            let found = told
                .iter()
                .find(exact)
                .with_context(|| format!("{told:?}"))?;
            ensure!(by(found.writer.as_ref()) == writer, "{found:?}");
            Ok(())
        })?;
    }
    let told = changes(&agent, node, RouteEvent::Replaced)?;
    ensure!(told.len() == 2, "{told:?}");
    fib::await_equal(&agent, node, SOON)?;
    Ok(())
}

#[test]
fn routes_that_die_with_a_link_that_goes_down_are_found() -> Result<()> {
    vanish("link set v0 down", V4_GOES, ALL_GO)
}

#[test]
fn routes_that_die_with_a_link_that_is_deleted_are_found() -> Result<()> {
    vanish("link delete v0", V4_GOES, ALL_GO)
}

#[test]
fn routes_that_die_with_the_last_address_are_found() -> Result<()> {
    vanish("address delete 192.168.50.1/24 dev v0", V4_GOES, V4_GOES)
}

#[test]
fn routes_that_die_with_a_nexthop_object_are_found() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let node = lab.node(1)?;
    lay(node)?;
    fib::ip(
        node,
        &[
            "nexthop add id 7 via 192.168.50.3 dev v0",
            "route add 198.51.7.0/24 nhid 7 proto bird",
            "nexthop add id 8 via fe80::3 dev v0",
            "route add fd99:8::/64 nhid 8 proto bird",
        ],
    )?;
    fib::await_equal(&agent, node, SOON)?;
    let shown = fib::ask(&agent, node, &["--prefix", "198.51.7.0/24"])?;
    let hops = shown.routes.first().map(|route| &route.next_hops);
    let gateway = hops.and_then(|hops| hops.first()?.gateway);
    ensure!(
        gateway == Some("192.168.50.3".parse()?),
        "not resolved: {shown:?}"
    );
    fib::ip(node, &["nexthop delete id 7", "nexthop delete id 8"])?;
    fib::await_equal(&agent, node, SOON)?;
    let (prefixes, hops): Vanishes<'_> = match fib::source(&agent, node)? {
        RouteSource::Netlink => (&["198.51.7.0/24"], &["192.168.50.3"]),
        RouteSource::Probe => (
            &["198.51.7.0/24", "fd99:8::/64"],
            &["192.168.50.3", "fe80::3"],
        ),
    };
    await_silent(&agent, node, prefixes, hops)
}

#[test]
fn a_multipath_leg_that_dies_is_found_and_wide_routes_are_whole() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let node = lab.node(1)?;
    lay(node)?;
    let mut wide = "route add 198.51.9.0/24 proto bird".to_owned();
    let mut wide6 = "route add fd99:9::/64 proto bird".to_owned();
    for number in 1..=128 {
        let _ = write!(wide, " nexthop via 192.168.50.{} dev v0", number + 1);
        let _ = write!(wide6, " nexthop via fe80::{number:x} dev v0");
    }
    fib::ip(
        node,
        &[
            "link add w0 type veth peer name w1",
            "link set w0 up",
            "link set w1 up",
            "address add 192.168.60.1/24 dev w0",
            "route add 198.51.8.0/24 proto bird nexthop via 192.168.50.2 dev v0 nexthop via 192.168.60.2 dev w0 weight 3",
        ],
    )?;
    for words in [wide, wide6] {
        // `ip -batch` takes no lines that long.
        let mut command = programs::find("iproute2", "ip")?.command();
        command.args(words.split(' '));
        netns::output(&node.namespace, &mut command)?;
    }
    fib::await_equal(&agent, node, SOON)?;
    let shown = fib::ask(&agent, node, &["--prefix", "fd99:9::/64"])?;
    ensure!(
        shown.routes.first().map(|route| route.next_hops.len()) == Some(128),
        "{shown:?}"
    );
    fib::ip(node, &["link set w0 down"])?;
    fib::await_equal(&agent, node, SOON)?;
    let leg = |wanted: bool| {
        wait::soon("the leg", SOON, || {
            let shown = fib::ask(&agent, node, &["--prefix", "198.51.8.0/24"])?;
            let route = shown.routes.first().context("the route is gone")?;
            let dead = route.next_hops.iter().any(|hop| hop.dead);
            ensure!(dead == wanted, "{route:?}");
            Ok::<(), anyhow::Error>(())
        })
    };
    leg(true)?;
    fib::ip(node, &["link set w0 up"])?;
    leg(false)?;
    // The other leg is alive, and yet the whole route goes with the device.
    fib::ip(node, &["link delete w0"])?;
    fib::await_equal(&agent, node, SOON)?;
    await_silent(
        &agent,
        node,
        &["198.51.8.0/24"],
        &["192.168.50.2", "192.168.60.2"],
    )
}

#[test]
fn replace_storms_and_other_tables_end_as_the_kernel_has_it() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let node = lab.node(1)?;
    lay(node)?;
    let mut lines: Vec<String> = Vec::new();
    for round in 0..2_000 {
        let (net, hop, table) = (round % 50, round % 7 + 2, 100 + round % 3);
        lines.push(format!(
            "route replace 198.52.{net}.0/24 via 192.168.50.{hop} proto bird"
        ));
        lines.push(format!(
            "route replace 198.53.{net}.0/24 via 192.168.50.{hop} table {table} metric {}",
            round % 4
        ));
        lines.push(format!(
            "route replace fd98:{net}::/64 via fe80::{hop} dev v0 proto bird metric 10"
        ));
        if round % 5 == 0 {
            lines.push(format!("route delete 198.52.{net}.0/24"));
            lines.push(format!(
                "route add unreachable 198.52.{net}.0/24 proto bird"
            ));
        }
    }
    netns::ip(Some(&node.namespace), &lines)?;
    let routes = fib::await_equal(&agent, node, SOON)?;
    ensure!(routes > 100, "{routes} routes");
    let lost = agent.scrape()?;
    let lost = lost.sum("bgp_observer_events_lost_total", &[("stage", "netlink")]);
    ensure!(lost == 0.0, "{lost} overruns");
    Ok(())
}

#[test]
fn a_namespace_that_is_deleted_takes_its_routes_and_keeps_nothing_of_ours() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let node = lab.node(1)?;
    let source = fib::source(&agent, node)?;
    lay(node)?;
    fib::await_equal(&agent, node, SOON)?;
    netns::ip(None, &[format!("netns delete {}", node.namespace)])?;
    wait::soon("the teardown is told", SOON, || {
        let (prefixes, _) = silent(&agent, node)?;
        ensure!(
            LAID.iter()
                .all(|laid| prefixes.contains(&(*laid).to_owned())),
            "{prefixes:?}"
        );
        Ok(())
    })?;
    // Nobody's word but the kernel's own: it tears a namespace down when no socket is left in it, and
    // ours were.
    for told in changes(&agent, node, RouteEvent::SilentlyRemoved)? {
        ensure!(
            source == RouteSource::Netlink || by(told.writer.as_ref()).starts_with("kworker"),
            "{told:?}"
        );
    }
    Ok(())
}

#[test]
fn a_mesh_shows_whose_routes_they_are_and_the_way_between_pods() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::build(Plan::default())?;
    // Peers that are known beforehand are read from their first segment on.
    let options = Options {
        inventory: true,
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    for node in lab.nodes() {
        lab.start(node)?;
    }
    lab.await_established(CONVERGES)?;
    agent.await_all_up(lab.sessions(), CONVERGES)?;
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    let peer = n2.address.to_string();
    let source = fib::source(&agent, n1)?;
    let writer = match source {
        RouteSource::Netlink => "",
        RouteSource::Probe => "bird",
    };
    wait::soon("n2's block is programmed at n1", SOON, || {
        let shown = fib::ask(&agent, n1, &["--peer", &peer])?;
        let block = shown.routes.iter().find(|route| route.prefix == n2.block);
        let block = block.with_context(|| format!("{shown:?}"))?;
        ensure!(
            block.state == RouteState::Programmed && block.announced_by == [peer.clone()],
            "{block:?}"
        );
        ensure!(by(block.writer.as_ref()) == writer, "{block:?}");
        Ok(())
    })?;
    for node in lab.nodes() {
        fib::await_equal(&agent, node, SOON)?;
    }
    let (from, to) = (n1.pod.to_string(), n2.pod.to_string());
    let path: PathView = serde_json::from_str(&agent.ask(&["path", &from, &to, "-o", "json"])?)?;
    let legs: Vec<&str> = path.legs.iter().map(|leg| leg.node.as_str()).collect();
    ensure!(
        legs == ["n1", "n2"] && path.arrives == Some(true),
        "{path:?}"
    );
    let hop = path.legs.first().and_then(|leg| leg.hops.first());
    let session = hop.and_then(|hop| hop.peers.first());
    ensure!(
        session.is_some_and(|session| session.peer == peer),
        "{path:?}"
    );
    // BIRD puts back what somebody removes; probes know that it was `ip`.
    fib::ip(n1, &[&format!("route delete {}", n2.block)])?;
    let by = match source {
        RouteSource::Netlink => "",
        RouteSource::Probe => " ip (pid ",
    };
    wait::soon("the foreign delete is told", SOON, || {
        let told = agent.ask(&["events"])?;
        ensure!(
            told.contains(&format!("bird route {} deleted by{by}", n2.block)),
            "{told}"
        );
        Ok(())
    })
}

/// The probes of routes run all, or none and rtnetlink stands in; `check` and the metric say which, so that
/// no fallback hides.
#[test]
fn where_routes_are_told_from_is_said() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = fib::playground()?;
    let source = fib::source(&agent, lab.node(1)?)?;
    told_from(&agent, source, &[])?;
    drop(agent);
    let off = ["--route-probes", "off"].map(str::to_owned);
    let options = Options {
        more: off.to_vec(),
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    told_from(&agent, RouteSource::Netlink, &off)
}

fn told_from(agent: &Agent, source: RouteSource, flags: &[String]) -> Result<()> {
    let check = Command::new(agent.program())
        .args(["check", "-o", "json"])
        .args(flags)
        .output()?;
    let said: Value = serde_json::from_slice(&check.stdout)?;
    let routes = said.get("routes").context("no routes")?;
    let word = |name: &str| routes.get(name).and_then(Value::as_str);
    let by_probe = source == RouteSource::Probe;
    let expected = if by_probe { "probes" } else { "rtnetlink" };
    ensure!(word("source") == Some(expected), "{routes}");
    // Whoever turned them off needs no reason.
    ensure!(
        word("reason").is_some() != (by_probe || !flags.is_empty()),
        "{routes}"
    );
    let scrape = agent.scrape()?;
    let attached = |probe: &str| scrape.sum("bgp_observer_probe_attached", &[("probe", probe)]);
    ensure!(attached("rtnetlink") > 0.0, "rtnetlink");
    for probe in ROUTE_PROBES {
        let running = attached(probe) > 0.0;
        ensure!(running == by_probe, "{probe}: {running}, {source:?}");
    }
    Ok(())
}

const ROUTE_PROBES: [&str; 7] = [
    "route_removed",
    "route_written",
    "route_described",
    "route_deleted",
    "route_flushed",
    "route6_removed",
    "route6_written",
];

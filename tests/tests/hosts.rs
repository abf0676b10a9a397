//! Hosts whose uplink is no plain device. What passes a bond, a VLAN or a VRF is shown by several
//! devices, and is one message all the same.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use observer_core::{
    bgp_view::ConversationView,
    peer::PeerView,
    route_view::{PathView, RouteView},
};
use observer_tests::{
    agent::{Agent, Options},
    fib, firewall, gate,
    lab::{Lab, Node, Plan},
    netns, programs,
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(20);
/// A KEEPALIVE comes each third of this.
const HOLD: u16 = 15;

/// What makes n1's uplink another: lines of `ip` on the side of the bridge, and in n1.
struct Uplink<'a> {
    bridge: &'a [&'a str],
    node: &'a [&'a str],
    /// The VRF that BIRD runs in.
    vrf: Option<&'a str>,
}

/// Whether this kernel has the devices that `lines` of `ip` make; a guest must.
fn has(lines: &[&str]) -> Result<bool> {
    if !gate::open()? {
        return Ok(false);
    }
    // Named as a lab's estate is not, so that no other test takes it for its own.
    let name = format!(
        "bo-has-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let name = name.replace(['(', ')'], "");
    netns::ip(None, &[format!("netns add {name}")])?;
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let made = netns::ip(Some(&name), &lines);
    netns::ip(None, &[format!("netns delete {name}")])?;
    let guest = std::env::var_os("BGP_OBSERVER_TEST_DEVICES").is_some();
    if let Err(error) = made {
        ensure!(!guest, "a guest has all devices: {error:#}");
        writeln!(
            std::io::stderr(),
            "skipped: not in this kernel: {}",
            lines.join(", ")
        )?;
        return Ok(false);
    }
    Ok(true)
}

/// Two nodes, of which n1 has that uplink, with an agent that knows both beforehand.
fn mesh(uplink: &Uplink<'_>) -> Result<(Lab, Agent)> {
    let plan = Plan::of(2);
    let lab = Lab::build(plan.hold(HOLD))?;
    let n1 = lab.node(1)?;
    let lines = |lines: &[&str]| -> Vec<String> {
        let named = lines.iter().map(|line| line.replace("NODE", &n1.namespace));
        named.collect()
    };
    netns::ip(Some(&lab.bridge()), &lines(uplink.bridge))?;
    netns::ip(Some(&n1.namespace), &lines(uplink.node))?;
    let options = Options {
        inventory: true,
        // What devices do to segments only shows at devices.
        more: vec!["--tap=packet".to_owned()],
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    for node in lab.nodes() {
        match uplink.vrf.filter(|_| node.name == n1.name) {
            Some(vrf) => lab.start_in_vrf(node, vrf)?,
            None => lab.start(node)?,
        }
    }
    lab.await_established(CONVERGES)?;
    agent
        .await_all_up(lab.sessions(), CONVERGES)
        .with_context(|| agent.process().last_words())?;
    Ok((lab, agent))
}

fn views(agent: &Agent) -> Result<[PeerView; 2]> {
    let peers = agent.peers()?;
    let view = |node: &str| {
        let mut found = peers.iter().filter(|view| view.node == node);
        found
            .next()
            .cloned()
            .with_context(|| format!("no peer of {node}"))
    };
    Ok([view("n1")?, view("n2")?])
}

/// Both nodes counted the same messages: n1 at its uplink, n2 at a plain device.
fn counts_agree(agent: &Agent) -> Result<()> {
    wait::soon("both ends count the same messages", SOON, || {
        let [n1, n2] = views(agent)?;
        let (here, there) = (&n1.bgp.messages, &n2.bgp.messages);
        ensure!(
            here.sent == there.received && here.received == there.sent,
            "n1 {here:?}, n2 {there:?}"
        );
        ensure!(here.sent.open > 0 && here.received.open > 0, "{here:?}");
        ensure!(
            [&n1, &n2]
                .iter()
                .all(|view| view.bgp.conversation == ConversationView::Complete),
            "n1 {:?}, n2 {:?}",
            n1.bgp.conversation,
            n2.bgp.conversation
        );
        Ok(())
    })
}

/// How often `node`'s kernel has sent something of its BGP session again.
fn retransmitted(node: &Node) -> Result<u64> {
    let mut ss = programs::find("iproute2", "ss")?.command();
    ss.args(["-Htin", "state", "established"]);
    ss.args(["(", "sport", "=", "179", "or", "dport", "=", "179", ")"]);
    let told = netns::output(&node.namespace, &mut ss)?;
    // `retrans:1/3` is one not acknowledged yet, of three in all.
    let all = told
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("retrans:")?.split_once('/'));
    all.map(|(_, all)| all.parse::<u64>().context("retrans"))
        .sum()
}

/// Messages and retransmissions of n1's sessions are counted once each, n1's uplink being `uplink`.
fn counted_once(uplink: &Uplink<'_>) -> Result<(Lab, Agent)> {
    let (lab, agent) = mesh(uplink)?;
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    counts_agree(&agent)?;
    // The next KEEPALIVE is sent again and again, until it is let in.
    firewall::deafen(&n2.namespace)?;
    let again = wait::soon("a retransmission", SOON, || {
        let again = retransmitted(n1)?;
        ensure!(again > 0, "none");
        Ok::<u64, anyhow::Error>(again)
    })?;
    firewall::lift(&n2.namespace)?;
    ensure!(again < 100, "{again} retransmissions within seconds");
    wait::soon("as many retransmissions as the kernel counts", SOON, || {
        let [view, _] = views(&agent)?;
        let kernel = retransmitted(n1)?;
        ensure!(
            kernel > 0 && view.retransmits == kernel,
            "{} counted, {kernel} by the kernel",
            view.retransmits
        );
        Ok(())
    })?;
    counts_agree(&agent)?;
    let [view, _] = views(&agent)?;
    ensure!(view.up && view.flaps == 0, "{view:?}");
    Ok((lab, agent))
}

#[test]
fn what_passes_a_bond_is_counted_once() -> Result<()> {
    if !has(&["link add b0 type bond"])? {
        return Ok(());
    }
    counted_once(&Uplink {
        bridge: &[
            "link add n1b type veth peer name eth1 netns NODE",
            "link set n1b master br0 up",
        ],
        node: &[
            "address flush dev eth0",
            "link set eth0 down",
            "link add bond0 type bond mode active-backup miimon 100",
            "link set eth0 master bond0",
            "link set eth1 master bond0",
            "link set bond0 up",
            "address add 10.0.0.1/24 dev bond0",
            "route add default via 10.0.0.254",
        ],
        vrf: None,
    })
    .map(drop)
}

#[test]
fn what_passes_a_vlan_is_counted_once() -> Result<()> {
    if !has(&[
        "link add v0 type veth peer name v1",
        "link add link v0 name v0.100 type vlan id 100",
    ])? {
        return Ok(());
    }
    counted_once(&Uplink {
        bridge: &[
            "link set n1 nomaster",
            "link add link n1 name n1.100 type vlan id 100",
            "link set n1.100 master br0 up",
        ],
        node: &[
            "address flush dev eth0",
            "link add link eth0 name eth0.100 type vlan id 100",
            "link set eth0.100 up",
            "address add 10.0.0.1/24 dev eth0.100",
            "route add default via 10.0.0.254",
        ],
        vrf: None,
    })
    .map(drop)
}

fn path(agent: &Agent, ends: &[&str]) -> Result<RouteView> {
    let arguments = [&["path"], ends, &["-o", "json"]].concat();
    let output = agent.command(&arguments).output()?;
    let path: PathView = serde_json::from_slice(&output.stdout).context("path")?;
    let leg = path.legs.into_iter().find(|leg| leg.node == "n1");
    leg.and_then(|leg| leg.route).context("no route at n1")
}

#[test]
fn a_vrf_is_read_and_its_table_mirrored_and_used() -> Result<()> {
    if !has(&["link add red type vrf table 100"])? {
        return Ok(());
    }
    let (lab, agent) = counted_once(&Uplink {
        bridge: &[],
        node: &[
            "link add red type vrf table 100",
            "link set red up",
            "link set eth0 master red",
            "route add default via 10.0.0.254 table 100",
        ],
        vrf: Some("red"),
    })?;
    let n1 = lab.node(1)?;
    fib::await_equal(&agent, n1, SOON)?;
    let shown = fib::ask(&agent, n1, &["--all", "--prefix", "10.0.0.0/24"])?;
    ensure!(
        shown.routes.iter().any(|route| route.table == 100),
        "{shown:?}"
    );
    // From the VRF's own address by the VRF's table; and what only the VRF leads to, too.
    for ends in [
        &["10.0.0.1", "192.0.2.7"][..],
        &["10.0.0.1", "10.0.0.2"],
        &["10.0.0.2"],
    ] {
        let route = path(&agent, ends)?;
        ensure!(route.table == 100, "{ends:?}: {route:?}");
    }
    // What goes on the other way round is asked of the table that it is in.
    fib::ip(
        n1,
        &["route add 198.51.100.0/24 via 10.0.0.2 table 100 proto bird"],
    )?;
    fib::await_equal(&agent, n1, SOON)?;
    let route = path(&agent, &["10.0.0.1", "198.51.100.1"])?;
    ensure!(
        (route.table, route.prefix.as_str()) == (100, "198.51.100.0/24"),
        "{route:?}"
    );
    fib::ip(n1, &["link set eth0 nomaster"])?;
    fib::await_equal(&agent, n1, SOON)?;
    Ok(())
}

//! Hosts whose uplink is no plain device. What passes a bond or a VLAN is shown by several devices, and
//! is one message all the same.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use observer_core::{bgp_view::ConversationView, peer::PeerView};
use observer_tests::{
    agent::{Agent, Options},
    firewall, gate,
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
    let plan = Plan {
        nodes: 2,
        ..Plan::default()
    };
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
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    lab.start_all()?;
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
fn counted_once(uplink: &Uplink<'_>) -> Result<()> {
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
    Ok(())
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
    })
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
    })
}

//! Every kind of speaker as a peer of BIRD: what the agent counts and `replay` reads is what tshark
//! reads in a capture of the same run.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_core::{
    bgp::{Family, OpenFacts},
    bgp_view::ConversationView,
    message_counts::MessageCounts,
    peer::PeerView,
};
use observer_tests::{
    agent::{Agent, Options},
    capture::{Capture, frames},
    gate,
    lab::{Lab, Node, Plan},
    story::CONVERGES,
    wait,
};
use serde::Deserialize;

const SOON: Duration = Duration::from_secs(25);
/// Prefixes that n1 announces and withdraws again; its policy lets them through.
const MORE: &str = "
protocol static more {
  route 10.244.200.0/26 blackhole;
  route 10.244.200.64/26 blackhole;
  route 10.244.201.0/24 blackhole;
}
";

/// What one end of a session sent to the other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Said {
    messages: MessageCounts,
    opens: Vec<Open>,
    announced: u64,
    withdrawn: u64,
}

/// An OPEN as far as all three readers show it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
struct Open {
    #[serde(rename = "asn")]
    my_as: u16,
    hold_time: u16,
    bgp_id: String,
    capabilities: Vec<u8>,
}

type Sessions = BTreeMap<(Ipv4Addr, Ipv4Addr), Said>;

#[test]
fn every_speakers_session_reads_as_tshark_reads_it() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let plan = Plan {
        nodes: 6,
        mixed: true,
        ..Plan::default()
    };
    let lab = Lab::build(plan.hold(30))?;
    let n1 = lab.node(1)?;
    // Both are there before anybody speaks.
    let agent = Agent::start(&lab, &Options::default())?;
    let capture = Capture::start(lab.estate(), &n1.namespace, "eth0", "n1")?;
    lab.start_all()?;
    wait::soon("every peer of n1 is up", CONVERGES, || {
        let peers = peers_of(n1, &agent)?;
        let down = peers.iter().find(|peer| !peer.up);
        ensure!(down.is_none(), "{:?} is down", down.map(|peer| &peer.peer));
        ensure!(peers.len() == 5, "{} peers", peers.len());
        Ok(())
    })
    .with_context(|| words(&lab))?;
    change_routes(&lab, n1, &agent)?;

    // Nobody says anything new from here on, but for what a speaker's other processes do.
    for node in lab.nodes() {
        lab.signal(node, Signal::SIGSTOP)?;
    }
    wait::soon("all three read the same", SOON, || {
        let peers = peers_of(n1, &agent)?;
        let told = by_tshark(capture.file())?;
        let replayed = by_replay(&agent, capture.file())?;
        ensure!(replayed == told, "tshark: {told:#?}\nreplay: {replayed:#?}");
        peers.iter().try_for_each(|peer| agrees(peer, n1, &told))
    })?;
    for peer in peers_of(n1, &agent)? {
        println!(
            "{}: sent {:?}, received {:?}, {} announced, {} withdrawn",
            peer.peer,
            peer.bgp.messages.sent,
            peer.bgp.messages.received,
            peer.bgp.announcements,
            peer.bgp.withdrawals
        );
    }
    capture.stop().map(drop)
}

fn peers_of(node: &Node, agent: &Agent) -> Result<Vec<PeerView>> {
    let mut peers = agent.peers()?;
    peers.retain(|peer| peer.node == node.name);
    Ok(peers)
}

/// The last words of every speaker.
fn words(lab: &Lab) -> String {
    let log = |node: &Node| {
        let path = lab.estate().folder().join(format!("{}.log", node.name));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(8)..);
        let last = last.unwrap_or_default().join("\n");
        format!("{} ({}):\n{last}\n", node.name, node.speaker.title())
    };
    lab.nodes().iter().map(log).collect()
}

/// n1 announces more and withdraws it; then the agent's prefixes are those that its BIRD imported.
fn change_routes(lab: &Lab, n1: &Node, agent: &Agent) -> Result<()> {
    for extra in [MORE, ""] {
        lab.configure(n1, extra)?;
        lab.birdc(n1, "configure")?;
        let (address, wanted) = ("10.0.0.2", if extra.is_empty() { 2 } else { 1 });
        wait::soon("n2 learned of it", SOON, || {
            let peers = agent.peers()?;
            let mut views = peers.iter();
            let view = views.find(|peer| peer.node == "n2" && peer.peer == "10.0.0.1");
            let view = view.with_context(|| format!("{address} has no peer n1"))?;
            let (announced, withdrawn) = (view.bgp.announcements, view.bgp.withdrawals);
            let seen = if wanted == 1 { announced } else { withdrawn };
            ensure!(seen >= 3, "{announced} announced, {withdrawn} withdrawn");
            Ok(())
        })?;
    }
    for peer in lab.neighbors(n1) {
        let answer = lab.birdc(n1, &format!("show protocols all {}", peer.protocol()))?;
        let imported = imported(&answer)?;
        wait::soon("prefixes as BIRD has them", SOON, || {
            let views = peers_of(n1, agent)?;
            let mut views = views.iter();
            let view = views.find(|view| view.peer == peer.address.to_string());
            let view = view.with_context(|| format!("{} is no peer", peer.address))?;
            let prefixes = view.bgp.prefixes.get(&Family::IPV4_UNICAST);
            let prefixes = prefixes.copied().unwrap_or(0);
            ensure!(
                prefixes == imported,
                "{}: {prefixes}, BIRD has {imported}",
                peer.address
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// BIRD's line `Routes: 1 imported, …`.
fn imported(answer: &[String]) -> Result<u64> {
    let mut lines = answer.iter();
    let line = lines.find_map(|line| line.trim().strip_prefix("Routes:"));
    let count = line.and_then(|line| line.split_whitespace().next());
    count
        .with_context(|| format!("no routes in {answer:?}"))?
        .parse()
        .context("not a count")
}

fn agrees(peer: &PeerView, n1: &Node, told: &Sessions) -> Result<()> {
    let address: Ipv4Addr = peer.peer.parse()?;
    let said = |from, to| told.get(&(from, to)).context("tshark saw nothing of it");
    let (sent, received) = (said(n1.address, address)?, said(address, n1.address)?);
    let view = &peer.bgp;
    ensure!(
        view.conversation == ConversationView::Complete,
        "{address}: {:?}",
        view.conversation
    );
    for (ours, theirs, open, way) in [
        (&view.messages.sent, sent, &view.opens.sent, "sent"),
        (
            &view.messages.received,
            received,
            &view.opens.received,
            "received",
        ),
    ] {
        ensure!(
            *ours == theirs.messages,
            "{address} {way}: {ours:?}, tshark {theirs:#?}"
        );
        let open = open.as_ref().map(of_facts);
        ensure!(
            open.as_ref() == theirs.opens.last(),
            "{address} {way}: {open:?}, tshark {theirs:#?}"
        );
    }
    ensure!(
        (view.announcements, view.withdrawals) == (received.announced, received.withdrawn),
        "{address}: {} announced, {} withdrawn; tshark {received:#?}",
        view.announcements,
        view.withdrawals
    );
    ensure!(
        view.decode_errors.is_empty(),
        "{address}: {:?}",
        view.decode_errors
    );
    Ok(())
}

fn of_facts(open: &OpenFacts) -> Open {
    Open {
        my_as: open.my_as,
        hold_time: open.hold_secs,
        bgp_id: open.bgp_id.map(|id| id.to_string()).unwrap_or_default(),
        capabilities: open.capabilities.clone(),
    }
}

fn by_tshark(file: &Path) -> Result<Sessions> {
    let fields = [
        "ip.src",
        "ip.dst",
        "bgp.type",
        "bgp.open.myas",
        "bgp.open.holdtime",
        "bgp.open.identifier",
        "bgp.cap.type",
        "bgp.nlri_prefix",
        "bgp.mp_reach_nlri_ipv4_prefix",
        "bgp.withdrawn_prefix",
        "bgp.mp_unreach_nlri_ipv4_prefix",
    ];
    let mut sessions = Sessions::new();
    for frame in frames(file, "bgp && !tcp.analysis.retransmission", &fields)? {
        let ends = (
            frame.value("ip.src")?.parse()?,
            frame.value("ip.dst")?.parse()?,
        );
        let said = sessions.entry(ends).or_default();
        for kind in frame.values("bgp.type") {
            let messages = &mut said.messages;
            let counter = match kind.as_str() {
                "1" => &mut messages.open,
                "2" => &mut messages.update,
                "3" => &mut messages.notification,
                "4" => &mut messages.keepalive,
                "5" => &mut messages.route_refresh,
                _ => &mut messages.other,
            };
            *counter += 1;
        }
        let count = |field: &str| u64::try_from(frame.values(field).len());
        said.announced += count("bgp.nlri_prefix")? + count("bgp.mp_reach_nlri_ipv4_prefix")?;
        said.withdrawn +=
            count("bgp.withdrawn_prefix")? + count("bgp.mp_unreach_nlri_ipv4_prefix")?;
        if !frame.values("bgp.open.myas").is_empty() {
            let codes = frame.values("bgp.cap.type").iter();
            said.opens.push(Open {
                my_as: frame.number("bgp.open.myas")?,
                hold_time: frame.number("bgp.open.holdtime")?,
                bgp_id: frame.value("bgp.open.identifier")?.to_owned(),
                capabilities: codes.map(|code| code.parse()).collect::<Result<_, _>>()?,
            });
        }
    }
    Ok(sessions)
}

#[derive(Deserialize)]
struct Replayed {
    connections: Vec<Connection>,
}

#[derive(Deserialize)]
struct Connection {
    a: std::net::SocketAddrV4,
    b: std::net::SocketAddrV4,
    a_to_b: Side,
    b_to_a: Side,
}

#[derive(Deserialize)]
struct Side {
    #[serde(flatten)]
    messages: MessageCounts,
    opens: Vec<Open>,
    announced: BTreeMap<Family, u64>,
    withdrawn: BTreeMap<Family, u64>,
    decode_errors: u64,
    gaps: u64,
}

fn by_replay(agent: &Agent, file: &Path) -> Result<Sessions> {
    let mut replay = std::process::Command::new(agent.program());
    let output = replay
        .arg("replay")
        .arg(file)
        .args(["-o", "json"])
        .output()?;
    ensure!(
        output.status.success(),
        "replay: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let replayed: Replayed = serde_json::from_slice(&output.stdout)?;
    let mut sessions = Sessions::new();
    for Connection {
        a,
        b,
        a_to_b,
        b_to_a,
    } in replayed.connections
    {
        for (from, to, side) in [(a, b, a_to_b), (b, a, b_to_a)] {
            ensure!(
                side.decode_errors == 0 && side.gaps == 0,
                "{from} to {to}: {} errors, {} gaps",
                side.decode_errors,
                side.gaps
            );
            if side.messages == MessageCounts::default() {
                continue;
            }
            let said = sessions.entry((*from.ip(), *to.ip())).or_default();
            said.messages.add(&side.messages);
            said.opens.extend(side.opens);
            said.announced += side.announced.values().sum::<u64>();
            said.withdrawn += side.withdrawn.values().sum::<u64>();
        }
    }
    Ok(sessions)
}

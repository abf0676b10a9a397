//! A table of many routes that goes from one BIRD to another: how it is announced, and what the BIRDs
//! say of it.

use std::{fmt::Write as _, fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::{Agent, Options},
    lab::{Lab, Node, Plan},
    metrics::Scrape,
    netns, programs,
    speaker::Speaker,
    story::CONVERGES,
};

/// Routes that share their attributes, and with them an UPDATE.
pub const TOGETHER: u32 = 10;

/// The protocol of n1's BIRD whose routes they are; disabled at first.
pub const PROTOCOL: &str = "table_of_many";

/// Makes n1's BIRD announce `count` routes more, when told to.
pub fn configure(lab: &Lab, count: u32) -> Result<()> {
    let node = lab.node(1)?;
    let mut table = format!("\nprotocol static {PROTOCOL} {{\n  disabled;\n");
    for number in 0..count {
        let address = Ipv4Addr::from_bits(0x2000_0000 + (number << 8));
        let med = number / TOGETHER;
        let _ = writeln!(
            table,
            "  route {address}/24 blackhole {{ bgp_med = {med}; }};"
        );
    }
    table.push_str("}\n");
    lab.configure(node, &table)?;
    // The lab's filters let through the pods' net only.
    let path = node.speaker.config_path(lab.estate().folder(), &node.name);
    let text = fs::read_to_string(&path)?;
    let exported = "filter calico_export_to_bgp_peers {\n";
    ensure!(text.contains(exported), "no filter in {}", path.display());
    let through = format!("{exported}  if ( proto = \"{PROTOCOL}\" ) then {{ accept; }}\n");
    fs::write(&path, text.replace(exported, &through))?;
    Ok(())
}

/// Two nodes whose session is up, observed, of which the first has `count` routes to announce; the second
/// runs `receiver`.
pub fn scene(receiver: Speaker, count: u32, limit: Duration) -> Result<(Lab, Agent)> {
    let lab = Lab::build(Plan::of(2).speaker(receiver))?;
    configure(&lab, count)?;
    let options = Options {
        inventory: true,
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    lab.start_all()?;
    lab.await_established(CONVERGES.max(limit))?;
    agent.await_all_up(lab.sessions(), CONVERGES)?;
    Ok((lab, agent))
}

/// UPDATEs that the agent counted at `node`.
pub fn updates(scrape: &Scrape, node: &str, direction: &str) -> f64 {
    let labels = [("node", node), ("direction", direction), ("type", "update")];
    scrape.sum("bgp_observer_messages_total", &labels)
}

/// What the agent says that it missed.
pub fn missed(scrape: &Scrape) -> f64 {
    scrape.sum("bgp_observer_events_lost_total", &[])
        + scrape.sum("bgp_observer_tap_gaps_total", &[])
}

/// How many routes the speaker of `node`, a BIRD or a `GoBGP`, says that it has from `peer`, its only one.
pub fn imported(lab: &Lab, node: &Node, peer: &str) -> Result<u64> {
    if node.speaker != Speaker::Gobgp {
        return Ok(say(lab, node, peer)?.imported);
    }
    let mut gobgp = programs::find("gobgpd", "gobgp")?.command();
    let said = netns::output(&node.namespace, gobgp.args(["global", "rib", "summary"]))?;
    let paths = said.split_once("Path: ").map(|(_, paths)| paths.trim());
    let paths = paths.with_context(|| format!("no paths in {said}"))?;
    paths.parse().with_context(|| format!("paths: {paths}"))
}

/// What a BIRD says of its only session.
#[derive(Debug)]
pub struct Said {
    /// Routes that it has from its peer.
    pub imported: u64,
    /// Announced prefixes received so far.
    pub updates: u64,
    /// Withdrawn ones.
    pub withdraws: u64,
    /// Announced prefixes sent.
    pub updates_sent: u64,
    /// Withdrawn ones.
    pub withdraws_sent: u64,
}

/// Asks the BIRD of `node` about its session with `peer`.
pub fn say(lab: &Lab, node: &Node, peer: &str) -> Result<Said> {
    let protocol = format!("Mesh_{}", peer.replace('.', "_"));
    let lines = lab.birdc(node, &format!("show protocols all {protocol}"))?;
    let number = |name: &str, column: usize| -> Result<u64> {
        let said = lines
            .iter()
            .find_map(|line| line.trim_start().strip_prefix(name));
        let word = said.and_then(|said| said.split_whitespace().nth(column));
        let word = word.with_context(|| format!("no `{name}` in {lines:#?}"))?;
        word.parse()
            .with_context(|| format!("`{name}` says {word}"))
    };
    // Columns: received, rejected, filtered, ignored, accepted.
    Ok(Said {
        imported: number("Routes:", 0)?,
        updates: number("Import updates:", 0)?,
        withdraws: number("Import withdraws:", 0)?,
        updates_sent: number("Export updates:", 4)?,
        withdraws_sent: number("Export withdraws:", 4)?,
    })
}

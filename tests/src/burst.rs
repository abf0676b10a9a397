//! Very many routes of BIRD's own at one node, installed and withdrawn when told to: nobody announces
//! them, so that what is measured is BIRD, the kernel, and whoever listens.

use std::{fmt::Write as _, fs, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Node};

/// The protocol of n1's BIRD whose routes they are; disabled at first.
pub const PROTOCOL: &str = "burst";
/// The first of the routes is 32.0.0.0/24, and so on.
const FIRST: u32 = 0x2000_0000;

/// The prefix of route `number`.
pub fn prefix(number: u32) -> String {
    format!("{}/24", Ipv4Addr::from_bits(FIRST + (number << 8)))
}

/// What has at most 65536 of `count` routes each, and the lab's own.
pub fn pages(count: u32) -> Vec<String> {
    let first = FIRST >> 24;
    let octets = first..=first + (count >> 16);
    let pages = octets.map(|octet| format!("{octet}.0.0.0/8"));
    pages.chain(["10.244.0.0/16".to_owned()]).collect()
}

/// Makes n1's BIRD install `count` routes of its own, when told to.
pub fn configure(lab: &Lab, count: u32) -> Result<()> {
    let node = lab.node(1)?;
    let mut burst = format!("\nprotocol static {PROTOCOL} {{\n  disabled;\n");
    for number in 0..count {
        let _ = writeln!(burst, "  route {} via 10.0.0.2;", prefix(number));
    }
    burst.push_str("}\n");
    lab.configure(node, &burst)?;
    // The lab's filters let through the pods' net only.
    let path = node.speaker.config_path(lab.estate().folder(), &node.name);
    let text = fs::read_to_string(&path)?;
    let kernel = "filter calico_kernel_programming {\n";
    ensure!(
        text.contains(kernel),
        "no kernel filter in {}",
        path.display()
    );
    fs::write(&path, text.replace(kernel, &format!("{kernel}  accept;\n")))?;
    Ok(())
}

/// How many routes the BIRD of `node` has in the kernel. It answers nothing while it writes them, and
/// the kernel has acknowledged each that it counts.
pub fn exported(lab: &Lab, node: &Node) -> Result<u64> {
    let lines = lab.birdc(node, "show protocols all kernel1")?;
    let routes = lines.iter().find_map(|line| line.strip_prefix("Routes:"));
    let routes = routes.with_context(|| format!("no `Routes:` in {lines:#?}"))?;
    // `0 imported, 500001 exported, 0 preferred`.
    let word = routes.split_whitespace().nth(2).context("exported")?;
    word.parse().with_context(|| format!("exported: {routes}"))
}

//! Firewalls of nodes: what nft drops in a namespace.

use anyhow::{Context, Result};

use crate::{netns, programs};

/// Runs `rules` of nft inside namespace `ns`.
pub fn nft(ns: &str, rules: &str) -> Result<()> {
    let mut nft = programs::find("nftables", "nft")?.command();
    let joined = rules.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    netns::output(ns, nft.arg(joined))
        .map(drop)
        .context("firewall")
}

/// Drops all BGP, both ways. The connections there are now are remembered by their ports.
pub fn cut(ns: &str) -> Result<()> {
    let ports = ports(ns)?.join(", ");
    let old = if ports.is_empty() {
        String::new()
    } else {
        format!(
            "add rule inet lab in tcp sport {{ {ports} }} drop
             add rule inet lab in tcp dport {{ {ports} }} drop
             add rule inet lab out tcp sport {{ {ports} }} drop
             add rule inet lab out tcp dport {{ {ports} }} drop"
        )
    };
    nft(
        ns,
        &format!(
            "add table inet lab
             add chain inet lab in {{ type filter hook input priority 0; }}
             add chain inet lab out {{ type filter hook output priority 0; }}
             add chain inet lab all-in {{ type filter hook input priority 1; }}
             add chain inet lab all-out {{ type filter hook output priority 1; }}
             {old}
             add rule inet lab all-in tcp dport 179 drop
             add rule inet lab all-in tcp sport 179 drop
             add rule inet lab all-out tcp dport 179 drop
             add rule inet lab all-out tcp sport 179 drop"
        ),
    )
}

/// After [`cut`]: new connections pass, the remembered ones stay cut.
pub fn admit_new(ns: &str) -> Result<()> {
    nft(
        ns,
        "flush chain inet lab all-in
         flush chain inet lab all-out",
    )
}

/// Ends what [`cut`] began.
pub fn lift(ns: &str) -> Result<()> {
    nft(ns, "delete table inet lab")
}

/// Drops only what comes in with BGP's port at either end.
pub fn deafen(ns: &str) -> Result<()> {
    nft(
        ns,
        "add table inet lab
         add chain inet lab in { type filter hook input priority 0; }
         add rule inet lab in tcp dport 179 drop
         add rule inet lab in tcp sport 179 drop",
    )
}

/// The other ports of the BGP connections that are up: each connection has BGP's at one end only.
fn ports(ns: &str) -> Result<Vec<String>> {
    let mut ss = programs::find("iproute2", "ss")?.command();
    ss.args(["-Htn", "state", "established"]);
    ss.args(["(", "sport", "=", "179", "or", "dport", "=", "179", ")"]);
    let listed = netns::output(ns, &mut ss)?;
    let port = |end: &str| end.rsplit(':').next().map(str::to_owned);
    Ok(listed
        .lines()
        .flat_map(|line| line.split_whitespace().skip(2).take(2))
        .filter_map(port)
        .filter(|port| port != "179")
        .collect())
}

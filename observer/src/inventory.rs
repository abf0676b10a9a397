//! The static inventory: a TOML file that names peers that ought to exist.
//!
//! ```toml
//! [[peer]]
//! address = "10.0.0.2"
//! name = "worker-2"             # the peer's node
//! type = "node-to-node mesh"    # or "node specific", "global"
//! asn = 64512
//! node = "worker-1"             # only as a peer of this observed node
//! targets = ["10.244.2.0"]      # addresses behind it that may be probed: its tunnel address, pods
//! ```

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use observer_core::event::{InventoryPeer, PeerType};
use serde::Deserialize;

use crate::cli::BadUsage;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    peer: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: toml::Spanned<IpAddr>,
    name: Option<String>,
    #[serde(rename = "type")]
    peer_type: Option<PeerType>,
    asn: Option<u32>,
    node: Option<String>,
    #[serde(default)]
    targets: Vec<IpAddr>,
}

/// Reads the inventory at `path`.
pub fn read(path: &Path) -> Result<Vec<InventoryPeer>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read inventory {}", path.display()))?;
    parse(&text).map_err(|what| BadUsage(format!("inventory {}: {what}", path.display())).into())
}

fn parse(text: &str) -> Result<Vec<InventoryPeer>, String> {
    let file: File =
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let mut seen = BTreeSet::new();
    let mut peers = Vec::with_capacity(file.peer.len());
    for entry in file.peer {
        let span = entry.address.span();
        let address = entry.address.into_inner().to_canonical();
        if !seen.insert((entry.node.clone(), address)) {
            let line = text
                .get(..span.start)
                .map_or(0, |before| before.matches('\n').count() + 1);
            return Err(format!("line {line}: {address} is listed twice"));
        }
        peers.push(InventoryPeer {
            node: entry.node,
            address,
            name: entry.name,
            peer_type: entry.peer_type,
            asn: entry.asn,
            targets: entry.targets,
        });
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_entry_and_a_bare_one_are_read() {
        let peers = parse(
            "[[peer]]\naddress = \"::ffff:10.0.0.2\"\nname = \"b\"\ntype = \"global\"\nasn = 64512\n\
             node = \"a\"\ntargets = [\"10.244.2.1\"]\n[[peer]]\naddress = \"fd00::1\"\n",
        )
        .unwrap();
        assert_eq!(
            peers,
            [
                InventoryPeer {
                    node: Some("a".to_owned()),
                    address: "10.0.0.2".parse().unwrap(),
                    name: Some("b".to_owned()),
                    peer_type: Some(PeerType::Global),
                    asn: Some(64512),
                    targets: vec!["10.244.2.1".parse().unwrap()],
                },
                InventoryPeer {
                    node: None,
                    address: "fd00::1".parse().unwrap(),
                    name: None,
                    peer_type: None,
                    asn: None,
                    targets: Vec::new(),
                },
            ]
        );
    }

    #[test]
    fn errors_name_line_and_thing() {
        for (text, line, thing) in [
            ("[[peer]]\naddress = \"10.0.0\"\n", "line 2", "IP address"),
            ("[[peer]]\nname = \"x\"\n", "line 1", "address"),
            (
                "[[peer]]\naddress = \"10.0.0.1\"\ncolour = 1\n",
                "line 3",
                "colour",
            ),
            (
                "[[peer]]\naddress = \"10.0.0.1\"\ntype = \"mash\"\n",
                "line 3",
                "mash",
            ),
            (
                "[[peer]]\naddress = \"10.0.0.1\"\nasn = -1\n",
                "line 3",
                "-1",
            ),
            (
                "[[peer]]\naddress = \"10.0.0.1\"\n\n[[peer]]\naddress = \"10.0.0.1\"\n",
                "line 5",
                "10.0.0.1 is listed twice",
            ),
            ("peer = 7\n", "line 1", "peer"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(line), "{error}\ndoes not name {line}");
            assert!(error.contains(thing), "{error}\ndoes not name {thing}");
        }
    }
}

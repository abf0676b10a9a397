//! What a local BGP speaker says it is configured with.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::PeerType;

/// One of its BGP protocols.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfiguredPeer {
    /// The protocol's name.
    pub protocol: String,
    /// The peer.
    pub address: IpAddr,
    /// Its AS number, where the configuration has one.
    #[serde(default)]
    pub asn: Option<u32>,
    /// Its type, where the protocol's name tells.
    #[serde(default)]
    pub peer_type: Option<PeerType>,
    /// It is switched off: nobody is waited for.
    #[serde(default)]
    pub disabled: bool,
}

impl PeerType {
    /// What the name of one of BIRD's protocols tells: Calico calls them `Mesh_10_0_0_2`, `Node_…`, `Global_…`.
    pub fn of_protocol(name: &str) -> Option<Self> {
        let (kind, peer) = name.split_once('_')?;
        // Calico puts _ where an address has a dot or colon.
        if !peer.starts_with(|first: char| first.is_ascii_hexdigit() || first == '_') {
            return None;
        }
        match kind {
            "Mesh" => Some(Self::Mesh),
            "Node" => Some(Self::NodeSpecific),
            "Global" => Some(Self::Global),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calico_s_names_tell_the_type_and_others_none() {
        for (name, of_type) in [
            ("Mesh_10_0_0_2", Some(PeerType::Mesh)),
            ("Mesh_fd00__2", Some(PeerType::Mesh)),
            ("Node_10_0_0_9_port_1790", Some(PeerType::NodeSpecific)),
            ("Global___1", Some(PeerType::Global)),
            ("Mesh", None),
            ("Mesh_", None),
            ("Mesh_with_tor", None),
            ("mesh_10_0_0_2", None),
            ("bgp1", None),
        ] {
            assert_eq!(PeerType::of_protocol(name), of_type, "{name}");
        }
    }
}

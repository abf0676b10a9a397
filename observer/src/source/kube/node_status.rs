//! What calico-node itself says of a node's sessions, where somebody asked it to: CalicoNodeStatus.

use std::net::IpAddr;

use kube::{Api, Client, api::ListParams, core::DynamicObject};
use serde_json::Value;

use super::{of_calico, once};

/// One node's sessions as calico-node saw them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeStatus {
    /// The node.
    pub node: String,
    /// When it looked.
    pub updated: jiff::Timestamp,
    /// Peers, with the state that BIRD gave; of others it said nothing.
    pub peers: Vec<(IpAddr, String)>,
}

/// All that there are. Calico advises against more than ten, and their names are anything: to pick a node's
/// they have to be read.
pub async fn node_statuses(client: &Client) -> Result<Vec<NodeStatus>, String> {
    let of = of_calico("CalicoNodeStatus", "caliconodestatuses");
    let api = Api::<DynamicObject>::all_with(client.clone(), &of);
    // From the server's cache, as all that is asked now and then.
    let listed = once::answer(api.list(&ListParams::default().match_any())).await?;
    Ok(listed.items.iter().filter_map(read).collect())
}

fn read(object: &DynamicObject) -> Option<NodeStatus> {
    let text = |at: &str| object.data.pointer(at).and_then(Value::as_str);
    let peers = ["/status/bgp/peersV4", "/status/bgp/peersV6"];
    let peers = peers
        .iter()
        .filter_map(|at| object.data.pointer(at)?.as_array());
    let peer = |peer: &Value| {
        let address: IpAddr = peer.get("peerIP")?.as_str()?.parse().ok()?;
        let state = peer.get("state")?.as_str()?;
        // An empty one is an unknown one.
        (!state.is_empty()).then(|| (address.to_canonical(), state.to_owned()))
    };
    Some(NodeStatus {
        node: text("/spec/node")?.to_owned(),
        updated: text("/status/lastUpdated")?.parse().ok()?,
        peers: peers.flatten().filter_map(peer).collect(),
    })
}

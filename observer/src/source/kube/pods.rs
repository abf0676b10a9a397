//! The pods of some nodes, listed once.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use observer_core::event::cluster;

use super::{objects, once};

/// Pods in one page, from a server that answers in pages unasked.
const PAGE: u32 = 500;
/// Pods taken at most, of all nodes.
const MOST: usize = 10_000;

/// The pods of `nodes`, and why some or all are missing.
pub async fn pods_of(client: &Client, nodes: &[String]) -> (Vec<cluster::Pod>, Option<String>) {
    once::turn().await;
    let api: Api<Pod> = Api::all(client.clone());
    let mut pods = Vec::new();
    for node in nodes {
        if let Err(missing) = of_node(&api, node, &mut pods).await {
            return (pods, Some(format!("pods could not be listed: {missing}")));
        }
    }
    (pods, None)
}

async fn of_node(api: &Api<Pod>, node: &str, pods: &mut Vec<cluster::Pod>) -> Result<(), String> {
    let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    // From the server's cache: a moment ago is soon enough. With a limit the server would read all pods of
    // the cluster from its database instead, page by page.
    let mut params = of_node.clone().match_any();
    loop {
        let page = once::answer(api.list(&params)).await?;
        pods.extend(page.items.iter().filter_map(objects::pod));
        if pods.len() > MOST {
            pods.truncate(MOST);
            return Err(format!("there are more than {MOST}"));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = of_node.clone().limit(PAGE).continue_token(&token),
            None => return Ok(()),
        }
    }
}

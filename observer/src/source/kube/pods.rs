//! The pods of some nodes, listed once.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use observer_core::event::cluster;
use tokio::time::{sleep, timeout};

use super::{
    follow::{chain, jitter},
    objects,
};

/// Pods in one page, from a server that answers in pages unasked.
const PAGE: u32 = 500;
/// How long the API server has for a page.
const ANSWER: Duration = Duration::from_secs(20);
/// All peers of a node that falls ask about it: within this time, and not at once.
const SPREAD: Duration = Duration::from_secs(3);
/// Pods taken at most, of all nodes.
const MOST: usize = 10_000;

/// The pods of `nodes`, and why some or all are missing.
pub async fn pods_of(client: &Client, nodes: &[String]) -> (Vec<cluster::Pod>, Option<String>) {
    sleep(jitter(SPREAD)).await;
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
        let page = timeout(ANSWER, api.list(&params)).await;
        let page = page
            .map_err(|_| "the API server did not answer in time".to_owned())?
            .map_err(|error| chain(&error))?;
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

//! The HTTP routes: `/metrics` and health on one listener, the read-only API on loopback and on the
//! unix socket, what changes state on the unix socket only.

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use observer_core::{
    change::ChangeRecord,
    peer::{Flap, PeerView},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    sync::broadcast,
    time::{Instant, sleep},
};

use crate::{
    cli::peer_address,
    cross_check::Comparisons,
    health::Health,
    keeper::{Keeper, Page},
    sink::{
        api_routes,
        metrics::{self, Scene, Visibility},
        stored,
    },
    store::{ChangeQuery, Store},
    tally::Tally,
};

/// Changes that may wait in a stream's own buffer.
const STREAM_BUFFER: usize = 64;

/// What the routes answer from.
#[derive(Clone, Debug)]
pub struct Answers {
    /// The core's task.
    pub keeper: Keeper,
    /// What runs.
    pub health: Health,
    /// The node that agent-wide series are of.
    pub node: Arc<str>,
    /// What is kept.
    pub store: Option<Store>,
    /// Which peers a scrape shows.
    pub visibility: Arc<Visibility>,
    /// What became of Events, where they are written.
    pub events: Option<Tally>,
    /// How asking BIRD ended, where it is asked.
    pub bird: Option<Tally>,
    /// What calico-node said against what is seen, where that is compared.
    pub comparisons: Option<Comparisons>,
}

/// The metrics listener: this and nothing else.
pub fn metrics_routes(answers: Answers) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(answers)
}

/// The loopback listener: a page in a browser must not reach it under a name of its own.
pub fn loopback_routes(answers: Answers) -> Router {
    reading(answers).layer(middleware::from_fn(local_host_only))
}

/// The unix socket: whoever may open it may also change state.
pub fn unix_routes(answers: Answers) -> Router {
    let changing = Router::new()
        .route("/api/v1/peers/forget", post(forget))
        .merge(stored::changing())
        .with_state(answers.clone());
    reading(answers).merge(changing)
}

fn reading(answers: Answers) -> Router {
    Router::new()
        .route("/api/v1/peers", get(peers))
        .route("/api/v1/flaps", get(flaps))
        .route("/api/v1/events", get(events))
        .route("/api/v1/sources", get(sources))
        .merge(api_routes::routes())
        .route("/api/v1/safe-to-restart", get(safe_to_restart))
        .route("/api/v1/topology", get(topology))
        .merge(stored::reading())
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such page") })
        .with_state(answers)
}

async fn local_host_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    if host.is_some_and(is_local_host) {
        next.run(request).await
    } else {
        problem(
            StatusCode::FORBIDDEN,
            "the Host header must be localhost, 127.0.0.1 or [::1]",
        )
    }
}

fn is_local_host(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "[::1]")
}

/// A scrape waits at most this long for the first dump. Before it nobody knows whether a remembered
/// peer is up: without its series an alert would resolve, with `down` it could fire in vain.
const SCRAPE_WAITS: Duration = Duration::from_secs(5);

async fn scrape(State(answers): State<Answers>) -> Response {
    let begun = Instant::now();
    while answers.health.unready().is_some() && begun.elapsed() < SCRAPE_WAITS {
        sleep(Duration::from_millis(5)).await;
    }
    let text = match answers.keeper.snapshot().await {
        Ok(snapshot) => metrics::render(
            &snapshot,
            &Scene {
                node: &answers.node,
                sources: &answers.health.sources(),
                blind: answers.health.blind(),
                version: env!("CARGO_PKG_VERSION"),
                ages: &answers.health.cluster_ages(),
                compared: answers.comparisons.as_ref().map(Comparisons::shown),
                bird: answers.bird.as_ref().map(Tally::shown),
                node_events: answers.events.as_ref().map(Tally::shown),
                peer_metrics: answers.visibility.mode(&snapshot.peers),
                now: jiff::Timestamp::now(),
            },
        ),
        Err(error) => Err(error),
    };
    match text {
        Ok(text) => {
            let kind = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
            (kind, text).into_response()
        }
        Err(error) => stopping(&error),
    }
}

async fn ready(State(answers): State<Answers>) -> Response {
    match answers.health.unready() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

#[derive(Deserialize)]
struct PeersQuery {
    peer: Option<String>,
}

async fn peers(State(answers): State<Answers>, Query(query): Query<PeersQuery>) -> Response {
    let (mut peers, unused) = match answers.keeper.snapshot().await {
        Ok(snapshot) => (snapshot.peers, snapshot.bgp_unused),
        Err(error) => return stopping(&error),
    };
    if let Some(peer) = query.peer {
        let meant = addresses(&peer, &peers);
        peers.retain(|view| is_meant(&view.peer, &meant));
        if peers.is_empty() {
            return unknown_peer(&peer);
        }
    }
    Json(json!({ "peers": peers, "bgp_in_use": !unused })).into_response()
}

async fn safe_to_restart(State(answers): State<Answers>) -> Response {
    match answers.keeper.snapshot().await {
        Ok(mut snapshot) => {
            if answers.health.blind() {
                for safety in &mut snapshot.safety {
                    safety.doubt("the agent is blind: `bgp-observer check` says why".to_owned());
                }
            }
            Json(json!({ "nodes": snapshot.safety })).into_response()
        }
        Err(error) => stopping(&error),
    }
}

async fn topology(State(answers): State<Answers>) -> Response {
    match answers.keeper.snapshot().await {
        Ok(snapshot) => Json(json!({ "nodes": snapshot.topology })).into_response(),
        Err(error) => stopping(&error),
    }
}

async fn sources(State(answers): State<Answers>) -> Response {
    Json(json!({
        "sources": answers.health.sources(),
        "blind": answers.health.blind(),
        "inventory_age_seconds": inventory_ages(&answers.health),
    }))
    .into_response()
}

/// By resource of the cluster's API; empty where that is not read.
fn inventory_ages(health: &Health) -> BTreeMap<&'static str, f64> {
    let ages = health.cluster_ages().into_iter();
    ages.map(|(kind, age)| (kind.name(), age.as_secs_f64()))
        .collect()
}

#[derive(Deserialize)]
struct FlapsQuery {
    peer: Option<String>,
}

async fn flaps(State(answers): State<Answers>, Query(query): Query<FlapsQuery>) -> Response {
    let found = async {
        anyhow::Ok((
            answers.keeper.flaps().await?,
            answers.keeper.snapshot().await?.peers,
        ))
    };
    let (recent, peers) = match found.await {
        Ok(found) => found,
        Err(error) => return stopping(&error),
    };
    let meant = query.peer.as_deref().map(|peer| addresses(peer, &peers));
    let (flaps, incomplete) = stored::flaps(&answers, meant.as_deref(), recent).await;
    match query.peer {
        Some(peer) => match flaps_of(&peer, flaps, &peers) {
            Some(flaps) => {
                Json(json!({ "flaps": flaps, "incomplete": incomplete })).into_response()
            }
            None => unknown_peer(&peer),
        },
        None => Json(json!({ "flaps": flaps, "incomplete": incomplete })).into_response(),
    }
}

/// The flaps of `peer`, an address or a node's name; none when there is no such peer.
fn flaps_of(peer: &str, flaps: Vec<Flap>, peers: &[PeerView]) -> Option<Vec<Flap>> {
    let meant = addresses(peer, peers);
    let known = peers.iter().any(|view| is_meant(&view.peer, &meant));
    let flaps: Vec<Flap> = flaps
        .into_iter()
        .filter(|flap| is_meant(&flap.peer, &meant))
        .collect();
    (known || !flaps.is_empty()).then_some(flaps)
}

/// The addresses that `peer` means: itself, or those of the peer node of that name.
pub(super) fn addresses(peer: &str, peers: &[PeerView]) -> Vec<IpAddr> {
    if let Some(address) = peer_address(peer) {
        return vec![address];
    }
    let mut addresses: Vec<IpAddr> = peers
        .iter()
        .filter(|view| view.peer_node.as_deref() == Some(peer))
        .filter_map(|view| peer_address(&view.peer))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn is_meant(peer: &str, meant: &[IpAddr]) -> bool {
    peer_address(peer).is_some_and(|address| meant.contains(&address))
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    follow: bool,
    from: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
    peer: Option<String>,
    limit: Option<u32>,
}

async fn events(State(answers): State<Answers>, Query(query): Query<EventsQuery>) -> Response {
    // Numbers are of this run; whoever asks for times or a peer asks the store.
    if query.from.is_some() || query.until.is_some() || query.peer.is_some() {
        let changes = ChangeQuery {
            from: query.from,
            until: query.until,
            peers: None,
            limit: query.limit,
        };
        return stored::changes(&answers, changes, query.peer)
            .await
            .into_response();
    }
    match answers.keeper.events(query.since).await {
        Ok(page) if query.follow => follow(page),
        Ok(page) => {
            let events: Vec<&ChangeRecord> = page.events.iter().map(AsRef::as_ref).collect();
            Json(json!({ "events": events, "missed": page.missed })).into_response()
        }
        Err(error) => stopping(&error),
    }
}

/// JSON lines: changes, and `{"missed":n}` where some were forgotten before they could be sent.
fn follow(page: Page) -> Response {
    let (sender, body) = Channel::<Bytes, Infallible>::new(STREAM_BUFFER);
    tokio::spawn(async move {
        // An error means that the reader went away.
        let _ = stream(page, sender).await;
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::new(body)).into_response()
}

async fn stream(
    mut page: Page,
    mut to: Sender<Bytes, Infallible>,
) -> Result<(), http_body_util::channel::SendError> {
    if page.missed > 0 {
        to.send_data(json_line(&json!({ "missed": page.missed })))
            .await?;
    }
    for record in page.events {
        to.send_data(json_line(&*record)).await?;
    }
    loop {
        match page.next.recv().await {
            Ok(record) => to.send_data(json_line(&*record)).await?,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                to.send_data(json_line(&json!({ "missed": missed })))
                    .await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

fn json_line(value: &impl Serialize) -> Bytes {
    // These types have no maps with other keys than strings, so this does not fail.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetQuery {
    peer: String,
    node: Option<String>,
}

async fn forget(State(answers): State<Answers>, body: Bytes) -> Response {
    let query: ForgetQuery = match serde_json::from_slice(&body) {
        Ok(query) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let forgotten = async {
        let peers = answers.keeper.snapshot().await?.peers;
        let mut forgotten = Vec::new();
        for address in addresses(&query.peer, &peers) {
            forgotten.extend(answers.keeper.forget(query.node.clone(), address).await?);
        }
        anyhow::Ok(forgotten)
    };
    match forgotten.await {
        Ok(forgotten) if forgotten.is_empty() => unknown_peer(&query.peer),
        Ok(forgotten) => Json(json!({ "forgotten": forgotten })).into_response(),
        Err(error) => stopping(&error),
    }
}

pub(super) fn unknown_peer(peer: &str) -> Response {
    problem(
        StatusCode::NOT_FOUND,
        &format!("no known peer has the address or node name '{peer}'"),
    )
}

pub(super) fn stopping(error: &anyhow::Error) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}"))
}

pub(super) fn problem(status: StatusCode, error: &str) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (status, headers, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
#[path = "api_tests.rs"]
pub(crate) mod tests;

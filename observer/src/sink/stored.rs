//! The HTTP routes that answer from the store: incidents, the changes of other days, all flaps.

use std::{collections::BTreeSet, net::IpAddr};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use observer_core::{event::Fact, incident::Incident, peer::Flap};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::api::{Answers, addresses, problem};
use crate::{
    bundle,
    cli::peer_address,
    store::{ChangeQuery, IncidentQuery, Reader, Store, StoreError},
};

/// Longest note, octets.
const LONGEST_NOTE: usize = 4096;

pub(super) fn reading() -> Router<Answers> {
    Router::new()
        .route("/api/v1/incidents", get(incidents))
        .route("/api/v1/incidents/{id}", get(incident))
}

pub(super) fn changing() -> Router<Answers> {
    Router::new()
        .route("/api/v1/incidents/{id}/note", post(note))
        .route("/api/v1/incidents/{id}/bundle", get(bundle))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IncidentsQuery {
    since: Option<jiff::Timestamp>,
    peer: Option<String>,
    verdict: Option<String>,
    open: Option<bool>,
    limit: Option<u32>,
}

async fn incidents(
    State(answers): State<Answers>,
    Query(query): Query<IncidentsQuery>,
) -> Result<Json<Value>, Refusal> {
    let query = IncidentQuery {
        id: None,
        since: query.since,
        peers: names(&answers, query.peer).await?,
        verdict: query.verdict,
        open: query.open,
        limit: query.limit,
    };
    let incidents = reader(&answers)?.incidents(query).await?;
    Ok(Json(json!({ "incidents": incidents })))
}

async fn incident(
    State(answers): State<Answers>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let incident = one(&answers, &id).await?;
    Ok(Json(json!({ "incident": incident })))
}

/// One incident; `last` is the latest.
async fn one(answers: &Answers, id: &str) -> Result<Incident, Refusal> {
    let query = IncidentQuery {
        id: (id != "last").then(|| id.to_owned()),
        limit: Some(1),
        ..IncidentQuery::default()
    };
    let found = reader(answers)?.incidents(query).await?;
    found.into_iter().next().ok_or_else(|| unknown(id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoteBody {
    note: String,
}

async fn note(
    State(answers): State<Answers>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let bad = |why: String| Refusal(StatusCode::BAD_REQUEST, why);
    let body: NoteBody = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let note = body.note.trim().to_owned();
    if note.is_empty() || note.len() > LONGEST_NOTE {
        return Err(bad(format!(
            "a note has between 1 and {LONGEST_NOTE} bytes"
        )));
    }
    let id = one(&answers, &id).await?.id;
    let store = answers.store.as_ref().ok_or_else(no_store)?;
    if !store.note(id.clone(), note.clone()).await? {
        return Err(unknown(&id));
    }
    let fact = Fact::IncidentNote {
        id: id.clone(),
        note,
    };
    answers.keeper.tell(vec![fact]).await?;
    Ok(Json(json!({ "noted": id })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleQuery {
    #[serde(default)]
    redact: bool,
}

/// Everything that bears on an incident. It tells more than the other pages, hence only here.
async fn bundle(
    State(answers): State<Answers>,
    Path(id): Path<String>,
    Query(query): Query<BundleQuery>,
) -> Result<Response, Refusal> {
    let incident = one(&answers, &id).await?;
    let flight = answers.keeper.flight().await?;
    let made = spawn_blocking(move || bundle::write(&incident, &flight, query.redact));
    let bytes = match made.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let why = format!("{:#}", anyhow::Error::from(error));
            return Err(Refusal(StatusCode::CONFLICT, why));
        }
        Err(error) => return Err(anyhow::Error::from(error).into()),
    };
    let kind = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((kind, bytes).into_response())
}

/// Stored changes, of `peer` only where one is named.
pub(super) async fn changes(
    answers: &Answers,
    query: ChangeQuery,
    peer: Option<String>,
) -> Result<Json<Value>, Refusal> {
    let peers = names(answers, peer).await?;
    let events = reader(answers)?
        .changes(ChangeQuery { peers, ..query })
        .await?;
    Ok(Json(json!({ "events": events, "missed": 0 })))
}

/// Every flap of the peers that are `meant`, or of all: those in memory, and those that only the
/// store knows. And why the latter are missing, if they are.
pub(super) async fn flaps(
    answers: &Answers,
    meant: Option<&[IpAddr]>,
    recent: Vec<Flap>,
) -> (Vec<Flap>, Option<String>) {
    let peers = meant.map(|meant| meant.iter().map(IpAddr::to_string).collect());
    let stored = match &answers.store {
        Some(store) => store.reader().flaps(peers).await,
        None => Ok(Vec::new()),
    };
    let (mut flaps, incomplete) = match stored {
        Ok(stored) => (stored, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    // What is in memory is newer than what was last written.
    let key = |flap: &Flap| (flap.down_at, flap.node.clone(), flap.peer.clone());
    let newer: BTreeSet<_> = recent.iter().map(key).collect();
    flaps.retain(|flap| !newer.contains(&key(flap)));
    flaps.extend(recent);
    flaps.sort_by(|a, b| (a.down_at, &a.node, &a.peer).cmp(&(b.down_at, &b.node, &b.peer)));
    (flaps, incomplete)
}

/// What `peer` may be called in a record: itself, and the addresses of the node of that name.
async fn names(answers: &Answers, peer: Option<String>) -> Result<Option<Vec<String>>, Refusal> {
    let Some(peer) = peer else {
        return Ok(None);
    };
    let peers = answers.keeper.snapshot().await?.peers;
    let addresses = addresses(&peer, &peers);
    let mut names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    if peer_address(&peer).is_none() {
        names.push(peer);
    }
    Ok(Some(names))
}

/// Why there is no answer.
pub(super) struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        problem(self.0, &self.1)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"))
    }
}

fn unknown(id: &str) -> Refusal {
    let what = if id == "last" {
        "no incident is known".to_owned()
    } else {
        format!("no incident has the id '{id}'")
    };
    Refusal(StatusCode::NOT_FOUND, what)
}

fn no_store() -> Refusal {
    let what = "this agent keeps nothing".to_owned();
    Refusal(StatusCode::SERVICE_UNAVAILABLE, what)
}

fn reader(answers: &Answers) -> Result<&Reader, Refusal> {
    answers
        .store
        .as_ref()
        .map(Store::reader)
        .ok_or_else(no_store)
}

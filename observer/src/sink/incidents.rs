//! The HTTP routes of incidents: those that the core remembers.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use observer_core::incident::Incident;
use serde::Deserialize;
use serde_json::json;

use super::api::{Answers, addresses, problem, stopping};
use crate::cli::peer_address;

pub(super) fn reading() -> Router<Answers> {
    Router::new()
        .route("/api/v1/incidents", get(list))
        .route("/api/v1/incidents/{id}", get(one))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    since: Option<jiff::Timestamp>,
    peer: Option<String>,
    verdict: Option<String>,
    open: Option<bool>,
}

async fn list(State(answers): State<Answers>, Query(query): Query<ListQuery>) -> Response {
    let found = async {
        let incidents = answers.keeper.incidents().await?;
        anyhow::Ok((incidents, answers.keeper.snapshot().await?.peers))
    };
    let (mut incidents, peers) = match found.await {
        Ok(found) => found,
        Err(error) => return stopping(&error),
    };
    if let Some(peer) = &query.peer {
        let meant = addresses(peer, &peers);
        incidents.retain(|incident| {
            concerns(incident, peer, |name| {
                peer_address(name).is_some_and(|address| meant.contains(&address))
            })
        });
    }
    incidents.retain(|incident| {
        query
            .since
            .is_none_or(|since| incident.closed_at.is_none_or(|closed| closed >= since))
            && query
                .verdict
                .as_deref()
                .is_none_or(|verdict| incident.verdict.name() == verdict)
            && query
                .open
                .is_none_or(|open| incident.closed_at.is_none() == open)
    });
    Json(json!({ "incidents": incidents })).into_response()
}

fn concerns(incident: &Incident, peer: &str, is_meant: impl Fn(&str) -> bool) -> bool {
    let subject = &incident.subject;
    subject.name.as_deref() == Some(peer)
        || subject.identity == peer
        || is_meant(&subject.identity)
        || incident
            .sessions
            .iter()
            .any(|session| is_meant(&session.peer))
        || incident.targets.iter().any(|target| is_meant(&target.peer))
}

async fn one(State(answers): State<Answers>, Path(id): Path<String>) -> Response {
    let incidents = match answers.keeper.incidents().await {
        Ok(incidents) => incidents,
        Err(error) => return stopping(&error),
    };
    match find(&incidents, &id) {
        Some(incident) => Json(json!({ "incident": incident })).into_response(),
        None => problem(
            StatusCode::NOT_FOUND,
            &format!("no incident has the id '{id}'"),
        ),
    }
}

/// The one of this id, or the latest.
fn find<'a>(incidents: &'a [Incident], id: &str) -> Option<&'a Incident> {
    if id == "last" {
        return incidents.last();
    }
    incidents.iter().find(|incident| incident.id == id)
}

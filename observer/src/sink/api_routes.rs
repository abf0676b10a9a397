//! `/api/v1/routes` and `/api/v1/path`.

use std::net::IpAddr;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use observer_core::{bgp::Prefix, event::forwarding::Protocol, route_view::RouteFilter};
use serde::Deserialize;

use super::api::{Answers, addresses, problem, stopping, unknown_peer};

/// Routes in one answer, unless another number is asked for, and at most.
const LIMIT: usize = 1_000;
const MAX_LIMIT: usize = 100_000;

/// The pages.
pub fn routes() -> Router<Answers> {
    Router::new()
        .route("/api/v1/routes", get(list))
        .route("/api/v1/path", get(path))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutesQuery {
    node: Option<String>,
    peer: Option<String>,
    prefix: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    wrong: bool,
    limit: Option<usize>,
}

async fn list(
    State(answers): State<Answers>,
    query: Result<Query<RoutesQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(query) = match query {
        Ok(query) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let mut filter = RouteFilter {
        node: query.node,
        all: query.all,
        wrong: query.wrong,
        limit: query.limit.unwrap_or(LIMIT).min(MAX_LIMIT),
        ..RouteFilter::default()
    };
    if let Some(text) = &query.prefix {
        filter.within = Prefix::parse(text);
        if filter.within.is_none() {
            let told = format!("'{text}' is no prefix and no address");
            return problem(StatusCode::BAD_REQUEST, &told);
        }
    }
    if let Some(text) = &query.owner {
        filter.owner = Protocol::named(text);
        if filter.owner.is_none() {
            let told =
                format!("'{text}' is no routing protocol: bird, felix, kernel … or a number");
            return problem(StatusCode::BAD_REQUEST, &told);
        }
    }
    if let Some(peer) = &query.peer {
        let peers = match answers.keeper.snapshot().await {
            Ok(snapshot) => snapshot.peers,
            Err(error) => return stopping(&error),
        };
        let meant = addresses(peer, &peers);
        if meant.is_empty() {
            return unknown_peer(peer);
        }
        filter.peers = Some(meant);
    }
    match answers.keeper.routes(filter).await {
        Ok(view) => Json(view).into_response(),
        Err(error) => stopping(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathQuery {
    node: Option<String>,
    source: Option<IpAddr>,
    destination: IpAddr,
}

async fn path(
    State(answers): State<Answers>,
    query: Result<Query<PathQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(query) = match query {
        Ok(query) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let source = query.source.map(|source| source.to_canonical());
    let destination = query.destination.to_canonical();
    if source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
        return problem(
            StatusCode::BAD_REQUEST,
            "source and destination are of different families",
        );
    }
    match answers.keeper.path(query.node, source, destination).await {
        Ok(Some(view)) => Json(view).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, "no such node is observed"),
        Err(error) => stopping(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_with_and_without_a_length() {
        for (text, read) in [
            ("10.244.1.0/26", Some("10.244.1.0/26")),
            ("10.244.1.7/26", Some("10.244.1.0/26")),
            ("10.244.1.7", Some("10.244.1.7/32")),
            ("fd00::7/64", Some("fd00::/64")),
            ("fd00::7", Some("fd00::7/128")),
            ("10.0.0.0/33", None),
            ("10.0.0.0/-1", None),
            ("10.0.0/8", None),
            ("", None),
        ] {
            let found = Prefix::parse(text).map(|prefix| prefix.to_string());
            assert_eq!(found.as_deref(), read, "{text}");
        }
    }
}

use axum::http::Request as HttpRequest;
use http_body_util::BodyExt;
use observer_core::{Observer, change::Change, event::NetnsId, peer::KnownBy};
use tokio::sync::mpsc;
use tower_service::Service as _;

use super::*;
use crate::{
    intake::{self, Queue},
    keeper::{self, Parts},
    sink::metrics::PeerMetrics,
    sockets,
    state_dir::{SavedNodes, StateDir},
};

/// A core's task without sources; `.1` ends it when dropped.
pub fn agent() -> (Answers, Queue) {
    let (queue, batches) = intake::queue();
    let (control, _) = mpsc::channel(1);
    let (asker, _) = sockets::start(vec![179]).unwrap();
    let saved = serde_json::from_value(json!({
        "address": "10.0.0.2", "known_by": "dialled", "peer_node": "worker-2",
        "last_heard_at": jiff::Timestamp::now(),
    }))
    .unwrap();
    let health = Health::default();
    let (keeper, _) = keeper::start(Parts {
        questions: mpsc::channel(1).0,
        observer: Observer::new(observer_core::config::CoreConfig::default()),
        queue: batches,
        control,
        asker,
        recorder: None,
        flight: None,
        state_dir: None::<StateDir>,
        store: None,
        others: SavedNodes::new(),
        first: vec![
            observer_core::event::Fact::NodeObserved {
                netns: NetnsId(1),
                node: "a".to_owned(),
            },
            observer_core::event::Fact::PeersRestored {
                node: "a".to_owned(),
                peers: vec![saved],
            },
        ],
        announcer: None,
        health: health.clone(),
    })
    .unwrap();
    let answers = Answers {
        visibility: Arc::new(Visibility::new(PeerMetrics::Auto)),
        events: None,
        bird: None,
        comparisons: None,
        keeper,
        health,
        node: Arc::from("a"),
        store: None,
    };
    (answers, queue)
}

async fn ask(mut routes: Router, method: &str, path: &str, host: &str, body: &str) -> Response {
    let request = HttpRequest::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .body(Body::from(body.to_owned()))
        .unwrap();
    routes.call(request).await.unwrap()
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_loopback_listener_answers_local_names_only() {
    let (answers, _running) = agent();
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:9743", 200),
        ("127.0.0.1:9743", 200),
        ("[::1]", 200),
        ("[::1]:9743", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:9743", 403),
        ("localhost:evil", 403),
        ("::1", 403),
    ] {
        let routes = loopback_routes(answers.clone());
        let response = ask(routes, "GET", "/api/v1/peers", host, "").await;
        assert_eq!(response.status().as_u16(), status, "{host}");
    }
    let request = HttpRequest::get("/api/v1/peers")
        .body(Body::empty())
        .unwrap();
    let response = loopback_routes(answers).call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn only_the_unix_socket_changes_state() {
    let (answers, _running) = agent();
    let body = r#"{"peer":"10.0.0.9"}"#;
    let path = "/api/v1/peers/forget";
    let response = ask(
        loopback_routes(answers.clone()),
        "POST",
        path,
        "localhost",
        body,
    )
    .await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let response = ask(
        metrics_routes(answers.clone()),
        "POST",
        path,
        "localhost",
        body,
    )
    .await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let response = ask(unix_routes(answers.clone()), "POST", path, "x", body).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let told = text(response).await;
    assert!(told.contains("10.0.0.9"), "{told}");
    let response = ask(unix_routes(answers), "POST", path, "x", "{}").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn reading_takes_get_only() {
    let (answers, _running) = agent();
    for path in ["peers", "flaps", "events", "sources"] {
        let path = format!("/api/v1/{path}");
        let response = ask(unix_routes(answers.clone()), "POST", &path, "x", "").await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[tokio::test]
async fn the_metrics_listener_serves_nothing_else() {
    let (answers, _running) = agent();
    for (path, status) in [
        ("/metrics", 200),
        ("/healthz", 200),
        ("/readyz", 503),
        ("/api/v1/peers", 404),
        ("/", 404),
    ] {
        let response = ask(metrics_routes(answers.clone()), "GET", path, "any", "").await;
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn a_peer_is_found_by_address_and_by_node_name_and_forgotten() {
    let (answers, _running) = agent();
    let get = |path: &'static str| ask(unix_routes(answers.clone()), "GET", path, "x", "");
    let peers = text(get("/api/v1/peers").await).await;
    assert!(peers.contains(r#""peer":"10.0.0.2""#), "{peers}");
    for (path, status) in [
        ("/api/v1/flaps", 200),
        ("/api/v1/flaps?peer=10.0.0.2", 200),
        ("/api/v1/flaps?peer=::ffff:10.0.0.2", 200),
        ("/api/v1/flaps?peer=worker-2", 200),
        ("/api/v1/flaps?peer=10.0.0.3", 404),
        ("/api/v1/flaps?peer=worker-3", 404),
        ("/api/v1/peers?peer=10.0.0.2", 200),
        ("/api/v1/peers?peer=worker-2", 200),
        ("/api/v1/peers?peer=worker-3", 404),
    ] {
        assert_eq!(get(path).await.status().as_u16(), status, "{path}");
    }
    let path = "/api/v1/peers/forget";
    let body = r#"{"peer":"worker-2"}"#;
    let response = ask(unix_routes(answers.clone()), "POST", path, "x", body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let told = text(response).await;
    assert_eq!(told, r#"{"forgotten":[{"node":"a","peer":"10.0.0.2"}]}"#);
    let peers = text(get("/api/v1/peers").await).await;
    assert_eq!(peers, r#"{"bgp_in_use":true,"peers":[]}"#);
}

#[tokio::test]
async fn a_follower_gets_what_is_remembered_and_then_what_comes() {
    let (answers, _running) = agent();
    let response = ask(
        unix_routes(answers.clone()),
        "GET",
        "/api/v1/events?follow=true",
        "x",
        "",
    )
    .await;
    let mut body = response.into_body();
    let mut next = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice::<ChangeRecord>(&frame).unwrap()
    };
    let first = next().await;
    assert!(matches!(
        first.change,
        Change::PeerKnown {
            known_by: KnownBy::Restored,
            ..
        }
    ));
    let peer = "10.0.0.2".parse().unwrap();
    answers.keeper.forget(None, peer).await.unwrap();
    let mut last = first;
    while !matches!(last.change, Change::PeerForgotten { .. }) {
        let following = next().await;
        assert_eq!(following.seq, last.seq + 1);
        last = following;
    }

    let since = format!("/api/v1/events?since={}", last.seq - 1);
    let page = text(ask(unix_routes(answers), "GET", &since, "x", "").await).await;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["missed"], 0);
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_slow_follower_is_told_how_many_it_missed() {
    let (changes, next) = broadcast::channel(2);
    for seq in 1..=5 {
        let record = ChangeRecord {
            seq,
            at: observer_core::time::Timestamp::default(),
            time: jiff::Timestamp::UNIX_EPOCH,
            node: "a".to_owned(),
            change: Change::SessionDown {
                peer: "10.0.0.2".to_owned(),
            },
        };
        changes.send(Arc::new(record)).unwrap();
    }
    drop(changes);
    let page = Page {
        events: Vec::new(),
        missed: 7,
        next,
    };
    let shown = text(follow(page)).await;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 4, "{shown}");
    assert_eq!(lines[0], r#"{"missed":7}"#);
    assert_eq!(lines[1], r#"{"missed":3}"#);
    assert!(lines[2].contains(r#""seq":4"#));
}

//! Events of a node: whether the account may write them, and whether the API server has what the agent
//! wrote.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_tests::{agent::Agent, lab::Lab, story::CONVERGES, wait};
use serde_json::Value;

use super::{ACCOUNT, PATIENCE, deploy, known_to, kustomize, say, servers::Servers};

/// `overlays/events` gives the right to write them in one namespace, and no other.
pub fn grant(servers: &Servers) -> Result<()> {
    let events = kustomize(&deploy().join("kubernetes/overlays/events"))?;
    let events = servers.file("events.yaml", &known_to(servers, &events)?)?;
    servers.kubectl(&["apply", "--server-side", "-f", &events])?;
    for (question, answer) in [
        (["create", "events", "-n", "default"], true),
        (["create", "events", "-n", "bgp-observer"], false),
        (["create", "events.events.k8s.io", "-n", "default"], false),
        (["patch", "events", "-n", "default"], false),
        (["delete", "events", "-n", "default"], false),
        (["list", "events", "-n", "default"], false),
    ] {
        let asked = [&["auth", "can-i"], &question[..], &["--as", ACCOUNT]].concat();
        let may = servers.kubectl(&asked).is_ok();
        ensure!(may == answer, "{question:?}: {may}");
    }
    say("overlays/events lets the account create Events in default, and nothing else")
}

/// The restart of n1's own BIRD is told as Events of n1, with its identity, where `kubectl describe` looks.
pub fn are_written(servers: &Servers, lab: &Lab, agent: &Agent) -> Result<()> {
    // Its peer, whose pods were named, is to have a session that can be lost.
    lab.start(lab.node(2)?)?;
    lab.await_established(CONVERGES)?;
    agent.await_incidents_over(PATIENCE)?;
    let node = lab.node(1)?;
    let uid = servers.kubectl(&["get", "node", &node.name, "-o", "jsonpath={.metadata.uid}"])?;
    lab.end(node, Signal::SIGTERM)?;
    await_event(servers, &node.name, uid.trim(), "BgpSpeakerGone", "Warning")?;
    lab.start(node)?;
    await_event(servers, &node.name, uid.trim(), "BgpRecovered", "Normal")?;
    let labels = [("result", "written")];
    let written = agent
        .scrape()?
        .value("bgp_observer_kubernetes_events_total", &labels);
    ensure!(
        written.is_some_and(|count| count >= 2.0),
        "{written:?} are counted"
    );
    let told = servers.kubectl(&["describe", "node", &node.name])?;
    ensure!(told.contains("BgpSpeakerGone"), "{told}");
    say("the API server has Events of the beginning and the end of n1's incident")
}

fn await_event(
    servers: &Servers,
    node: &str,
    uid: &str,
    reason: &str,
    severity: &str,
) -> Result<()> {
    let of = format!("involvedObject.kind=Node,involvedObject.uid={uid},reason={reason}");
    let get = [
        "-n",
        "default",
        "get",
        "events",
        "--field-selector",
        &of,
        "-o",
        "json",
    ];
    wait::soon(reason, PATIENCE, || {
        let list: Value = serde_json::from_str(&servers.kubectl(&get)?)?;
        let event = list.pointer("/items/0").context("no Event")?;
        let text = |at: &str| {
            event
                .pointer(at)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        ensure!(text("/type") == severity, "{event}");
        ensure!(text("/involvedObject/name") == node, "{event}");
        ensure!(text("/message").starts_with("BGP incident "), "{event}");
        Ok(())
    })
}

//! BIRD's control socket as a source of who ought to be a peer, with real BIRD of both versions.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_core::{
    event::PeerType,
    peer::{KnownBy, PeerView},
};
use observer_tests::{
    agent::{Agent, Options},
    gate,
    lab::{Lab, Node, Plan},
    speaker::Speaker,
    wait,
};

const SOON: Duration = Duration::from_secs(30);

fn peer(agent: &Agent, node: &Node) -> Result<PeerView> {
    let mut peers = agent.peers()?;
    peers.retain(|peer| peer.peer == node.address.to_string());
    peers
        .pop()
        .with_context(|| format!("{} is not known", node.name))
}

/// An agent on node `here`, whose BIRD waits passively for one node that is there and one that never is.
fn never_came(speaker: Speaker, here: usize) -> Result<()> {
    let lab = Lab::build(Plan {
        speaker,
        nodes: u8::try_from(here)? + 2,
        ..Plan::default()
    })?;
    let (own, came, absent) = (lab.node(here)?, lab.node(here + 1)?, lab.node(here + 2)?);
    let socket = lab.control(own);
    let agent = Agent::start(
        &lab,
        &Options {
            node: Some(own.name.clone()),
            more: vec!["--bird-socket".to_owned(), socket.display().to_string()],
            ..Options::default()
        },
    )?;
    let running = || -> Result<bool> {
        let name = socket.file_name().and_then(|name| name.to_str());
        let labels = [("probe", name.context("no name")?)];
        let value = agent
            .scrape()?
            .value("bgp_observer_probe_attached", &labels);
        Ok(value.context("the socket is no source")? > 0.0)
    };
    wait::soon("a BIRD that is not there is told", SOON, || {
        ensure!(!running()?, "it answers");
        Ok(())
    })?;
    lab.start(own)?;
    lab.start(came)?;
    wait::soon("the one that never came is missed", SOON, || {
        let missed = peer(&agent, absent)?;
        ensure!(
            !missed.up && missed.known_by == KnownBy::Inventory,
            "{missed:?}"
        );
        ensure!(missed.peer_type == Some(PeerType::Mesh), "{missed:?}");
        ensure!(
            missed.asn.is_some() && missed.connections.is_empty(),
            "{missed:?}"
        );
        let up = peer(&agent, came)?;
        ensure!(up.up && up.peer_type == Some(PeerType::Mesh), "{up:?}");
        ensure!(running()?, "it does not answer");
        Ok(())
    })?;
    let status = agent.ask(&["status"])?;
    ensure!(status.contains("node-to-node mesh"), "{status}");

    let protocol = format!("Mesh_{}", came.address.to_string().replace('.', "_"));
    lab.birdc(own, &format!("disable {protocol}"))?;
    wait::soon("the disabled protocol is told", SOON, || {
        let off = peer(&agent, came)?;
        let told = format!("protocol {protocol} is disabled");
        ensure!(!off.up && off.info.contains(&told), "{off:?}");
        Ok(())
    })?;
    lab.birdc(own, &format!("enable {protocol}"))?;
    wait::soon("it is back", Duration::from_mins(1), || {
        let back = peer(&agent, came)?;
        ensure!(back.up && back.info.contains("Established"), "{back:?}");
        Ok(())
    })?;

    // What BIRD said holds while it is away.
    lab.end(own, Signal::SIGTERM)?;
    wait::soon("its end is told", SOON, || {
        ensure!(!running()?, "it answers");
        Ok(())
    })?;
    ensure!(!peer(&agent, absent)?.up);
    let count = |result| {
        let labels = [("result", result)];
        let total = agent
            .scrape()?
            .value("bgp_observer_bird_answers_total", &labels);
        total.with_context(|| format!("nothing counted as {result}"))
    };
    ensure!(count("taken")? > 1.0 && count("absent")? > 1.0);
    ensure!(count("garbage")? + count("refused")? + count("silent")? < 1.0);
    agent.stop()
}

#[test]
fn bird_1_6_names_a_peer_that_never_came_and_what_is_disabled() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    never_came(Speaker::Bird, 1)
}

#[test]
fn bird_2_names_a_peer_that_never_came_and_what_is_disabled() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    never_came(Speaker::Bird2, 2)
}

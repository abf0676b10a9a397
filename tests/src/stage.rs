//! What most integration tests begin with.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{
    agent::{Agent, Options},
    agents::Agents,
    lab::{Lab, Plan},
    rights::Overlay,
    scenario::Scenario,
    story::{self, CONVERGES, Outcome},
    wait,
};

/// A cause may stay pending for 250 ms (DESIGN §3); the rest is for telling it on a busy machine.
const FINAL: Duration = Duration::from_millis(250 + 150);

/// A converged lab with an agent that saw it converge.
pub fn observed(plan: Plan, options: &Options) -> Result<(Lab, Agent)> {
    let lab = Lab::build(plan)?;
    let agent = Agent::start(&lab, options)?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    agent
        .await_all_up(lab.sessions(), Duration::from_secs(10))
        .with_context(|| agent.process().last_words())?;
    Ok((lab, agent))
}

/// The same with an agent on each node, with the rights that `overlay` grants.
pub fn observed_by_each(plan: Plan, overlay: Overlay) -> Result<(Lab, Vec<Agent>)> {
    let lab = Lab::build(plan)?;
    let agents = lab.nodes().iter().map(|node| {
        let options = Options {
            node: Some(node.name.clone()),
            overlay: Some(overlay),
            ..Options::default()
        };
        Agent::start(&lab, &options)
    });
    let agents: Vec<Agent> = agents.collect::<Result<_>>()?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    for (agent, node) in agents.iter().zip(lab.nodes()) {
        let sessions = lab.neighbors(node).len();
        agent
            .await_all_up(sessions, Duration::from_secs(10))
            .with_context(|| agent.process().last_words())?;
    }
    Ok((lab, agents))
}

/// Plays `scenario` and holds it to its expectations; the error tells the whole story.
pub fn hold(scenario: Scenario, lab: &Lab, agent: &Agent) -> Result<Outcome> {
    hold_all(scenario, lab, Agents::one(agent))
}

/// The same for the agents of all nodes.
pub fn hold_all(scenario: Scenario, lab: &Lab, agents: Agents<'_>) -> Result<Outcome> {
    let mut story = Vec::new();
    let outcome = story::play(scenario, lab, agents, &mut story);
    let story = String::from_utf8_lossy(&story).into_owned();
    let tell = || format!("{scenario:?}\n{story}\nagent:\n{}", agents.last_words());
    let outcome = outcome.with_context(tell)?;
    let mut differences = outcome.differences.clone();
    for (session, after) in &outcome.final_after {
        if *after > FINAL * wait::slowness() {
            differences.push(format!(
                "{session}: its cause was final only after {after:?}"
            ));
        }
    }
    for flap in &outcome.flaps {
        let known = outcome.final_after.keys().any(|session| session.is(flap));
        if !known {
            differences.push(format!(
                "{} → {}: its flap was not told",
                flap.node, flap.peer
            ));
        }
    }
    ensure!(
        differences.is_empty(),
        "{}\n\n{}",
        differences.join("\n"),
        tell()
    );
    Ok(outcome)
}

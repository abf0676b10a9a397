//! What is left of an incident afterwards: in the store, over a restart, in a bundle that is replayed
//! elsewhere.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_core::incident::Incident;
use observer_tests::{
    agent::{Agent, Options},
    gate,
    lab::Plan,
    scenario::Scenario,
    stage::{hold, observed},
    wait,
};
use serde::Deserialize;

const SOON: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct List {
    incidents: Vec<Incident>,
}

fn incidents(agent: &Agent) -> Result<Vec<Incident>> {
    let text = agent.ask(&["incidents", "-o", "json"])?;
    Ok(serde_json::from_str::<List>(&text)?.incidents)
}

/// Every incident there is, once all are over.
fn all_over(agent: &Agent) -> Result<Vec<Incident>> {
    wait::soon("every incident is over", SOON, || {
        let incidents = incidents(agent)?;
        ensure!(!incidents.is_empty(), "no incident");
        let open = incidents.iter().find(|it| it.closed_at.is_none());
        ensure!(open.is_none(), "still open: {:?}", open.map(|it| &it.id));
        Ok(incidents)
    })
}

/// Replays a bundle as somebody else would, who has neither root nor an agent; what it says about it.
fn replay(program: &Path, bundle: &Path) -> Result<(Option<i32>, String)> {
    let output = Command::new("setpriv")
        .args(["--reuid", "nobody", "--clear-groups", "--bounding-set=-all"])
        .arg("--")
        .arg(program)
        .arg("replay")
        .arg(bundle)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), said))
}

#[test]
fn an_incident_is_kept_over_a_kill_noted_bundled_and_replayed_to_the_same_verdict() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    hold(Scenario::Kill, &lab, &agent)?;
    let kept = all_over(&agent)?;
    let flaps = agent.flaps()?.len();

    let folder = tempfile::tempdir()?;
    // Nobody's are the eyes that read it, wherever the program was built.
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let program = folder.path().join("bgp-observer");
    std::fs::copy(agent.program(), &program)?;
    let bundle = folder.path().join("incident.tar");
    let bundle_name = bundle.to_str().context("a path in UTF-8")?;
    for incident in &kept {
        for redact in [&[][..], &["--redact"]] {
            let arguments = ["incident", &incident.id, "--bundle", bundle_name];
            agent.ask(&[&arguments, redact].concat())?;
            let (code, said) = replay(&program, &bundle)?;
            ensure!(
                code == Some(0) && said.contains("same as recorded"),
                "{}: {code:?}: {said}",
                incident.id
            );
        }
    }

    let id = &kept.first().context("an incident")?.id;
    agent.ask(&["incident", id, "--note", "the operator was here"])?;
    agent.kill();
    let agent = Agent::start(&lab, &Options::default())?;
    let again = incidents(&agent)?;
    let ids = |of: &[Incident]| of.iter().map(|it| it.id.clone()).collect::<Vec<_>>();
    ensure!(
        ids(&again) == ids(&kept),
        "{:?} then {:?}",
        ids(&kept),
        ids(&again)
    );
    for (before, after) in kept.iter().zip(&again) {
        ensure!(before.verdict == after.verdict, "{}", before.id);
        ensure!(before.milestones == after.milestones, "{}", before.id);
    }
    let noted = again.first().and_then(|it| it.note.as_deref());
    ensure!(noted == Some("the operator was here"), "{noted:?}");
    ensure!(agent.flaps()?.len() == flaps, "flaps are lost");
    let earlier = agent.ask(&["events", "--from", "1h", "--peer", "10.0.0.2"])?;
    ensure!(earlier.contains("10.0.0.2"), "no events of the run before");
    agent.stop()
}

#[test]
fn an_incident_that_is_open_when_the_agent_dies_is_taken_up_again() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    let node = lab.node(2)?;
    lab.end(node, Signal::SIGKILL)?;
    let open = wait::soon("an incident is open", SOON, || {
        let mut open = incidents(&agent)?;
        open.retain(|it| it.closed_at.is_none());
        ensure!(!open.is_empty(), "none");
        Ok(open)
    })?;
    agent.kill();
    let agent = Agent::start(&lab, &Options::default())?;
    wait::soon("each is there and says that nobody looked", SOON, || {
        let again = incidents(&agent)?;
        for incident in &open {
            let found = again.iter().find(|it| it.id == incident.id);
            let found = found.with_context(|| format!("{} is lost", incident.id))?;
            ensure!(found.opened_at == incident.opened_at, "{}", incident.id);
            ensure!(!found.absences.is_empty(), "{}: no absence", incident.id);
        }
        Ok(())
    })?;
    agent.stop()
}

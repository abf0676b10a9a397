//! The agent under the seccomp profile of `deploy/`, with the capabilities that the manifest grants: in a node
//! of a lab as a pod runs on a host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_core::{incident::Incident, peer::PeerView};
use observer_tests::{
    agent, gate,
    lab::{Lab, Node, Plan},
    netns,
    process::Process,
    story::CONVERGES,
    wait,
};
use serde::{Deserialize, de::DeserializeOwned};

const SOON: Duration = Duration::from_secs(20);
/// What `overlays/ebpf` adds, which `privileges` holds to the manifest.
const CAPABILITIES: &str = "-all,+bpf,+net_admin,+net_raw,+perfmon,+sys_ptrace";

fn profile() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/seccomp/bgp-observer.json")
}

/// One node of a lab, and an agent on it.
struct OnNode<'a> {
    node: &'a Node,
    folder: PathBuf,
}

impl OnNode<'_> {
    /// A command of the agent on the node, confined.
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command
            .args(["--no-new-privs", "--inh-caps=-all"])
            .arg(format!("--bounding-set={CAPABILITIES}"))
            .arg(env!("CARGO_BIN_EXE_confine"))
            .arg(profile())
            .arg(agent::program()?)
            .args(arguments)
            .arg("--socket")
            .arg(self.folder.join("api.sock"));
        Ok(command)
    }

    fn start(&self, lab: &Lab) -> Result<Process> {
        let mut run = self.command(&["run", "--node", &self.node.name, "--api-listen", "off"])?;
        run.arg("--state-dir").arg(self.folder.join("state"));
        let name = "confined";
        Process::start(
            lab.estate(),
            name,
            Some(&self.node.namespace),
            &mut run,
            None,
        )
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        netns::output(&self.node.namespace, &mut self.command(arguments)?)
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let arguments = [arguments, &["-o", "json"]].concat();
        Ok(serde_json::from_str(&self.ask(&arguments)?)?)
    }
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Deserialize)]
struct Incidents {
    incidents: Vec<Incident>,
}

#[derive(Deserialize)]
struct Checked {
    sources: Vec<Source>,
}

#[derive(Deserialize)]
struct Source {
    name: String,
    running: bool,
    reason: Option<String>,
}

#[test]
fn under_the_shipped_profile_every_source_runs_and_an_incident_is_told() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::build(Plan::default())?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    let here = OnNode {
        node: lab.node(1)?,
        folder: lab.estate().folder().join("confined"),
    };
    fs::create_dir_all(&here.folder)?;

    // By the ways of newer kernels and of older ones.
    for route_probes in ["auto", "kprobe"] {
        let mut check = here.command(&["check", "-o", "json", "--route-probes", route_probes])?;
        let output = netns::inside(&here.node.namespace, move || check.output())??;
        let checked: Checked = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let away = checked.sources.iter().filter(|source| !source.running);
        let away: Vec<_> = away
            .filter(|source| gate::traces() || !source.name.starts_with("route"))
            .map(|source| (&source.name, &source.reason))
            .collect();
        ensure!(away.is_empty(), "with {route_probes}: {away:?}");
    }

    let running = here.start(&lab)?;
    wait::soon("the peers are up", SOON, || {
        running.must_run()?;
        let peers = here.json::<Peers>(&["status"])?.peers;
        ensure!(
            peers.len() == 2 && peers.iter().all(|peer| peer.up),
            "{peers:?}"
        );
        Ok(())
    })?;
    let said = fs::read_to_string(running.log())?;
    ensure!(!said.contains("cannot run"), "{said}");

    let victim = lab.node(2)?;
    lab.end(victim, Signal::SIGTERM)?;
    lab.start(victim)?;
    let told = wait::soon(
        "the incident is told and over",
        Duration::from_mins(1),
        || {
            let mut incidents = here.json::<Incidents>(&["incidents"])?.incidents;
            let told = incidents.pop().context("no incident")?;
            ensure!(told.closed_at.is_some(), "{told:?}");
            Ok(told)
        },
    )?;
    ensure!(
        told.cause.contains("Cease/Administrative Shutdown"),
        "{told:?}"
    );
    ensure!(told.evidence.complete, "{:?}", told.evidence);
    let bundle = here.folder.join("bundle");
    here.ask(&["incident", &told.id, "--bundle", &bundle.to_string_lossy()])?;
    ensure!(fs::metadata(&bundle)?.len() > 0, "an empty bundle");
    let metrics = netns::inside(&here.node.namespace, || {
        observer_tests::http::get(([127, 0, 0, 1], 9742).into(), "/metrics")
    })??;
    ensure!(
        metrics.contains("bgp_observer_session_flaps_total"),
        "{metrics}"
    );
    running.signal(Signal::SIGTERM)?;
    let status = running.wait(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_call_that_the_profile_does_not_name_is_refused() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let refused = |profile: &Path| -> Result<bool> {
        let status = Command::new(env!("CARGO_BIN_EXE_confine"))
            .arg(profile)
            .status()?;
        ensure!(status.code().is_some(), "{status}");
        Ok(status.success())
    };
    ensure!(refused(&profile())?, "chroot is let through");
    // Named, it would not be: it is the profile that refuses it.
    let text = fs::read_to_string(profile())?;
    let named = text.replace("\"chmod\"", "\"chmod\", \"chroot\"");
    ensure!(named != text, "no chmod to put it beside");
    let folder = tempfile::tempdir()?;
    let lax = folder.path().join("lax.json");
    fs::write(&lax, named)?;
    ensure!(!refused(&lax)?, "chroot is refused by something else");
    Ok(())
}

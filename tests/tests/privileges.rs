//! The agent with exactly the capabilities that the shipped manifests and the unit grant: that it
//! runs with them, that each one missing is named, and what it still holds once it is up.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::{self, Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use observer_tests::{
    agent, gate,
    rights::{Capabilities, Overlay, confine, granted, list, short},
    wait,
};
use serde::Deserialize;

const SOON: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

/// What `check -o json` says.
#[derive(Deserialize)]
struct Checked {
    sources: Vec<Source>,
    capabilities: Told,
}

#[derive(Deserialize)]
struct Source {
    name: String,
    running: bool,
}

#[derive(Deserialize)]
struct Told {
    kept: Capabilities,
    missing: Vec<Missing>,
}

#[derive(Deserialize)]
struct Missing {
    capability: String,
}

/// The agent's program where every user can run it, and a folder for its files. Gone on drop.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("bgp-observer-{name}-{}", process::id()));
        fs::create_dir_all(&folder)?;
        fs::copy(agent::program()?, folder.join("bgp-observer"))?;
        Ok(Self(folder))
    }

    /// The agent in a network namespace of its own, as root with `capabilities` and no others, as a
    /// container runtime starts it.
    fn as_container(&self, capabilities: &Capabilities) -> Command {
        let mut command = confined(capabilities);
        command
            .arg("--inh-caps=-all")
            .arg(self.0.join("bgp-observer"));
        command
    }

    /// The same as an ordinary user, as systemd starts it.
    fn as_service(&self, capabilities: &Capabilities) -> Command {
        let list = list(capabilities);
        let mut command = confined(capabilities);
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(format!("--inh-caps={list}"))
            .arg(format!("--ambient-caps={list}"))
            .arg(self.0.join("bgp-observer"));
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What both have in common.
fn confined(capabilities: &Capabilities) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "setpriv"]);
    confine(&mut command, capabilities);
    command
}

fn check(mut command: Command) -> Result<Checked> {
    let output = command.args(["check", "-o", "json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{}: {said}", output.status))
}

/// What does not run, but for the probes of routes where a kernel may refuse these to root, too.
fn not_running(checked: &Checked) -> Vec<&str> {
    let sources = checked.sources.iter().filter(|source| !source.running);
    sources
        .map(|source| source.name.as_str())
        .filter(|name| gate::traces() || !name.starts_with("route"))
        .collect()
}

#[test]
fn every_source_runs_with_what_the_ebpf_overlay_and_the_unit_grant() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let place = Place::new("granted")?;
    let container = check(place.as_container(&Overlay::Ebpf.capabilities()?))?;
    ensure!(
        not_running(&container).is_empty(),
        "{:?}",
        not_running(&container)
    );
    ensure!(container.capabilities.missing.is_empty());

    let unit = "systemd/bgp-observer.service";
    let ambient = granted(unit, "AmbientCapabilities=", "", ' ')?;
    ensure!(
        ambient == granted(unit, "CapabilityBoundingSet=", "", ' ')?,
        "the unit's two lists"
    );
    let service = check(place.as_service(&ambient))?;
    ensure!(
        not_running(&service).is_empty(),
        "{:?}",
        not_running(&service)
    );
    ensure!(service.capabilities.missing.is_empty());
    Ok(())
}

#[test]
fn the_base_has_the_tap_and_sock_diag_and_says_what_it_lacks() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let place = Place::new("base")?;
    let checked = check(place.as_container(&Overlay::Base.capabilities()?))?;
    let running: BTreeSet<&str> = checked
        .sources
        .iter()
        .filter(|source| source.running)
        .map(|source| source.name.as_str())
        .collect();
    ensure!(
        running.is_superset(&["sock_diag", "tap"].into()),
        "{running:?}"
    );
    let missing: BTreeSet<&str> = checked
        .capabilities
        .missing
        .iter()
        .map(|missing| &*missing.capability)
        .collect();
    ensure!(
        missing == ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"].into(),
        "{missing:?}"
    );
    Ok(())
}

#[test]
fn each_capability_that_is_missing_is_named() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let place = Place::new("missing")?;
    let all = Overlay::Ebpf.capabilities()?;
    for missing in &all {
        let mut others = all.clone();
        others.remove(missing);
        let output = place.as_container(&others).arg("check").output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let name = format!("CAP_{}", missing.to_uppercase());
        ensure!(
            said.contains(&format!("{name} is missing")),
            "{name} is not named:\n{said}"
        );
        for other in &others {
            let name = format!("CAP_{} is missing", other.to_uppercase());
            ensure!(!said.contains(&name), "without {missing}: {name}\n{said}");
        }
    }
    Ok(())
}

/// Ends a process that a failed test leaves behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command` as an agent and gives the capabilities of each of its threads once it is up.
fn held_when_up(place: &Place, mut command: Command) -> Result<Vec<u64>> {
    let socket = place.0.join("api.sock");
    let log = place.0.join("log");
    command
        .args([
            "run",
            "--metrics-listen",
            "off",
            "--api-listen",
            "off",
            "--socket",
        ])
        .arg(&socket)
        .arg("--state-dir")
        .arg(place.0.join("state"))
        .stderr(fs::File::create(&log)?);
    let mut agent = Running(command.spawn()?);
    wait::soon("the agent answers", SOON, || {
        let asked = Command::new(place.0.join("bgp-observer"))
            .args(["status", "--socket"])
            .arg(&socket)
            .output()?;
        let said = fs::read_to_string(&log)?;
        ensure!(agent.0.try_wait()?.is_none(), "it ended: {said}");
        ensure!(
            asked.status.success(),
            "{}",
            String::from_utf8_lossy(&asked.stderr)
        );
        Ok(())
    })?;
    let said = fs::read_to_string(&log)?;
    ensure!(
        said.contains("CAP_NET_RAW"),
        "the log does not say what is kept: {said}"
    );
    ensure!(!said.contains("stay as they are"), "{said}");
    // Only for the probes of routes there is another source, where a kernel refuses them.
    let by_rtnetlink = gate::traces() && said.contains("route changes come from rtnetlink");
    ensure!(
        !said.contains("cannot run") && !by_rtnetlink,
        "not every probe runs: {said}"
    );

    let mut held = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", agent.0.id()))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapPrm:"))
            .context("CapPrm")?;
        held.push(u64::from_str_radix(line.trim(), 16)?);
    }
    kill(Pid::from_raw(agent.0.id().try_into()?), Signal::SIGTERM)?;
    let status = agent.0.wait()?;
    ensure!(
        status.success(),
        "SIGTERM: {status}: {}",
        fs::read_to_string(&log)?
    );
    Ok(held)
}

/// The bits of capabilities(7).
fn bits(names: &[&str]) -> Result<u64> {
    const NUMBERS: [(&str, u32); 4] = [
        ("dac_read_search", 2),
        ("net_admin", 12),
        ("net_raw", 13),
        ("sys_ptrace", 19),
    ];
    names.iter().try_fold(0, |bits, name| {
        let (_, number) = NUMBERS
            .iter()
            .find(|(known, _)| known == name)
            .context("no number")?;
        Ok(bits | 1 << number)
    })
}

#[test]
fn once_up_no_thread_holds_more_than_check_says() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let kept = ["net_admin", "net_raw", "sys_ptrace"];
    let place = Place::new("kept")?;
    let told = check(place.as_container(&Overlay::Ebpf.capabilities()?))?
        .capabilities
        .kept;
    let told: Capabilities = told.iter().map(|name| short(name)).collect();
    ensure!(
        told == kept.map(str::to_owned).into(),
        "check says {told:?}"
    );
    let held = held_when_up(&place, place.as_container(&Overlay::Ebpf.capabilities()?))?;
    ensure!(
        held.iter()
            .all(|held| *held == bits(&kept).unwrap_or_default()),
        "{held:x?}"
    );

    // Root with everything, as by hand: the same, and what another user's service needs.
    let mut by_hand = Command::new("unshare");
    by_hand
        .args(["--net", "--"])
        .arg(place.0.join("bgp-observer"));
    let held = held_when_up(&place, by_hand)?;
    let kept = bits(&["dac_read_search", "net_admin", "net_raw", "sys_ptrace"])?;
    ensure!(
        held.iter().all(|held| *held == kept),
        "{held:x?} is not {kept:x}"
    );
    Ok(())
}

#[test]
fn the_service_runs_as_a_user_of_its_own() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let place = Place::new("service")?;
    chown(&place.0, Some(NOBODY), Some(NOBODY))?;
    let ambient = granted(
        "systemd/bgp-observer.service",
        "AmbientCapabilities=",
        "",
        ' ',
    )?;
    let held = held_when_up(&place, place.as_service(&ambient))?;
    let kept = bits(&["dac_read_search", "net_admin", "net_raw", "sys_ptrace"])?;
    ensure!(
        held.iter().all(|held| *held == kept),
        "{held:x?} is not {kept:x}"
    );
    Ok(())
}

//! The lab itself: what it builds works, what it breaks is broken, and nothing of it stays.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use observer_tests::{
    birdc, gate,
    lab::{Lab, Node, Plan},
    netns,
    scenario::Act,
    speaker::Speaker,
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(20);

/// The other end's view: what n1's BIRD says about n2.
fn info(lab: &Lab) -> Result<String> {
    let sessions = birdc::sessions(&lab.control(lab.node(1)?))?;
    sessions
        .get("Mesh_10_0_0_2")
        .cloned()
        .context("n1 has no session with n2")
}

fn await_info(lab: &Lab, wanted: impl Fn(&str) -> bool, limit: Duration) -> Result<()> {
    wait::soon("n1 notices", limit, || {
        let info = info(lab)?;
        ensure!(wanted(&info), "n1 says about n2: {info}");
        Ok(())
    })
}

#[test]
fn pods_reach_each_other_once_the_mesh_is_established() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::up(Plan::default())?;
    lab.await_established(CONVERGES)?;
    for from in lab.nodes() {
        for to in lab.nodes() {
            lab.await_pod_reaches(from, to, SOON)?;
        }
    }
    Ok(())
}

#[test]
fn each_act_breaks_what_it_says_and_what_undoes_it_heals() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::up(Plan::default().hold(6))?;
    lab.await_established(CONVERGES)?;
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    let fallen = |info: &str| info != "Established";
    let risen = |info: &str| info == "Established";

    Act::Drop.perform(&lab, n2)?;
    await_info(&lab, fallen, SOON)?;
    Act::Pass.perform(&lab, n2)?;
    await_info(&lab, risen, CONVERGES)?;

    lab.await_established(CONVERGES)?;
    Act::Reset.perform(&lab, n2)?;
    await_info(&lab, fallen, SOON)?;
    await_info(&lab, risen, CONVERGES)?;

    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        Act::End(signal).perform(&lab, n2)?;
        await_info(&lab, fallen, SOON)?;
        Act::Start.perform(&lab, n2)?;
        await_info(&lab, risen, CONVERGES)?;
    }

    lab.await_pod_reaches(n1, n2, SOON)?;
    Act::LinkDown.perform(&lab, n2)?;
    ensure!(
        lab.pod_reaches(n1, n2).is_err(),
        "a pod behind a link that is down was reached"
    );
    Act::LinkUp.perform(&lab, n2)?;
    lab.await_pod_reaches(n1, n2, SOON)
}

#[test]
fn every_other_speaker_joins_the_mesh() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    for speaker in [Speaker::Bird2, Speaker::Frr, Speaker::Gobgp] {
        let lab = Lab::up(Plan::default().speaker(speaker))?;
        lab.await_established(CONVERGES)
            .with_context(|| format!("{speaker:?}"))?;
    }
    Ok(())
}

#[test]
fn two_labs_stand_side_by_side_and_leave_nothing() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let labs = [Lab::up(Plan::default())?, Lab::up(Plan::of(2))?];
    for lab in &labs {
        lab.await_established(CONVERGES)?;
    }
    let pids: Vec<u32> = labs
        .iter()
        .flat_map(|lab| lab.nodes().iter().filter_map(Node::pid))
        .collect();
    assert_eq!(pids.len(), 5);
    for lab in labs {
        let (id, folder) = (
            lab.estate().id().to_owned(),
            lab.estate().folder().to_owned(),
        );
        drop(lab);
        nothing_is_left(&id, &folder)?;
    }
    for pid in pids {
        ensure!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "speaker {pid} is left"
        );
    }
    Ok(())
}

fn nothing_is_left(id: &str, folder: &Path) -> Result<()> {
    let names = netns::list(&format!("bo-{id}-"));
    ensure!(names.is_empty(), "namespaces are left: {names:?}");
    ensure!(!folder.exists(), "{} is left", folder.display());
    Ok(())
}

/// A lab in a process of its own, waiting for an agent that never gets ready.
struct OwnLab {
    child: Child,
    id: String,
    folder: PathBuf,
    /// Speakers and agent.
    pids: Vec<u32>,
    _stdout: BufReader<ChildStdout>,
}

impl OwnLab {
    fn start() -> Result<Self> {
        let agent = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("agent-{}", process::id()));
        if !agent.exists() {
            let aside = agent.with_extension(format!("{:?}", thread::current().id()));
            fs::write(&aside, "#!/bin/sh\nexec sleep 60\n")?;
            fs::set_permissions(&aside, Permissions::from_mode(0o755))?;
            fs::rename(aside, &agent)?;
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["--nodes", "2"])
            .env("BGP_OBSERVER_BIN", agent)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut first = String::new();
        stdout.read_line(&mut first)?;
        let id = first
            .split(' ')
            .nth(1)
            .context("the lab did not say its id")?
            .to_owned();
        let folder = std::env::temp_dir().join("bgp-observer-lab").join(&id);
        let pids = wait::soon("two speakers and an agent", SOON, || {
            let text = fs::read_to_string(folder.join("processes"))?;
            let pids: Vec<u32> = text
                .lines()
                .filter_map(|line| line.split(' ').next()?.parse().ok())
                .collect();
            ensure!(pids.len() == 3, "{} processes", pids.len());
            Ok(pids)
        })?;
        Ok(Self {
            child,
            id,
            folder,
            pids,
            _stdout: stdout,
        })
    }

    fn signal(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id().try_into()?), signal)?;
        Ok(self.child.wait()?)
    }

    fn await_gone(&self) -> Result<()> {
        wait::soon("lab is cleared away", SOON, || {
            nothing_is_left(&self.id, &self.folder)?;
            match self.pids.iter().find(|pid| runs(**pid)) {
                Some(pid) => bail!("process {pid} is left"),
                None => Ok(()),
            }
        })
    }
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_signal_clears_the_lab_away() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut lab = OwnLab::start()?;
        let status = lab.signal(signal)?;
        ensure!(!status.success(), "the lab ended well in spite of {signal}");
        lab.await_gone()?;
    }
    Ok(())
}

#[test]
fn what_a_killed_lab_left_the_next_clears_away() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let mut lab = OwnLab::start()?;
    lab.signal(Signal::SIGKILL)?;
    ensure!(
        lab.pids.iter().all(|pid| runs(*pid)),
        "nothing was left to clear away"
    );
    let mut next = OwnLab::start()?;
    lab.await_gone()?;
    next.signal(Signal::SIGTERM)?;
    next.await_gone()
}

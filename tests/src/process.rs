//! A process of a lab: started, signalled, waited for, and never left behind.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    estate::{self, Estate},
    netns, wait,
};

/// How much time process `pid` had a CPU, all its threads together.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
    let mut fields = fields.context("no fields")?.split(' ').skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("too few fields")?.parse()?) };
    let (user, system) = (ticks()?, ticks()?);
    // USER_HZ is 100 on all that Linux runs on here.
    Ok(Duration::from_millis((user + system) * 10))
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    started: Instant,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts `command`, inside namespace `netns` if given, its output appended to `<name>.log` in
    /// the lab's folder, unless the command has other plans for stdout.
    pub fn start(
        estate: &Estate,
        name: &str,
        netns: Option<&str>,
        command: &mut Command,
        stdout: Option<Stdio>,
    ) -> Result<Self> {
        let log = estate.folder().join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let stdout = match stdout {
            Some(stdout) => stdout,
            None => file.try_clone()?.into(),
        };
        // A group of its own: Ctrl-C on the terminal is the lab's to handle.
        command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            .process_group(0);
        let child = match netns {
            Some(netns) => netns::spawn(netns, command)?,
            None => command
                .spawn()
                .with_context(|| format!("cannot start {command:?}"))?,
        };
        let pid = child.id();
        estate.adopt(pid)?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            log,
            started: Instant::now(),
            child: Mutex::new(Some(child)),
        })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it wrote.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its stdout, if it was started with a pipe.
    pub fn take_stdout(&self) -> Option<std::process::ChildStdout> {
        self.lock().as_mut().and_then(|child| child.stdout.take())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sends it a signal, unless it has been waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.lock();
        let Some(child) = child.as_ref() else {
            bail!("{} has ended", self.name)
        };
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut slot = self.lock();
        let status = slot.as_mut()?.try_wait().ok()??;
        estate::forget(self.pid);
        *slot = None;
        Some(status)
    }

    /// Waits until it has ended.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        wait::until(
            &format!("end of {}", self.name),
            limit,
            Duration::from_millis(5),
            || self.ended().ok_or_else(|| anyhow!("still running")),
        )
    }

    /// Fails with the end of its log when it has ended.
    pub fn must_run(&self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.last_words()),
        }
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(12)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Kills it and waits.
    pub fn kill(&self) {
        let mut slot = self.lock();
        if let Some(mut child) = slot.take() {
            let _ = child.kill();
            estate::forget(self.pid);
            let _ = child.wait();
        }
    }

    /// Leaves it running for good.
    pub fn release(&self) {
        *self.lock() = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

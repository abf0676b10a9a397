//! Runs the agent where there is nothing but what a container has: its image, read-only, /proc,
//! /sys, and the two folders it writes to.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::shell::output;

const LIMIT: Duration = Duration::from_secs(30);
/// Where the agent writes; the rest of its root is read-only.
const STATE: &str = "var/lib/bgp-observer";
const RUN: &str = "run/bgp-observer";

/// Makes the root in a file system of its own, so that nothing of it outlives the mount namespace.
/// `$1` is the image's root file system, `$2` an empty folder, `$3` the folder that becomes RUN,
/// `$4` the program.
const ENTER: &str = "set -e
mount -t tmpfs none $2
cp -r $1/. $2
mkdir -p $2/proc $2/sys $2/$STATE $2/$RUN
mount --bind $3 $2/$RUN
mount -t tmpfs none $2/$STATE
mount -t proc proc $2/proc
mount -t sysfs -o ro sysfs $2/sys
mount -o remount,ro $2
exec chroot $2 $4 run --metrics-listen off --api-listen off
";

/// Starts `program` of `rootfs` as an agent and asks it for its peers.
pub fn try_in(rootfs: &Path, program: &str) -> Result<()> {
    let agent = Agent::start(rootfs, program)?;
    let begun = Instant::now();
    let asked = loop {
        match agent.ask(&rootfs.join(program.trim_start_matches('/'))) {
            Ok(answer) => break answer,
            Err(error) if begun.elapsed() > LIMIT => {
                return Err(error.context(format!("no answer from the image:\n{}", agent.said())));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    if !asked.contains("\"peers\"") || agent.said().contains("panicked") {
        bail!("the image answers {asked}; it said:\n{}", agent.said());
    }
    println!("the image runs in an empty, read-only root");
    Ok(())
}

/// An agent in namespaces of its own. Dropping it ends it.
struct Agent {
    child: Child,
    folder: PathBuf,
}

impl Agent {
    fn start(rootfs: &Path, program: &str) -> Result<Self> {
        let folder =
            std::env::temp_dir().join(format!("bgp-observer-image-{}", std::process::id()));
        for part in ["root", "run"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("no {}", part.display()))?;
        }
        let log = fs::File::create(folder.join("log")).context("no log")?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", ENTER, "sh"])
            .arg(rootfs)
            .arg(folder.join("root"))
            .arg(folder.join("run"))
            .arg(program)
            .envs([("STATE", STATE), ("RUN", RUN)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().context("cannot start unshare")?;
        Ok(Self { child, folder })
    }

    /// What the agent answers to `program status`, asked from outside.
    fn ask(&self, program: &Path) -> Result<String> {
        let mut command = Command::new(program);
        command.args(["status", "-o", "json", "--socket"]);
        output(command.arg(self.folder.join("run/api.sock")))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

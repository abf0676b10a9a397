//! Cgroups of a lab: one that only holds processes together, and one that caps their memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{estate::Estate, wait};

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// Where cgroups of version 2 are, which some hosts mount beside those of version 1.
pub fn unified() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then(|| place.into())
    })
}

/// Puts process `pid` into the cgroup at `folder`.
fn put(pid: u32, folder: &Path) -> Result<()> {
    let path = folder.join("cgroup.procs");
    fs::write(&path, pid.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// A cgroup of version 2. Dropping it removes it, which the kernel refuses while a process is inside;
/// the end of the lab removes it then.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
}

impl Group {
    /// A new one.
    pub fn new(estate: &Estate, short: &str) -> Result<Self> {
        let folder = unified()
            .context("no cgroups of version 2 are mounted")?
            .join(estate.namespace(short));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same command, run inside: a shell goes in and becomes it. Sockets belong to the cgroup in which
    /// they were made, so moving a process later is too late.
    pub fn enclose(&self, command: &Command) -> Command {
        let mut enclosed = Command::new("/bin/sh");
        enclosed
            .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
            .arg(self.folder.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => enclosed.env(name, value),
                None => enclosed.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            enclosed.current_dir(folder);
        }
        enclosed
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A memory cgroup for one process: version 1 where the memory controller is mounted so, else 2. Dropping it removes it, which the kernel refuses while a process is inside;
/// the end of the lab removes it then.
#[derive(Debug)]
pub struct MemoryCap {
    folder: PathBuf,
    limit: &'static str,
}

impl MemoryCap {
    /// A new one without a limit.
    pub fn new(estate: &Estate, short: &str) -> Result<Self> {
        let name = estate.namespace(short);
        let (folder, limit) = if Path::new(V1).join("memory.limit_in_bytes").exists() {
            (Path::new(V1).join(name), "memory.limit_in_bytes")
        } else {
            // Already on where anything uses it; the root of version 2 has no other way to say so.
            let control = Path::new(V2).join("cgroup.subtree_control");
            fs::write(&control, "+memory")
                .with_context(|| format!("cannot enable memory in {}", control.display()))?;
            (Path::new(V2).join(name), "memory.max")
        };
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let cap = Self { folder, limit };
        let file = cap.folder.join(cap.limit);
        ensure!(
            file.exists(),
            "{} does not exist: no memory controller",
            file.display()
        );
        Ok(cap)
    }

    /// Puts process `pid` in. What it allocated before stays charged elsewhere.
    pub fn hold(&self, pid: u32) -> Result<()> {
        put(pid, &self.folder)
    }

    /// Lets the inside allocate at most `bytes`.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        self.write(self.limit, &bytes.to_string())
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for MemoryCap {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Removes every cgroup whose name begins with `prefix`.
pub fn delete(prefix: &str) {
    let parents = [V1, V2].map(PathBuf::from).into_iter();
    for parent in parents.chain(unified()) {
        let Ok(entries) = fs::read_dir(&parent) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                // Processes that were killed take a moment to be gone.
                let (limit, pause) = (Duration::from_secs(2), Duration::from_millis(10));
                let _ = wait::until("an empty cgroup", limit, pause, || {
                    fs::remove_dir(entry.path())
                });
            }
        }
    }
}

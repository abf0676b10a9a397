//! A memory cgroup for one process: version 1 where the memory controller is mounted so, else 2.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::estate::Estate;

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// A cgroup of the lab. Dropping it removes it, which the kernel refuses while a process is inside;
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
        self.write("cgroup.procs", &pid.to_string())
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
    for parent in [V1, V2] {
        let Ok(entries) = fs::read_dir(parent) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

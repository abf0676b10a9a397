//! What a lab owns and how it is cleared away: by the lab itself, by a signal, or, after a
//! `kill -9`, by the next lab.
//!
//! A lab's folder `<temp>/bgp-observer-lab/<id>/` holds `owner` (pid and start time of the program
//! that made it), `processes` (the same for each process started) and, once it is to stay, `keep`.
//! Its namespaces and cgroups are those whose names begin with `bo-<id>-`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cgroup, netns};

/// One lab's possessions.
#[derive(Debug)]
pub struct Estate {
    id: String,
    folder: PathBuf,
    keep: bool,
}

/// Pids by lab that live now and are this program's children, not yet waited for.
static LIVING: Mutex<BTreeMap<String, Vec<u32>>> = Mutex::new(BTreeMap::new());

fn living() -> MutexGuard<'static, BTreeMap<String, Vec<u32>>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn all_folders() -> PathBuf {
    env::temp_dir().join("bgp-observer-lab")
}

impl Estate {
    /// A new one with an id of its own, after clearing away what killed labs left.
    pub fn found() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static REAP: Once = Once::new();
        REAP.call_once(|| {
            reap();
            // A second handler in one program is refused: then somebody else answers the signals.
            let _ = ctrlc::set_handler(|| {
                clear_all();
                process::exit(130);
            });
        });
        let id = match NEXT.fetch_add(1, Ordering::Relaxed) {
            0 => process::id().to_string(),
            number => format!("{}x{number}", process::id()),
        };
        let folder = all_folders().join(&id);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(
            folder.join("owner"),
            identity(process::id()).unwrap_or_default(),
        )?;
        living().insert(id.clone(), Vec::new());
        Ok(Self {
            id,
            folder,
            keep: false,
        })
    }

    /// The id: this program's pid, with a number from its second lab on.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder for configuration, control sockets and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of namespace `short`.
    pub fn namespace(&self, short: &str) -> String {
        format!("bo-{}-{short}", self.id)
    }

    /// Remembers that child `pid` is running.
    pub fn adopt(&self, pid: u32) -> Result<()> {
        if let Some(pids) = living().get_mut(&self.id) {
            pids.push(pid);
        }
        let line = identity(pid).unwrap_or_default() + "\n";
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("processes"))?
            .write_all(line.as_bytes())?;
        Ok(())
    }

    /// Leaves everything running when this is dropped.
    pub fn keep(&mut self) -> Result<()> {
        self.keep = true;
        fs::write(self.folder.join("keep"), "")?;
        living().remove(&self.id);
        Ok(())
    }
}

impl Drop for Estate {
    fn drop(&mut self) {
        if !self.keep {
            clear(&self.id);
        }
    }
}

/// Forgets child `pid`: its owner is about to wait for it, after which the number may be anyone's.
pub fn forget(pid: u32) {
    for pids in living().values_mut() {
        pids.retain(|known| *known != pid);
    }
}

/// Clears away a lab that was kept, or one whose owner is dead.
pub fn remove(id: &str) -> Result<()> {
    let folder = all_folders().join(id);
    if !folder.is_dir() {
        bail!("no lab {id} in {}", all_folders().display());
    }
    bury(id);
    Ok(())
}

/// Clears away this program's lab `id`.
fn clear(id: &str) {
    for pid in living().remove(id).unwrap_or_default() {
        send_kill(pid);
    }
    let prefix = format!("bo-{id}-");
    let _ = netns::delete(&prefix);
    cgroup::delete(&prefix);
    let _ = fs::remove_dir_all(all_folders().join(id));
}

fn clear_all() {
    let ids: Vec<String> = living().keys().cloned().collect();
    for id in &ids {
        clear(id);
    }
}

fn send_kill(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Clears away a lab of another, dead program: what the files name and only that.
fn bury(id: &str) {
    let folder = all_folders().join(id);
    for line in fs::read_to_string(folder.join("processes"))
        .unwrap_or_default()
        .lines()
    {
        let Some(pid) = line.split(' ').next().and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        if identity(pid).as_deref() == Some(line) {
            send_kill(pid);
        }
    }
    let prefix = format!("bo-{id}-");
    let _ = netns::delete(&prefix);
    cgroup::delete(&prefix);
    let _ = fs::remove_dir_all(folder);
}

/// Clears away every lab whose owner was killed.
fn reap() {
    let Ok(entries) = fs::read_dir(all_folders()) else {
        return;
    };
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let owner = fs::read_to_string(entry.path().join("owner")).unwrap_or_default();
        let Some(pid) = id.split('x').next().and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        let lives = match identity(pid) {
            None => false,
            // The file is written right after the folder is made.
            Some(now) => owner.is_empty() || owner == now,
        };
        if !lives && !entry.path().join("keep").exists() {
            bury(&id);
        }
    }
}

/// `pid` and the process's start time (`/proc/PID/stat`, field 22): together never another's.
fn identity(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut text = String::new();
    write!(text, "{pid} {}", fields.split_whitespace().nth(19)?).ok()?;
    Some(text)
}

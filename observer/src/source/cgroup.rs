//! Which cgroup (version 2) a process is in, and where that is in the file system.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Cgroups looked through for a process whose own word on where it is does not help.
const MAX_FOLDERS: usize = 16_384;

/// Why a process's cgroup is not known, or of no use.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The process is gone.
    #[error("process {0} has ended")]
    Ended(u32),
    /// What /proc says cannot be read.
    #[error("cannot read which cgroup process {pid} is in")]
    Unreadable {
        /// The process.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No hierarchy in sight.
    #[error("no cgroups of version 2 are mounted here")]
    NotMounted,
    /// It is in none that can be seen.
    #[error(
        "process {0} is in none of the cgroups in sight (in a container this needs the host's \
         /sys/fs/cgroup)"
    )]
    OutOfSight(u32),
    /// It is in the root.
    #[error(
        "process {0} is in the root cgroup, together with everything else: give it one of its own"
    )]
    Root(u32),
    /// Its folder cannot be opened.
    #[error("cannot open {}", folder.display())]
    Closed {
        /// Where.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An open cgroup.
#[derive(Debug)]
pub struct Cgroup {
    /// As the kernel programs know it: its inode's number.
    pub id: u64,
    /// Where it is.
    pub folder: PathBuf,
    /// Its folder, open.
    pub file: File,
}

impl Cgroup {
    /// The one that process `pid` is in, when its membership reads as `membership`.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn of(pid: u32, membership: &str) -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts: Vec<&Path> = mounts.lines().filter_map(unified).collect();
        if mounts.is_empty() {
            return Err(CgroupError::NotMounted);
        }
        let path = membership
            .lines()
            .find_map(|line| line.strip_prefix("0::/"));
        let told = { mounts.iter() }
            .filter_map(|mount| Some(mount.join(path?)))
            .find(|folder| holds(folder, pid));
        // In a cgroup namespace the path is relative to where nobody can see it from.
        let found = told.or_else(|| mounts.iter().find_map(|mount| search(mount, pid)));
        let folder = found.ok_or(CgroupError::OutOfSight(pid))?;
        // The root alone has no type.
        if !folder.join("cgroup.type").exists() {
            return Err(CgroupError::Root(pid));
        }
        Self::open(folder)
    }

    fn open(folder: PathBuf) -> Result<Self, CgroupError> {
        let opened = File::open(&folder).and_then(|file| Ok((file.metadata()?.ino(), file)));
        match opened {
            Ok((id, file)) => Ok(Self { id, folder, file }),
            Err(source) => Err(CgroupError::Closed { folder, source }),
        }
    }

    /// Whether it has not been removed.
    pub fn still_there(&self) -> bool {
        fs::metadata(&self.folder).is_ok_and(|found| found.ino() == self.id)
    }

    /// Whether sockets made in `other` pass this one's programs too.
    pub fn contains(&self, other: &Self) -> bool {
        other.folder.starts_with(&self.folder)
    }
}

/// What /proc says of a process's cgroups: to be compared, and for [`Cgroup::of`].
///
/// # Errors
/// That it has ended, or why it cannot be read.
pub fn membership(pid: u32) -> Result<String, CgroupError> {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|source| {
        let ended =
            source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ESRCH);
        if ended {
            CgroupError::Ended(pid)
        } else {
            CgroupError::Unreadable { pid, source }
        }
    })
}

/// The place of a mount that is a hierarchy of version 2.
fn unified(mount: &str) -> Option<&Path> {
    let mut words = mount.split(' ').skip(1);
    let place = words.next()?;
    (words.next()? == "cgroup2").then(|| Path::new(place))
}

fn holds(folder: &Path, pid: u32) -> bool {
    let pids = fs::read_to_string(folder.join("cgroup.procs"));
    pids.is_ok_and(|pids| pids.lines().any(|line| line.parse() == Ok(pid)))
}

/// Looks through all cgroups below `mount`, nearest first.
fn search(mount: &Path, pid: u32) -> Option<PathBuf> {
    let mut folders = vec![mount.to_owned()];
    let mut at = 0;
    while let Some(folder) = folders.get(at).cloned() {
        if holds(&folder, pid) {
            return Some(folder);
        }
        at += 1;
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let room = MAX_FOLDERS.saturating_sub(folders.len());
        folders.extend(below.map(|entry| entry.path()).take(room));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hierarchy_of_version_2_counts() {
        assert_eq!(
            unified("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0"),
            Some(Path::new("/sys/fs/cgroup"))
        );
        assert_eq!(
            unified("cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0"),
            None
        );
        assert_eq!(unified("tmpfs"), None);
    }

    #[test]
    fn a_process_is_found_by_its_number_where_its_path_does_not_lead() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("kubepods/pod1/container");
        fs::create_dir_all(&inner).unwrap();
        for (folder, pids) in [(root.path(), "1\n2\n"), (&inner, "41\n")] {
            fs::write(folder.join("cgroup.procs"), pids).unwrap();
        }
        assert_eq!(search(root.path(), 41), Some(inner));
        assert_eq!(search(root.path(), 2), Some(root.path().to_owned()));
        assert_eq!(search(root.path(), 4), None);
    }

    #[test]
    fn a_process_that_is_gone_has_ended() {
        // Beyond any kernel's pid_max (4,194,304).
        let error = membership(u32::MAX).unwrap_err();
        assert!(matches!(error, CgroupError::Ended(_)), "{error}");
    }
}

//! Network namespaces: naming one, running something inside it, and noticing that its name is gone.
//!
//! A [`Netns`] holds an open file of its namespace, and so keeps it alive, as does every socket
//! opened inside: drop them all once [`Netns::still_there`] says no.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

/// Where `ip netns` keeps names; the second is what older systems call the first.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Why a namespace cannot be opened or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no such name.
    #[error("there is no network namespace {name} (looked for {looked})")]
    Absent {
        /// As given.
        name: String,
        /// Where it was looked for.
        looked: String,
    },
    /// Its file cannot be opened.
    #[error("cannot open network namespace {name}")]
    Open {
        /// As given.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{name} is not a network namespace")]
    NotNetns {
        /// As given.
        name: String,
    },
    /// It cannot be entered.
    #[error("cannot enter network namespace {name}: this needs CAP_SYS_ADMIN")]
    Enter {
        /// As given.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    inode: u32,
    file: File,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn own() -> Result<Self, NetnsError> {
        Self::open("(own)", PathBuf::from("/proc/thread-self/ns/net"))
    }

    /// The namespace that `ip netns` calls `name`, or whose file is at the path `name`.
    pub fn named(name: &str) -> Result<Self, NetnsError> {
        let candidates: Vec<PathBuf> = if name.contains('/') {
            vec![name.into()]
        } else {
            DIRECTORIES.map(|dir| Path::new(dir).join(name)).into()
        };
        match candidates.iter().find(|path| path.exists()) {
            Some(path) => Self::open(name, path.clone()),
            None => Err(NetnsError::Absent {
                name: name.to_owned(),
                looked: candidates
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    fn open(name: &str, path: PathBuf) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open {
            name: name.to_owned(),
            source,
        };
        let file = File::open(&path).map_err(failed)?;
        let filesystem = fstatfs(&file).map_err(|errno| failed(errno.into()))?;
        let is_nsfs = filesystem.filesystem_type() == NSFS_MAGIC;
        // Of all namespace files only a network namespace's is called "net:[…]"; a name under
        // /run/netns is a bind mount, so its own link does not tell. setns() checks the kind later.
        let inode = u32::try_from(file.metadata().map_err(failed)?.ino()).ok();
        match inode {
            Some(inode) if is_nsfs => Ok(Self {
                name: name.to_owned(),
                path,
                inode,
                file,
            }),
            _ => Err(NetnsError::NotNetns {
                name: name.to_owned(),
            }),
        }
    }

    /// As it was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its inode, which is how the kernel programs know it (`net.ns.inum`).
    pub const fn inode(&self) -> u32 {
        self.inode
    }

    /// Whether its name still means this namespace.
    pub fn still_there(&self) -> bool {
        let held = self.file.metadata().map(|it| (it.dev(), it.ino()));
        let named = self.path.metadata().map(|it| (it.dev(), it.ino()));
        matches!((held, named), (Ok(held), Ok(named)) if held == named)
    }

    /// Runs `f` inside, on a thread of its own: what `f` opens belongs to this namespace, and the
    /// caller's thread stays where it is. A panic in `f` is the caller's. Where the caller already
    /// is inside, `f` simply runs: that needs no privilege.
    pub fn run_in<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        if Self::own().is_ok_and(|own| own.inode == self.inode) {
            return Ok(f());
        }
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| {
                        NetnsError::Enter {
                            name: self.name.clone(),
                            source: errno.into(),
                        }
                    })?;
                    Ok(f())
                })
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_open_there_and_known_by_its_inode() {
        let own = Netns::own().unwrap();
        assert!(own.still_there());
        let link = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_eq!(link.to_str().unwrap(), format!("net:[{}]", own.inode()));
    }

    #[test]
    fn what_is_no_namespace_is_said_to_be_none() {
        let error = |name| Netns::named(name).unwrap_err().to_string();
        assert_eq!(
            error("no-such-thing"),
            "there is no network namespace no-such-thing (looked for \
             /run/netns/no-such-thing, /var/run/netns/no-such-thing)"
        );
        assert_eq!(
            error("/proc/self/status"),
            "/proc/self/status is not a network namespace"
        );
        assert!(Netns::named("../../etc").is_err());
    }
}

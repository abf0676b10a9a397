//! Which local processes own sockets, by walking /proc: the BGP speakers that were there before the
//! agent. Those that dial or listen later are told by the kernel programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use observer_core::event::{NetnsId, Process};
use tracing::warn;

use super::{netns::Netns, sock_diag::SockDiag};

/// Who owns which socket.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Owners {
    /// The owner of each socket inode; of several processes that share one, the oldest number.
    pub by_inode: BTreeMap<u32, Process>,
    /// Why some sockets have no owner here, in words; none if all have.
    pub incomplete: Option<String>,
}

impl Owners {
    /// Every owner once.
    pub fn processes(&self) -> Vec<Process> {
        let unique: BTreeSet<_> = self.by_inode.values().cloned().collect();
        unique.into_iter().collect()
    }
}

/// Process ids of the local processes that own BGP sockets or listeners in `netns`. What could not
/// be found out is logged.
pub fn local_speakers(netns: &Netns, ports: &[u16]) -> Vec<u32> {
    let asked = SockDiag::open(netns, NetnsId::default(), ports)
        .and_then(|mut socket| socket.dump_with_owners());
    let found = match asked {
        Ok((_, found)) => found,
        Err(error) => {
            warn!(
                netns = netns.name(),
                "cannot look for BGP speakers: {:#}",
                anyhow::anyhow!(error)
            );
            return Vec::new();
        }
    };
    if let Some(reason) = &found.incomplete {
        warn!(netns = netns.name(), "not all BGP speakers found: {reason}");
    }
    found
        .processes()
        .iter()
        .map(|process| process.pid)
        .collect()
}

/// Looks for the owners of the sockets with these `inodes` among all processes.
pub fn owners(inodes: BTreeSet<u32>) -> Owners {
    owners_in(Path::new("/proc"), inodes)
}

/// As [`owners`], in a /proc at another place.
fn owners_in(proc: &Path, mut wanted: BTreeSet<u32>) -> Owners {
    let mut found = Owners::default();
    let mut closed = 0_usize;
    let pids = match pids(proc) {
        Ok(pids) => pids,
        Err(error) => {
            found.incomplete = Some(format!("cannot read {}: {error}", proc.display()));
            return found;
        }
    };
    for pid in &pids {
        if wanted.is_empty() {
            break;
        }
        let dir = proc.join(pid.to_string());
        match sockets(&dir.join("fd")) {
            Ok(sockets) => {
                let owned: Vec<u32> = sockets.intersection(&wanted).copied().collect();
                if owned.is_empty() {
                    continue;
                }
                let comm = fs::read(dir.join("comm")).unwrap_or_default();
                let process = Process {
                    pid: *pid,
                    comm: String::from_utf8_lossy(comm.trim_ascii_end()).into_owned(),
                };
                for inode in owned {
                    wanted.remove(&inode);
                    found.by_inode.insert(inode, process.clone());
                }
            }
            // Processes end while we look; that is no failure.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed += 1,
            Err(_) => {}
        }
    }
    if !wanted.is_empty() {
        let (missing, all) = (wanted.len(), pids.len());
        found.incomplete = Some(if closed > 0 {
            format!(
                "{missing} BGP sockets have no known owner: {closed} of {all} processes cannot be \
                 looked into (CAP_SYS_PTRACE)"
            )
        } else {
            format!(
                "{missing} BGP sockets have no owner among the {all} processes in sight (in a \
                 container this needs hostPID: true)"
            )
        });
    }
    found
}

fn pids(proc: &Path) -> io::Result<BTreeSet<u32>> {
    Ok(fs::read_dir(proc)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// The inodes of the sockets in a process's `fd` directory.
fn sockets(fds: &Path) -> io::Result<BTreeSet<u32>> {
    Ok(fs::read_dir(fds)?
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            inode.parse().ok()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn our_own_socket_is_ours() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::os::fd::OwnedFd::from(socket);
        let inode = u32::try_from(
            fs::File::from(file.try_clone().unwrap())
                .metadata()
                .unwrap()
                .ino(),
        );
        let inode = inode.unwrap();
        let owners = owners(BTreeSet::from([inode]));
        assert_eq!(owners.by_inode[&inode].pid, std::process::id());
        assert_eq!(owners.incomplete, None);
        assert_eq!(owners.processes().len(), 1);
    }

    #[test]
    fn a_socket_without_owner_is_said_to_have_none() {
        let owners = owners(BTreeSet::from([u32::MAX]));
        assert!(owners.by_inode.is_empty());
        assert!(owners.incomplete.unwrap().starts_with("1 BGP sockets"));
    }

    #[test]
    fn a_missing_proc_is_a_reason_not_a_failure() {
        let owners = owners_in(Path::new("/nonexistent"), BTreeSet::from([1]));
        assert!(owners.incomplete.unwrap().contains("/nonexistent"));
    }
}

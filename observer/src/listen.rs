//! Binding: TCP addresses, and the unix socket with what an earlier agent left of it.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Binds `address`; `[::]` takes IPv4 too, and becomes `0.0.0.0` where there is no IPv6. `option` is
/// the flag to name when it fails.
pub fn tcp(address: SocketAddr, option: &str) -> Result<TcpListener> {
    let bound = match bind(address) {
        Err(error)
            if address.ip().is_unspecified()
                && address.is_ipv6()
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    };
    bound.with_context(|| {
        format!("cannot listen on {address} ({option}); choose another address, or off")
    })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A bound unix socket; its name goes when this does.
#[derive(Debug)]
pub struct UnixSocket {
    path: PathBuf,
    /// Ours, so that a successor's is not removed.
    inode: u64,
}

impl UnixSocket {
    /// Binds `path` for owner and group. What a dead agent left there is replaced; a living agent's
    /// is not.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener)> {
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {} (--socket)", parent.display()))?;
        }
        refuse_to_replace(path)?;
        // Under another name until its mode is right; the rename replaces what was left.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let _ = fs::remove_file(&aside);
        let bound = UnixListener::bind(&aside).and_then(|listener| {
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o660))?;
            let inode = fs::metadata(&aside)?.ino();
            fs::rename(&aside, path)?;
            Ok((listener, inode))
        });
        match bound {
            Ok((listener, inode)) => Ok((
                Self {
                    path: path.to_owned(),
                    inode,
                },
                listener,
            )),
            Err(error) => {
                let _ = fs::remove_file(&aside);
                Err(error)
                    .with_context(|| format!("cannot listen on {} (--socket)", path.display()))
            }
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn refuse_to_replace(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        bail!(
            "{} is there and no socket; remove it, or choose another path with --socket",
            path.display()
        );
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!(
            "another agent is listening on {}; stop it, or choose another path with --socket",
            path.display()
        ),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/api.sock");
        let (socket, listener) = UnixSocket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = UnixSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("another agent"), "{error}");

        drop(listener);
        let (second, _listener) = UnixSocket::bind(&path).unwrap();
        drop(socket);
        assert!(
            path.exists(),
            "the first agent removed its successor's socket"
        );
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "mine").unwrap();
        let error = UnixSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_port_in_use_names_address_and_option() {
        let first = tcp("127.0.0.1:0".parse().unwrap(), "--api-listen").unwrap();
        let error = tcp(first.local_addr().unwrap(), "--api-listen").unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("--api-listen"), "{error}");
        assert!(error.contains("in use"), "{error}");
    }
}

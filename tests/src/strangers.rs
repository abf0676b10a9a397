//! Strangers: connections to a node's BGP port from an address that is nobody's peer.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{crowd::keepalive, firewall::nft, netns};

const BGP: u16 = 179;
/// BIRD listens with a backlog of 8: more at once would only wait for retransmitted SYNs.
const AT_ONCE: usize = 4;

/// Completes `count` connections from namespace `from` to `target`, at both ends: the speaker has
/// accepted and closed them. Every third sends some bytes, half of those a well-formed BGP message.
pub fn flood(from: &str, target: Ipv4Addr, count: usize) -> Result<()> {
    let (next, completed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let knock_on = || -> Result<()> {
        while completed.load(Ordering::Relaxed) < count {
            let number = next.fetch_add(1, Ordering::Relaxed);
            ensure!(number < count * 2, "{target} does not accept strangers");
            if knock(target, number)? {
                completed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| netns::inside(from, knock_on)?))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a stranger panicked"))?)
    })
}

/// Whether the speaker accepted: our end alone is no proof, since a full accept queue drops the
/// handshake's last segment after we were told that it is complete.
fn knock(target: Ipv4Addr, number: usize) -> Result<bool> {
    let address = SocketAddr::from((target, BGP));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
        .with_context(|| format!("stranger {number} to {address}"))?;
    // The speaker may have closed already.
    match number % 6 {
        0 => drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: bgp\r\n\r\n")),
        3 => drop(stream.write_all(&keepalive())),
        _ => {}
    }
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    // The speaker closes first, so that our side's ports do not run out in TIME-WAIT.
    // A reset proves nothing: a handshake by SYN cookie that finds the accept queue full ends so too.
    Ok(stream.read(&mut [0; 64]).is_ok())
}

/// Sends `count` SYNs from namespace `from` to `target` whose handshakes never complete: a firewall
/// drops the answers.
pub fn bare_syns(from: &str, target: Ipv4Addr, count: usize) -> Result<()> {
    nft(
        from,
        "add table inet strangers
         add chain inet strangers in { type filter hook input priority 0; }
         add rule inet strangers in tcp sport 179 drop",
    )?;
    let address = SocketAddr::from((target, BGP));
    netns::inside(from, || {
        for _ in 0..count {
            let _ = TcpStream::connect_timeout(&address, Duration::from_millis(1));
        }
    })?;
    nft(from, "delete table inet strangers")
}

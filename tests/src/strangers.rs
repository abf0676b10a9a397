//! Strangers: connections to a node's BGP port from an address that is nobody's peer.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::{netns, scenario::nft};

const BGP: u16 = 179;
/// BIRD listens with a backlog of 8: more at once would only wait for retransmitted SYNs.
const AT_ONCE: usize = 4;

/// Completes `count` connections from namespace `from` to `target`; every third sends some bytes,
/// half of those a well-formed BGP header.
pub fn flood(from: &str, target: Ipv4Addr, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    netns::inside(from, || {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= count {
                                return Ok(());
                            }
                            knock(target, number)?;
                        }
                    })?
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a stranger panicked"))?)
    })
}

fn knock(target: Ipv4Addr, number: usize) -> Result<()> {
    let address = SocketAddr::from((target, BGP));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
        .with_context(|| format!("stranger {number} to {address}"))?;
    // The speaker may have closed already: the connection was completed, and that is all we want.
    match number % 6 {
        0 => drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: bgp\r\n\r\n")),
        3 => drop(stream.write_all(&keepalive())),
        _ => {}
    }
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    // Let the speaker close first, so that our side's ports do not run out in TIME-WAIT.
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}

/// RFC 4271 §4.4.
fn keepalive() -> [u8; 19] {
    let mut message = [0xff; 19];
    if let Some(tail) = message.last_chunk_mut() {
        *tail = [0, 19, 4];
    }
    message
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

//! Many peers of one node, all of them behind its pod, for whom the test itself speaks.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use socket2::SockRef;

use crate::{
    lab::{Lab, Node},
    netns,
    speaker::ASN,
};

/// How long a peer waits for the node's BIRD.
const PATIENCE: Duration = Duration::from_mins(2);

/// Has the node's pod answer for every address of these prefixes, and the node send them there.
pub fn settle(node: &Node, prefixes: &[&str]) -> Result<()> {
    let local: Vec<String> = { prefixes.iter() }
        .map(|prefix| format!("route add local {prefix} dev lo"))
        .collect();
    netns::ip(Some(&node.pod_namespace), &local)?;
    let [_, _, _, number] = node.address.octets();
    let pod = node.pod;
    let via: Vec<String> = { prefixes.iter() }
        .map(|prefix| format!("route add {prefix} via {pod} dev cali{number} onlink"))
        .collect();
    netns::ip(Some(&node.namespace), &via)
}

/// A BGP message (RFC 4271 §4.1).
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    let mut message = vec![0xff; 16];
    message.extend(length.to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// RFC 4271 §4.4.
pub fn keepalive() -> Vec<u8> {
    message(4, &[])
}

/// RFC 4271 §4.5, without data.
pub fn notification(code: u8, subcode: u8) -> Vec<u8> {
    message(3, &[code, subcode])
}

/// OPEN of AS 64512 with a hold time that does not run out meanwhile (RFC 4271 §4.2).
pub fn open(id: Ipv4Addr) -> Vec<u8> {
    let mut open = vec![4, 0xfc, 0x00, 0x0e, 0x10];
    open.extend(id.octets());
    open.push(0);
    message(1, &open)
}

/// OPEN and KEEPALIVE, without waiting for the other side's.
pub fn greeting(id: Ipv4Addr) -> Vec<u8> {
    [open(id), keepalive()].concat()
}

/// What the node's BIRD calls its session with one of them.
pub fn protocol(peer: Ipv4Addr) -> String {
    format!("Crowd_{}", peer.to_string().replace('.', "_"))
}

/// Has the BIRD of `node`, which does not run yet, dial each of `peers`.
pub fn dial(lab: &Lab, node: &Node, peers: &[Ipv4Addr]) -> Result<()> {
    let path = node.speaker.config_path(lab.estate().folder(), &node.name);
    let mut text = fs::read_to_string(&path)?;
    for peer in peers {
        let (name, own) = (protocol(*peer), node.address);
        let _ = writeln!(
            text,
            "\nprotocol bgp {name} from bgp_template {{\n  neighbor {peer} as {ASN};\n  source address {own};\n}}"
        );
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Where a peer behind the pod of `node` is dialled.
pub fn listen(node: &Node, peer: Ipv4Addr) -> Result<TcpListener> {
    let listener = netns::inside(&node.pod_namespace, || TcpListener::bind((peer, 179)))?;
    let listener = listener.with_context(|| format!("cannot listen on {peer}"))?;
    // An accept that never ends would keep a test from failing.
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
    Ok(listener)
}

/// Takes a connection and has the session on it Established, having said nothing for so long at first.
pub fn answer(listener: &TcpListener, silent: Duration) -> Result<TcpStream> {
    let (mut stream, _) = listener.accept().context("nobody dials")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    std::thread::sleep(silent);
    let own = match stream.local_addr()?.ip() {
        std::net::IpAddr::V4(own) => own,
        std::net::IpAddr::V6(own) => bail!("{own} is no peer"),
    };
    for (said, kind) in [(open(own), 1), (keepalive(), 4)] {
        stream.write_all(&said)?;
        let heard = hear(&mut stream)?;
        if heard != kind {
            bail!("a message of type {heard} and not {kind}");
        }
    }
    Ok(stream)
}

/// Reads a message and gives its type.
fn hear(stream: &mut TcpStream) -> io::Result<u8> {
    let mut header = [0; 19];
    stream.read_exact(&mut header)?;
    let [.., high, low, kind] = header;
    let rest = u16::from_be_bytes([high, low]).saturating_sub(19);
    stream.read_exact(&mut vec![0; rest.into()])?;
    Ok(kind)
}

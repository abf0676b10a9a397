//! From the bytes of a ring record to an event. Bytes that make no sense give nothing; the caller
//! counts them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use observer_abi::{
    COMM_LEN, KIND_RESET_RECEIVED, KIND_RESET_SENT, KIND_RETRANSMIT, KIND_SPEAKER_EXIT,
    KIND_SPEAKER_OOM, KIND_SPEAKER_SIGNAL, KIND_TCP_ERROR, KIND_TCP_STATE, PeerKey, ProcessRecord,
    TcpRecord,
};
use observer_core::{
    event::{Event, Fact, NetnsId, Process, Socket, SocketId, TcpState},
    time::{Occurred, Timestamp},
};
use zerocopy::FromBytes;

use super::identity::Identities;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The event that `bytes` are the record of.
pub fn decode(bytes: &[u8], identities: &mut Identities) -> Option<Event> {
    let kind = u32::from_ne_bytes(*bytes.first_chunk()?);
    match kind {
        KIND_SPEAKER_EXIT | KIND_SPEAKER_SIGNAL | KIND_SPEAKER_OOM => {
            process_event(&ProcessRecord::read_from_bytes(bytes).ok()?)
        }
        _ => tcp_event(&TcpRecord::read_from_bytes(bytes).ok()?, identities),
    }
}

fn tcp_event(record: &TcpRecord, identities: &mut Identities) -> Option<Event> {
    let from = TcpState::from_linux(record.old_state)?;
    let to = TcpState::from_linux(record.new_state)?;
    let socket = socket(record, from, to, identities)?;
    let fact = match record.kind {
        KIND_TCP_STATE => Fact::TcpState {
            socket,
            from,
            to,
            process: (record.in_process == 1).then(|| Process {
                pid: record.pid,
                comm: comm(&record.comm),
            }),
        },
        KIND_TCP_ERROR => Fact::TcpError {
            socket,
            errno: record.error,
        },
        KIND_RESET_RECEIVED => Fact::ResetReceived { socket },
        KIND_RESET_SENT => Fact::ResetSent { socket },
        KIND_RETRANSMIT => Fact::Retransmit { socket },
        _ => return None,
    };
    Some(event(record.boot_nanos, fact))
}

fn socket(
    record: &TcpRecord,
    from: TcpState,
    to: TcpState,
    identities: &mut Identities,
) -> Option<Socket> {
    let netns = NetnsId(record.netns_id);
    let end = |addr, port| end(record.family, addr, port, record.interface);
    let local = end(&record.local_addr, record.local_port)?;
    let remote = end(&record.remote_addr, record.remote_port)?;
    let id = if record.cookie == 0 {
        // Born: dialled, or first seen as a listener's child. Ended: on to CLOSE.
        let born = matches!(
            (from, to),
            (TcpState::Close, TcpState::SynSent | TcpState::Listen)
                | (TcpState::SynRecv, TcpState::Established)
        );
        let ended = from != to && to == TcpState::Close;
        identities.of(record.address, (netns, local, remote), born, ended)
    } else {
        SocketId(record.cookie)
    };
    Some(Socket {
        netns,
        id,
        local,
        remote,
        bytes_received: record.bytes_received,
        bytes_acked: record.bytes_acked,
        srtt_micros: record.srtt_eighths_micros / 8,
        total_retransmits: record.total_retransmits,
        unanswered_retransmits: record.retransmits,
    })
}

fn process_event(record: &ProcessRecord) -> Option<Event> {
    let netns = NetnsId(record.netns_id);
    let speaker = Process {
        pid: record.pid,
        comm: comm(&record.comm),
    };
    let fact = match record.kind {
        KIND_SPEAKER_EXIT => {
            // wait(2): the low seven bits are the signal, the next byte the exit status.
            let signal = record.status & 0x7f;
            Fact::SpeakerExited {
                netns,
                speaker,
                status: (signal == 0).then_some(record.status >> 8 & 0xff),
                signal: (signal != 0).then_some(signal),
            }
        }
        KIND_SPEAKER_SIGNAL => Fact::SpeakerSignalled {
            netns,
            speaker,
            signal: record.status,
            sender: (record.sender_pid != 0).then(|| Process {
                pid: record.sender_pid,
                comm: comm(&record.sender_comm),
            }),
        },
        KIND_SPEAKER_OOM => Fact::SpeakerOom { netns, speaker },
        _ => return None,
    };
    Some(event(record.boot_nanos, fact))
}

const fn event(boot_nanos: u64, fact: Fact) -> Event {
    Event {
        occurred: Occurred::kernel(Timestamp::from_nanos(boot_nanos)),
        fact,
    }
}

/// One end of a socket. Only a link-local address has a scope.
fn end(family: u16, addr: &[u8; 16], port: u16, interface: u32) -> Option<SocketAddr> {
    match family {
        AF_INET => {
            let four: [u8; 4] = *addr.first_chunk()?;
            Some(SocketAddr::from((Ipv4Addr::from(four), port)))
        }
        AF_INET6 => Some(v6_end(Ipv6Addr::from(*addr), port, interface)),
        _ => None,
    }
}

/// An IPv6 end as the core wants it: mapped addresses are IPv4, only link-local ones have a scope.
pub fn v6_end(addr: Ipv6Addr, port: u16, interface: u32) -> SocketAddr {
    if let Some(v4) = addr.to_ipv4_mapped() {
        return SocketAddr::from((v4, port));
    }
    let scope = if addr.is_unicast_link_local() {
        interface
    } else {
        0
    };
    SocketAddr::V6(SocketAddrV6::new(addr, port, 0, scope))
}

/// A kernel command name: up to its NUL, what is not UTF-8 replaced.
pub fn comm(bytes: &[u8; COMM_LEN]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// The key of a peer in the `KNOWN_PEERS` map.
pub fn peer_key(netns: NetnsId, addr: IpAddr) -> PeerKey {
    let mut key = PeerKey {
        netns_id: netns.0,
        family: u32::from(AF_INET),
        addr: [0; 16],
    };
    match addr.to_canonical() {
        IpAddr::V4(v4) => {
            for (to, from) in key.addr.iter_mut().zip(v4.octets()) {
                *to = from;
            }
        }
        IpAddr::V6(v6) => {
            key.family = u32::from(AF_INET6);
            key.addr = v6.octets();
        }
    }
    key
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;

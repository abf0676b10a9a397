//! ICMP and ICMPv6 echo: one raw socket per namespace and IP version, its packets, its filter.
//!
//! It sends what it is told and reads what comes back; when to send, and what silence means, is the
//! core's.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type,
    Ipv4HeaderSlice, Ipv6HeaderSlice, icmpv4, icmpv6,
};
use nix::sys::{
    socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::ReceiveTimestampns,
    },
    time::TimeSpec,
};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::netns::Netns;

/// Longest packet read: an error carries at most 576 (RFC 1812) or 1280 octets (RFC 4443) of what it
/// is about, and our own are shorter.
const ROOM: usize = 1500;
/// Octets of an echo's payload that make it ours: what a stranger cannot guess, and the token.
const PAYLOAD: usize = 16;
/// What waits for us at most: a flood of answers is cut there.
const RECEIVE_BUFFER: usize = 256 * 1024;

// Classic BPF, include/uapi/linux/bpf_common.h: load a byte (B) or two (H), absolute (ABS), relative
// to X (IND), or the IPv4 header's length into X (MSH); jump when equal (JEQ); return (RET).
const LD_B_ABS: u16 = 0x30;
const LD_B_IND: u16 = 0x50;
const LD_H_ABS: u16 = 0x28;
const LD_H_IND: u16 = 0x48;
const LDX_MSH: u16 = 0xb1;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;

/// What makes an echo ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// The identifier in the header.
    pub identifier: u16,
    /// What a stranger cannot guess.
    pub cookie: u64,
}

/// What came back for an echo.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The target answered.
    Reply,
    /// Somebody on the way says that it cannot be reached; a positive errno.
    Unreachable(i32),
}

/// An answer to an echo of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Who was asked: of a reply the sender, of an error whom the echo was for.
    pub target: IpAddr,
    /// The echo's sequence number.
    pub sequence: u16,
    /// The echo's token.
    pub token: u64,
    /// What came.
    pub outcome: Outcome,
    /// CLOCK_REALTIME in nanoseconds, stamped by the kernel; none if it did not.
    pub realtime_nanos: Option<i64>,
}

/// A raw socket for one IP version.
#[derive(Debug)]
pub struct EchoSocket {
    socket: Socket,
    v6: bool,
    mark: Mark,
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether echoes can be sent from a namespace; nothing stays open.
///
/// # Errors
/// Why not.
pub fn can_send(netns: &Netns) -> anyhow::Result<()> {
    let mark = Mark {
        identifier: 0,
        cookie: 0,
    };
    Ok(netns.run_in(|| EchoSocket::open(false, mark).map(drop))??)
}

impl EchoSocket {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// As socket(2) (`EPERM` without `CAP_NET_RAW`) and setsockopt(2).
    pub fn open(v6: bool, mark: Mark) -> io::Result<Self> {
        let (domain, protocol) = if v6 {
            (Domain::IPV6, Protocol::ICMPV6)
        } else {
            (Domain::IPV4, Protocol::ICMPV4)
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(with_remedy)?;
        socket.attach_filter(&filter(v6, mark.identifier))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        Ok(Self { socket, v6, mark })
    }

    /// Sends one echo request.
    ///
    /// # Errors
    /// As sendto(2): `ENETUNREACH` and `EHOSTUNREACH` say what the routing table says.
    pub fn send(&self, target: IpAddr, sequence: u16, token: u64) -> io::Result<()> {
        let packet = request(self.v6, self.mark, sequence, token);
        let to = SockAddr::from(SocketAddr::new(target, 0));
        self.socket.send_to(&packet, &to).map(drop)
    }

    /// The next answer to an echo of ours; none when nothing waits.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub fn receive(&self) -> io::Result<Option<Answer>> {
        let mut room = [0; ROOM];
        loop {
            let Some((length, from, realtime_nanos)) = self.receive_packet(&mut room)? else {
                return Ok(None);
            };
            let packet = room.get(..length).unwrap_or_default();
            if let Some(answer) = answer_in(self.v6, packet, from, self.mark) {
                return Ok(Some(Answer {
                    realtime_nanos,
                    ..answer
                }));
            }
        }
    }

    fn receive_packet(&self, room: &mut [u8]) -> io::Result<Option<(usize, IpAddr, Option<i64>)>> {
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut vectors = [IoSliceMut::new(room)];
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut vectors,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        );
        let received = match received {
            Ok(received) => received,
            Err(nix::Error::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let stamp = received.cmsgs()?.find_map(|message| {
            let ControlMessageOwned::ScmTimestampns(stamp) = message else {
                return None;
            };
            Some(stamp.tv_sec() * 1_000_000_000 + stamp.tv_nsec())
        });
        let from = received.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Ok(Some((received.bytes, from.unwrap_or(unspecified), stamp)))
    }
}

/// Lets through replies to echoes of ours, and errors; what an error is about is read later.
fn filter(v6: bool, identifier: u16) -> Vec<SockFilter> {
    let op = SockFilter::new;
    let identifier = u32::from(identifier);
    let accept = op(RET, 0, 0, u32::MAX);
    let reject = op(RET, 0, 0, 0);
    if v6 {
        vec![
            op(LD_B_ABS, 0, 0, 0),
            op(JEQ, 4, 0, u32::from(icmpv6::TYPE_DST_UNREACH)),
            op(JEQ, 3, 0, u32::from(icmpv6::TYPE_TIME_EXCEEDED)),
            op(JEQ, 0, 3, u32::from(icmpv6::TYPE_ECHO_REPLY)),
            op(LD_H_ABS, 0, 0, 4),
            op(JEQ, 0, 1, identifier),
            accept,
            reject,
        ]
    } else {
        vec![
            op(LDX_MSH, 0, 0, 0),
            op(LD_B_IND, 0, 0, 0),
            op(JEQ, 4, 0, u32::from(icmpv4::TYPE_DEST_UNREACH)),
            op(JEQ, 3, 0, u32::from(icmpv4::TYPE_TIME_EXCEEDED)),
            op(JEQ, 0, 3, u32::from(icmpv4::TYPE_ECHO_REPLY)),
            op(LD_H_IND, 0, 0, 4),
            op(JEQ, 0, 1, identifier),
            accept,
            reject,
        ]
    }
}

fn request(v6: bool, mark: Mark, sequence: u16, token: u64) -> Vec<u8> {
    let echo = IcmpEchoHeader {
        id: mark.identifier,
        seq: sequence,
    };
    let mut payload = [0; PAYLOAD];
    let (cookie, rest) = payload.split_at_mut(PAYLOAD / 2);
    cookie.copy_from_slice(&mark.cookie.to_be_bytes());
    rest.copy_from_slice(&token.to_be_bytes());
    let mut packet = if v6 {
        // The kernel fills the checksum in (RFC 3542 section 3.1).
        Icmpv6Header::new(Icmpv6Type::EchoRequest(echo))
            .to_bytes()
            .to_vec()
    } else {
        let kind = Icmpv4Type::EchoRequest(echo);
        Icmpv4Header::with_checksum(kind, &payload)
            .to_bytes()
            .to_vec()
    };
    packet.extend_from_slice(&payload);
    packet
}

/// The token of a payload of ours.
fn token(payload: &[u8], mark: Mark) -> Option<u64> {
    let (cookie, rest) = payload.split_first_chunk::<{ PAYLOAD / 2 }>()?;
    let (token, _) = rest.split_first_chunk::<{ PAYLOAD / 2 }>()?;
    (u64::from_be_bytes(*cookie) == mark.cookie).then(|| u64::from_be_bytes(*token))
}

/// What an ICMP message of either version says.
enum Said {
    Reply(IcmpEchoHeader),
    Request(IcmpEchoHeader),
    /// Somebody on the way could not pass a packet on; a positive errno.
    Error(i32),
}

/// The answer in `packet`, if there is one to an echo of ours. A raw socket shows the header of IPv4, and not
/// that of IPv6.
fn answer_in(v6: bool, packet: &[u8], from: IpAddr, mark: Mark) -> Option<Answer> {
    let bytes = if v6 { packet } else { unpacked(v6, packet)?.1 };
    let (said, payload) = message(v6, bytes)?;
    match said {
        Said::Reply(echo) => ours(from, echo, payload, Outcome::Reply, mark),
        Said::Request(_) => None,
        Said::Error(errno) => {
            let (target, about) = unpacked(v6, payload)?;
            let (Said::Request(echo), payload) = message(v6, about)? else {
                return None;
            };
            ours(target, echo, payload, Outcome::Unreachable(errno), mark)
        }
    }
}

/// Where a packet was to go, and what its header is followed by.
fn unpacked(v6: bool, packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let (target, length) = if v6 {
        let header = Ipv6HeaderSlice::from_slice(packet).ok()?;
        (header.destination_addr().into(), header.slice().len())
    } else {
        let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
        (header.destination_addr().into(), header.slice().len())
    };
    Some((target, packet.get(length..)?))
}

/// What a message says, and its payload.
fn message(v6: bool, bytes: &[u8]) -> Option<(Said, &[u8])> {
    if v6 {
        let message = Icmpv6Slice::from_slice(bytes).ok()?;
        let kind = message.icmp_type();
        let said = if let Icmpv6Type::EchoReply(echo) = kind {
            Said::Reply(echo)
        } else if let Icmpv6Type::EchoRequest(echo) = kind {
            Said::Request(echo)
        } else {
            Said::Error(errno_v6(&kind)?)
        };
        return Some((said, message.payload()));
    }
    let message = Icmpv4Slice::from_slice(bytes).ok()?;
    let kind = message.icmp_type();
    let said = if let Icmpv4Type::EchoReply(echo) = kind {
        Said::Reply(echo)
    } else if let Icmpv4Type::EchoRequest(echo) = kind {
        Said::Request(echo)
    } else {
        Said::Error(errno_v4(&kind)?)
    };
    Some((said, message.payload()))
}

fn ours(
    target: IpAddr,
    echo: IcmpEchoHeader,
    payload: &[u8],
    outcome: Outcome,
    mark: Mark,
) -> Option<Answer> {
    let token = token(payload, mark)?;
    (echo.id == mark.identifier).then_some(Answer {
        target,
        sequence: echo.seq,
        token,
        outcome,
        realtime_nanos: None,
    })
}

/// As Linux tells a socket (`icmp_err_convert`).
const fn errno_v4(kind: &Icmpv4Type) -> Option<i32> {
    use icmpv4::DestUnreachableHeader as Why;
    if let Icmpv4Type::TimeExceeded(_) = kind {
        return Some(libc::EHOSTUNREACH);
    }
    let Icmpv4Type::DestinationUnreachable(why) = kind else {
        return None;
    };
    Some(match why {
        Why::Network | Why::NetworkUnknown | Why::NetworkProhibited | Why::TosNetwork => {
            libc::ENETUNREACH
        }
        Why::Host
        | Why::HostProhibited
        | Why::TosHost
        | Why::FilterProhibited
        | Why::HostPrecedenceViolation
        | Why::PrecedenceCutoff => libc::EHOSTUNREACH,
        Why::Protocol => libc::ENOPROTOOPT,
        Why::Port => libc::ECONNREFUSED,
        Why::FragmentationNeeded { .. } => libc::EMSGSIZE,
        Why::SourceRouteFailed => libc::EOPNOTSUPP,
        Why::HostUnknown => libc::EHOSTDOWN,
        Why::Isolated => libc::ENONET,
    })
}

/// As Linux tells a socket (`tab_unreach`).
const fn errno_v6(kind: &Icmpv6Type) -> Option<i32> {
    use icmpv6::DestUnreachableCode as Why;
    if let Icmpv6Type::TimeExceeded(_) = kind {
        return Some(libc::EHOSTUNREACH);
    }
    let Icmpv6Type::DestinationUnreachable(why) = kind else {
        return None;
    };
    Some(match why {
        Why::NoRoute => libc::ENETUNREACH,
        Why::Prohibited | Why::SourceAddressFailedPolicy | Why::RejectRoute => libc::EACCES,
        Why::BeyondScope | Why::Address => libc::EHOSTUNREACH,
        Why::Port => libc::ECONNREFUSED,
    })
}

/// Says what an operator can do about it.
fn with_remedy(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let words = "echoes may not be sent (EPERM): run as root or with CAP_NET_RAW";
    io::Error::new(error.kind(), words)
}

#[cfg(test)]
#[path = "echo_tests.rs"]
mod tests;

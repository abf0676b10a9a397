//! The bytes of sock_diag's questions and answers (`include/uapi/linux/inet_diag.h`), host order
//! unless said otherwise. No socket is touched here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use observer_core::event::{NetnsId, Socket, SocketId, TcpState};

use crate::source::kernel::decode::v6_end;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;

const BC_JUMP: u8 = 1;
const BC_SOURCE_AT_LEAST: u8 = 2;
const BC_SOURCE_AT_MOST: u8 = 3;
const BC_TARGET_AT_LEAST: u8 = 4;
const BC_TARGET_AT_MOST: u8 = 5;

/// Every state but TIME_WAIT, NEW_SYN_RECV and SYN_RECV: those are no sessions, and to ask for
/// SYN_RECV is to get every half-open request too (inet_diag_dump_icsk), as many as a stranger
/// likes. A passive connection is seen once its handshake is complete.
const STATES: u32 = 0xfff & !(1 << 6) & !(1 << 3) & !1;

/// Length of a netlink header, and of the fixed parts of question and answer.
const HEADER: usize = 16;
const ANSWER: usize = 72;

/// The families asked for, one dump each.
pub const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

/// What one netlink message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// About one socket.
    Answer(Answer),
    /// The dump is complete; interrupted if the kernel's tables changed in a way that may have
    /// hidden some.
    Done {
        /// The kernel said that it was.
        interrupted: bool,
    },
    /// The kernel's refusal, a positive errno; 0 acknowledges.
    Error(i32),
    /// Something else, or something that makes no sense.
    Unknown,
}

/// A socket in sock_diag's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The socket; its namespace is that of the question.
    pub socket: Socket,
    /// Its state.
    pub state: TcpState,
    /// The device that it is bound to, a VRF for one; 0 for any.
    pub device: u32,
    /// Bytes received and not read, or connections not accepted.
    pub receive_queue: u32,
    /// Bytes sent and not acknowledged, or the longest queue of connections allowed.
    pub send_queue: u32,
    /// Milliseconds since payload last arrived; none where none ever did.
    pub last_data_received_millis: Option<u32>,
    /// The socket's inode in /proc/PID/fd; 0 where no process has it open.
    pub inode: u32,
}

/// Asks for all sockets of `family` with one of `ports` at either end.
pub fn dump_request(family: u8, ports: &[u16], sequence: u32) -> Vec<u8> {
    let filter = filter(ports);
    let mut bytes = request(family, STATES, NLM_F_REQUEST | NLM_F_DUMP, sequence);
    bytes.extend([0; 48]);
    let length = u16::try_from(4 + filter.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    bytes.extend(filter);
    with_length(bytes)
}

/// Asks for exactly the socket between `local` and `remote` that is bound to `device` or to none, and,
/// if given, with this cookie.
pub fn inspect_request(
    cookie: Option<SocketId>,
    (local, remote): (SocketAddr, SocketAddr),
    device: u32,
    sequence: u32,
) -> Vec<u8> {
    let family = if remote.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = request(family, u32::MAX, NLM_F_REQUEST, sequence);
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(address_bytes(local.ip()));
    bytes.extend(address_bytes(remote.ip()));
    bytes.extend(device.to_ne_bytes());
    // Low word, high word; INET_DIAG_NOCOOKIE is all ones.
    let cookie = cookie.map_or(u64::MAX, |id| id.0);
    for half in [cookie, cookie >> 32] {
        bytes.extend(((half & 0xffff_ffff) as u32).to_ne_bytes());
    }
    with_length(bytes)
}

fn request(family: u8, states: u32, flags: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend([0; 4]);
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    bytes.extend(states.to_ne_bytes());
    bytes
}

fn with_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    for (to, from) in bytes.iter_mut().zip(length.to_ne_bytes()) {
        *to = from;
    }
    bytes
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A program for the kernel's socket filter that accepts a socket with one of `ports` at either
/// end. Each condition is: at least the port, at most the port, then jump past the end, which
/// accepts; a condition that fails goes on to the next, and the last one past the end by four,
/// which rejects.
fn filter(ports: &[u16]) -> Vec<u8> {
    /// Two comparisons of two operations each, and a jump, of four bytes each.
    const CONDITION: usize = 20;
    let sides = [
        (BC_SOURCE_AT_LEAST, BC_SOURCE_AT_MOST),
        (BC_TARGET_AT_LEAST, BC_TARGET_AT_MOST),
    ];
    let conditions: Vec<_> = ports
        .iter()
        .flat_map(|port| sides.map(|side| (*port, side)))
        .collect();
    let end = conditions.len() * CONDITION;
    let mut bytes = Vec::with_capacity(end);
    let mut operation = |code: u8, yes: u8, no: usize| {
        let no = u16::try_from(no).unwrap_or(u16::MAX).to_ne_bytes();
        bytes.extend([code, yes]);
        bytes.extend(no);
    };
    for (index, (port, (at_least, at_most))) in conditions.iter().enumerate() {
        let left = end - index * CONDITION;
        let failed = if left == CONDITION {
            left + 4
        } else {
            CONDITION
        };
        operation(*at_least, 8, failed);
        operation(0, 0, usize::from(*port));
        operation(*at_most, 8, failed - 8);
        operation(0, 0, usize::from(*port));
        operation(BC_JUMP, 4, left - 16);
    }
    bytes
}

/// The messages in one datagram that answer question `sequence`. False at the end if the datagram
/// ended within a message.
pub fn messages(datagram: &[u8], sequence: u32, netns: NetnsId) -> (Vec<Message>, bool) {
    let mut found = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = u32_at(rest, 0).map_or(0, |length| length as usize);
        let Some(message) = rest.get(..length).filter(|_| length >= HEADER) else {
            return (found, false);
        };
        if u32_at(message, 8) == Some(sequence) {
            found.push(message_of(message, netns).unwrap_or(Message::Unknown));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (found, true)
}

fn message_of(bytes: &[u8], netns: NetnsId) -> Option<Message> {
    let kind = u16_at(bytes, 4)?;
    let body = bytes.get(HEADER..)?;
    Some(match kind {
        NLMSG_DONE => Message::Done {
            interrupted: u16_at(bytes, 6)? & NLM_F_DUMP_INTR != 0,
        },
        NLMSG_ERROR => Message::Error(u32_at(body, 0)?.cast_signed().saturating_neg()),
        SOCK_DIAG_BY_FAMILY => Message::Answer(answer(body, netns)?),
        _ => Message::Unknown,
    })
}

fn answer(body: &[u8], netns: NetnsId) -> Option<Answer> {
    let state = TcpState::from_linux(*body.get(1)?)?;
    let family = *body.first()?;
    let interface = u32_at(body, 40)?;
    let end = |port_at: usize, address_at: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(*body.get(port_at..)?.first_chunk()?);
        let address = body.get(address_at..)?;
        match family {
            AF_INET => {
                let octets: [u8; 4] = *address.first_chunk()?;
                Some(SocketAddr::from((Ipv4Addr::from(octets), port)))
            }
            AF_INET6 => {
                let octets: [u8; 16] = *address.first_chunk()?;
                Some(v6_end(Ipv6Addr::from(octets), port, interface))
            }
            _ => None,
        }
    };
    let (local, remote) = (end(4, 8)?, end(6, 24)?);
    let cookie = u64::from(u32_at(body, 44)?) | u64::from(u32_at(body, 48)?) << 32;
    let info = attribute(body.get(ANSWER..)?, INET_DIAG_INFO).unwrap_or_default();
    let bytes_received = u64_at(info, 128).unwrap_or(0);
    Some(Answer {
        socket: Socket {
            netns,
            id: SocketId(cookie),
            local,
            remote,
            bytes_received,
            bytes_acked: u64_at(info, 120).unwrap_or(0),
            srtt_micros: u32_at(info, 68).unwrap_or(0),
            total_retransmits: u32_at(info, 100).unwrap_or(0),
            unanswered_retransmits: info.get(2).copied().unwrap_or(0),
        },
        state,
        device: interface,
        receive_queue: u32_at(body, 56)?,
        send_queue: u32_at(body, 60)?,
        // The kernel counts from boot where nothing ever arrived.
        last_data_received_millis: u32_at(info, 52).filter(|_| bytes_received > 0),
        inode: u32_at(body, 68)?,
    })
}

fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)?;
        let payload = rest.get(4..length)?;
        if kind & 0x3fff == wanted {
            return Some(payload);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETNS: NetnsId = NetnsId(3);

    /// An answer as the kernel lays it out: established, 10.0.0.1:179 – 10.0.0.2:40000.
    fn answer_bytes(sequence: u32) -> Vec<u8> {
        let mut body = vec![AF_INET, 1, 0, 0];
        body.extend(179_u16.to_be_bytes());
        body.extend(40_000_u16.to_be_bytes());
        body.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        body.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for word in [9_u32, 7, 1, 0, 11, 12, 0, 4242] {
            body.extend(word.to_ne_bytes());
        }
        let mut info = vec![0_u8; 232];
        info[2] = 5;
        info[52..56].copy_from_slice(&1500_u32.to_ne_bytes());
        info[68..72].copy_from_slice(&250_u32.to_ne_bytes());
        info[100..104].copy_from_slice(&9_u32.to_ne_bytes());
        info[120..128].copy_from_slice(&1000_u64.to_ne_bytes());
        info[128..136].copy_from_slice(&2000_u64.to_ne_bytes());
        // An attribute that was not asked for comes first: it is skipped, padding and all.
        body.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        body.extend(236_u16.to_ne_bytes());
        body.extend(INET_DIAG_INFO.to_ne_bytes());
        body.extend(info);
        message(SOCK_DIAG_BY_FAMILY, sequence, &body)
    }

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(2_u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        with_length(bytes)
    }

    #[test]
    fn an_answer_is_read_whole() {
        let (found, complete) = messages(&answer_bytes(1), 1, NETNS);
        assert!(complete);
        let [Message::Answer(answer)] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            *answer,
            Answer {
                socket: Socket {
                    netns: NETNS,
                    id: SocketId(7 | 1 << 32),
                    local: "10.0.0.1:179".parse().unwrap(),
                    remote: "10.0.0.2:40000".parse().unwrap(),
                    bytes_received: 2000,
                    bytes_acked: 1000,
                    srtt_micros: 250,
                    total_retransmits: 9,
                    unanswered_retransmits: 5,
                },
                state: TcpState::Established,
                device: 9,
                receive_queue: 11,
                send_queue: 12,
                last_data_received_millis: Some(1500),
                inode: 4242,
            }
        );
    }

    #[test]
    fn answers_to_an_older_question_are_passed_over() {
        let mut datagram = answer_bytes(1);
        datagram.extend(message(NLMSG_DONE, 2, &[0; 4]));
        let (found, complete) = messages(&datagram, 2, NETNS);
        assert!(complete);
        assert_eq!(found, [Message::Done { interrupted: false }]);
    }

    #[test]
    fn a_refusal_is_a_positive_errno() {
        let datagram = message(NLMSG_ERROR, 1, &(-2_i32).to_ne_bytes());
        assert_eq!(messages(&datagram, 1, NETNS).0, [Message::Error(2)]);
        let extreme = message(NLMSG_ERROR, 1, &i32::MIN.to_ne_bytes());
        assert_eq!(messages(&extreme, 1, NETNS).0, [Message::Error(i32::MAX)]);
    }

    #[test]
    fn no_cut_and_no_flipped_byte_panics() {
        let whole = answer_bytes(1);
        for cut in 0..whole.len() {
            let (found, complete) = messages(&whole[..cut], 1, NETNS);
            assert!(found.is_empty());
            assert_eq!(complete, cut == 0);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                messages(&damaged, 1, NETNS);
            }
        }
    }

    /// What the kernel's `inet_diag_bc_run` does with the program, reduced to ports.
    fn accepts(program: &[u8], source: u16, target: u16) -> bool {
        let mut at = 0;
        while at < program.len() {
            let code = program[at];
            let yes = usize::from(program[at + 1]);
            let no = usize::from(u16_at(program, at + 2).unwrap());
            let port = u16_at(program, at + 6).unwrap_or(0);
            let holds = match code {
                BC_SOURCE_AT_LEAST => source >= port,
                BC_SOURCE_AT_MOST => source <= port,
                BC_TARGET_AT_LEAST => target >= port,
                BC_TARGET_AT_MOST => target <= port,
                BC_JUMP => false,
                other => panic!("code {other} at {at}"),
            };
            at += if holds { yes } else { no };
        }
        at == program.len()
    }

    #[test]
    fn the_filter_takes_sockets_with_a_bgp_port_at_either_end() {
        let program = filter(&[179, 1790]);
        assert!(accepts(&program, 179, 40_000));
        assert!(accepts(&program, 40_000, 179));
        assert!(accepts(&program, 1790, 5));
        assert!(accepts(&program, 5, 1790));
        assert!(!accepts(&program, 178, 180));
        assert!(!accepts(&program, 40_000, 1789));
        assert!(!accepts(&program, 1000, 1000));
    }
}

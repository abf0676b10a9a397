//! The classic BPF filter of the tap's sockets: TCP with a BGP port at either end, IPv4 or IPv6.
//!
//! Classic, because it needs no capability beyond `CAP_NET_RAW` and loads on every kernel. Loads are
//! relative to the network header (`SKF_NET_OFF`), since tunnel devices have no MAC header and a
//! VLAN header may or may not stand before the IP header.
//!
//! It does not look behind IPv6 extension headers (BGP segments have none), and of a fragmented IPv4
//! packet it lets pass only the first fragment: the reader counts it, nobody reassembles it.

use libc::sock_filter;

/// `SKF_NET_OFF` (linux/filter.h), -0x100000.
const NET: u32 = 0xFFF0_0000;

const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
const LOAD_HALF_INDEXED: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
const LOAD_INDEX_IP_HEADER_LENGTH: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_ANY_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// More than the largest super-segment: the whole packet.
const WHOLE_PACKET: u32 = 0x0004_0000;
const TCP: u32 = 6;

/// How many ports fit: each adds four jumps, and a jump reaches 255 instructions.
pub const MAX_PORTS: usize = 32;

/// Where a jump leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    Accept,
    Reject,
    Ipv6,
}

/// An instruction whose jumps are still names.
struct Step {
    code: u16,
    value: u32,
    then: To,
    otherwise: To,
}

impl Step {
    const fn plain(code: u16, value: u32) -> Self {
        Self {
            code,
            value,
            then: To::Next,
            otherwise: To::Next,
        }
    }

    const fn branch(code: u16, value: u32, then: To, otherwise: To) -> Self {
        Self {
            code,
            value,
            then,
            otherwise,
        }
    }
}

/// The program for `ports`; those beyond [`MAX_PORTS`] are left out.
pub fn program(ports: &[u16]) -> Vec<sock_filter> {
    let ports = ports.get(..MAX_PORTS).unwrap_or(ports);
    let mut steps = vec![
        Step::plain(LOAD_BYTE, NET),
        Step::plain(AND, 0xf0),
        Step::branch(JUMP_IF_EQUAL, 0x40, To::Next, To::Ipv6),
        Step::plain(LOAD_BYTE, NET + 9),
        Step::branch(JUMP_IF_EQUAL, TCP, To::Next, To::Reject),
        Step::plain(LOAD_HALF, NET + 6),
        Step::branch(JUMP_IF_ANY_SET, 0x1fff, To::Reject, To::Next),
        Step::plain(LOAD_INDEX_IP_HEADER_LENGTH, NET),
    ];
    compare_ports(&mut steps, LOAD_HALF_INDEXED, NET, ports);
    let ipv6 = steps.len();
    steps.extend([
        Step::branch(JUMP_IF_EQUAL, 0x60, To::Next, To::Reject),
        Step::plain(LOAD_BYTE, NET + 6),
        Step::branch(JUMP_IF_EQUAL, TCP, To::Next, To::Reject),
    ]);
    compare_ports(&mut steps, LOAD_HALF, NET + 40, ports);
    let (accept, reject) = (steps.len(), steps.len() + 1);
    steps.extend([Step::plain(RETURN, WHOLE_PACKET), Step::plain(RETURN, 0)]);

    let distance = |from: usize, to: To| {
        let target = match to {
            To::Next => return 0,
            To::Accept => accept,
            To::Reject => reject,
            To::Ipv6 => ipv6,
        };
        u8::try_from(target.saturating_sub(from + 1)).unwrap_or(u8::MAX)
    };
    steps
        .iter()
        .enumerate()
        .map(|(at, step)| sock_filter {
            code: step.code,
            jt: distance(at, step.then),
            jf: distance(at, step.otherwise),
            k: step.value,
        })
        .collect()
}

/// Accepts if the source or the destination port is one of `ports`, else rejects. The ports stand at
/// `base` and two bytes on.
fn compare_ports(steps: &mut Vec<Step>, load: u16, base: u32, ports: &[u16]) {
    for (offset, at_the_end) in [(0, To::Next), (2, To::Reject)] {
        steps.push(Step::plain(load, base + offset));
        for (index, port) in ports.iter().enumerate() {
            let otherwise = if index + 1 == ports.len() {
                at_the_end
            } else {
                To::Next
            };
            steps.push(Step::branch(
                JUMP_IF_EQUAL,
                u32::from(*port),
                To::Accept,
                otherwise,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does (net/core/filter.c), on a packet that begins with its
    /// network header.
    fn run(program: &[sock_filter], packet: &[u8]) -> u32 {
        let half = |at: usize| {
            let bytes = packet.get(at..at + 2)?;
            Some(u32::from(u16::from_be_bytes([bytes[0], bytes[1]])))
        };
        let (mut a, mut x, mut pc) = (0_u32, 0_u32, 0_usize);
        loop {
            let at = program[pc];
            let offset = at.k.wrapping_sub(NET) as usize;
            pc += 1;
            let loaded = match at.code {
                LOAD_BYTE => packet.get(offset).map(|byte| u32::from(*byte)),
                LOAD_HALF => half(offset),
                LOAD_HALF_INDEXED => half(offset + x as usize),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
            match at.code {
                LOAD_INDEX_IP_HEADER_LENGTH => x = u32::from(packet[offset] & 0xf) * 4,
                AND => a &= at.k,
                JUMP_IF_EQUAL => pc += usize::from(if a == at.k { at.jt } else { at.jf }),
                JUMP_IF_ANY_SET => pc += usize::from(if a & at.k != 0 { at.jt } else { at.jf }),
                RETURN => return at.k,
                _ => {}
            }
        }
    }

    fn ipv4(
        header_words: u8,
        protocol: u8,
        fragment: u16,
        source: u16,
        destination: u16,
    ) -> Vec<u8> {
        let mut packet = vec![0; usize::from(header_words) * 4];
        packet[0] = 0x40 | header_words;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet.extend(source.to_be_bytes());
        packet.extend(destination.to_be_bytes());
        packet
    }

    fn ipv6(next_header: u8, source: u16, destination: u16) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next_header;
        packet.extend(source.to_be_bytes());
        packet.extend(destination.to_be_bytes());
        packet
    }

    #[test]
    fn bgp_passes_and_all_else_does_not() {
        let program = program(&[179, 1790, 20_179]);
        let cases = [
            ("to 179", ipv4(5, 6, 0, 40_000, 179), true),
            ("from 179", ipv4(5, 6, 0, 179, 40_000), true),
            (
                "to the last configured port",
                ipv4(5, 6, 0, 40_000, 20_179),
                true,
            ),
            ("with IP options", ipv4(15, 6, 0, 40_000, 1790), true),
            (
                "don't-fragment is no fragment",
                ipv4(5, 6, 0x4000, 1, 179),
                true,
            ),
            ("first fragment", ipv4(5, 6, 0x2000, 1, 179), true),
            ("later fragment", ipv4(5, 6, 0x2001, 1, 179), false),
            ("other TCP", ipv4(5, 6, 0, 40_000, 443), false),
            ("UDP", ipv4(5, 17, 0, 40_000, 179), false),
            ("IPv6", ipv6(6, 179, 40_000), true),
            ("IPv6, other port", ipv6(6, 180, 40_000), false),
            ("IPv6, UDP", ipv6(17, 179, 179), false),
            ("ARP", vec![0, 1, 8, 0, 6, 4, 0, 1], false),
            ("too short", vec![0x45, 0, 0], false),
            ("nothing", vec![], false),
        ];
        for (name, packet, passes) in cases {
            assert_eq!(run(&program, &packet) > 0, passes, "{name}");
        }
    }

    #[test]
    fn jumps_reach_with_the_most_ports() {
        let ports: Vec<u16> = (0..40).map(|index| 1000 + index).collect();
        let program = program(&ports);
        for port in [1000, 1031] {
            assert!(run(&program, &ipv4(5, 6, 0, port, 1)) > 0);
            assert!(run(&program, &ipv4(5, 6, 0, 1, port)) > 0);
            assert!(run(&program, &ipv6(6, 1, port)) > 0);
        }
        assert_eq!(
            run(&program, &ipv4(5, 6, 0, 1039, 1)),
            0,
            "beyond the most ports"
        );
    }
}

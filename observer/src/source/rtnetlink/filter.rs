//! Which of rtnetlink's messages reach the agent. What is not followed is dropped by the kernel, before
//! it takes room in the socket's buffer or wakes anybody.

use libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, RTM_DELNEIGH,
    RTM_DELROUTE, RTM_NEWNEIGH, RTM_NEWROUTE, sock_filter,
};
use observer_core::event::forwarding::Route;

/// Offsets in a message: its type (`nlmsghdr`), then behind that header the family (`ndmsg`), the
/// table and the protocol (`rtmsg`).
const TYPE: u32 = 4;
const FAMILY: u32 = 16;
const TABLE: u32 = 20;
const PROTOCOL: u32 = 21;
/// `RT_TABLE_COMPAT`: the number does not fit into the header and stands in an attribute.
const TABLE_COMPAT: u8 = 252;
const WHOLE: u32 = u32::MAX;

/// Routes of these protocols and tables are followed; an empty list is all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Followed {
    /// Protocols (`rtm_protocol`).
    pub protocols: Vec<u8>,
    /// Routing tables.
    pub tables: Vec<u32>,
}

impl Followed {
    /// Nothing is left out.
    pub const fn is_all(&self) -> bool {
        self.protocols.is_empty() && self.tables.is_empty()
    }

    /// Whether `route` is one of them.
    pub fn has(&self, route: &Route) -> bool {
        (self.protocols.is_empty() || self.protocols.contains(&route.protocol.0))
            && (self.tables.is_empty() || self.tables.contains(&route.table))
    }

    /// For the socket that is told of changes. Lets pass more than is followed where a table's number
    /// does not stand in the header.
    pub fn program(&self) -> Vec<sock_filter> {
        // Jumps count the instructions that they pass over.
        let [new, gone] = [RTM_NEWNEIGH, RTM_DELNEIGH].map(in_network_order);
        let mut program = vec![load(BPF_H, TYPE)];
        program.extend([jump_if(new, 1, 0), jump_if(gone, 0, 5)]);
        // Those of bridges (their forwarding entries) are of another family.
        program.push(load(BPF_B, FAMILY));
        let (v4, v6) = (libc::AF_INET.unsigned_abs(), libc::AF_INET6.unsigned_abs());
        program.extend([jump_if(v4, 1, 0), jump_if(v6, 0, 1), give(WHOLE), give(0)]);
        let [new, gone] = [RTM_NEWROUTE, RTM_DELROUTE].map(in_network_order);
        program.extend([jump_if(new, 2, 0), jump_if(gone, 1, 0), give(WHOLE)]);
        one_of(&mut program, PROTOCOL, &self.protocols);
        one_of(&mut program, TABLE, &self.in_headers());
        program.push(give(WHOLE));
        program
    }

    /// What stands in the headers of the tables' routes.
    fn in_headers(&self) -> Vec<u8> {
        let number = |table: &u32| u8::try_from(*table).unwrap_or(TABLE_COMPAT);
        self.tables.iter().map(number).collect()
    }
}

/// Goes on if the octet at `offset` is one of `wanted`, or if none is wanted in particular.
fn one_of(program: &mut Vec<sock_filter>, offset: u32, wanted: &[u8]) {
    if wanted.is_empty() {
        return;
    }
    program.push(load(BPF_B, offset));
    let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    for (left, number) in (0..count).rev().zip(wanted) {
        // A conditional jump reaches 255 instructions only.
        program.push(jump_if(u32::from(*number), 0, 1));
        program.push(step(BPF_JMP | BPF_JA, left * 2 + 1, 0, 0));
    }
    program.push(give(0));
}

/// A message's type as a big-endian load sees it.
const fn in_network_order(kind: u16) -> u32 {
    u16::from_be_bytes(kind.to_ne_bytes()) as u32
}

fn load(size: u32, offset: u32) -> sock_filter {
    step(BPF_LD | BPF_ABS | size, offset, 0, 0)
}

fn jump_if(value: u32, then: u8, otherwise: u8) -> sock_filter {
    step(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise)
}

fn give(length: u32) -> sock_filter {
    step(BPF_RET | BPF_K, length, 0, 0)
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = u16::try_from(code).unwrap_or_default();
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does (net/core/filter.c).
    fn passes(program: &[sock_filter], message: &[u8]) -> bool {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let step = program[at];
            at += 1;
            let (code, k) = (u32::from(step.code), step.k as usize);
            if code == BPF_LD | BPF_ABS | BPF_H {
                let Some(bytes) = message.get(k..k + 2) else {
                    return false;
                };
                value = u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
            } else if code == BPF_LD | BPF_ABS | BPF_B {
                let Some(byte) = message.get(k) else {
                    return false;
                };
                value = u32::from(*byte);
            } else if code == BPF_JMP | BPF_JA {
                at += k;
            } else if code == BPF_RET | BPF_K {
                return step.k != 0;
            } else {
                assert_eq!(code, BPF_JMP | BPF_JEQ | BPF_K);
                at += usize::from(if value == step.k { step.jt } else { step.jf });
            }
        }
    }

    fn message(kind: u16, family: u8, table: u8, protocol: u8) -> Vec<u8> {
        let mut message = vec![0; 28];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[16] = family;
        message[20] = table;
        message[21] = protocol;
        message
    }

    #[test]
    fn the_kernel_drops_what_is_not_followed_and_nothing_else() {
        let all: (&[u8], &[u32]) = (&[], &[]);
        let bird: (&[u8], &[u32]) = (&[12, 80], &[]);
        let main: (&[u8], &[u32]) = (&[], &[254, 1_000]);
        let both: (&[u8], &[u32]) = (&[12], &[254]);
        // type, family, table and protocol of the header; who lets it pass.
        let rows = [
            ((RTM_NEWROUTE, 2, 254, 12), [true, true, true, true]),
            ((RTM_DELROUTE, 10, 254, 80), [true, true, true, false]),
            ((RTM_NEWROUTE, 2, 254, 3), [true, false, true, false]),
            ((RTM_DELROUTE, 2, 100, 12), [true, true, false, false]),
            ((RTM_NEWROUTE, 2, 252, 12), [true, true, true, false]),
            ((RTM_NEWNEIGH, 2, 0, 0), [true; 4]),
            ((RTM_DELNEIGH, 10, 0, 0), [true; 4]),
            ((RTM_NEWNEIGH, 7, 0, 0), [false; 4]),
            ((libc::RTM_NEWLINK, 0, 1, 1), [true; 4]),
            ((libc::RTM_DELADDR, 2, 0, 0), [true; 4]),
        ];
        for ((kind, family, table, protocol), expected) in rows {
            let message = message(kind, family, table, protocol);
            let passed = [all, bird, main, both].map(|(protocols, tables)| {
                let followed = Followed {
                    protocols: protocols.to_vec(),
                    tables: tables.to_vec(),
                };
                passes(&followed.program(), &message)
            });
            assert_eq!(passed, expected, "{kind} {family} {table} {protocol}");
        }
    }

    #[test]
    fn as_many_protocols_as_there_are_still_make_a_program() {
        let followed = Followed {
            protocols: (0..=255).collect(),
            tables: vec![254],
        };
        let program = followed.program();
        for protocol in [0, 12, 255] {
            let message = |table| message(RTM_NEWROUTE, 2, table, protocol);
            assert!(passes(&program, &message(254)));
            assert!(!passes(&program, &message(253)));
        }
    }
}

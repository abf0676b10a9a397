//! Packets of one namespace, whichever way they were seen, made segments: the same for all.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use observer_core::{
    event::{Event, Fact, NetnsId},
    payload::Payload,
    time::{Occurred, Timestamp},
};
use pcap_parser::Linktype;

use crate::capture::{Dissected, TcpPacket, dissect};

/// Whose segments are wanted, and what was passed over.
#[derive(Debug)]
pub struct Reader {
    netns: NetnsId,
    /// The known peers.
    pub peers: BTreeSet<IpAddr>,
    strangers: Budget,
    fragments: u64,
    corrupt: u64,
}

/// How a packet was seen.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// When.
    pub occurred: Occurred,
    /// Where: an interface's index, or 0 at the sockets themselves.
    pub interface: u32,
    /// The interface by which it came or leaves.
    pub device: u32,
    /// It leaves this host.
    pub sent: bool,
    /// Octets of it that were not kept.
    pub cut: usize,
    /// What is known of its checksum.
    pub checksum: Checksum,
}

/// What is known of a checksum beforehand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checksum {
    /// It was verified, or nobody will.
    Settled,
    /// It is in the packet, and nobody has verified it.
    Unverified,
    /// Nobody says whether it was verified, nor whether it is in the packet yet.
    Unknown,
}

impl Checksum {
    fn refutes(self, tcp: &TcpPacket<'_>) -> bool {
        match self {
            Self::Settled => false,
            Self::Unverified => tcp.is_corrupt(),
            Self::Unknown => tcp.is_corrupt() && !tcp.is_unfinished(),
        }
    }
}

impl Reader {
    /// Of no peer's segments yet.
    pub fn new(netns: NetnsId) -> Self {
        Self {
            netns,
            peers: BTreeSet::new(),
            strangers: Budget::default(),
            fragments: 0,
            corrupt: 0,
        }
    }

    /// Takes a packet that begins with its network header.
    pub fn take(&mut self, sight: Sight, packet: &[u8], now: Timestamp, out: &mut Vec<Event>) {
        match dissect(Linktype::RAW, packet, 0) {
            Dissected::Tcp(tcp) if sight.checksum.refutes(&tcp) => self.corrupt += 1,
            Dissected::Tcp(tcp) => {
                let remote = if sight.sent { tcp.to } else { tcp.from };
                if self.peers.contains(&remote.ip()) || self.strangers.spend(now) {
                    out.push(segment(self.netns, sight, &tcp));
                }
            }
            Dissected::Fragment => self.fragments += 1,
            Dissected::Unreadable | Dissected::Other | Dissected::UnknownLink => {}
        }
    }

    /// Tells what was passed over since the last time.
    pub fn tell(&mut self, now: Timestamp, out: &mut Vec<Event>) {
        let netns = self.netns;
        let mut tell = |count: &mut u64, fact: fn(NetnsId, u64) -> Fact| {
            let count = std::mem::take(count);
            if count > 0 {
                out.push(Event::noticed(now, fact(netns, count)));
            }
        };
        tell(&mut self.fragments, |netns, count| Fact::TapFragments {
            netns,
            count,
        });
        tell(&mut self.corrupt, |netns, count| Fact::TapChecksums {
            netns,
            count,
        });
        tell(&mut self.strangers.refused, |netns, count| {
            Fact::TapStrangers { netns, count }
        });
    }
}

/// The event of one segment.
fn segment(netns: NetnsId, sight: Sight, tcp: &TcpPacket<'_>) -> Event {
    let (local, remote) = if sight.sent {
        (tcp.from, tcp.to)
    } else {
        (tcp.to, tcp.from)
    };
    let cut = u32::try_from(sight.cut).unwrap_or(u32::MAX);
    Event {
        occurred: sight.occurred,
        fact: Fact::Segment {
            netns,
            interface: sight.interface,
            sent: sight.sent,
            local,
            remote: with_scope(remote, sight.device),
            seq: tcp.segment.seq,
            ack: tcp.segment.ack,
            syn: tcp.segment.syn,
            fin: tcp.segment.fin,
            rst: tcp.segment.rst,
            payload: Payload(tcp.segment.payload.to_vec()),
            missing: tcp.segment.missing.saturating_add(cut),
        },
    }
}

/// A link-local address says little without its interface.
fn with_scope(address: SocketAddr, interface: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
            v6.set_scope_id(interface);
            SocketAddr::V6(v6)
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

/// Segments of addresses that are no known peer's. A new peer's OPEN comes before it is known, so
/// some are let through; a flood of them must not take the place of evidence.
#[derive(Debug, Default)]
struct Budget {
    since: Timestamp,
    spent: u32,
    refused: u64,
}

/// How long a budget lasts, and how many segments are in it: many OPENs and KEEPALIVEs.
const BUDGET_FOR: Duration = Duration::from_secs(1);
const BUDGET: u32 = 256;

impl Budget {
    fn spend(&mut self, now: Timestamp) -> bool {
        if now.since(self.since) >= BUDGET_FOR {
            (self.since, self.spent) = (now, 0);
        }
        let left = self.spent < BUDGET;
        self.spent += u32::from(left);
        self.refused += u64::from(!left);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_so_many_segments_a_second_and_no_more() {
        let mut budget = Budget::default();
        let begun = Timestamp::from_nanos(5_000_000_000);
        let passed = (0..1_000).filter(|_| budget.spend(begun)).count();
        assert_eq!(passed, 256);
        assert_eq!(budget.refused, 744);
        assert!(budget.spend(begun.after(BUDGET_FOR)), "a new second");
    }

    /// IPv4 and TCP without options, a KEEPALIVE of nothing but its header's octets behind it.
    fn packet(checksum: impl FnOnce(&TcpPacket<'_>) -> u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 59, 0, 0, 0, 0, 64, 6, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([
            0, 179, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 0, 0, 0, 0, 0,
        ]);
        packet.extend([0xff; 19]);
        let Dissected::Tcp(tcp) = dissect(Linktype::RAW, &packet, 0) else {
            panic!("no TCP");
        };
        let checksum = checksum(&tcp);
        packet[36..38].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The sum that a device is left to finish, by hand: addresses, protocol and length.
    fn pseudo_sum() -> u16 {
        let words: [u32; 6] = [0x0a00, 0x0001, 0x0a00, 0x0002, 6, 39];
        u16::try_from(words.iter().sum::<u32>()).unwrap()
    }

    #[test]
    fn a_checksum_that_nobody_finished_is_no_damage_and_a_wrong_one_is() {
        let passed = |packet: &[u8], checksum| {
            let mut reader = Reader::new(NetnsId(1));
            let mut out = Vec::new();
            let now = Timestamp::from_nanos(1);
            let sight = Sight {
                occurred: Occurred::kernel(now),
                interface: 0,
                device: 2,
                sent: false,
                cut: 0,
                checksum,
            };
            reader.take(sight, packet, now, &mut out);
            reader.tell(now, &mut out);
            matches!(
                out.as_slice(),
                [Event {
                    fact: Fact::Segment { .. },
                    ..
                }]
            )
        };
        let wrong = packet(|_| 0x1234);
        let unfinished = packet(|_| pseudo_sum());
        let right = packet(|tcp| {
            let words = tcp.octets.chunks(2).map(|word| {
                u32::from(u16::from_be_bytes([
                    word[0],
                    word.get(1).copied().unwrap_or(0),
                ]))
            });
            let sum = words.sum::<u32>() + u32::from(pseudo_sum());
            !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
        });
        for (packet, unverified, unknown) in [
            (&wrong, false, false),
            (&unfinished, false, true),
            (&right, true, true),
        ] {
            assert!(passed(packet, Checksum::Settled));
            assert_eq!(passed(packet, Checksum::Unverified), unverified);
            assert_eq!(passed(packet, Checksum::Unknown), unknown);
        }
    }
}

//! A capture turned into events, as an agent on the capturing host would have told the core: what
//! `replay --record` writes.
//!
//! A capture shows segments and no sockets. Whose end is the observed one is not in it either: that
//! is the address with the most BGP connections, then the one with the most of what is left, until
//! each connection has one; each of them is a node of its own. What their kernels did is concluded
//! from the segments: SYN, FIN and RST become state changes when the segment is there. Causes that
//! only a host knows (its processes, timeouts, errors) cannot follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use observer_core::{
    event::{Event, Fact, InventoryPeer, NetnsId, Socket, SocketId, TcpState},
    time::{Clock, Occurred, Timestamp, WallOffset},
};

use super::packet::TcpPacket;

/// Connection refused, `include/uapi/asm-generic/errno.h`.
const ECONNREFUSED: i32 = 111;
/// The one interface of a capture.
const INTERFACE: u32 = 1;

/// Pairs of addresses that speak BGP with each other, to find out whose events these are.
#[derive(Debug, Default)]
pub struct Pairs(BTreeSet<(IpAddr, IpAddr)>);

impl Pairs {
    /// A segment between two ends was seen.
    pub fn note(&mut self, packet: &TcpPacket<'_>) {
        let (from, to) = (packet.from.ip(), packet.to.ip());
        self.0.insert((from.min(to), from.max(to)));
    }

    /// The addresses whose ends are observed, each with the peers that are its own.
    fn observed(mut self) -> Vec<(IpAddr, BTreeSet<IpAddr>)> {
        let mut observed = Vec::new();
        loop {
            let mut peers: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
            for (one, other) in &self.0 {
                peers.entry(*one).or_default().insert(*other);
                peers.entry(*other).or_default().insert(*one);
            }
            // The first of those with the most peers.
            let most = peers.into_iter().reduce(|best, next| {
                if next.1.len() > best.1.len() {
                    next
                } else {
                    best
                }
            });
            let Some((address, peers)) = most else {
                return observed;
            };
            self.0
                .retain(|(one, other)| *one != address && *other != address);
            observed.push((address, peers));
        }
    }
}

/// A connection's socket at the observed end.
#[derive(Debug)]
struct Life {
    socket: Socket,
    tcp: TcpState,
    /// Of the SYN that began it.
    syn: Option<u32>,
    /// Payload sent.
    sent: u64,
}

/// Makes events of a capture's segments.
#[derive(Debug)]
pub struct Events {
    nodes: Vec<(IpAddr, BTreeSet<IpAddr>)>,
    lives: BTreeMap<(SocketAddr, SocketAddr), Life>,
    born: u64,
    now: Timestamp,
    begun: bool,
}

impl Events {
    /// Of these pairs.
    pub fn new(pairs: Pairs) -> Self {
        Self {
            nodes: pairs.observed(),
            lives: BTreeMap::new(),
            born: 0,
            now: Timestamp::default(),
            begun: false,
        }
    }

    /// Appends what follows from a segment seen at `at`, each event with the time of its call.
    pub fn take(
        &mut self,
        at: Timestamp,
        packet: &TcpPacket<'_>,
        out: &mut Vec<(Timestamp, Event)>,
    ) {
        self.now = self.now.max(at);
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(out);
        }
        let Some((netns, sent)) = self.whose(packet) else {
            return;
        };
        let (local, remote) = if sent {
            (packet.from, packet.to)
        } else {
            (packet.to, packet.from)
        };
        let mut facts = Vec::new();
        self.ensure_life((local, remote), netns, packet, sent, &mut facts);
        let segment = &packet.segment;
        facts.push(Fact::Segment {
            netns,
            interface: INTERFACE,
            sent,
            local,
            remote,
            seq: segment.seq,
            ack: segment.ack,
            syn: segment.syn,
            fin: segment.fin,
            rst: segment.rst,
            payload: segment.payload.to_vec().into(),
            missing: segment.missing,
        });
        if let Some(life) = self.lives.get_mut(&(local, remote)) {
            life.step(packet, sent, &mut facts);
        }
        self.tell(at, facts, out);
    }

    /// Appends the last call, which lets causes become final.
    pub fn finish(&mut self, out: &mut Vec<(Timestamp, Event)>) {
        if self.begun {
            let now = self.now.after(std::time::Duration::from_secs(1));
            out.push((now, Event::noticed(now, Fact::Tick)));
        }
    }

    fn tell(&self, at: Timestamp, facts: Vec<Fact>, out: &mut Vec<(Timestamp, Event)>) {
        let occurred = Occurred {
            earliest: at,
            latest: at,
            clock: Clock::Packet,
        };
        let events = facts.into_iter().map(|fact| Event { occurred, fact });
        out.extend(events.map(|event| (self.now, event)));
    }

    /// A capture's clock is wall time.
    fn begin(&self, out: &mut Vec<(Timestamp, Event)>) {
        let offset = WallOffset { nanos: 0 };
        let mut facts = vec![Fact::WallClock { offset }];
        let mut peers = Vec::new();
        for (number, (address, of)) in (1..).zip(&self.nodes) {
            let (netns, node) = (NetnsId(number), address.to_string());
            facts.push(Fact::NodeObserved {
                netns,
                node: node.clone(),
            });
            facts.push(Fact::TapAttached {
                netns,
                interface: INTERFACE,
            });
            facts.push(Fact::SocketsDumped {
                netns,
                begun: self.now,
            });
            peers.extend(of.iter().map(|peer| InventoryPeer {
                node: Some(node.clone()),
                address: *peer,
                name: None,
                peer_type: None,
                asn: None,
                targets: Vec::new(),
            }));
        }
        facts.push(Fact::Inventory { peers });
        self.tell(self.now, facts, out);
    }

    /// The node that a segment is of, and whether that node sent it.
    fn whose(&self, packet: &TcpPacket<'_>) -> Option<(NetnsId, bool)> {
        let (from, to) = (packet.from.ip(), packet.to.ip());
        (1..)
            .zip(&self.nodes)
            .find_map(|(number, (address, peers))| {
                let sent = *address == from && peers.contains(&to);
                let received = *address == to && peers.contains(&from);
                // On the loopback both ends have one address: who spoke first is the observed one.
                let sent =
                    sent && (from != to || !self.lives.contains_key(&(packet.to, packet.from)));
                (sent || received).then_some((NetnsId(number), sent))
            })
    }

    fn ensure_life(
        &mut self,
        ends: (SocketAddr, SocketAddr),
        netns: NetnsId,
        packet: &TcpPacket<'_>,
        sent: bool,
        facts: &mut Vec<Fact>,
    ) {
        let segment = &packet.segment;
        let dials = segment.syn && segment.ack.is_none();
        let new = match self.lives.get(&ends) {
            None => !segment.rst,
            Some(life) => dials && life.syn != Some(segment.seq),
        };
        if !new {
            return;
        }
        self.born += 1;
        let socket = Socket {
            netns,
            id: SocketId(self.born),
            local: ends.0,
            remote: ends.1,
            bytes_received: 0,
            bytes_acked: 0,
            srtt_micros: 0,
            total_retransmits: 0,
            unanswered_retransmits: 0,
        };
        let mut life = Life {
            socket,
            tcp: TcpState::Close,
            syn: dials.then_some(segment.seq),
            sent: 0,
        };
        match (segment.syn, sent) {
            (true, true) if dials => life.enter(TcpState::SynSent, facts),
            (true, _) => life.tcp = TcpState::SynRecv,
            // It is older than the capture.
            (false, _) => {
                life.tcp = TcpState::Established;
                facts.push(life.info());
            }
        }
        self.lives.insert(ends, life);
    }
}

impl Life {
    fn enter(&mut self, to: TcpState, facts: &mut Vec<Fact>) {
        let from = std::mem::replace(&mut self.tcp, to);
        facts.push(Fact::TcpState {
            socket: self.socket,
            from,
            to,
            process: None,
        });
    }

    fn info(&self) -> Fact {
        Fact::SocketInfo {
            socket: self.socket,
            state: self.tcp,
            last_data_received_millis: None,
            send_queue: 0,
            receive_queue: 0,
            process: None,
        }
    }

    /// What the kernel made of a segment.
    fn step(&mut self, packet: &TcpPacket<'_>, sent: bool, facts: &mut Vec<Fact>) {
        use TcpState::{Close, CloseWait, Established, FinWait1, LastAck, SynRecv, SynSent};
        let segment = &packet.segment;
        if segment.rst {
            self.reset(sent, facts);
            return;
        }
        match (self.tcp, sent) {
            (SynSent, false) if segment.syn && segment.ack.is_some() => {
                self.enter(Established, facts);
            }
            (SynRecv, false) if !segment.syn && segment.ack.is_some() => {
                self.enter(Established, facts);
            }
            _ => {}
        }
        self.count(packet, sent, facts);
        if segment.fin {
            match (self.tcp, sent) {
                (Established, false) => self.enter(CloseWait, facts),
                (Established, true) => self.enter(FinWait1, facts),
                (CloseWait, true) => {
                    self.enter(LastAck, facts);
                    self.enter(Close, facts);
                }
                (FinWait1, false) => self.enter(Close, facts),
                _ => {}
            }
        }
    }

    fn reset(&mut self, sent: bool, facts: &mut Vec<Fact>) {
        let socket = self.socket;
        match (self.tcp, sent) {
            (TcpState::Close, _) => return,
            (TcpState::SynSent, false) => facts.push(Fact::TcpError {
                socket,
                errno: ECONNREFUSED,
            }),
            (_, true) => facts.push(Fact::ResetSent { socket }),
            (_, false) => facts.push(Fact::ResetReceived { socket }),
        }
        self.enter(TcpState::Close, facts);
    }

    /// Octets prove a session whose beginning is not in the capture: told as sock_diag would.
    fn count(&mut self, packet: &TcpPacket<'_>, sent: bool, facts: &mut Vec<Fact>) {
        let segment = &packet.segment;
        let length = u64::try_from(segment.payload.len()).unwrap_or(u64::MAX);
        let length = length.saturating_add(u64::from(segment.missing));
        if length == 0 {
            return;
        }
        if sent {
            self.sent = self.sent.saturating_add(length);
        } else {
            self.socket.bytes_received = self.socket.bytes_received.saturating_add(length);
            self.socket.bytes_acked = self.sent;
        }
        if self.syn.is_none() && self.tcp == TcpState::Established {
            facts.push(self.info());
        }
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;

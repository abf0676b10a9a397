//! A node and its Established sessions, as kernel and tap tell the core of them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use observer_core::{
    Observer,
    bgp::Prefix,
    change::Output,
    config::CoreConfig,
    event::{
        Event, Fact, NetnsId, Process, Socket, SocketId, TcpState,
        forwarding::{
            Forwarding, NextHop, Protocol, Route, RouteChange, RouteKind, RouteOp, RouteOrigin,
            RouteSource, TABLE_MAIN,
        },
    },
    time::{Clock, Occurred, Timestamp},
};
use observer_tests::crowd::{keepalive, message};

use crate::routes::spread;

/// The observed namespace.
const NETNS: NetnsId = NetnsId(1);
/// The observed node.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

/// A node whose sessions go on as told.
pub struct Mesh {
    pub observer: Observer,
    sessions: Vec<Session>,
    now: u64,
    out: Vec<Output>,
    /// Events told so far.
    pub events: u64,
}

/// A session's ends and the next numbers of ours and theirs.
#[derive(Clone, Copy)]
struct Session {
    local: SocketAddr,
    remote: SocketAddr,
    next: [u32; 2],
}

/// Four-octet AS numbers, ADD-PATH both ways, graceful restart: what Calico's BIRD offers.
fn open(id: Ipv4Addr) -> Vec<u8> {
    let capabilities = [
        1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0x00, 69, 4, 0, 1, 1, 3, 64, 6, 0, 120, 0, 1, 1, 0x80,
    ];
    let length = u8::try_from(capabilities.len()).unwrap_or(0);
    let mut body = vec![4, 0xfc, 0x00, 0, 240];
    body.extend(id.octets());
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    message(1, &body)
}

impl Mesh {
    /// That many sessions, every one Established.
    pub fn new(peers: u32) -> Result<Self> {
        let mut mesh = Self {
            observer: Observer::new(CoreConfig::default()),
            sessions: Vec::new(),
            now: 1_000_000_000,
            out: Vec::new(),
            events: 0,
        };
        let node = "n1".to_owned();
        mesh.tell(Fact::NodeObserved { netns: NETNS, node });
        for number in 0..peers {
            mesh.add(number)?;
        }
        let up = mesh.observer.peers(Timestamp::from_nanos(mesh.now));
        let up = up.iter().filter(|peer| peer.up).count();
        ensure!(
            up == usize::try_from(peers)?,
            "{up} of {peers} sessions are up"
        );
        Ok(mesh)
    }

    /// A microsecond later, this is so.
    pub fn tell(&mut self, fact: Fact) {
        self.now += 1_000;
        let at = Timestamp::from_nanos(self.now);
        let occurred = Occurred {
            earliest: at,
            latest: at,
            clock: Clock::Packet,
        };
        self.observer
            .apply(at, &Event { occurred, fact }, &mut self.out);
        self.out.clear();
        self.events += 1;
    }

    fn add(&mut self, number: u32) -> Result<()> {
        let port = u16::try_from(20_000 + number % 40_000)?;
        let remote = peer(number);
        self.sessions.push(Session {
            local: (OWN, port).into(),
            remote: (remote, 179).into(),
            next: [1_000, 9_000],
        });
        let id = self.sessions.len() - 1;
        self.step(id, TcpState::Close, TcpState::SynSent);
        self.segment(id, true, true, &[]);
        self.segment(id, false, true, &[]);
        self.segment(id, true, false, &[]);
        self.step(id, TcpState::SynSent, TcpState::Established);
        self.say(id, true, &open(OWN));
        self.say(id, false, &open(remote));
        self.exchange_keepalives(id);
        Ok(())
    }

    fn step(&mut self, id: usize, from: TcpState, to: TcpState) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let socket = Socket {
            netns: NETNS,
            id: SocketId(u64::try_from(id).unwrap_or(0) + 1),
            local: session.local,
            remote: session.remote,
            bytes_received: 0,
            bytes_acked: 0,
            srtt_micros: 100,
            total_retransmits: 0,
            unanswered_retransmits: 0,
        };
        let process = Some(Process {
            pid: 77,
            comm: "bird".to_owned(),
        });
        self.tell(Fact::TcpState {
            socket,
            from,
            to,
            process,
        });
    }

    /// One segment, acknowledging all that the other side said.
    fn segment(&mut self, id: usize, sent: bool, syn: bool, payload: &[u8]) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let [ours, theirs] = session.next;
        let (seq, ack) = if sent { (ours, theirs) } else { (theirs, ours) };
        let fact = Fact::Segment {
            netns: NETNS,
            interface: 2,
            sent,
            local: session.local,
            remote: session.remote,
            seq,
            ack: (!syn || !sent).then_some(ack),
            syn,
            fin: false,
            rst: false,
            payload: payload.to_vec().into(),
            missing: 0,
        };
        let length = u32::try_from(payload.len()).unwrap_or(0) + u32::from(syn);
        let [ours, theirs] = &mut session.next;
        let next = if sent { ours } else { theirs };
        *next = next.wrapping_add(length);
        self.tell(fact);
    }

    /// One side speaks and the other's kernel acknowledges: two events.
    pub fn say(&mut self, id: usize, sent: bool, payload: &[u8]) {
        self.segment(id, sent, false, payload);
        self.segment(id, !sent, false, &[]);
    }

    /// Both sides' KEEPALIVEs: four events.
    pub fn exchange_keepalives(&mut self, id: usize) {
        for sent in [true, false] {
            self.say(id, sent, &keepalive());
        }
    }

    /// The peer resets the connection.
    pub fn reset(&mut self, id: usize) {
        self.step(id, TcpState::Established, TcpState::Close);
    }

    /// So much time goes by, in which nothing happens but what the core itself has to do.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now().after(time);
        while let Some(due) = self.observer.next_deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due.nanos());
            self.tell(Fact::Tick);
        }
        self.now = self.now.max(until.nanos());
    }

    /// Each peer announces the route of its own number.
    pub fn announce_each(&mut self) {
        for (id, number) in (0..self.len()).zip(0..) {
            self.say(id, false, &announcement(number));
        }
    }

    fn tell_forwarding(&mut self, forwarding: Forwarding) {
        self.tell(Fact::Forwarding {
            netns: NETNS,
            forwarding,
        });
    }

    /// The kernel has that many routes, over the first peers as next hops.
    pub fn dump(&mut self, routes: u32, hops: u32) {
        let since = self.now();
        self.tell_forwarding(Forwarding::DumpBegun { ipv6: false, since });
        for from in (0..routes).step_by(1_000) {
            let some = from..routes.min(from + 1_000);
            let routes = some.map(|number| route(number, number % hops)).collect();
            self.tell_forwarding(Forwarding::Dumped { routes });
        }
        self.tell_forwarding(Forwarding::DumpEnded { complete: true });
        let by = RouteSource::Probe;
        self.tell_forwarding(Forwarding::Followed { by });
    }

    /// BIRD takes a route away and writes it anew: two events.
    pub fn rewrite(&mut self, number: u32, hop: u32) {
        for op in [RouteOp::Removed, RouteOp::Added] {
            self.change(op, number, hop);
        }
    }

    /// The peer of that number withdraws its route, BIRD takes it away, and all that back again: six events.
    pub fn withdraw_and_announce(&mut self, number: u32) {
        let id = usize::try_from(number).unwrap_or(usize::MAX);
        self.say(id, false, &withdrawal(number));
        self.change(RouteOp::Removed, number, number);
        self.say(id, false, &announcement(number));
        self.change(RouteOp::Added, number, number);
    }

    fn change(&mut self, op: RouteOp, number: u32, hop: u32) {
        let change = RouteChange {
            op,
            origin: RouteOrigin::Explicit,
            writer: None,
            route: route(number, hop),
        };
        self.tell_forwarding(Forwarding::Changed {
            source: RouteSource::Probe,
            changes: vec![change],
        });
    }

    /// Sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Prefixes in all Adj-RIB-In.
    pub fn prefixes(&self) -> u64 {
        let peers = self.observer.peers(Timestamp::from_nanos(self.now));
        peers
            .iter()
            .flat_map(|peer| peer.bgp.prefixes.values())
            .sum()
    }

    /// Routes in the mirror of the kernel's.
    pub fn mirrored(&self) -> u64 {
        let views = self.observer.forwarding(Timestamp::from_nanos(self.now));
        let routes = views.iter().flat_map(|view| &view.routes);
        routes.map(|routes| routes.count).sum()
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }
}

/// A route of BIRD's by way of a peer.
fn route(number: u32, hop: u32) -> Route {
    let [_, a, b, c] = spread(number).to_be_bytes();
    Route {
        prefix: Prefix {
            address: [a, b, c, 0].into(),
            length: 24,
        },
        table: TABLE_MAIN,
        tos: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        protocol: Protocol::BIRD,
        object: None,
        next_hops: vec![NextHop {
            gateway: Some(peer(hop).into()),
            interface: 2,
            weight: 1,
            dead: false,
        }],
    }
}

/// An UPDATE that announces that route on an internal session with ADD-PATH.
fn announcement(number: u32) -> Vec<u8> {
    let [_, a, b, c] = spread(number).to_be_bytes();
    let attributes = [
        0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 10, 0, 0, 3, 0x40, 5, 4, 0, 0, 0, 100,
    ];
    let length = u8::try_from(attributes.len()).unwrap_or(0);
    let mut body = vec![0, 0, 0, length];
    body.extend(attributes);
    body.extend([0, 0, 0, 1, 24, a, b, c]);
    message(2, &body)
}

/// An UPDATE that withdraws it.
fn withdrawal(number: u32) -> Vec<u8> {
    let [_, a, b, c] = spread(number).to_be_bytes();
    message(2, &[0, 8, 0, 0, 0, 1, 24, a, b, c, 0, 0])
}

/// The address of a peer.
fn peer(number: u32) -> Ipv4Addr {
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(10, b, c, d)
}

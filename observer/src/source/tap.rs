//! The packet tap: reads the BGP conversation off the wire, passively, in one network namespace.
//!
//! It holds a packet socket on each interface through which a known peer is routed, on no other: a
//! tap on every pod's `cali*` would put a filter on the path of packets that are none of its
//! business. While no peer is known it waits for the first one's OPENs where the default route goes.
//! It hands out packets as they are; what they say is decoded elsewhere, by the code that
//! reads capture files.

mod filter;
mod route;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

pub use self::socket::{Batch, PacketInfo};
use self::{
    route::RouteLookup,
    socket::{Drained, Limit, PacketSocket},
};

/// Packets and octets handed out per socket and call of [`Tap::drain`], so that one busy peer cannot
/// keep the others waiting, nor a super-segment each fill the memory.
const DRAIN_LIMIT: Limit = Limit {
    packets: 1024,
    octets: 4 << 20,
};

/// Addresses for documentation (RFC 5737, RFC 3849): only a default route leads to them.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// How packet sockets are called as the `kind` label.
pub const KIND: &str = "packet";

/// The loopback's index in every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// Whether packets can be read in the calling thread's namespace; nothing stays open.
///
/// # Errors
/// Why not.
pub fn try_open(ports: &[u16]) -> io::Result<()> {
    PacketSocket::open(LOOPBACK, ports).map(drop)
}

/// The tap of one namespace.
///
/// It is opened and refreshed by a thread inside that namespace; everything else may be done from
/// anywhere.
#[derive(Debug)]
pub struct Tap {
    ports: Vec<u16>,
    sockets: BTreeMap<u32, PacketSocket>,
    lookup: RouteLookup,
    drops: u64,
}

impl Tap {
    /// A tap on nothing yet, in the calling thread's namespace.
    ///
    /// # Errors
    /// As socket(2); `EPERM` without `CAP_NET_RAW` only shows in
    /// [`refresh`](Self::refresh), when there is something to open.
    pub fn open(ports: &[u16]) -> io::Result<Self> {
        Ok(Self {
            ports: ports.to_vec(),
            sockets: BTreeMap::new(),
            lookup: RouteLookup::open()?,
            drops: 0,
        })
    }

    /// Interfaces that are tapped now.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.sockets.keys().copied()
    }

    /// Looks up where `peers` are routed now, opens sockets on interfaces that are new and closes
    /// those that no peer is behind any more; new ones are added to `ready`. To be called from inside
    /// the namespace, when a peer came, and every few seconds, since routes and interfaces come and
    /// go.
    ///
    /// # Errors
    /// The first failure to open or to ask; the rest is done all the same.
    pub fn refresh(&mut self, peers: &BTreeSet<IpAddr>, ready: &Epoll) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut wanted = BTreeSet::new();
        let first = ELSEWHERE.iter().filter(|_| peers.is_empty());
        let vrfs = self.lookup.vrfs().unwrap_or_else(|error| {
            outcome = Err(error);
            Vec::new()
        });
        // The same address may be somebody else in each.
        let domains: Vec<Option<u32>> = vrfs.into_iter().map(Some).chain([None]).collect();
        for peer in peers.iter().chain(first) {
            for domain in &domains {
                match self.lookup.interface_towards(*peer, *domain) {
                    Ok(Some(interface)) => {
                        wanted.insert(interface);
                    }
                    Ok(None) => {}
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
        }
        // While no route leads to any peer (the uplink lost its address), the old sockets stay: what
        // still arrives there is evidence.
        if !wanted.is_empty() {
            self.sockets
                .retain(|interface, _| wanted.contains(interface));
        }
        for interface in wanted {
            if !self.sockets.contains_key(&interface) {
                outcome = outcome.and(self.add(interface, ready));
            }
        }
        outcome
    }

    /// Closes every socket: what waits in them is not wanted. The kernel waits then until no CPU is in the
    /// middle of handing one a packet, and the caller is not to wait with it.
    pub fn close(&mut self) {
        let sockets = std::mem::take(&mut self.sockets);
        if !sockets.is_empty() {
            // Where no thread can be had they are closed here.
            let _ = thread::Builder::new().spawn(move || drop(sockets));
        }
    }

    /// A descriptor leaves `ready` by being closed.
    fn add(&mut self, interface: u32, ready: &Epoll) -> io::Result<()> {
        let socket = PacketSocket::open(interface, &self.ports)?;
        ready.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        self.sockets.insert(interface, socket);
        Ok(())
    }

    /// Hands out the packets that wait, by way of `batch`; true if more may be waiting. A socket whose
    /// interface is gone is closed.
    pub fn drain(&mut self, batch: &mut Batch, mut take: impl FnMut(PacketInfo, &[u8])) -> bool {
        let mut more = false;
        let mut gone = Vec::new();
        for (interface, socket) in &self.sockets {
            let drained = batch.drain(socket, DRAIN_LIMIT, &mut take);
            // The kernel drops only what a full queue has no room for: a socket that was empty need
            // not be asked at every wake-up.
            if !matches!(drained, Ok(Drained { packets: 0, .. })) {
                self.drops += socket.take_drops().unwrap_or(0);
            }
            match drained {
                Ok(drained) => more |= drained.more,
                // The interface went down: told once, and packets come again when it is up.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(_) => gone.push(*interface),
            }
        }
        for interface in gone {
            self.sockets.remove(&interface);
        }
        more
    }

    /// Packets the kernel dropped because we were too slow, since the last call.
    pub fn take_drops(&mut self) -> u64 {
        std::mem::take(&mut self.drops)
    }
}

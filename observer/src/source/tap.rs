//! The packet tap: reads the BGP conversation off the wire, passively, in one network namespace.
//!
//! It holds a packet socket on each interface through which a known peer is routed, on no other: a
//! tap on every pod's `cali*` would put a filter on the path of packets that are none of its
//! business. It hands out packets as they are; what they say is decoded elsewhere, by the code that
//! reads capture files.

mod filter;
mod route;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

pub use self::socket::PacketInfo;
use self::{
    route::RouteLookup,
    socket::{Batch, PacketSocket},
};

/// Packets handed out per socket and call of [`Tap::drain`], so that one busy peer cannot keep the
/// others waiting.
const DRAIN_LIMIT: usize = 1024;

/// The tap of one namespace.
///
/// It is opened and refreshed by a thread inside that namespace; everything else may be done from
/// anywhere.
pub struct Tap {
    ports: Vec<u16>,
    peers: BTreeSet<IpAddr>,
    sockets: BTreeMap<u32, PacketSocket>,
    lookup: RouteLookup,
    ready: Epoll,
    batch: Batch,
    drops: u64,
}

impl Tap {
    /// A tap on nothing yet, in the calling thread's namespace.
    ///
    /// # Errors
    /// As socket(2) and epoll_create(2); `EPERM` without `CAP_NET_RAW` only shows in
    /// [`refresh`](Self::refresh), when there is something to open.
    pub fn open(ports: &[u16]) -> io::Result<Self> {
        Ok(Self {
            ports: ports.to_vec(),
            peers: BTreeSet::new(),
            sockets: BTreeMap::new(),
            lookup: RouteLookup::open()?,
            ready: Epoll::new()?,
            batch: Batch::default(),
            drops: 0,
        })
    }

    /// Becomes readable when a packet waits; poll it, then [`drain`](Self::drain).
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// The sessions with `peer` are to be read from the next refresh on; says whether that is news.
    pub fn follow(&mut self, peer: IpAddr) -> bool {
        self.peers.insert(peer)
    }

    /// They are of no interest any more.
    pub fn unfollow(&mut self, peer: IpAddr) {
        self.peers.remove(&peer);
    }

    /// Interfaces that are tapped now.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.sockets.keys().copied()
    }

    /// Looks up where the peers are routed now, opens sockets on interfaces that are new and closes
    /// those that no peer is behind any more. To be called from inside the namespace, when a peer
    /// came, and every few seconds, since routes and interfaces come and go.
    ///
    /// # Errors
    /// The first failure to open or to ask; the rest is done all the same.
    pub fn refresh(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut wanted = BTreeSet::new();
        for peer in &self.peers {
            match self.lookup.interface_towards(*peer) {
                Ok(Some(interface)) => {
                    wanted.insert(interface);
                }
                Ok(None) => {}
                Err(error) => outcome = outcome.and(Err(error)),
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
                outcome = outcome.and(self.add(interface));
            }
        }
        outcome
    }

    fn add(&mut self, interface: u32) -> io::Result<()> {
        let socket = PacketSocket::open(interface, &self.ports)?;
        self.ready.add(&socket)?;
        self.sockets.insert(interface, socket);
        Ok(())
    }

    /// Hands out the packets that wait; true if more may be waiting. A socket whose interface is
    /// gone is closed.
    pub fn drain(&mut self, mut take: impl FnMut(PacketInfo, &[u8])) -> bool {
        let mut more = false;
        let mut gone = Vec::new();
        for (interface, socket) in &self.sockets {
            match self.batch.drain(socket, DRAIN_LIMIT, &mut take) {
                Ok(taken) => more |= taken >= DRAIN_LIMIT,
                // The interface went down: told once, and packets come again when it is up.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(_) => gone.push(*interface),
            }
            self.drops += socket.take_drops().unwrap_or(0);
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

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap")
            .field("peers", &self.peers)
            .field("sockets", &self.sockets)
            .finish()
    }
}

/// One descriptor that is readable when any of several is, so that the tap's owner polls one,
/// however many interfaces there are.
#[derive(Debug)]
struct Epoll(std::os::fd::OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        use std::os::fd::FromRawFd as _;
        // SAFETY: no pointers are passed; the descriptor is new and ours.
        unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(std::os::fd::OwnedFd::from_raw_fd(fd)))
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A descriptor leaves by being closed.
    fn add(&self, socket: &PacketSocket) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN.cast_unsigned(),
            u64: u64::from(socket.interface()),
        };
        // SAFETY: the event lives through the call, which copies it.
        let result = unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_fd().as_raw_fd(),
                &raw mut event,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

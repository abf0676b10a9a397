//! rtnetlink in one network namespace: a socket that is told of every change, and dumps.
//!
//! What the kernel does not tell (it removes routes with their device without a word) is not known
//! here; the core asks for a dump then. It does *not* keep routes.

pub mod decode;
pub mod filter;
pub mod next_hops;

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use bytes::BytesMut;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage, address::AddressMessage, link::LinkMessage,
    neighbour::NeighbourMessage, route::RouteMessage, rule::RuleMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, recvmmsg},
};
use observer_core::event::forwarding::Forwarding;

use self::{decode::Told, filter::Followed, next_hops::NextHops};

/// At BIRD's full speed this is half a minute; with it nothing was lost up to a million routes.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;
/// Room for one datagram: the kernel fills 32 KiB of a dump at most.
const DATAGRAM: usize = 64 << 10;
/// Datagrams of changes that one call reads: each has one change, and BIRD makes 300,000 a second. Only
/// what they fill of their room takes memory.
const BATCH: usize = 32;
/// Not known to netlink-packet-route.
const RTM_GETNEXTHOP: u16 = 106;
/// The index of `lo`, which every namespace has.
const LOOPBACK: u32 = 1;
/// How long a dump may stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// Multicast groups (`RTNLGRP_…`): link, neigh, ipv4-ifaddr, ipv4-route, ipv4-rule, ipv6-ifaddr,
/// ipv6-route, ipv6-rule, nexthop.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];
/// The last of them came with Linux 5.3; without it there are no nexthop objects either.
const GROUP_NEXTHOP: u32 = 32;

/// What can be dumped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Interfaces.
    Links,
    /// Addresses.
    Addresses,
    /// Neighbours.
    Neighbours,
    /// Rules of a family, IPv6 or IPv4.
    Rules(bool),
    /// Nexthop objects.
    NextHops,
    /// Routes of a family, IPv6 or IPv4.
    Routes(bool),
}

/// How a read went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Read {
    /// Something was read.
    Some,
    /// There is nothing now.
    Empty,
    /// The buffer had been full: messages are lost.
    Overrun,
}

/// Some rows of a dump.
#[derive(Debug)]
pub struct Rows {
    /// What they say.
    pub told: Vec<Told>,
    /// There are no more.
    pub last: bool,
    /// Nothing changed in a way that may have hidden a row.
    pub consistent: bool,
}

/// Both sockets.
#[derive(Debug)]
pub struct Rtnetlink {
    changes: Socket,
    dumps: Socket,
    sequence: u32,
    buffer: BytesMut,
    /// Room for [`BATCH`] datagrams.
    batch: Vec<u8>,
    followed: Followed,
    next_hops: NextHops,
}

impl AsFd for Rtnetlink {
    /// Readable when there are changes.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's own and is open as long as it, which `self` holds.
        unsafe { BorrowedFd::borrow_raw(self.changes.as_raw_fd()) }
    }
}

impl Rtnetlink {
    /// Opens the sockets in the calling thread's network namespace; only routes that are followed will
    /// be told of. Needs no capability; with CAP_NET_ADMIN the buffer is as large as it should be.
    ///
    /// # Errors
    /// As socket(2), bind(2) and setsockopt(2).
    pub fn open(followed: &Followed) -> io::Result<Self> {
        let mut changes = Socket::new(NETLINK_ROUTE)?;
        let program = followed.program();
        let filter = libc::sock_fprog {
            len: u16::try_from(program.len()).unwrap_or(u16::MAX),
            filter: program.as_ptr().cast_mut(),
        };
        // The kernel copies the program. Where it will not have it, more is read and left out here.
        let _: io::Result<()> = set(&changes, libc::SO_ATTACH_FILTER, &filter);
        changes.bind_auto()?;
        changes.set_non_blocking(true)?;
        set(&changes, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)
            .or_else(|_| set(&changes, libc::SO_RCVBUF, &RECEIVE_BUFFER))?;
        for group in GROUPS {
            let joined = changes.add_membership(group);
            if group != GROUP_NEXTHOP {
                joined?;
            }
        }
        let mut dumps = Socket::new(NETLINK_ROUTE)?;
        dumps.bind_auto()?;
        dumps.connect(&SocketAddr::new(0, 0))?;
        // Refused before Linux 4.20, where dumps are not as strict and all the same right.
        let _: io::Result<()> = dumps.set_netlink_get_strict_chk(true);
        set_timeout(&dumps, PATIENCE)?;
        Ok(Self {
            changes,
            dumps,
            sequence: 0,
            buffer: BytesMut::with_capacity(DATAGRAM),
            batch: vec![0; BATCH * DATAGRAM],
            followed: followed.clone(),
            next_hops: NextHops::default(),
        })
    }

    /// Reads some datagrams of changes, if there are any.
    ///
    /// # Errors
    /// As recvmmsg(2), except for what [`Read`] tells.
    pub fn read(&mut self, mut each: impl FnMut(Told), broken: &mut u64) -> io::Result<Read> {
        let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
        let rooms = self.batch.chunks_exact_mut(DATAGRAM);
        let mut rooms: Vec<[IoSliceMut<'_>; 1]> =
            rooms.map(|room| [IoSliceMut::new(room)]).collect();
        let socket = self.changes.as_raw_fd();
        let received = recvmmsg(
            socket,
            &mut headers,
            &mut rooms,
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::EWOULDBLOCK) => return Ok(Read::Empty),
            Err(Errno::ENOBUFS) => return Ok(Read::Overrun),
            Err(Errno::EINTR) => return Ok(Read::Some),
            Err(error) => return Err(error.into()),
        };
        let (followed, next_hops) = (&self.followed, &mut self.next_hops);
        for datagram in received {
            if datagram.flags.contains(MsgFlags::MSG_TRUNC) {
                *broken += 1;
                continue;
            }
            for bytes in datagram.iovs() {
                decode::messages(bytes, |_, told| match told {
                    Ok(told) => each_followed(told, followed, next_hops, &mut each),
                    Err(_) => *broken += 1,
                });
            }
        }
        Ok(Read::Some)
    }

    /// Waits until what was being done to links, addresses and routes when this was called is done. The
    /// kernel tells that a link is going down, or that an address is going, before it removes their
    /// routes, which takes 0.3 s for half a million; since Linux 6.9 a dump does not wait for that. A
    /// question about a link does: it needs the lock (RTNL) under which all of that happens.
    ///
    /// # Errors
    /// As send(2) and recv(2).
    pub fn settle(&mut self) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = LOOPBACK;
        self.sequence = self.sequence.wrapping_add(1);
        let question = bytes(
            RouteNetlinkMessage::GetLink(link),
            NLM_F_REQUEST,
            self.sequence,
        );
        self.dumps.send(&question, 0)?;
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM);
        self.dumps.recv(&mut self.buffer, 0)?;
        Ok(())
    }

    /// Asks for a dump; [`Self::rows`] are the answer. One at a time.
    ///
    /// # Errors
    /// As send(2).
    pub fn ask(&mut self, kind: Kind) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.dumps.send(&request(kind, self.sequence), 0)?;
        Ok(())
    }

    /// The next rows of the dump that was asked for.
    ///
    /// # Errors
    /// As recv(2), or what the kernel answered.
    pub fn rows(&mut self) -> io::Result<Rows> {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM);
        self.dumps.recv(&mut self.buffer, 0)?;
        let mut rows = Rows {
            told: Vec::new(),
            last: false,
            consistent: true,
        };
        let mut failed = None;
        let (followed, next_hops) = (&self.followed, &mut self.next_hops);
        decode::messages(&self.buffer, |flags, told| {
            rows.consistent &= flags & NLM_F_DUMP_INTR == 0;
            match told {
                Ok(Told::Done) => rows.last = true,
                Ok(Told::Error(errno)) => failed = Some(errno),
                Ok(Told::Nothing) => {}
                Ok(told) => {
                    each_followed(told, followed, next_hops, &mut |told| rows.told.push(told));
                }
                Err(_) => rows.consistent = false,
            }
        });
        match failed {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
            None => Ok(rows),
        }
    }

    /// All rows of a dump.
    ///
    /// # Errors
    /// As [`Self::ask`] and [`Self::rows`].
    pub fn dump(&mut self, kind: Kind) -> io::Result<Vec<Told>> {
        self.ask(kind)?;
        let mut all = Vec::new();
        loop {
            let rows = self.rows()?;
            all.extend(rows.told);
            if rows.last {
                return Ok(all);
            }
        }
    }
}

/// Hands on what is followed, with the hops of nexthop objects, which are remembered for that.
fn each_followed(
    told: Told,
    followed: &Followed,
    next_hops: &mut NextHops,
    each: &mut dyn FnMut(Told),
) {
    match told {
        Told::Route(change) if !followed.has(&change.route) => {}
        Told::Route(mut change) => {
            next_hops.resolve(&mut change.route);
            each(Told::Route(change));
        }
        Told::NextHop(id, object) => {
            let gone = object.is_none();
            next_hops.set(id, object);
            each(Told::Else(Forwarding::NextHopObject { id, gone }));
        }
        Told::Else(_) | Told::Rule(..) | Told::Done | Told::Error(_) | Told::Nothing => each(told),
    }
}

fn request(kind: Kind, sequence: u32) -> Vec<u8> {
    let of = |ipv6| {
        if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        }
    };
    let message = match kind {
        Kind::Links => RouteNetlinkMessage::GetLink(LinkMessage::default()),
        Kind::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        Kind::Neighbours => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        Kind::Rules(ipv6) => {
            let mut rule = RuleMessage::default();
            rule.header.family = of(ipv6);
            RouteNetlinkMessage::GetRule(rule)
        }
        Kind::NextHops => return raw(RTM_GETNEXTHOP, NLM_F_REQUEST | NLM_F_DUMP, sequence),
        Kind::Routes(ipv6) => {
            let mut route = RouteMessage::default();
            route.header.address_family = of(ipv6);
            RouteNetlinkMessage::GetRoute(route)
        }
    };
    bytes(message, NLM_F_REQUEST | NLM_F_DUMP, sequence)
}

/// A message with an empty header of eight octets, of a type that netlink-packet-route does not know.
fn raw(kind: u16, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = vec![0; 24];
    let mut header = NetlinkBuffer::new(&mut message);
    header.set_length(24);
    header.set_message_type(kind);
    header.set_flags(flags);
    header.set_sequence_number(sequence);
    message
}

fn bytes(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn set<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the option's value outlives the call, and its size is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            u32::try_from(size_of::<T>()).unwrap_or(0),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// How long a read on `socket` waits.
pub fn set_timeout(socket: &Socket, timeout: Duration) -> io::Result<()> {
    let value = libc::timeval {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(1),
        tv_usec: i64::from(timeout.subsec_micros()),
    };
    set(socket, libc::SO_RCVTIMEO, &value)
}

//! Probes by TCP instead of ICMP: connections to a port of the targets, which need not be open. Who
//! accepts one is reached, and so is who refuses it. Nothing is sent on a connection and none is kept:
//! it is reset as soon as it is known, and given up before the kernel would send a second SYN.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use observer_core::{
    event::{Event, Fact, NetnsId},
    time::{Occurred, Timestamp},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::source::netns::Netns;

/// Connections that are waited for, at most. Each is a descriptor.
const WAITING: usize = 512;
/// Given up after this: the kernel repeats its SYN after a second (RFC 6298 §2.1), whatever
/// `TCP_USER_TIMEOUT` says.
const GIVEN_UP: Duration = Duration::from_millis(900);
/// Looked at in one call of epoll_wait(2).
const READY: usize = 64;

/// One connection that is not known yet.
#[derive(Debug)]
struct Attempt {
    socket: Socket,
    netns: NetnsId,
    target: IpAddr,
    at: Timestamp,
}

impl AsFd for Attempt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All connections of the probes.
#[derive(Debug)]
pub struct Connects {
    port: u16,
    attempts: BTreeMap<u64, Attempt>,
}

impl Connects {
    /// To this port.
    pub const fn new(port: u16) -> Self {
        Self {
            port,
            attempts: BTreeMap::new(),
        }
    }

    /// Begins a connection from `handle`, which is `netns`, and has `ready` say when it is known.
    ///
    /// # Errors
    /// As socket(2), connect(2) and epoll_ctl(2); `ENOBUFS` when too many are waited for.
    pub fn send(
        &mut self,
        (netns, handle): (NetnsId, &Netns),
        (target, token): (IpAddr, u64),
        (ready, now): (&Epoll, Timestamp),
    ) -> anyhow::Result<()> {
        self.give_up(now);
        if self.attempts.len() >= WAITING {
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS).into());
        }
        let to = SocketAddr::new(target, self.port);
        let socket = handle.run_in(|| begin(to))?.map_err(|error| {
            // Out of descriptors: a moment later there are some again.
            match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => io::Error::from_raw_os_error(libc::ENOBUFS),
                _ => error,
            }
        })?;
        let attempt = Attempt {
            socket,
            netns,
            target,
            at: now,
        };
        let flags = EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT;
        ready.add(&attempt, EpollEvent::new(flags, token))?;
        self.attempts.insert(token, attempt);
        Ok(())
    }

    /// Lets go of a namespace.
    pub fn end(&mut self, netns: NetnsId) {
        self.attempts.retain(|_, attempt| attempt.netns != netns);
    }

    /// Appends what is known now to `out`.
    pub fn drain(&mut self, ready: &Epoll, now: Timestamp, out: &mut Vec<Event>) {
        while !self.attempts.is_empty() {
            let mut events = [EpollEvent::empty(); READY];
            let many = ready.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            let known = events.iter().take(many);
            let mut news = false;
            for token in known.map(EpollEvent::data) {
                if let Some(attempt) = self.attempts.remove(&token) {
                    news = true;
                    out.push(outcome(&attempt, token, now));
                }
            }
            // What else is ready is not ours, and stays so.
            if !news {
                break;
            }
        }
        self.give_up(now);
    }

    /// When there is something to give up, from `now` on; none while nothing is waited for.
    pub fn due(&self, now: Timestamp) -> Option<Duration> {
        let oldest = self.attempts.values().map(|attempt| attempt.at).min()?;
        Some(GIVEN_UP.saturating_sub(now.since(oldest)))
    }

    /// What becomes of those that took too long the core knows by itself.
    fn give_up(&mut self, now: Timestamp) {
        self.attempts
            .retain(|_, attempt| now.since(attempt.at) < GIVEN_UP);
    }
}

/// A connection that is on its way; it is reset when it is dropped, so that neither side remembers it.
fn begin(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket),
    }
}

/// What became of a connection.
fn outcome(attempt: &Attempt, token: u64, now: Timestamp) -> Event {
    let Attempt {
        socket,
        netns,
        target,
        at,
    } = attempt;
    let (netns, target) = (*netns, *target);
    let error = socket.take_error().unwrap_or_else(Some);
    let fact = match error.as_ref().map(io::Error::raw_os_error) {
        None | Some(Some(libc::ECONNREFUSED | libc::ECONNRESET)) => {
            let rtt = now.since(*at);
            Fact::EchoReplied {
                netns,
                token,
                target,
                rtt_nanos: u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX),
            }
        }
        Some(errno) => Fact::EchoFailed {
            netns,
            token,
            target,
            errno: errno.unwrap_or(libc::EIO),
        },
    };
    Event {
        occurred: Occurred::noticed(*at, now),
        fact,
    }
}

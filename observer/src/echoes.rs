//! The probes of all observed namespaces as one source: requests of the core in, answers as events out.
//! Nothing is sent unless the core asks, and never more than [`CEILING`]. They are ICMP echoes, or TCP
//! connections in their place.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io,
    net::IpAddr,
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use observer_core::{
    config::ReachProbe,
    event::{Event, Fact, NetnsId},
    time::{Clock, Occurred, Timestamp, WallOffset},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    connects::Connects,
    source::{
        clock::{boottime_now, wall_offset},
        echo::{self, Answer, EchoSocket, Mark, Outcome},
        netns::Netns,
    },
    taps::Ready,
};

/// Echoes a second at most, whatever the core asks for: a defect there must not become a flood.
pub const CEILING: u32 = 1_000;
const SECOND: Duration = Duration::from_secs(1);
/// What became of an echo is forgotten after this long; the core waits for seconds at most.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// Answers taken from one socket in a row.
const DRAIN: usize = 256;
/// What is told of an echo that the ceiling held back: it says nothing about the target.
const REFUSED: i32 = libc::ENOBUFS;

#[derive(Clone, Copy, Debug)]
struct Sent {
    netns: NetnsId,
    target: IpAddr,
    token: u64,
    at: Timestamp,
}

/// All echo sockets; one is opened when it is first needed.
#[derive(Debug)]
pub struct Echoes {
    probe: ReachProbe,
    ready: AsyncFd<Ready>,
    /// TCP connections, where the configuration wants these.
    connects: Option<Connects>,
    open: BTreeMap<(NetnsId, bool), EchoSocket>,
    /// Echoes that may still be answered, by sequence number.
    sent: BTreeMap<u16, Sent>,
    mark: Mark,
    next: u16,
    ceiling: Ceiling,
}

/// So many per second.
#[derive(Debug, Default)]
struct Ceiling {
    since: Timestamp,
    spent: u32,
}

impl Ceiling {
    fn spend(&mut self, now: Timestamp) -> bool {
        if now.since(self.since) >= SECOND {
            (self.since, self.spent) = (now, 0);
        }
        let left = self.spent < CEILING;
        self.spent += u32::from(left);
        left
    }
}

impl Echoes {
    /// None yet; they will be of this kind. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// As epoll_create(2).
    pub fn new(probe: ReachProbe) -> io::Result<Self> {
        let ready = Ready(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let random = RandomState::new();
        let [high, low, ..] = random.hash_one(0).to_be_bytes();
        Ok(Self {
            probe,
            // SAFETY: the epoll descriptor is `ready`'s own, opened above, and lives as long as it.
            ready: unsafe { AsyncFd::register_with_interest(ready, Interest::READABLE)? },
            connects: match probe {
                ReachProbe::Icmp => None,
                ReachProbe::Tcp(port) => Some(Connects::new(port)),
            },
            open: BTreeMap::new(),
            sent: BTreeMap::new(),
            mark: Mark {
                identifier: u16::from_be_bytes([high, low]),
                cookie: random.hash_one(1),
            },
            next: 0,
            ceiling: Ceiling::default(),
        })
    }

    /// Sends an echo request from `handle`, which is `netns`; what fails at once goes to `out`. An
    /// error means that none can be sent there at all.
    ///
    /// # Errors
    /// As setns(2) and socket(2).
    pub fn send(
        &mut self,
        (netns, handle): (NetnsId, &Netns),
        target: IpAddr,
        token: u64,
        out: &mut Vec<Event>,
    ) -> anyhow::Result<()> {
        let target = target.to_canonical();
        let now = boottime_now();
        let fail = |errno| {
            let fact = Fact::EchoFailed {
                netns,
                token,
                target,
                errno,
            };
            Event::noticed(boottime_now(), fact)
        };
        if !self.ceiling.spend(now) {
            out.push(fail(REFUSED));
            return Ok(());
        }
        if let Some(connects) = &mut self.connects {
            let ready = (&self.ready.get_ref().0, now);
            if let Err(error) = connects.send((netns, handle), (target, token), ready) {
                let system = error.downcast_ref::<io::Error>();
                out.push(fail(system.map_or(libc::EPERM, errno_of)));
            }
            return Ok(());
        }
        let sequence = self.next;
        let socket = match self.socket(netns, handle, target.is_ipv6()) {
            Ok(socket) => socket,
            Err(error) => {
                let system = error.downcast_ref::<io::Error>();
                out.push(fail(system.map_or(libc::EPERM, errno_of)));
                return Err(error);
            }
        };
        match socket.send(target, sequence, token) {
            Ok(()) => {
                let sent = Sent {
                    netns,
                    target,
                    token,
                    at: now,
                };
                self.sent.insert(sequence, sent);
                self.next = sequence.wrapping_add(1);
            }
            Err(error) => out.push(fail(errno_of(&error))),
        }
        Ok(())
    }

    /// As [`can_send`].
    ///
    /// # Errors
    /// As there.
    pub fn can_send(&self, netns: &Netns) -> anyhow::Result<()> {
        can_send(self.probe, netns)
    }

    fn socket(&mut self, netns: NetnsId, handle: &Netns, v6: bool) -> anyhow::Result<&EchoSocket> {
        if !self.open.contains_key(&(netns, v6)) {
            let mark = self.mark;
            let socket = handle.run_in(|| EchoSocket::open(v6, mark))??;
            let ready = &self.ready.get_ref().0;
            ready.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            self.open.insert((netns, v6), socket);
        }
        let socket = self.open.get(&(netns, v6));
        socket.ok_or_else(|| anyhow::anyhow!("the socket just opened is not there"))
    }

    /// Lets go of a namespace: our sockets in it close, and echoes sent from it are forgotten.
    pub fn end(&mut self, netns: NetnsId) {
        if let Some(connects) = &mut self.connects {
            connects.end(netns);
        }
        self.open.retain(|(open, _), _| *open != netns);
        self.sent.retain(|_, sent| sent.netns != netns);
    }

    /// Waits until there may be something to [`drain`](Self::drain). Cancelling it loses nothing.
    ///
    /// # Errors
    /// As epoll(7), never in practice.
    pub async fn readable(&self) -> io::Result<()> {
        let now = boottime_now();
        let due = { self.connects.as_ref() }.and_then(|connects| connects.due(now));
        let ready = self.ready.readable();
        let Some(due) = due else {
            ready.await?.clear_ready();
            return Ok(());
        };
        if let Ok(ready) = tokio::time::timeout(due, ready).await {
            ready?.clear_ready();
        }
        Ok(())
    }

    /// Appends what came back to `out`.
    pub fn drain(&mut self, out: &mut Vec<Event>) {
        let now = boottime_now();
        if let Some(connects) = &mut self.connects {
            connects.drain(&self.ready.get_ref().0, now, out);
        }
        if self.sent.is_empty() {
            return;
        }
        let offset = wall_offset();
        let mut broken = Vec::new();
        for ((netns, v6), socket) in &self.open {
            for _ in 0..DRAIN {
                match socket.receive() {
                    Ok(Some(answer)) => {
                        out.extend(event(&mut self.sent, *netns, answer, offset, now));
                    }
                    Ok(None) => break,
                    Err(_) => {
                        broken.push((*netns, *v6));
                        break;
                    }
                }
            }
        }
        for key in broken {
            self.open.remove(&key);
        }
        self.sent.retain(|_, sent| now.since(sent.at) < FORGOTTEN);
    }
}

/// Whether probes of this kind can be sent from a namespace; nothing stays open.
///
/// # Errors
/// Why not: without `CAP_NET_RAW` there is no ICMP echo. TCP needs nothing.
pub fn can_send(probe: ReachProbe, netns: &Netns) -> anyhow::Result<()> {
    match probe {
        ReachProbe::Icmp => echo::can_send(netns),
        ReachProbe::Tcp(_) => Ok(()),
    }
}

/// The event of an answer, if it is one to an echo that waits for it: from whom it was sent to, and
/// not twice.
fn event(
    waiting: &mut BTreeMap<u16, Sent>,
    netns: NetnsId,
    answer: Answer,
    offset: WallOffset,
    now: Timestamp,
) -> Option<Event> {
    let sent = waiting.get(&answer.sequence).copied()?;
    let fits = sent.netns == netns && sent.token == answer.token && sent.target == answer.target;
    if !fits {
        return None;
    }
    waiting.remove(&answer.sequence);
    let occurred = match answer.realtime_nanos {
        Some(nanos) => {
            // The wall may have been set between stamp and drain: never later than now, never before
            // it was sent.
            let at = u64::try_from(nanos.saturating_sub(offset.nanos)).unwrap_or(0);
            let at = Timestamp::from_nanos(at).clamp(sent.at, now);
            Occurred {
                earliest: at,
                latest: at,
                clock: Clock::Packet,
            }
        }
        None => Occurred::noticed(sent.at, now),
    };
    let Sent { target, token, .. } = sent;
    let fact = match answer.outcome {
        Outcome::Reply => {
            let rtt = occurred.latest.since(sent.at);
            Fact::EchoReplied {
                netns,
                token,
                target,
                rtt_nanos: u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX),
            }
        }
        Outcome::Unreachable(errno) => Fact::EchoFailed {
            netns,
            token,
            target,
            errno,
        },
    };
    Some(Event { occurred, fact })
}

fn errno_of(error: &io::Error) -> i32 {
    let forbidden = error.kind() == io::ErrorKind::PermissionDenied;
    let kind = if forbidden { libc::EPERM } else { libc::EIO };
    error.raw_os_error().unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_holds_whatever_is_asked() {
        let mut ceiling = Ceiling::default();
        let begun = Timestamp::from_nanos(9_000_000_000);
        let passed = (0..100_000).filter(|_| ceiling.spend(begun)).count();
        assert_eq!(passed, 1_000);
        assert!(ceiling.spend(begun.after(SECOND)), "a new second");
    }

    #[test]
    fn an_answer_counts_once_and_only_from_whom_was_asked() {
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let at = Timestamp::from_nanos;
        let sent = Sent {
            netns: NetnsId(1),
            target: ip(2),
            token: 7,
            at: at(100),
        };
        let mut waiting = BTreeMap::from([(5, sent)]);
        let reply = Answer {
            target: ip(2),
            sequence: 5,
            token: 7,
            outcome: Outcome::Reply,
            realtime_nanos: Some(1_150),
        };
        let offset = WallOffset { nanos: 1_000 };
        let others = [
            (NetnsId(2), reply),
            (
                NetnsId(1),
                Answer {
                    target: ip(3),
                    ..reply
                },
            ),
            (NetnsId(1), Answer { token: 8, ..reply }),
            (
                NetnsId(1),
                Answer {
                    sequence: 6,
                    ..reply
                },
            ),
        ];
        for (netns, other) in others {
            assert_eq!(event(&mut waiting, netns, other, offset, at(500)), None);
        }
        let first = event(&mut waiting, NetnsId(1), reply, offset, at(500)).unwrap();
        assert_eq!(first.occurred.latest, at(150));
        let fact = Fact::EchoReplied {
            netns: NetnsId(1),
            token: 7,
            target: ip(2),
            rtt_nanos: 50,
        };
        assert_eq!(first.fact, fact);
        assert_eq!(
            event(&mut waiting, NetnsId(1), reply, offset, at(500)),
            None
        );
    }
}

//! The taps of all observed namespaces as one source: one readiness, one drain, packets in, segment
//! events out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use observer_core::{
    event::{Event, Fact, LossStage, NetnsId},
    payload::Payload,
    time::{Clock, Occurred, Timestamp, WallOffset},
};
use pcap_parser::Linktype;
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    capture::{Dissected, TcpPacket, dissect},
    source::{
        clock::{boottime_now, wall_offset},
        netns::Netns,
        tap::{Batch, PacketInfo, Tap},
    },
};

/// All taps.
pub struct Taps {
    ready: AsyncFd<Ready>,
    taps: BTreeMap<NetnsId, (Arc<Netns>, Tap)>,
    ports: Vec<u16>,
    batch: Batch,
    /// The last drain left something behind.
    more: bool,
}

#[derive(Debug)]
struct Ready(Epoll);

impl AsRawFd for Ready {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Taps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taps")
            .field("taps", &self.taps)
            .finish_non_exhaustive()
    }
}

impl Taps {
    /// None yet; BGP is what has one of `ports` at either end. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// As epoll_create(2).
    pub fn new(ports: &[u16]) -> io::Result<Self> {
        let ready = Ready(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        Ok(Self {
            // SAFETY: the epoll descriptor is `ready`'s own, opened above, and lives as long as it.
            ready: unsafe { AsyncFd::register_with_interest(ready, Interest::READABLE)? },
            taps: BTreeMap::new(),
            ports: ports.to_vec(),
            batch: Batch::default(),
            more: false,
        })
    }

    /// Begins to read in a namespace; nothing is read until a peer is followed.
    ///
    /// # Errors
    /// As setns(2) and socket(2).
    pub fn begin(&mut self, netns: NetnsId, handle: &Arc<Netns>) -> anyhow::Result<()> {
        let tap = handle.run_in(|| Tap::open(&self.ports))??;
        self.taps.insert(netns, (Arc::clone(handle), tap));
        Ok(())
    }

    /// Lets go of a namespace: our sockets in it close.
    pub fn end(&mut self, netns: NetnsId) {
        self.taps.remove(&netns);
    }

    /// Reads the sessions with `peer` too, from the next [`refresh`](Self::refresh) on; says whether
    /// one is needed.
    pub fn follow(&mut self, netns: NetnsId, peer: IpAddr) -> bool {
        self.taps
            .get_mut(&netns)
            .is_some_and(|(_, tap)| tap.follow(peer))
    }

    /// Reads them no more.
    pub fn unfollow(&mut self, netns: NetnsId, peer: IpAddr) {
        if let Some((_, tap)) = self.taps.get_mut(&netns) {
            tap.unfollow(peer);
        }
    }

    /// Looks up where peers are routed now and moves the taps there: what that changed goes to `out`;
    /// tells how it went in each namespace.
    pub fn refresh(&mut self, out: &mut Vec<Event>) -> Vec<(NetnsId, anyhow::Result<()>)> {
        let ready = &self.ready.get_ref().0;
        let mut outcomes = Vec::new();
        for (&netns, (handle, tap)) in &mut self.taps {
            let before: BTreeSet<u32> = tap.interfaces().collect();
            let outcome = handle.run_in(|| tap.refresh(ready));
            outcomes.push((
                netns,
                outcome.map_err(Into::into).and_then(|done| Ok(done?)),
            ));
            let after: BTreeSet<u32> = tap.interfaces().collect();
            let now = boottime_now();
            let left = before.difference(&after);
            let left = left.map(|&interface| Fact::TapDetached { netns, interface });
            let new = after.difference(&before);
            let new = new.map(|&interface| Fact::TapAttached { netns, interface });
            out.extend(left.chain(new).map(|fact| Event {
                occurred: Occurred::noticed(now, now),
                fact,
            }));
        }
        outcomes
    }

    /// Waits until there may be something to [`drain`](Self::drain). Cancelling it loses nothing.
    ///
    /// # Errors
    /// As epoll(7), never in practice.
    pub async fn readable(&self) -> io::Result<()> {
        if !self.more {
            self.ready.readable().await?.clear_ready();
        }
        Ok(())
    }

    /// Appends what was captured to `out`: each namespace's segments in order, then what was lost.
    pub fn drain(&mut self, out: &mut Vec<Event>) {
        self.more = false;
        let now = boottime_now();
        let offset = wall_offset();
        for (netns, (_, tap)) in &mut self.taps {
            let mut fragments = 0;
            self.more |= tap.drain(&mut self.batch, |info, packet| {
                match dissect(Linktype::RAW, packet) {
                    Dissected::Tcp(tcp) => out.extend(segment(*netns, info, &tcp, offset, now)),
                    Dissected::Fragment => fragments += 1,
                    Dissected::Unreadable | Dissected::Other | Dissected::UnknownLink => {}
                }
            });
            let mut tell = |count, fact| {
                if count > 0 {
                    out.push(Event {
                        occurred: Occurred::noticed(now, now),
                        fact,
                    });
                }
            };
            tell(
                fragments,
                Fact::TapFragments {
                    netns: *netns,
                    count: fragments,
                },
            );
            let count = tap.take_drops();
            tell(
                count,
                Fact::Lost {
                    stage: LossStage::Tap,
                    count,
                },
            );
        }
    }
}

/// The event of one segment. What carries a VLAN tag is a copy of what the VLAN's own device shows.
fn segment(
    netns: NetnsId,
    info: PacketInfo,
    tcp: &TcpPacket<'_>,
    offset: WallOffset,
    now: Timestamp,
) -> Option<Event> {
    if info.vlan.is_some_and(|id| id != 0) {
        return None;
    }
    let (local, remote) = if info.outgoing {
        (tcp.from, tcp.to)
    } else {
        (tcp.to, tcp.from)
    };
    let occurred = match info.realtime_nanos {
        Some(nanos) => {
            // The wall may have been set between stamp and drain: never later than now.
            let at = u64::try_from(nanos.saturating_sub(offset.nanos)).unwrap_or(0);
            let at = Timestamp::from_nanos(at).min(now);
            Occurred {
                earliest: at,
                latest: at,
                clock: Clock::Packet,
            }
        }
        None => Occurred::noticed(now, now),
    };
    let remote = with_scope(remote, info.interface);
    let cut = u32::try_from(info.cut).unwrap_or(u32::MAX);
    Some(Event {
        occurred,
        fact: Fact::Segment {
            netns,
            interface: info.interface,
            sent: info.outgoing,
            local,
            remote,
            seq: tcp.segment.seq,
            ack: tcp.segment.ack,
            syn: tcp.segment.syn,
            fin: tcp.segment.fin,
            rst: tcp.segment.rst,
            payload: Payload(tcp.segment.payload.to_vec()),
            missing: tcp.segment.missing.saturating_add(cut),
        },
    })
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

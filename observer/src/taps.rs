//! The taps of all observed namespaces as one source: one readiness, one drain, packets in, segment
//! events out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
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
    nodes: BTreeMap<NetnsId, NodeTap>,
    ports: Vec<u16>,
    batch: Batch,
    /// The last drain left something behind.
    more: bool,
}

/// The tap of one namespace, and whom it is for.
#[derive(Debug)]
struct NodeTap {
    handle: Arc<Netns>,
    tap: Tap,
    peers: BTreeSet<IpAddr>,
    strangers: Budget,
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

/// What a tokio task waits for in place of many sockets.
#[derive(Debug)]
pub(crate) struct Ready(pub(crate) Epoll);

impl AsRawFd for Ready {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Taps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taps")
            .field("nodes", &self.nodes)
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
            nodes: BTreeMap::new(),
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
        self.nodes.insert(
            netns,
            NodeTap {
                handle: Arc::clone(handle),
                tap,
                peers: BTreeSet::new(),
                strangers: Budget::default(),
            },
        );
        Ok(())
    }

    /// Lets go of a namespace: our sockets in it close.
    pub fn end(&mut self, netns: NetnsId) {
        self.nodes.remove(&netns);
    }

    /// Reads the sessions with `peer` too, from the next [`refresh`](Self::refresh) on; says whether
    /// one is needed.
    pub fn follow(&mut self, netns: NetnsId, peer: IpAddr) -> bool {
        self.nodes
            .get_mut(&netns)
            .is_some_and(|node| node.peers.insert(peer))
    }

    /// Reads them no more.
    pub fn unfollow(&mut self, netns: NetnsId, peer: IpAddr) {
        if let Some(node) = self.nodes.get_mut(&netns) {
            node.peers.remove(&peer);
        }
    }

    /// Looks up where peers are routed now and moves the taps there: what that changed goes to `out`;
    /// tells how it went in each namespace.
    pub fn refresh(&mut self, out: &mut Vec<Event>) -> Vec<(NetnsId, anyhow::Result<()>)> {
        let ready = &self.ready.get_ref().0;
        let mut outcomes = Vec::new();
        for (&netns, node) in &mut self.nodes {
            let NodeTap {
                handle, tap, peers, ..
            } = node;
            let before: BTreeSet<u32> = tap.interfaces().collect();
            let outcome = handle.run_in(|| tap.refresh(peers, ready));
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
            out.extend(left.chain(new).map(|fact| Event::noticed(now, fact)));
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

    /// What waits is left to wait: the next [`readable`](Self::readable) is at once.
    pub fn put_off(&mut self) {
        self.more = true;
    }

    /// Appends what was captured to `out`: each namespace's segments in order, then what was lost.
    pub fn drain(&mut self, out: &mut Vec<Event>) {
        self.more = false;
        let now = boottime_now();
        let offset = wall_offset();
        for (&netns, node) in &mut self.nodes {
            let NodeTap {
                tap,
                peers,
                strangers,
                ..
            } = node;
            let (mut fragments, mut corrupt) = (0, 0);
            self.more |= tap.drain(&mut self.batch, |info, packet| {
                match dissect(Linktype::RAW, packet, 0) {
                    Dissected::Tcp(tcp) if info.unverified && tcp.is_corrupt() => corrupt += 1,
                    Dissected::Tcp(tcp) => {
                        let remote = if info.outgoing { tcp.to } else { tcp.from };
                        if peers.contains(&remote.ip()) || strangers.spend(now) {
                            out.extend(segment(netns, info, &tcp, offset, now));
                        }
                    }
                    Dissected::Fragment => fragments += 1,
                    Dissected::Unreadable | Dissected::Other | Dissected::UnknownLink => {}
                }
            });
            let mut tell = |count, fact| {
                if count > 0 {
                    out.push(Event::noticed(now, fact));
                }
            };
            let count = fragments;
            tell(count, Fact::TapFragments { netns, count });
            let count = corrupt;
            tell(count, Fact::TapChecksums { netns, count });
            let count = std::mem::take(&mut strangers.refused);
            tell(count, Fact::TapStrangers { netns, count });
            let (stage, count) = (LossStage::Tap, tap.take_drops());
            tell(count, Fact::Lost { stage, count });
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
}

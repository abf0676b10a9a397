//! The taps of all observed namespaces as one source: one readiness, one drain, packets in, segment
//! events out.
//!
//! A namespace is tapped at its speakers' sockets (`scoped`) where that can be, for nobody else pays for
//! it, and by packet sockets where it cannot. While speakers come and go both may see a segment: the
//! places where they saw it differ, by which the core knows a copy.

mod reader;
mod scoped;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use clap::ValueEnum;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use observer_core::{
    event::{Event, Fact, LossStage, NetnsId},
    time::{Clock, Occurred, Timestamp, WallOffset},
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use self::{
    reader::{Checksum, Reader, Sight},
    scoped::{Cover, Scoped},
};
use crate::source::{
    clock::{boottime_now, wall_offset},
    kernel::{
        KernelSource,
        segments::{self, Copied},
    },
    netns::Netns,
    tap::{self, Batch, PacketInfo, Tap},
};

/// Where segments are looked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TapKind {
    /// At the sockets of the speakers' cgroups, else by packet sockets.
    #[default]
    Auto,
    /// At the sockets of the speakers' cgroups only.
    Cgroup,
    /// By packet sockets only.
    Packet,
}

/// The interface of what is seen at the sockets: no device has this number.
const AT_THE_SOCKETS: u32 = 0;

/// How long after packet sockets were opened in its place the tap at the sockets still counts: so long may
/// a packet be under way between the two.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// How a namespace is tapped.
#[derive(Debug)]
pub struct Tapped {
    /// As the `kind` label.
    pub kind: &'static str,
    /// Whether that works.
    pub outcome: anyhow::Result<()>,
    /// Why it is not done in a better way, where there is one.
    pub instead_because: Option<String>,
}

impl Tapped {
    /// Not at all.
    pub fn failed(error: anyhow::Error) -> Self {
        Self {
            kind: tap::KIND,
            outcome: Err(error),
            instead_because: None,
        }
    }
}

/// All taps.
pub struct Taps {
    kind: TapKind,
    /// None where segments cannot be seen at the sockets, or are not to be.
    scoped: Option<Scoped>,
    ready: AsyncFd<Ready>,
    nodes: BTreeMap<NetnsId, NodeTap>,
    ports: Vec<u16>,
    batch: Batch,
    /// The last drain left something behind.
    more: bool,
}

/// The tap of one namespace.
#[derive(Debug)]
struct NodeTap {
    handle: Arc<Netns>,
    packets: Tap,
    /// It is tapped at the sockets.
    scoped: bool,
    /// What is seen at the sockets from then on is left to the packet sockets.
    left_at: Option<Timestamp>,
    reader: Reader,
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
            .field("scoped", &self.scoped)
            .finish_non_exhaustive()
    }
}

impl Taps {
    /// None yet; BGP is what has one of `ports` at either end. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// As epoll_create(2) and epoll_ctl(2).
    pub fn new(
        kind: TapKind,
        ports: &[u16],
        kernel: Option<&mut KernelSource>,
    ) -> io::Result<Self> {
        let ready = Ready(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let ring = kernel.and_then(KernelSource::take_segments);
        if let Some(ring) = &ring {
            ready
                .0
                .add(ring.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self {
            kind,
            scoped: ring.map(Scoped::new),
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
        let packets = handle.run_in(|| Tap::open(&self.ports))??;
        self.nodes.insert(
            netns,
            NodeTap {
                handle: Arc::clone(handle),
                packets,
                scoped: false,
                left_at: None,
                reader: Reader::new(netns),
            },
        );
        Ok(())
    }

    /// Lets go of a namespace: our sockets in it close.
    pub fn end(&mut self, netns: NetnsId) {
        self.nodes.remove(&netns);
        if let Some(scoped) = &mut self.scoped {
            scoped.end(netns);
        }
    }

    /// Process `pid` speaks BGP there; says whether a [`refresh`](Self::refresh) is needed.
    pub fn speaks(&mut self, netns: NetnsId, pid: u32) -> bool {
        let scoped = self.scoped.as_mut();
        scoped.is_some_and(|scoped| scoped.speaks(netns, pid))
    }

    /// It has ended, and the next may come anywhere; says whether a [`refresh`](Self::refresh) is
    /// needed.
    pub fn ended(&mut self, netns: NetnsId, pid: u32) -> bool {
        let scoped = self.scoped.as_mut();
        scoped.is_some_and(|scoped| scoped.ended(netns, pid))
    }

    /// Reads the sessions with `peer` too, from the next [`refresh`](Self::refresh) on; says whether
    /// one is needed.
    pub fn follow(&mut self, netns: NetnsId, peer: IpAddr) -> bool {
        self.nodes
            .get_mut(&netns)
            .is_some_and(|node| node.reader.peers.insert(peer))
    }

    /// Reads them no more.
    pub fn unfollow(&mut self, netns: NetnsId, peer: IpAddr) {
        if let Some(node) = self.nodes.get_mut(&netns) {
            node.reader.peers.remove(&peer);
        }
    }

    /// Looks up where speakers live and peers are routed now and moves the taps there: what that changed
    /// goes to `out`; tells how it went in each namespace.
    pub fn refresh(
        &mut self,
        mut kernel: Option<&mut KernelSource>,
        out: &mut Vec<Event>,
    ) -> Vec<(NetnsId, Tapped)> {
        let ready = &self.ready.get_ref().0;
        if let Some(scoped) = &mut self.scoped {
            scoped.sweep();
        }
        let mut all = Vec::new();
        for (&netns, node) in &mut self.nodes {
            let before = node.places();
            let cover = match &mut self.scoped {
                Some(scoped) => scoped.cover(netns, kernel.as_deref_mut()),
                None => Cover::None(why_not(kernel.as_deref()).unwrap_or_default()),
            };
            all.push((netns, node.settle(self.kind, cover, self.more, ready)));
            let after = node.places();
            let now = boottime_now();
            // What comes before what goes: in between nothing was missed.
            let new = after.difference(&before);
            let new = new.map(|&interface| Fact::TapAttached { netns, interface });
            let left = before.difference(&after);
            let left = left.map(|&interface| Fact::TapDetached { netns, interface });
            out.extend(new.chain(left).map(|fact| Event::noticed(now, fact)));
        }
        all
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

    /// Appends what was captured to `out`: each namespace's segments in order, then what was lost. Says
    /// whether a [`refresh`](Self::refresh) is needed.
    pub fn drain(&mut self, out: &mut Vec<Event>) -> bool {
        self.more = false;
        let now = boottime_now();
        let news = self.drain_scoped(now, out);
        let offset = wall_offset();
        for node in self.nodes.values_mut() {
            let (packets, reader) = (&mut node.packets, &mut node.reader);
            self.more |= packets.drain(&mut self.batch, |info, packet| {
                // What carries a VLAN tag is a copy of what the VLAN's own device shows.
                if info.vlan.is_none_or(|id| id == 0) {
                    reader.take(by_packet_socket(info, offset, now), packet, now, out);
                }
            });
            reader.tell(now, out);
            tell_lost(LossStage::Tap, packets.take_drops(), now, out);
        }
        news
    }

    fn drain_scoped(&mut self, now: Timestamp, out: &mut Vec<Event>) -> bool {
        let Some(scoped) = &mut self.scoped else {
            return false;
        };
        let nodes = &mut self.nodes;
        let drained = scoped.drain(|netns, segment| {
            let sight = at_the_sockets(segment);
            if let Some(node) = nodes.get_mut(&netns)
                && node.left_at.is_none_or(|left| sight.occurred.latest < left)
            {
                node.reader.take(sight, segment.packet, now, out);
            }
        });
        self.more |= drained.more;
        tell_lost(LossStage::Decode, drained.senseless, now, out);
        drained.news
    }
}

impl NodeTap {
    /// Where it is tapped.
    fn places(&self) -> BTreeSet<u32> {
        let sockets = self.scoped.then_some(AT_THE_SOCKETS);
        self.packets.interfaces().chain(sockets).collect()
    }

    /// Opens packet sockets, or closes them where the tap at the sockets does. While something `waits` in
    /// them none is closed.
    fn settle(&mut self, kind: TapKind, cover: Cover, waits: bool, ready: &Epoll) -> Tapped {
        let tapped = |kind, outcome, instead_because| Tapped {
            kind,
            outcome,
            instead_because,
        };
        let before = std::mem::replace(&mut self.scoped, cover != Cover::Idle);
        let reason = match (kind, cover) {
            (TapKind::Cgroup, Cover::None(reason)) => {
                self.scoped = false;
                return tapped(segments::KIND, Err(anyhow!(reason)), None);
            }
            (TapKind::Cgroup, _) => {
                // The sockets of a speaker that is still to come are tapped where the last one lived.
                self.scoped |= before;
                return tapped(segments::KIND, Ok(()), None);
            }
            (_, Cover::Full) => {
                self.left_at = None;
                if !waits {
                    self.packets.close();
                }
                return tapped(segments::KIND, Ok(()), None);
            }
            (_, Cover::Unheard | Cover::Idle) => {
                self.left_at = None;
                None
            }
            (_, Cover::None(reason)) => {
                self.scoped = false;
                self.left_at
                    .get_or_insert_with(|| boottime_now().after(UNDER_WAY));
                (kind != TapKind::Packet).then_some(reason)
            }
        };
        let Self {
            handle,
            packets,
            reader,
            ..
        } = self;
        let opened = handle.run_in(|| packets.refresh(&reader.peers, ready));
        let outcome = opened.map_err(Into::into).and_then(|done| Ok(done?));
        tapped(tap::KIND, outcome, reason)
    }
}

/// How a namespace would be tapped now; nothing stays open or attached.
pub fn try_in(
    kind: TapKind,
    netns: &Netns,
    ports: &[u16],
    kernel: Option<&mut KernelSource>,
) -> Tapped {
    let at_the_sockets = match kind {
        TapKind::Packet => None,
        TapKind::Auto | TapKind::Cgroup => Some(scoped::try_in(netns, ports, kernel)),
    };
    let (kind, outcome, instead_because) = match (kind, at_the_sockets) {
        (_, Some(Ok(()))) => (segments::KIND, Ok(()), None),
        (TapKind::Cgroup, Some(Err(reason))) => (segments::KIND, Err(anyhow!(reason)), None),
        (_, reason) => {
            let opened = netns.run_in(|| tap::try_open(ports));
            let outcome = opened.map_err(Into::into).and_then(|done| Ok(done?));
            (tap::KIND, outcome, reason.and_then(Result::err))
        }
    };
    Tapped {
        kind,
        outcome,
        instead_because,
    }
}

/// Why nothing can be seen at the sockets, if so.
fn why_not(kernel: Option<&KernelSource>) -> Option<String> {
    let Some(kernel) = kernel else {
        return Some("no kernel program runs".to_owned());
    };
    kernel.copies_segments().err().map(str::to_owned)
}

fn tell_lost(stage: LossStage, count: u64, now: Timestamp, out: &mut Vec<Event>) {
    if count > 0 {
        out.push(Event::noticed(now, Fact::Lost { stage, count }));
    }
}

fn by_packet_socket(info: PacketInfo, offset: WallOffset, now: Timestamp) -> Sight {
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
    Sight {
        occurred,
        interface: info.interface,
        device: info.interface,
        sent: info.outgoing,
        cut: info.cut,
        checksum: if info.unverified {
            Checksum::Unverified
        } else {
            Checksum::Settled
        },
    }
}

fn at_the_sockets(segment: Copied<'_>) -> Sight {
    let head = &segment.head;
    Sight {
        occurred: Occurred::kernel(Timestamp::from_nanos(head.boot_nanos)),
        interface: AT_THE_SOCKETS,
        device: head.interface,
        sent: head.sent != 0,
        cut: usize::try_from(head.length.saturating_sub(head.captured)).unwrap_or(usize::MAX),
        // Whoever put several together verified each, and what is sent is verified elsewhere.
        checksum: if head.sent != 0 || head.merged != 0 {
            Checksum::Settled
        } else {
            Checksum::Unknown
        },
    }
}

//! The kernel's own word: the programs of `observer-ebpf`, loaded, attached, and their rings read.
//!
//! It decides nothing about peers: the agent says which namespaces to observe, which peers are
//! known, which processes speak. It ends with the value: programs, links and maps belong to file
//! descriptors of this process, nothing is pinned.

pub mod decode;
pub mod drops;
pub mod identity;
pub mod layout;
mod limits;
pub mod probes;
mod removals;
mod ring;
pub mod route;
pub mod route_probes;
pub mod segments;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, Endianness, Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
};
use observer_abi::{
    COUNTER_DROPS, COUNTER_EVENTS_LOST, COUNTER_MAP_FULL, COUNTER_REMOVALS_RETURNED,
    COUNTER_REMOVALS_TOLD, COUNTER_ROUTES_LOST, COUNTER_SEGMENTS_LOST,
    COUNTER_STRANGER_EVENTS_LOST, COUNTER_STRANGERS,
};
use observer_core::{
    bgp::Prefix,
    event::{Event, Fact, LossStage, NetnsId, SocketId},
    time::{Occurred, Timestamp},
};
use zerocopy::IntoBytes;

use self::{
    drops::Drops,
    identity::Identities,
    layout::Found,
    limits::{lift_memory_limit, ports, protocols, tables},
    probes::{DROP_PROBE, PROBES, explain},
    removals::Removals,
    ring::Ring,
    route::Told,
    segments::SegmentRing,
};
pub use self::{probes::ProbeStatus, route_probes::RouteProbes};
use super::{
    btf::{Btf, BtfError},
    clock::boottime_now,
};

/// The kernel programs; empty where the build was told to skip them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-ebpf"));

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// How often the programs' own misses are looked up: one small file per program.
const MISSES_EVERY: Duration = Duration::from_secs(1);

/// What the kernel programs are to look at.
#[derive(Clone, Debug, Default)]
pub struct KernelOptions {
    /// The ports BGP is spoken on, at most [`observer_abi::MAX_PORTS`].
    pub ports: Vec<u16>,
    /// How to tell of routes.
    pub routes: RouteProbes,
    /// The protocols whose routes are told of; all where empty.
    pub protocols: Vec<u8>,
    /// The routing tables whose routes are told of, at most
    /// [`observer_abi::MAX_TABLES`]; all where empty.
    pub tables: Vec<u32>,
    /// Whether segments may be copied at the speakers' cgroups.
    pub segments: bool,
    /// The kernel's BTF, where it is not at `/sys/kernel/btf/vmlinux`.
    pub btf_path: Option<PathBuf>,
}

/// Why the kernel programs' maps could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct MapChangeError {
    doing: String,
    #[source]
    source: MapError,
}

/// What becomes of the routes in their ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RoutesAre {
    Taken,
    Left,
}

/// The attached programs and what they share with the agent.
pub struct KernelSource {
    /// Owns the programs and their links: they detach when it is dropped.
    programs: Ebpf,
    events: Ring,
    strangers: Ring,
    routes: Ring,
    tells_routes: bool,
    /// None where the probe of dropped packets does not run.
    drops: Option<Drops>,
    /// What copies segments; none once the ring is with its reader, a reason where it does not run.
    segments: Result<Option<SegmentRing>, String>,
    routes_are: RoutesAre,
    to_look_up: BTreeMap<(NetnsId, bool), Timestamp>,
    counters: PerCpuArray<MapData, u64>,
    netns: HashMap<MapData, u32, u32>,
    known: HashMap<MapData, [u8; 24], u8>,
    speakers: HashMap<MapData, u32, u32>,
    identities: Identities,
    has_cookies: bool,
    counted: [u64; COUNTED.len()],
    removals: Removals,
    missed: u64,
    missed_at: Timestamp,
    drained_at: Timestamp,
    more: bool,
}

impl KernelSource {
    /// Loads and attaches every probe that this kernel allows. No source where none could be
    /// attached; the statuses say why.
    pub fn start(options: &KernelOptions) -> (Option<Self>, Vec<ProbeStatus>) {
        let none = |reason: &str| {
            let off = |probe: &probes::Probe| probe.off(reason.to_owned());
            let all = PROBES
                .iter()
                .chain([&DROP_PROBE])
                .chain(options.routes.named());
            (None, all.map(off).collect())
        };
        let prepared = match Prepared::new(options) {
            Ok(prepared) => prepared,
            Err(reason) => return none(&reason),
        };
        let Prepared {
            mut programs,
            btf,
            found,
        } = prepared;
        let mut statuses: Vec<_> = PROBES
            .iter()
            .map(|probe| probe.attach(&mut programs, &btf, &found))
            .collect();
        let of_drops = DROP_PROBE.attach(&mut programs, &btf, &found);
        let tells_drops = of_drops.attached;
        statuses.push(of_drops);
        let of_routes = route_probes::attach(options.routes, &mut programs, &btf, &found);
        let tells_routes = of_routes.first().is_some_and(|status| status.attached);
        statuses.extend(of_routes);
        if statuses.iter().all(|status| !status.attached) {
            return (None, statuses);
        }
        let segments = if options.segments {
            segments::load(&mut programs)
        } else {
            Err("it is not wanted".to_owned())
        };
        match Self::over(programs, &found, (tells_routes, tells_drops), segments) {
            Ok(source) => (Some(source), statuses),
            Err(error) => none(&explain(&error)),
        }
    }

    fn over(
        mut programs: Ebpf,
        found: &Found,
        (tells_routes, tells_drops): (bool, bool),
        segments: Result<(), String>,
    ) -> Result<Self, MapError> {
        let drops = tells_drops
            .then(|| Drops::over(&mut programs))
            .transpose()?;
        let segments = match segments {
            Ok(()) => Ok(Some(segments::ring(&mut programs)?)),
            Err(reason) => Err(reason),
        };
        let mut take = |name: &str| -> Result<Map, MapError> {
            programs
                .take_map(name)
                .ok_or_else(|| MapError::InvalidName {
                    name: name.to_owned(),
                })
        };
        Ok(Self {
            events: Ring::over(take("EVENTS")?)?,
            strangers: Ring::over(take("STRANGERS")?)?,
            routes: Ring::over(take("ROUTES")?)?,
            tells_routes,
            drops,
            segments,
            routes_are: RoutesAre::Taken,
            to_look_up: BTreeMap::new(),
            counters: PerCpuArray::try_from(take("COUNTERS")?)?,
            netns: HashMap::try_from(take("NETNS")?)?,
            known: HashMap::try_from(take("KNOWN_PEERS")?)?,
            speakers: HashMap::try_from(take("SPEAKERS")?)?,
            programs,
            missed: 0,
            missed_at: Timestamp::default(),
            identities: Identities::default(),
            has_cookies: found.layout.has_socket_cookie == 1,
            counted: [0; COUNTED.len()],
            removals: Removals::default(),
            drained_at: boottime_now(),
            // The programs have run since they were attached.
            more: true,
        })
    }

    /// Whether it tells of every change of routes.
    pub const fn tells_routes(&self) -> bool {
        self.tells_routes
    }

    /// How many removals of IPv4 routes were seen, and how many the kernel says it made.
    pub fn removals(&self) -> Option<(u64, u64)> {
        let returned = total(&self.counters, COUNTER_REMOVALS_RETURNED)?;
        Some((total(&self.counters, COUNTER_REMOVALS_TOLD)?, returned))
    }

    /// Routes that changed in a way the last [`drain`](Self::drain) could not tell whole: of which
    /// namespace, whether of IPv6, and since when.
    pub fn to_look_up(&mut self) -> BTreeMap<(NetnsId, bool), Timestamp> {
        std::mem::take(&mut self.to_look_up)
    }

    /// Leaves routes in their ring, or takes them out again: what else there is is not to wait behind
    /// a burst of them.
    pub const fn let_routes_wait(&mut self, wait: bool) {
        self.routes_are = if wait {
            RoutesAre::Left
        } else {
            RoutesAre::Taken
        };
    }

    /// Whether the kernel still lets this process at the programs' maps.
    pub fn answers(&self) -> bool {
        self.counters.get(&0, 0).is_ok()
    }

    /// Observes the namespace with this inode as `netns` from now on.
    pub fn observe(&mut self, inode: u32, netns: NetnsId) -> Result<(), MapChangeError> {
        self.netns
            .insert(inode, netns.0, 0)
            .map_err(|source| MapChangeError {
                doing: format!("observe network namespace {inode}"),
                source,
            })
    }

    /// Observes it no longer.
    pub fn unobserve(&mut self, inode: u32) -> Result<(), MapChangeError> {
        absent_is_fine(self.netns.remove(&inode)).map_err(|source| MapChangeError {
            doing: format!("stop observing network namespace {inode}"),
            source,
        })
    }

    /// Makes `peer` a known peer: what happens on its connections is evidence.
    pub fn trust(&mut self, netns: NetnsId, peer: IpAddr) -> Result<(), MapChangeError> {
        self.known
            .insert(key(netns, peer), 1, 0)
            .map_err(|source| MapChangeError {
                doing: format!("make {peer} a known peer in the kernel"),
                source,
            })
    }

    /// Makes `peer` a stranger again.
    pub fn distrust(&mut self, netns: NetnsId, peer: IpAddr) -> Result<(), MapChangeError> {
        absent_is_fine(self.known.remove(&key(netns, peer))).map_err(|source| MapChangeError {
            doing: format!("make {peer} a stranger in the kernel"),
            source,
        })
    }

    /// Whether the probe of dropped packets runs.
    pub const fn tells_drops(&self) -> bool {
        self.drops.is_some()
    }

    /// Counts packets that are dropped on their way to `prefix`, where that probe runs.
    pub fn watch(&mut self, netns: NetnsId, prefix: Prefix) -> Result<(), MapChangeError> {
        let drops = self.drops.as_mut();
        drops.map_or(Ok(()), |drops| drops.watch(netns, prefix))
    }

    /// No longer; what was counted last goes to `out`.
    pub fn unwatch(
        &mut self,
        netns: NetnsId,
        prefix: Prefix,
        out: &mut Vec<Event>,
    ) -> Result<(), MapChangeError> {
        let drops = self.drops.as_mut();
        drops.map_or(Ok(()), |drops| drops.unwatch(netns, prefix, out))
    }

    /// Watches the end of process `pid`, which speaks BGP in `netns`. Processes that dial or listen
    /// while the programs run are found by them.
    pub fn add_speaker(&mut self, pid: u32, netns: NetnsId) -> Result<(), MapChangeError> {
        self.speakers
            .insert(pid, netns.0, 0)
            .map_err(|source| MapChangeError {
                doing: format!("watch the BGP speaker {pid}"),
                source,
            })
    }

    /// Lets go of all namespaces, peers and speakers, as if it had just been attached.
    pub fn forget_all(&mut self) -> Result<(), MapChangeError> {
        let clear = |source| MapChangeError {
            doing: "let go of everything".to_owned(),
            source,
        };
        clear_map(&mut self.netns)
            .and_then(|()| clear_map(&mut self.known))
            .and_then(|()| clear_map(&mut self.speakers))
            .map_err(clear)
    }

    /// Waits until there may be something to [`drain`](Self::drain). Cancelling it loses nothing.
    pub async fn readable(&mut self) -> io::Result<()> {
        if self.more {
            return Ok(());
        }
        let (events, strangers) = (self.events.wake_up()?, self.strangers.wake_up()?);
        let routes = self.routes.wake_up()?;
        // Readiness is cleared before the rings are read, so that what comes meanwhile wakes again.
        tokio::select! {
            guard = events.readable() => guard?.clear_ready(),
            guard = strangers.readable() => guard?.clear_ready(),
            guard = routes.readable(), if self.routes_are == RoutesAre::Taken => guard?.clear_ready(),
        }
        Ok(())
    }

    /// Appends what the rings hold to `out`, by time, then what the kernel counted since the last
    /// call. True where there is more: at most some records of each ring at once.
    pub fn drain(&mut self, out: &mut Vec<Event>) -> bool {
        let first = out.len();
        let mut undecoded = 0;
        let (identities, more) = (&mut self.identities, &mut self.more);
        *more = false;
        for ring in [&mut self.events, &mut self.strangers] {
            *more |= ring.drain(|bytes| match decode::decode(bytes, identities) {
                Some(event) => out.push(named(event)),
                None => undecoded += 1,
            });
        }
        let to_look_up = &mut self.to_look_up;
        if self.routes_are == RoutesAre::Taken {
            *more |= self.routes.drain(|bytes| match route::decode(bytes) {
                Some(Told::Change(event)) => out.push(event),
                Some(Told::LookUp(netns, ipv6, since)) => {
                    to_look_up.entry((netns, ipv6)).or_insert(since);
                }
                None => undecoded += 1,
            });
        }
        if let Some(fresh) = out.get_mut(first..) {
            fresh.sort_by_key(|event| event.occurred.earliest);
        }
        self.count(undecoded, out);
        self.more
    }

    /// Gives sockets in sock_diag's answers the identity that the probes' events have. Only needed
    /// where the kernel does not tell the probes a socket's cookie (before 5.12); nothing is changed
    /// elsewhere.
    pub fn reconcile(&mut self, events: &mut [Event]) {
        if self.has_cookies {
            return;
        }
        for event in events {
            if let Fact::SocketInfo { socket, .. } = &mut event.fact {
                let ends = (socket.netns, socket.local, socket.remote);
                socket.id = self.identities.reconcile(SocketId(socket.id.0), ends);
            }
        }
    }

    /// Turns what the kernel counted since the last time into events.
    fn count(&mut self, undecoded: u64, out: &mut Vec<Event>) {
        let occurred = Occurred::noticed(self.drained_at, boottime_now());
        self.drained_at = occurred.latest;
        let mut push = |count: u64, fact: fn(u64) -> Fact| {
            if count > 0 {
                out.push(Event {
                    occurred,
                    fact: fact(count),
                });
            }
        };
        push(undecoded, |count| lost(LossStage::Decode, count));
        if occurred.latest.since(self.missed_at) >= MISSES_EVERY {
            self.missed_at = occurred.latest;
            let all = PROBES
                .iter()
                .chain([&DROP_PROBE])
                .chain(route_probes::every());
            let misses = probes::misses(&self.programs, all);
            push(misses.saturating_sub(self.missed), |count| {
                lost(LossStage::Ring, count)
            });
            self.missed = misses;
            // In this order: a removal is seen before it returns.
            let returned = total(&self.counters, COUNTER_REMOVALS_RETURNED);
            let seen = total(&self.counters, COUNTER_REMOVALS_TOLD);
            if let (Some(returned), Some(seen)) = (returned, seen) {
                push(self.removals.compare(returned, seen), |count| {
                    lost(LossStage::Ring, count)
                });
            }
        }
        for ((index, fact), counted) in COUNTED.into_iter().zip(&mut self.counted) {
            // A read that fails is made good by the next one: the counters only ever rise.
            if let Some(total) = total(&self.counters, index) {
                push(total.wrapping_sub(*counted), fact);
                *counted = total;
            }
        }
        if let (Some(drops), Some(total)) = (&mut self.drops, total(&self.counters, COUNTER_DROPS))
        {
            drops.read(total, occurred.latest, out);
        }
    }
}

/// A counter of the programs', over all CPUs.
fn total(counters: &PerCpuArray<MapData, u64>, index: u32) -> Option<u64> {
    let values = counters.get(&index, 0).ok()?;
    Some(values.iter().copied().fold(0, u64::wrapping_add))
}

/// Before 6.9 the OOM tracepoint tells a number only; the victim still has its name in /proc.
fn named(mut event: Event) -> Event {
    if let Fact::SpeakerOom { speaker, .. } = &mut event.fact
        && speaker.comm.is_empty()
        && let Ok(comm) = std::fs::read_to_string(format!("/proc/{}/comm", speaker.pid))
    {
        comm.trim_end().clone_into(&mut speaker.comm);
    }
    event
}

/// Everything short of attaching.
struct Prepared {
    programs: Ebpf,
    btf: AyaBtf,
    found: Found,
}

impl Prepared {
    fn new(options: &KernelOptions) -> Result<Self, String> {
        if OBJECT.is_empty() {
            return Err("the agent was built without kernel programs (AYA_BUILD_SKIP)".to_owned());
        }
        let ports = ports(&options.ports)?;
        let tables = tables(&options.tables)?;
        let path = options.btf_path.clone().unwrap_or_else(|| VMLINUX.into());
        let found = Btf::read(&path)
            .map(|btf| layout::read(&btf))
            .map_err(|error| no_btf(&path, &error))?;
        let btf = AyaBtf::parse_file(&path, Endianness::default())
            .map_err(|error| format!("{}: {}", path.display(), explain(&error)))?;
        lift_memory_limit();
        let programs = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("LAYOUT", found.layout.as_bytes(), true)
            .override_global("PORTS", ports.as_bytes(), true)
            .override_global("PROTOCOLS", protocols(&options.protocols).as_bytes(), true)
            .override_global("REASONS", found.reasons.as_bytes(), true)
            .override_global("TABLES", tables.as_bytes(), true)
            .load(OBJECT)
            .map_err(|error| explain(&error))?;
        Ok(Self {
            programs,
            btf,
            found,
        })
    }
}

fn no_btf(path: &Path, error: &BtfError) -> String {
    let words = explain(error);
    let words = if matches!(error, BtfError::Read { .. }) {
        words
    } else {
        format!("{}: {words}", path.display())
    };
    format!("{words}; the kernel must be built with CONFIG_DEBUG_INFO_BTF, and /sys be readable")
}

fn key(netns: NetnsId, peer: IpAddr) -> [u8; 24] {
    zerocopy::transmute!(decode::peer_key(netns, peer))
}

type CountedFact = fn(u64) -> Fact;

/// What kernel counters count, but for those that are compared with one another.
const COUNTED: [(u32, CountedFact); 6] = [
    (COUNTER_EVENTS_LOST, |count| lost(LossStage::Ring, count)),
    (COUNTER_STRANGER_EVENTS_LOST, |count| {
        lost(LossStage::StrangerRing, count)
    }),
    (COUNTER_STRANGERS, |connections| Fact::Strangers {
        connections,
    }),
    (COUNTER_MAP_FULL, |count| lost(LossStage::Map, count)),
    // As any loss of the ring's: the core has sockets and routes dumped.
    (COUNTER_ROUTES_LOST, |count| lost(LossStage::Ring, count)),
    (COUNTER_SEGMENTS_LOST, |count| lost(LossStage::Tap, count)),
];

const fn lost(stage: LossStage, count: u64) -> Fact {
    Fact::Lost { stage, count }
}

fn clear_map<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<(), MapError> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    keys.iter()
        .try_for_each(|key| absent_is_fine(map.remove(key)))
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason every probe gives, when none can run.
    fn reason(options: &KernelOptions) -> String {
        let (source, statuses) = KernelSource::start(options);
        assert!(source.is_none());
        assert_eq!(
            statuses.len(),
            PROBES.len() + 1 + options.routes.named().len()
        );
        let mut reasons: Vec<_> = statuses
            .into_iter()
            .map(|status| status.reason.unwrap())
            .collect();
        reasons.dedup();
        assert_eq!(reasons.len(), 1);
        reasons.pop().unwrap()
    }

    #[test]
    fn what_keeps_every_probe_off_is_said_in_words() {
        if OBJECT.is_empty() {
            assert!(reason(&KernelOptions::default()).contains("AYA_BUILD_SKIP"));
            return;
        }
        let with = |ports: &[u16], path: &str| {
            reason(&KernelOptions {
                ports: ports.to_vec(),
                btf_path: Some(path.into()),
                ..KernelOptions::default()
            })
        };
        assert!(with(&[], "/x").contains("no BGP port"));
        assert!(with(&[179; 9], "/x").contains("9 BGP ports"));
        assert!(with(&[179], "/nonexistent").starts_with("cannot read /nonexistent: No such file"));
        let garbage = with(&[179], "/proc/self/status");
        assert!(
            garbage.starts_with("/proc/self/status: this is no BTF"),
            "{garbage}"
        );
        assert!(garbage.contains("CONFIG_DEBUG_INFO_BTF"));
    }
}

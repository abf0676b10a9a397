//! What happens to many routes at once is one change: how many, of whom, some of them by name, from
//! when to when.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use super::{Span, hops::HopSet, join::gateways};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    change::{Change, RouteEvent, RoutesChanged},
    event::Process,
    notice::{RouteLoss, RouteNotice, RouteOwner, RouteStep},
    time::Timestamp,
    turn::Turn,
};

/// A burst is over when nothing of it came for this long …
const QUIET: Duration = Duration::from_millis(200);
/// … and told after this long in any case.
const LONGEST: Duration = Duration::from_secs(2);
/// Prefixes, next hops and peers that are named.
const NAMED: usize = 8;
/// Bursts at a time: what differs from all of these is told without its writer.
const MAX_BURSTS: usize = 64;

/// What tells bursts apart.
type Kind = (RouteEvent, RouteOwner, Option<Process>);

/// Something that happened to one route.
#[derive(Clone, Copy, Debug)]
pub(super) struct One<'a> {
    pub event: RouteEvent,
    pub owner: RouteOwner,
    pub writer: Option<&'a Process>,
    pub span: Span,
    /// How long a route that is back was gone.
    pub gap: Duration,
}

#[derive(Debug)]
pub(super) struct Burst {
    count: u64,
    earliest: Timestamp,
    first: Timestamp,
    last: Timestamp,
    /// When the last was taken in.
    heard: Timestamp,
    prefixes: Vec<Prefix>,
    next_hops: BTreeSet<IpAddr>,
    former_next_hops: BTreeSet<IpAddr>,
    peers: BTreeSet<PeerAddress>,
    /// The hops that were named last, and the former ones: most routes that follow have the same.
    named: Option<[Arc<HopSet>; 2]>,
    longest_gap: Duration,
}

/// Bursts that go on.
#[derive(Debug, Default)]
pub(crate) struct Bursts(BTreeMap<Kind, Burst>);

impl RouteEvent {
    /// What a loss is told as.
    pub(super) const fn of(how: RouteLoss, planned: bool) -> Self {
        match how {
            RouteLoss::Deleted if planned => Self::Withdrawn,
            RouteLoss::Deleted => Self::Deleted,
            RouteLoss::Silent => Self::SilentlyRemoved,
            RouteLoss::Unreachable => Self::Unreachable,
            RouteLoss::Blackhole if planned => Self::TakenOver,
            RouteLoss::Blackhole => Self::Blackhole,
            RouteLoss::WorseRoute => Self::WorseRoute,
        }
    }
}

/// Tells what concerns one prefix only; everything else waits to be told together.
pub(super) fn tell(turn: &mut Turn<'_>, node: &str, notice: &RouteNotice) {
    match &notice.step {
        RouteStep::Gone { .. } | RouteStep::Back { .. } => {}
        RouteStep::Foreign => {
            let change = Change::ForeignDelete {
                prefix: notice.prefix.to_string(),
                owner: notice.owner.name(),
                writer: notice.writer.clone(),
            };
            turn.tell(node, change);
        }
        RouteStep::Fight { rounds, owner } => {
            let change = Change::RouteFight {
                prefix: notice.prefix.to_string(),
                owner: notice.owner.name(),
                rounds: *rounds,
                remover: notice.writer.clone(),
                keeper: owner.clone(),
            };
            turn.tell(node, change);
        }
    }
}

impl Bursts {
    /// One route more.
    pub(super) fn add(&mut self, now: Timestamp, one: One<'_>) -> &mut Burst {
        let mut kind = (one.event, one.owner, one.writer.cloned());
        if self.0.len() >= MAX_BURSTS && !self.0.contains_key(&kind) {
            kind.2 = None;
        }
        let Span { earliest, latest } = one.span;
        let burst = self.0.entry(kind).or_insert_with(|| Burst {
            count: 0,
            earliest,
            first: latest,
            last: latest,
            heard: now,
            prefixes: Vec::new(),
            next_hops: BTreeSet::new(),
            former_next_hops: BTreeSet::new(),
            peers: BTreeSet::new(),
            named: None,
            longest_gap: Duration::ZERO,
        });
        burst.count += 1;
        burst.earliest = burst.earliest.min(earliest);
        burst.first = burst.first.min(latest);
        burst.last = burst.last.max(latest);
        burst.heard = now;
        burst.longest_gap = burst.longest_gap.max(one.gap);
        burst
    }

    /// When [`Self::flush`] has something to tell, if nothing more comes.
    pub fn due(&self) -> Option<Timestamp> {
        self.0.values().map(Burst::due).min()
    }

    /// Tells those that are over, or all.
    pub fn flush(&mut self, turn: &mut Turn<'_>, node: &str, all: bool) {
        let now = turn.now;
        let over = self.0.extract_if(.., |_, burst| all || burst.due() <= now);
        for ((event, owner, writer), burst) in over.collect::<Vec<_>>() {
            let wall = |at| turn.wall.wall(at);
            let change = Change::Routes(RoutesChanged {
                event,
                owner: owner.name(),
                count: burst.count,
                earliest: wall(burst.earliest),
                first: wall(burst.first),
                last: wall(burst.last),
                prefixes: texts(burst.prefixes),
                next_hops: texts(burst.next_hops),
                former_next_hops: texts(burst.former_next_hops),
                peers: texts(burst.peers),
                writer,
                longest_gap_seconds: (event == RouteEvent::Back || event == RouteEvent::Replaced)
                    .then_some(burst.longest_gap.as_secs_f64()),
            });
            turn.tell(node, change);
        }
    }
}

impl Burst {
    fn due(&self) -> Timestamp {
        self.heard.after(QUIET).min(self.first.after(LONGEST))
    }

    /// Whether a route over `hops`, and over `former` before, needs no naming any more.
    pub(super) fn is_named(&self, hops: &Arc<HopSet>, former: &Arc<HopSet>) -> bool {
        let named = self.named.as_ref().filter(|_| self.prefixes.len() >= NAMED);
        named.is_some_and(|[named, before]| {
            Arc::ptr_eq(named, hops) && (Arc::ptr_eq(before, former) || before == former)
        })
    }

    /// Names a route that was added, the peers that it hangs on and its next hops, as far as there is
    /// room.
    pub(super) fn name(
        &mut self,
        prefix: Prefix,
        peers: &[PeerAddress],
        hops: Arc<HopSet>,
        former: Arc<HopSet>,
    ) {
        if self.prefixes.len() < NAMED {
            self.prefixes.push(prefix);
        }
        insert_named(&mut self.next_hops, gateways(&hops));
        insert_named(&mut self.former_next_hops, gateways(&former));
        insert_named(&mut self.peers, peers.iter().copied());
        self.named = Some([hops, former]);
    }
}

fn insert_named<T: Ord>(named: &mut BTreeSet<T>, more: impl IntoIterator<Item = T>) {
    for one in more {
        if named.len() < NAMED {
            named.insert(one);
        }
    }
}

fn texts<T: ToString>(named: impl IntoIterator<Item = T>) -> Vec<String> {
    named.into_iter().map(|one| one.to_string()).collect()
}

//! What happens to many routes at once is one change: how many, of whom, some of them by name, from
//! when to when.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::{
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

#[derive(Debug)]
struct Burst {
    count: u64,
    earliest: Timestamp,
    first: Timestamp,
    last: Timestamp,
    /// When the last was taken in.
    heard: Timestamp,
    prefixes: Vec<String>,
    next_hops: BTreeSet<String>,
    former_next_hops: BTreeSet<String>,
    peers: BTreeSet<String>,
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
    /// One route more of this kind; gone for so long, and what led there before.
    pub fn add(
        &mut self,
        turn: &Turn<'_>,
        event: RouteEvent,
        notice: &RouteNotice,
        (gap, former): (Duration, &[IpAddr]),
    ) {
        let mut kind = (event, notice.owner, notice.writer.clone());
        if self.0.len() >= MAX_BURSTS && !self.0.contains_key(&kind) {
            kind.2 = None;
        }
        let burst = self.0.entry(kind).or_insert_with(|| Burst {
            count: 0,
            earliest: notice.earliest,
            first: notice.latest,
            last: notice.latest,
            heard: turn.now,
            prefixes: Vec::new(),
            next_hops: BTreeSet::new(),
            former_next_hops: BTreeSet::new(),
            peers: BTreeSet::new(),
            longest_gap: Duration::ZERO,
        });
        burst.count += 1;
        burst.earliest = burst.earliest.min(notice.earliest);
        burst.first = burst.first.min(notice.latest);
        burst.last = burst.last.max(notice.latest);
        burst.heard = turn.now;
        burst.longest_gap = burst.longest_gap.max(gap);
        if burst.prefixes.len() < NAMED {
            burst.prefixes.push(notice.prefix.to_string());
        }
        for hop in notice.next_hops.iter().take(NAMED) {
            name(&mut burst.next_hops, hop);
        }
        for hop in former.iter().take(NAMED) {
            name(&mut burst.former_next_hops, hop);
        }
        for peer in notice.peers.iter().take(NAMED) {
            name(&mut burst.peers, peer);
        }
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
                prefixes: burst.prefixes,
                next_hops: burst.next_hops.into_iter().collect(),
                former_next_hops: burst.former_next_hops.into_iter().collect(),
                peers: burst.peers.into_iter().collect(),
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
}

fn name(names: &mut BTreeSet<String>, one: &impl ToString) {
    if names.len() < NAMED {
        names.insert(one.to_string());
    }
}

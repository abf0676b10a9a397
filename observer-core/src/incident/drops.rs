//! Packets that this node's kernel dropped on their way to where an incident suspects a loss: which
//! prefixes it watches for them, and what they prove. Nothing is watched while nothing is wrong.
//!
//! A dropped packet proves that one did not arrive, so it proves a loss where nobody probes. It is
//! said of forwarded packets only: what a process of this host cannot send never becomes a packet. What
//! its TCP sends again or gives up is told beside that, and proves nothing: whom it asks may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Incidents,
    marks::widest,
    milestones::{self, Within},
    open::Open,
    record::{DroppedPackets, MilestoneKind, Span},
};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    change::Request,
    event::{NetnsId, drops::DropReason},
    node::Node,
    notice::RouteLoss,
    time::Timestamp,
    turn::Turn,
};

/// Prefixes watched at most, over all incidents: as many as the kernel's table has room for.
pub const MAX_WATCHED: usize = 1_024;
/// Prefixes watched at most for one of them.
const PER_INCIDENT: usize = 256;
/// Prefixes watched behind a peer that is suspect while its session is up.
const PER_PEER: usize = 64;
/// Dropped packets are listed for so many prefixes and reasons.
const LISTED: usize = 32;
/// Who says so.
const EVIDENCE: &str = "packets that this node dropped (kfree_skb)";
const TCP_EVIDENCE: &str = "TCP of this node's own processes";

/// Packets that were dropped, as an event tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropped {
    pub reason: DropReason,
    pub packets: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// Which prefixes the kernel watches, and for which incidents.
#[derive(Debug, Default)]
pub(super) struct Watched {
    of: BTreeMap<(NetnsId, Prefix), BTreeSet<u64>>,
}

impl Watched {
    /// What belonged to several incidents belongs to one.
    pub fn rename(&mut self, from: &BTreeSet<u64>, to: u64) {
        for of in self.of.values_mut() {
            let before = of.len();
            of.retain(|number| !from.contains(number));
            if of.len() < before {
                of.insert(to);
            }
        }
    }

    /// An incident is over: what only it wanted is watched no more.
    pub fn forget(&mut self, turn: &mut Turn<'_>, gone: u64) {
        self.of.retain(|(netns, prefix), of| {
            if of.remove(&gone) && of.is_empty() {
                turn.ask(Request::Unwatch {
                    netns: *netns,
                    prefix: *prefix,
                });
            }
            !of.is_empty()
        });
    }
}

/// What was dropped within one incident.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// How many prefixes are watched for it.
    watched: usize,
    tallies: BTreeMap<(Prefix, DropReason), Tally>,
    /// Since when the routes of prefixes drop what they match, and until when.
    barred: BTreeMap<Prefix, (Timestamp, Option<Timestamp>)>,
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    packets: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Tally {
    fn join(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

impl Drops {
    /// A route is gone; as `how` tells, another one may stand there that drops.
    pub fn lose(&mut self, prefix: Prefix, how: RouteLoss, since: Timestamp) {
        let bars = matches!(how, RouteLoss::Unreachable | RouteLoss::Blackhole);
        if bars && self.barred.len() < PER_INCIDENT {
            self.barred.insert(prefix, (since, None));
        }
    }

    /// It is back.
    pub fn regain(&mut self, prefix: Prefix, at: Timestamp) {
        if let Some((_, until)) = self.barred.get_mut(&prefix) {
            *until = Some(at);
        }
    }

    /// Whether packets were dropped for a reason that a lost route or next hop gives.
    fn counts(&self, prefix: Prefix, dropped: &Dropped) -> bool {
        if dropped.reason != DropReason::Unspecified {
            return true;
        }
        let barred = self.barred.get(&prefix);
        barred.is_some_and(|(since, until)| {
            dropped.last >= *since && until.is_none_or(|until| dropped.first <= until)
        })
    }

    fn take(&mut self, prefix: Prefix, dropped: &Dropped) -> bool {
        if !self.counts(prefix, dropped) {
            return false;
        }
        let tally = Tally {
            packets: dropped.packets,
            first: dropped.first,
            last: dropped.last,
        };
        self.tallies
            .entry((prefix, dropped.reason))
            .and_modify(|known| *known = known.join(tally))
            .or_insert(tally);
        true
    }

    /// Another incident turns out to be the same.
    pub fn absorb(&mut self, other: Self) {
        self.watched += other.watched;
        for (key, tally) in other.tallies {
            let known = self.tallies.get(&key).map(|known| known.join(tally));
            self.tallies.insert(key, known.unwrap_or(tally));
        }
        self.barred.extend(other.barred);
    }

    /// What was dropped, or what TCP had trouble with.
    fn that(&self, proves: bool) -> impl Iterator<Item = (&(Prefix, DropReason), &Tally)> {
        let all = self.tallies.iter();
        all.filter(move |((_, reason), _)| reason.proves() == proves)
    }

    fn sum(&self, proves: bool) -> Option<Tally> {
        let tallies = self.that(proves).map(|(_, tally)| *tally);
        tallies.reduce(Tally::join)
    }

    /// What TCP of this node's own processes sent again or gave up.
    pub fn unanswered(&self) -> u64 {
        self.sum(false).map_or(0, |all| all.packets)
    }

    /// How many packets prove a loss: one does where a route was lost for good, else they must have
    /// been dropped for longer than a micro gap.
    pub fn proving(&self, lost: bool, threshold: Duration) -> u64 {
        self.sum(true)
            .filter(|all| lost || all.last.since(all.first) > threshold)
            .map_or(0, |all| all.packets)
    }

    fn report(&self, turn: &Turn<'_>, proves: bool) -> Vec<DroppedPackets> {
        let row = |((prefix, reason), tally): (&(Prefix, DropReason), &Tally)| DroppedPackets {
            prefix: prefix.to_string(),
            reason: reason.words().to_owned(),
            packets: tally.packets,
            first: turn.wall.wall(tally.first),
            last: turn.wall.wall(tally.last),
        };
        self.that(proves).take(LISTED).map(row).collect()
    }
}

impl Incidents {
    /// The kernel counts what it drops on the way to these prefixes, as long as the incident is open.
    pub(super) fn watch_drops(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        prefixes: impl IntoIterator<Item = Prefix>,
    ) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        for prefix in prefixes {
            if open.drops.watched >= PER_INCIDENT {
                return;
            }
            let key = (open.netns, prefix);
            let room = self.watched.of.len() < MAX_WATCHED;
            if !room && !self.watched.of.contains_key(&key) {
                continue;
            }
            let of = self.watched.of.entry(key).or_default();
            if of.is_empty() {
                let (netns, prefix) = key;
                turn.ask(Request::Watch { netns, prefix });
            }
            open.drops.watched += usize::from(of.insert(number));
        }
    }

    /// As [`Self::watch_drops`], for what a peer announces.
    pub(super) fn watch_behind(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        number: u64,
        peer: PeerAddress,
    ) {
        let announced = node.peers.get(&peer).map(|peer| &peer.exchange.rib);
        let behind = announced.map(|rib| rib.sample(PER_PEER));
        self.watch_drops(turn, number, behind.unwrap_or_default());
    }

    /// Packets were dropped.
    pub fn packets_dropped(
        &mut self,
        turn: &mut Turn<'_>,
        netns: NetnsId,
        prefix: Prefix,
        dropped: Dropped,
    ) {
        let concerned = self.watched.of.get(&(netns, prefix));
        for number in concerned.cloned().unwrap_or_default() {
            let open = self.open.get_mut(&number);
            if open.is_some_and(|open| open.take_drops(prefix, &dropped)) {
                self.look_again(turn, number);
            }
        }
    }
}

impl Open {
    fn take_drops(&mut self, prefix: Prefix, dropped: &Dropped) -> bool {
        let counts = self.drops.take(prefix, dropped);
        self.news |= counts;
        counts
    }

    /// Brings what the record says of dropped packets up to date.
    pub fn mark_drops(&mut self, turn: &Turn<'_>, proving: u64) {
        self.mark_unanswered(turn);
        let record = &mut self.record;
        record.dropped = self.drops.report(turn, true);
        record
            .milestones
            .retain(|milestone| milestone.evidence != EVIDENCE);
        let Some(all) = self.drops.sum(true) else {
            return;
        };
        let first = { self.drops.that(true) }.min_by_key(|(_, tally)| tally.first);
        if let Some(((prefix, reason), _)) = first {
            let what = format!("first packet to {prefix} dropped: {}", reason.words());
            let (kind, within) = (MilestoneKind::FirstLoss, Within::exactly(all.first));
            milestones::add(record, turn, kind, within, what, EVIDENCE);
        }
        let what = format!("last of {} dropped", packets_of(all.packets));
        let (kind, within) = (MilestoneKind::LastLoss, Within::exactly(all.last));
        milestones::add(record, turn, kind, within, what, EVIDENCE);
        if proving > 0 {
            let dropped = self.dropped_for(turn, all);
            let measured = self.record.unreachable_seconds;
            let spans: Vec<Span> = measured.into_iter().chain([dropped]).collect();
            self.record.unreachable_seconds = widest(&spans);
        }
    }

    fn mark_unanswered(&mut self, turn: &Turn<'_>) {
        let record = &mut self.record;
        record.unanswered = self.drops.report(turn, false);
        record
            .milestones
            .retain(|milestone| milestone.evidence != TCP_EVIDENCE);
        let Some(all) = self.drops.sum(false) else {
            return;
        };
        let what = format!(
            "TCP towards lost prefixes goes unanswered from here on, {} times in all",
            all.packets
        );
        let within = Within::exactly(all.first);
        milestones::add(
            record,
            turn,
            MilestoneKind::Remark,
            within,
            what,
            TCP_EVIDENCE,
        );
    }

    /// For how long they show a loss: at least from the first to the last of them, and no longer than
    /// routes were missing or the incident went on.
    fn dropped_for(&self, turn: &Turn<'_>, all: Tally) -> Span {
        let min = all.last.since(all.first).as_secs_f64();
        let gap = self.routes.gap(turn.at).and_then(|gap| gap.max);
        let calm = self.calm_since;
        let whole = calm.map(|calm| calm.since(self.begun).as_secs_f64());
        let max = if self.routes.any() { gap } else { whole };
        Span {
            min,
            max: max.map(|max| max.max(min)),
        }
    }
}

/// So many packets.
pub(super) fn packets_of(count: u64) -> String {
    match count {
        1 => "1 packet".to_owned(),
        _ => format!("{count} packets"),
    }
}

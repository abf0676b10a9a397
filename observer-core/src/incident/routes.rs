//! Routes that an incident lost: which are gone, which are back, who removed them, how long that took.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    milestones::Within,
    record::{Incident, LostPrefix, LostPrefixes, MilestoneKind, Span},
};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    notice::{FOLLOWED, RouteLoss, RouteNotice, RouteOwner, RouteStep},
    time::Timestamp,
    turn::Turn,
};

/// Prefixes listed one by one.
const LISTED: usize = 32;
/// Nodes told apart.
const NODES: usize = 256;
/// Writers told apart.
const WRITERS: usize = 16;

/// A route that is gone.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub since: Within,
    pub how: RouteLoss,
    pub owner: RouteOwner,
    pub peers: Vec<PeerAddress>,
    pub writer: Option<String>,
    /// The node whose block it is or lies in.
    pub node: Option<String>,
    /// A healthy session withdrew it.
    planned: bool,
}

impl Gone {
    /// As `notice` tells it.
    pub fn of(notice: &RouteNotice, how: RouteLoss) -> Self {
        Self {
            since: Within {
                earliest: notice.earliest,
                latest: notice.latest,
            },
            how,
            owner: notice.owner,
            peers: notice.peers.clone(),
            writer: notice
                .writer
                .as_ref()
                .map(|writer| format!("{} (pid {})", writer.comm, writer.pid)),
            node: None,
            planned: matches!(notice.step, RouteStep::Gone { planned: true, .. }),
        }
    }

    /// As an earlier run listed it.
    fn restored(entry: &LostPrefix, since: Within) -> Self {
        let peers = entry.peers.iter();
        Self {
            since,
            how: RouteLoss::Deleted,
            owner: RouteOwner::Bird,
            peers: peers.filter_map(|peer| PeerAddress::parse(peer)).collect(),
            writer: Some(entry.deleted_by.clone()),
            node: entry.node.clone(),
            planned: false,
        }
    }

    /// Who removed it.
    fn deleted_by(&self) -> String {
        match (&self.writer, self.how) {
            (Some(writer), _) => writer.clone(),
            (None, RouteLoss::Silent) => {
                "the kernel, with its link, address or next hop".to_owned()
            }
            (None, _) => unnamed(self.since, &owner_name(self.owner)),
        }
    }
}

/// The routes of one incident.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub gone: BTreeMap<Prefix, Gone>,
    /// Those of them that a healthy session withdrew: nobody tells when they are back.
    pub withdrawn: BTreeSet<Prefix>,
    seen: BTreeSet<Prefix>,
    /// Those that were gone for longer than the threshold.
    long: BTreeSet<Prefix>,
    listed: Vec<(Prefix, LostPrefix)>,
    by_owner: BTreeMap<String, u64>,
    deleted_by: BTreeMap<String, u64>,
    by_node: BTreeMap<String, u64>,
    overflow: u64,
    pub first_gone: Option<Within>,
    pub last_gone: Option<Within>,
    pub first_back: Option<Within>,
    pub last_back: Option<Within>,
    /// The longest time one was gone, of those that are back.
    pub longest: Duration,
    /// Gaps longer than the threshold.
    pub lost: u64,
    /// Shorter ones.
    pub micro: u64,
}

impl Routes {
    /// As a record of an earlier run says: what it lists as still gone is waited for.
    pub fn restored(record: &Incident, turn: &Turn<'_>) -> Self {
        let moment = |kind: MilestoneKind| {
            let found = record.milestones.iter().find(|found| found.kind == kind);
            found.map(|found| Within {
                earliest: turn.wall.boot(found.earliest),
                latest: turn.wall.boot(found.latest),
            })
        };
        let prefixes = &record.prefixes;
        let threshold = turn.config.gap().as_secs_f64();
        let mut routes = Self {
            by_owner: prefixes.by_owner.clone(),
            deleted_by: prefixes.deleted_by.clone(),
            by_node: prefixes.by_node.clone(),
            first_gone: moment(MilestoneKind::FirstRouteGone),
            last_gone: moment(MilestoneKind::LastRouteGone),
            first_back: moment(MilestoneKind::FirstRouteBack),
            last_back: moment(MilestoneKind::LastRouteBack),
            ..Self::default()
        };
        let since = routes
            .last_gone
            .unwrap_or_else(|| Within::exactly(turn.wall.boot(record.opened_at)));
        for entry in &prefixes.listed {
            let Some(prefix) = Prefix::parse(&entry.prefix) else {
                continue;
            };
            routes.seen.insert(prefix);
            routes.listed.push((prefix, entry.clone()));
            match entry.gap_seconds {
                Some(gap) if gap > threshold => {
                    routes.lost += 1;
                    routes.long.insert(prefix);
                }
                Some(_) => routes.micro += 1,
                None => {
                    routes.gone.insert(prefix, Gone::restored(entry, since));
                }
            }
        }
        let listed = u64::try_from(routes.long.len() + routes.gone.len()).unwrap_or(u64::MAX);
        routes.overflow = prefixes.lost.saturating_sub(listed);
        routes
    }

    /// A route is gone.
    pub fn lose(&mut self, prefix: Prefix, gone: Gone) {
        if self.gone.contains_key(&prefix) {
            return;
        }
        if self
            .first_gone
            .is_none_or(|first| gone.since.latest < first.latest)
        {
            self.first_gone = Some(gone.since);
        }
        if self
            .last_gone
            .is_none_or(|last| gone.since.latest >= last.latest)
        {
            self.last_gone = Some(gone.since);
        }
        let first_time = if self.seen.len() < FOLLOWED {
            self.seen.insert(prefix)
        } else if self.seen.contains(&prefix) {
            false
        } else {
            self.overflow = self.overflow.saturating_add(1);
            return;
        };
        if first_time {
            *self.by_owner.entry(owner_name(gone.owner)).or_default() += 1;
            let writer = gone.deleted_by();
            if self.deleted_by.len() < WRITERS || self.deleted_by.contains_key(&writer) {
                *self.deleted_by.entry(writer).or_default() += 1;
            }
            if let Some(node) = &gone.node
                && (self.by_node.len() < NODES || self.by_node.contains_key(node))
            {
                *self.by_node.entry(node.clone()).or_default() += 1;
            }
            if self.listed.len() < LISTED {
                self.listed.push((prefix, listed(prefix, &gone)));
            }
        }
        if gone.planned {
            self.withdrawn.insert(prefix);
        }
        self.gone.insert(prefix, gone);
    }

    /// So many more are gone, which nobody follows.
    pub const fn lose_more(&mut self, more: u64) {
        self.overflow = self.overflow.saturating_add(more);
    }

    /// A route is back at `back`; gives how long it was gone.
    pub fn regain(
        &mut self,
        prefix: Prefix,
        back: Within,
        threshold: Duration,
    ) -> Option<Duration> {
        let gone = self.gone.remove(&prefix)?;
        self.withdrawn.remove(&prefix);
        let gap = back.latest.since(gone.since.earliest);
        if gap > threshold {
            self.lost = self.lost.saturating_add(1);
            self.long.insert(prefix);
        } else {
            self.micro = self.micro.saturating_add(1);
        }
        self.longest = self.longest.max(gap);
        if self
            .first_back
            .is_none_or(|first| back.latest < first.latest)
        {
            self.first_back = Some(back);
        }
        if self.last_back.is_none_or(|last| back.latest >= last.latest) {
            self.last_back = Some(back);
        }
        let entry = self.listed.iter_mut().find(|(listed, _)| *listed == prefix);
        if let Some((_, entry)) = entry {
            let longest = entry.gap_seconds.unwrap_or(0.0).max(gap.as_secs_f64());
            entry.gap_seconds = Some(longest);
        }
        Some(gap)
    }

    /// Its owner withdrew it on purpose: it is not waited for any more.
    pub fn release(&mut self, prefix: Prefix) {
        self.gone.remove(&prefix);
        self.withdrawn.remove(&prefix);
    }

    /// Whether a packet to `address` may have been lost with one of them.
    pub fn had(&self, address: IpAddr) -> bool {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut prefixes = (0..=bits).map(|length| Prefix::masked(address, length));
        prefixes.any(|prefix| self.seen.contains(&prefix))
    }

    /// The nodes whose they were.
    pub fn nodes(&self) -> impl Iterator<Item = &String> {
        self.by_node.keys()
    }

    /// Whether any was ever gone.
    pub const fn any(&self) -> bool {
        self.first_gone.is_some()
    }

    /// How many were gone for longer than `threshold`, by `now`.
    pub fn lost_by(&self, now: Timestamp, threshold: Duration) -> u64 {
        let still = self
            .gone
            .values()
            .filter(|gone| now.since(gone.since.latest) > threshold)
            .count();
        self.lost + u64::try_from(still).unwrap_or(u64::MAX) + self.overflow
    }

    /// From the first gone to the last back.
    pub fn gap(&self, now: Timestamp) -> Option<Span> {
        let first = self.first_gone?;
        let last = if self.gone.is_empty() {
            self.last_back
        } else {
            None
        };
        Some(match last {
            Some(last) => Span {
                min: last.earliest.since(first.latest).as_secs_f64(),
                max: Some(last.latest.since(first.earliest).as_secs_f64()),
            },
            None => Span {
                min: now.since(first.latest).as_secs_f64(),
                max: None,
            },
        })
    }

    /// As the record shows them at `now`.
    pub fn shown(&self, now: Timestamp, threshold: Duration) -> LostPrefixes {
        let still = self.gone.iter().filter(|(prefix, gone)| {
            !self.long.contains(prefix) && now.since(gone.since.latest) > threshold
        });
        let lost = u64::try_from(self.long.len() + still.count()).unwrap_or(u64::MAX);
        let seen = u64::try_from(self.seen.len()).unwrap_or(u64::MAX);
        LostPrefixes {
            lost: lost + self.overflow,
            brief: seen.saturating_sub(lost),
            still_gone: u64::try_from(self.gone.len()).unwrap_or(u64::MAX),
            by_owner: self.by_owner.clone(),
            deleted_by: self.deleted_by.clone(),
            by_node: self.by_node.clone(),
            listed: self.listed.iter().map(|(_, entry)| entry.clone()).collect(),
        }
    }
}

fn listed(prefix: Prefix, gone: &Gone) -> LostPrefix {
    LostPrefix {
        prefix: prefix.to_string(),
        node: gone.node.clone(),
        peers: gone.peers.iter().map(ToString::to_string).collect(),
        how: how(gone.how).to_owned(),
        deleted_by: gone.deleted_by(),
        gap_seconds: None,
    }
}

/// In words.
pub(super) const fn how(loss: RouteLoss) -> &'static str {
    match loss {
        RouteLoss::Deleted => "absent",
        RouteLoss::Silent => "absent, gone without an event of its own",
        RouteLoss::Unreachable => "replaced by unreachable",
        RouteLoss::Blackhole => "replaced by blackhole",
        RouteLoss::WorseRoute => "replaced by another route",
    }
}

/// Where rtnetlink is the source.
pub(super) const UNNAMED: &str = "somebody rtnetlink does not name";

/// Who removed a route of this owner's, where nobody is named. rtnetlink names nobody, and has no times
/// either.
pub(super) fn unnamed(at: Within, owner: &str) -> String {
    if at.earliest == at.latest {
        format!("a process nobody saw ({owner} owns them)")
    } else {
        format!("{UNNAMED} ({owner} owns them)")
    }
}

/// The word for an owner.
pub(super) fn owner_name(owner: RouteOwner) -> String {
    match owner {
        RouteOwner::Bird => "bird".to_owned(),
        RouteOwner::Felix => "felix".to_owned(),
        RouteOwner::Kernel => "kernel".to_owned(),
        RouteOwner::Other(protocol) => format!("protocol {}", protocol.0),
    }
}

//! What happens to the cluster's routes: lost, back, replaced, handed over, removed by somebody else,
//! fought over.
//!
//! A replacement by BIRD is a delete and an add, up to milliseconds apart. So the correlator is told of
//! every disappearance at once, but the user only of those that last, or of what came of them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    Fib, Span, World,
    hops::HopsId,
    join::Fate,
    messages::Messages,
    table::{Kept, WriterId},
    totals::writer_label,
};
use crate::{
    bgp::Prefix,
    change::RouteEvent,
    event::{
        Process,
        forwarding::{Protocol, RouteKind, RouteOp, RouteOrigin},
    },
    notice::{Notice, RouteLoss, RouteNotice, RouteOwner, RouteStep},
    time::Timestamp,
    turn::Turn,
};

/// A route that is back within this was replaced, not lost (DESIGN §3).
const MICRO_GAP: Duration = Duration::from_secs(1);
/// How much earlier the kernel's routes may be seen than the messages that changed them: what a peer
/// sends counts when it is acknowledged, which may take 40 ms.
const EARLY: Duration = Duration::from_millis(100);
/// How long a lost route is remembered for its return.
const REMEMBERED: Duration = Duration::from_mins(10);
/// BIRD looks at the kernel's routes every 2 s and puts back what somebody removed. What it replaces
/// itself is back sooner than the first of these.
const PUT_BACK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// A removal that follows another within this is one more round of a fight.
const ROUND: Duration = Duration::from_secs(5);
/// Rounds that make a fight.
const FIGHT: u32 = 3;
/// Prefixes whose fights are remembered.
const MAX_FIGHTS: usize = 4_096;

/// A prefix in a table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub table: u32,
    pub prefix: Prefix,
}

impl Place {
    /// Where a route is.
    pub const fn of(kept: &Kept) -> Self {
        Self {
            table: kept.id.table,
            prefix: kept.id.prefix,
        }
    }
}

/// What was done to a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub op: RouteOp,
    pub origin: RouteOrigin,
    pub writer: WriterId,
    pub span: Span,
}

/// What the preferred route of a prefix is to the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// There is none.
    Absent,
    /// A watched route that leads somewhere.
    Usable(Protocol, HopsId),
    /// A watched route that leads nowhere, because all its interfaces are down.
    Dead,
    /// It drops packets.
    Drops(RouteKind),
    /// Somebody else's.
    Foreign,
}

/// A watched route that leads nowhere at present.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub protocol: Protocol,
    /// Where it led; this is a use of it.
    pub hops: HopsId,
    pub writer: WriterId,
    pub span: Span,
    pub how: RouteLoss,
    pub origin: RouteOrigin,
    pub fate: Fate,
    /// The correlator knows.
    pub told: bool,
    /// It lasts: the user knows, or will.
    pub settled: bool,
}

impl Gap {
    /// A message may still explain it: it has not lasted, and nobody is known to have meant it.
    pub fn is_open(&self) -> bool {
        !self.settled && self.fate != Fate::Planned
    }

    /// A route that `act` left there, told as a gap is.
    const fn of_seen((protocol, hops): (Protocol, HopsId), act: Act) -> Self {
        Self {
            protocol,
            hops,
            writer: act.writer,
            span: act.span,
            how: RouteLoss::Deleted,
            origin: act.origin,
            fate: Fate::Unplanned,
            told: true,
            settled: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Fight {
    rounds: u32,
    last: Timestamp,
}

/// What is known of the watched routes beyond what they are.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub gaps: BTreeMap<Place, Gap>,
    /// Gaps to be told, to be settled, to be forgotten: when, where, and which.
    to_tell: VecDeque<(Timestamp, Place, Timestamp)>,
    to_settle: VecDeque<(Timestamp, Place, Timestamp)>,
    to_forget: VecDeque<(Timestamp, Place, Timestamp)>,
    fights: BTreeMap<Place, Fight>,
    pub messages: Messages,
}

impl Watch {
    /// When [`Fib::watch_due`] has something to do.
    pub fn due(&self) -> Option<Timestamp> {
        [&self.to_tell, &self.to_settle, &self.to_forget]
            .into_iter()
            .filter_map(|queue| queue.front().map(|(at, _, _)| *at))
            .min()
    }

    /// The next of a queue that is due, if its gap is still open.
    fn next(
        queue: &mut VecDeque<(Timestamp, Place, Timestamp)>,
        gaps: &BTreeMap<Place, Gap>,
        until: Timestamp,
    ) -> Option<Place> {
        while queue.front().is_some_and(|(at, _, _)| *at <= until) {
            let (_, place, opened) = queue.pop_front()?;
            if gaps
                .get(&place)
                .is_some_and(|gap| gap.span.latest == opened)
            {
                return Some(place);
            }
        }
        None
    }
}

impl Fib {
    /// What the preferred route of a prefix is.
    pub(super) fn standing(&self, place: Place) -> Standing {
        self.standing_of(self.mirror.best(place.table, place.prefix).as_ref())
    }

    /// What a preferred route is.
    pub(super) fn standing_of(&self, best: Option<&Kept>) -> Standing {
        let Some(best) = best else {
            return Standing::Absent;
        };
        if best.kind.drops() {
            return Standing::Drops(best.kind);
        }
        if best.kind != RouteKind::Unicast || !RouteOwner::of(best.protocol).is_watched() {
            return Standing::Foreign;
        }
        let alive = self
            .mirror
            .hops
            .get(best.hops)
            .is_some_and(|set| set.is_alive());
        if alive {
            Standing::Usable(best.protocol, best.hops)
        } else {
            Standing::Dead
        }
    }

    /// `act` was done to a route of `protocol`; `before` is how its prefix stood.
    pub(super) fn step(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        before: Standing,
        protocol: Protocol,
        act: Act,
    ) {
        let after = self.standing(place);
        self.step_to(turn, world, place, (before, after), protocol, act);
    }

    /// Likewise, with how it stands now.
    pub(super) fn step_to(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        (before, after): (Standing, Standing),
        protocol: Protocol,
        act: Act,
    ) {
        if !*self.known.get(place.prefix.address.is_ipv6()) {
            return;
        }
        match (before, after) {
            (Standing::Usable(owner, hops), Standing::Usable(new, now)) => {
                turn.totals.fib(world.node).count(act.op, new, act.origin);
                if (owner, hops) != (new, now) {
                    self.replaced(turn, world, place, (owner, hops), (new, now), act);
                }
            }
            (Standing::Usable(owner, hops), _) => {
                self.gone(turn, world, place, (owner, hops), after, act);
            }
            (_, Standing::Usable(owner, hops)) => {
                self.usable(turn, world, place, (owner, hops), act);
            }
            _ => turn
                .totals
                .fib(world.node)
                .count(act.op, protocol, act.origin),
        }
    }

    /// A watched prefix leads nowhere any more.
    fn gone(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        (protocol, hops): (Protocol, HopsId),
        after: Standing,
        act: Act,
    ) {
        let how = match after {
            Standing::Drops(RouteKind::Blackhole) => RouteLoss::Blackhole,
            Standing::Drops(_) => RouteLoss::Unreachable,
            Standing::Foreign => RouteLoss::WorseRoute,
            Standing::Absent if act.origin == RouteOrigin::Explicit => RouteLoss::Deleted,
            Standing::Absent | Standing::Dead | Standing::Usable(..) => RouteLoss::Silent,
        };
        let fate = match (how, RouteOwner::of(protocol)) {
            (RouteLoss::Deleted, RouteOwner::Bird) => {
                let withdrawn = self.withdrawn_by(place.prefix);
                world.fate(place.prefix, &self.hops(hops), withdrawn)
            }
            // Felix takes out what is not to be there, by no message that we could read.
            (RouteLoss::Deleted, _) if !self.is_foreign(act.writer) => Fate::Planned,
            // Perhaps this node's own from now on: what it tells its peers says so.
            (RouteLoss::Blackhole, RouteOwner::Bird) if self.is_own(world, place) => Fate::Planned,
            (RouteLoss::Blackhole, RouteOwner::Bird) => Fate::Early,
            _ => Fate::Unplanned,
        };
        self.mirror.hops.keep(hops);
        let gap = Gap {
            protocol,
            hops,
            writer: act.writer,
            span: act.span,
            how,
            origin: act.origin,
            fate,
            told: !matches!(fate, Fate::Early | Fate::Unread),
            settled: false,
        };
        if gap.told {
            self.tell_gap(turn, world, place, &gap);
        }
        if let Some(old) = self.watch.gaps.insert(place, gap) {
            self.mirror.hops.release(old.hops);
        }
        let opened = act.span.latest;
        let queue = (place, opened);
        let Watch {
            to_tell, to_settle, ..
        } = &mut self.watch;
        to_settle.push_back((opened.after(MICRO_GAP), queue.0, queue.1));
        if !gap.told {
            to_tell.push_back((opened.after(EARLY), queue.0, queue.1));
        }
        if how == RouteLoss::Deleted && self.is_foreign(act.writer) {
            self.foreign(turn, world, place, &gap, None);
        }
        self.measure_removal(turn, world, place.prefix, act.span);
    }

    /// The correlator is told that a gap is there.
    pub(super) fn tell_gone(&mut self, turn: &mut Turn<'_>, world: World<'_>, place: Place) {
        let Some(gap) = self.watch.gaps.get_mut(&place) else {
            return;
        };
        gap.told = true;
        let gap = *gap;
        self.tell_gap(turn, world, place, &gap);
    }

    /// A watched prefix leads somewhere: for the first time, or again.
    fn usable(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        (protocol, hops): (Protocol, HopsId),
        act: Act,
    ) {
        self.measure_programming(turn, world, place.prefix, act.span);
        let Some(gap) = self.watch.gaps.get(&place).copied() else {
            turn.totals
                .fib(world.node)
                .count(act.op, protocol, act.origin);
            let seen = Gap::of_seen((protocol, hops), act);
            self.gather(
                turn,
                world,
                place,
                &seen,
                (RouteEvent::Added, Duration::ZERO, None),
            );
            return;
        };
        if !gap.told {
            self.tell_gone(turn, world, place);
        }
        self.watch.gaps.remove(&place);
        let length = act.span.latest.since(gap.span.latest);
        turn.totals
            .fib(world.node)
            .observe_gap(gap.protocol, length);
        let event = if gap.settled {
            RouteEvent::Back
        } else if protocol == gap.protocol {
            RouteEvent::Replaced
        } else {
            RouteEvent::HandedOver
        };
        let op = if gap.settled {
            RouteOp::Added
        } else {
            RouteOp::Replaced
        };
        turn.totals.fib(world.node).count(op, protocol, act.origin);
        let put_back = PUT_BACK.0 <= length && length <= PUT_BACK.1;
        let unasked = gap.how == RouteLoss::Deleted && gap.fate == Fate::Early;
        if unasked && put_back && gap.writer == WriterId::default() {
            let keeper = self.writers.get(act.writer).cloned();
            self.foreign(turn, world, place, &gap, keeper);
        }
        let seen = Gap::of_seen((protocol, hops), act);
        self.gather(turn, world, place, &seen, (event, length, Some(gap.hops)));
        let step = RouteStep::Back { gap: length };
        let notice = self.notice(world, place, &seen, step);
        turn.notices.push(Notice::Route(notice));
        self.mirror.hops.release(gap.hops);
    }

    /// A watched prefix leads elsewhere, or is another's, without having led nowhere.
    fn replaced(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        old: (Protocol, HopsId),
        new: (Protocol, HopsId),
        act: Act,
    ) {
        self.measure_programming(turn, world, place.prefix, act.span);
        let event = if old.0 == new.0 {
            RouteEvent::Replaced
        } else {
            RouteEvent::HandedOver
        };
        let seen = Gap::of_seen(new, act);
        self.gather(
            turn,
            world,
            place,
            &seen,
            (event, Duration::ZERO, Some(old.1)),
        );
    }

    /// Whether a writer is known and neither of those who keep the cluster's routes.
    fn is_foreign(&self, writer: WriterId) -> bool {
        let process = self.writers.get(writer);
        process.is_some() && !matches!(writer_label(process), "bird" | "felix")
    }

    /// Somebody removed a route that is not theirs.
    fn foreign(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        gap: &Gap,
        keeper: Option<Process>,
    ) {
        let writer = self.writers.get(gap.writer);
        turn.totals.fib(world.node).count_foreign(writer);
        let notice = self.notice(world, place, gap, RouteStep::Foreign);
        if self.watch.fights.len() >= MAX_FIGHTS {
            self.watch.fights.clear();
        }
        let at = gap.span.latest;
        let fight = self.watch.fights.entry(place).or_insert(Fight {
            rounds: 0,
            last: at,
        });
        if at.since(fight.last) > ROUND {
            fight.rounds = 0;
        }
        fight.rounds = fight.rounds.saturating_add(1);
        fight.last = at;
        let rounds = fight.rounds;
        // The first is told as what it is, a fight when it is one and at each doubling.
        if rounds == 1 {
            turn.notices.push(Notice::Route(notice));
        } else if rounds.is_multiple_of(FIGHT) && (rounds / FIGHT).is_power_of_two() {
            let owner = keeper.or_else(|| self.writers.get(self.keeper(place)).cloned());
            let step = RouteStep::Fight { rounds, owner };
            turn.notices
                .push(Notice::Route(RouteNotice { step, ..notice }));
        }
    }

    /// Who wrote the route that is there.
    fn keeper(&self, place: Place) -> WriterId {
        let best = self.mirror.best(place.table, place.prefix);
        best.map(|best| best.writer).unwrap_or_default()
    }

    /// Tells and forgets what is due.
    pub(super) fn watch_due(&mut self, turn: &mut Turn<'_>, world: World<'_>) {
        let now = turn.now;
        self.watch.messages.forget(now);
        while let Some(place) = Watch::next(&mut self.watch.to_tell, &self.watch.gaps, now) {
            if self.watch.gaps.get(&place).is_some_and(|gap| gap.told) {
                continue;
            }
            self.judge_again(world, place);
            if !self.await_own(world, place, now) {
                self.tell_untold(turn, world, place);
            }
        }
        while let Some(place) = Watch::next(&mut self.watch.to_settle, &self.watch.gaps, now) {
            self.settle(turn, world, place);
        }
        while let Some(place) = Watch::next(&mut self.watch.to_forget, &self.watch.gaps, now) {
            self.forget(place);
        }
    }

    fn tell_untold(&mut self, turn: &mut Turn<'_>, world: World<'_>, place: Place) {
        let untold = self.watch.gaps.get(&place).is_some_and(|gap| !gap.told);
        if untold {
            self.tell_gone(turn, world, place);
        }
    }

    /// Whether a prefix is this node's own now: it announces it and drops what no longer route matches, as
    /// Calico's BIRD does with blocks and service addresses.
    fn is_own(&self, world: World<'_>, place: Place) -> bool {
        let drops = Standing::Drops(RouteKind::Blackhole);
        self.standing(place) == drops && world.announces(place.prefix)
    }

    /// Whether a prefix may turn out to be this node's own, because its routes drop what they match by now:
    /// then that it announces it is waited for, as long as a gap may last.
    fn await_own(&mut self, world: World<'_>, place: Place, now: Timestamp) -> bool {
        let drops = self.standing(place) == Standing::Drops(RouteKind::Blackhole);
        if !drops || self.is_own(world, place) {
            return false;
        }
        let gap = self.watch.gaps.get(&place).filter(|gap| !gap.told);
        let Some(opened) = gap.map(|gap| gap.span.latest) else {
            return false;
        };
        let again = now.after(EARLY);
        let young = again < opened.after(MICRO_GAP);
        if young {
            self.watch.to_tell.push_back((again, place, opened));
        }
        young
    }

    /// The messages that belong to a deletion have had their time, or one more has come.
    pub(super) fn judge_again(&mut self, world: World<'_>, place: Place) {
        let Some(gap) = self.watch.gaps.get(&place).filter(|gap| gap.is_open()) else {
            return;
        };
        let withdrawn = self.withdrawn_by(place.prefix);
        let fate = if self.is_own(world, place) {
            Fate::Planned
        } else if gap.how == RouteLoss::Deleted {
            world.fate(place.prefix, &self.hops(gap.hops), withdrawn)
        } else {
            Fate::Unplanned
        };
        if let Some(gap) = self.watch.gaps.get_mut(&place) {
            gap.fate = fate;
        }
    }

    /// A gap lasts longer than a replacement.
    fn settle(&mut self, turn: &mut Turn<'_>, world: World<'_>, place: Place) {
        self.tell_untold(turn, world, place);
        let own = self.is_own(world, place);
        let Some(gap) = self.watch.gaps.get_mut(&place) else {
            return;
        };
        gap.settled = true;
        if own && gap.fate != Fate::Planned {
            gap.fate = Fate::Planned;
            // It was told before that was known.
            self.tell_gone(turn, world, place);
        }
        let Some(gap) = self.watch.gaps.get(&place) else {
            return;
        };
        let gap = *gap;
        let totals = turn.totals.fib(world.node);
        totals.count(RouteOp::Removed, gap.protocol, gap.origin);
        let event = if own {
            RouteEvent::TakenOver
        } else {
            RouteEvent::of(gap.how, gap.fate == Fate::Planned)
        };
        self.gather(turn, world, place, &gap, (event, Duration::ZERO, None));
        if gap.fate == Fate::Planned {
            // What comes back later is a new route.
            self.forget(place);
        } else {
            let opened = gap.span.latest;
            self.watch
                .to_forget
                .push_back((opened.after(REMEMBERED), place, opened));
        }
    }

    /// Nothing more will come: whatever is open lasts.
    pub(super) fn settle_all(&mut self, turn: &mut Turn<'_>, world: World<'_>) {
        let open: Vec<Place> = { self.watch.gaps.iter() }
            .filter(|(_, gap)| !gap.settled)
            .map(|(place, _)| *place)
            .collect();
        for place in open {
            self.settle(turn, world, place);
        }
    }

    fn forget(&mut self, place: Place) {
        if let Some(gap) = self.watch.gaps.remove(&place) {
            self.mirror.hops.release(gap.hops);
        }
    }
}

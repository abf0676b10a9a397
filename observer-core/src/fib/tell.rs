//! How what happens to routes is told: to the correlator one by one, to users many as one change.

use std::time::Duration;

use super::{
    Fib, World,
    burst::One,
    hops::HopsId,
    join::Fate,
    watch::{Gap, Place},
};
use crate::{
    change::RouteEvent,
    notice::{FOLLOWED, Notice, RouteNotice, RouteOwner, RouteStep},
    turn::Turn,
};

impl Fib {
    /// The correlator is told of a gap.
    pub(super) fn tell_gap(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        gap: &Gap,
    ) {
        let step = RouteStep::Gone {
            how: gap.how,
            planned: gap.fate == Fate::Planned,
        };
        if turn.notices.len() >= FOLLOWED
            && let Some(Notice::Route(last)) = turn.notices.last_mut()
            && gap.fate != Fate::Planned
            && (last.netns, &last.step) == (self.netns, &step)
            && (last.owner, last.latest) == (RouteOwner::of(gap.protocol), gap.span.latest)
            && last.writer.as_ref() == self.writers.get(gap.writer)
            && self.told == Some(gap.hops)
        {
            last.more += 1;
            return;
        }
        self.told = Some(gap.hops);
        let notice = self.notice(world, place, gap, step);
        turn.notices.push(Notice::Route(notice));
    }

    /// What the correlator is told of a route that is gone, or there.
    pub(super) fn notice(
        &self,
        world: World<'_>,
        place: Place,
        gap: &Gap,
        step: RouteStep,
    ) -> RouteNotice {
        RouteNotice {
            netns: self.netns,
            prefix: place.prefix,
            earliest: gap.span.earliest,
            latest: gap.span.latest,
            owner: RouteOwner::of(gap.protocol),
            peers: world.peers_of(place.prefix, &self.hops(gap.hops)),
            writer: self.writers.get(gap.writer).cloned(),
            step,
            more: 0,
        }
    }

    /// `event` happened to a route: what happens to others soon is told with it. A route that is back
    /// was gone for `length`; one that was replaced, or is back, led by `former` before.
    pub(super) fn gather(
        &mut self,
        turn: &Turn<'_>,
        world: World<'_>,
        place: Place,
        gap: &Gap,
        (event, length, former): (RouteEvent, Duration, Option<HopsId>),
    ) {
        let hops = self.hops(gap.hops);
        let former = former.map(|id| self.hops(id)).unwrap_or_default();
        let one = One {
            event,
            owner: RouteOwner::of(gap.protocol),
            writer: self.writers.get(gap.writer),
            span: gap.span,
            gap: length,
        };
        let burst = self.bursts.add(turn.now, one);
        if burst.is_named(&hops, &former) {
            return;
        }
        let peers = world.peers_of(place.prefix, &hops);
        burst.name(place.prefix, &peers, hops, former);
    }
}

//! Routes that a dump did not show: with a link hundreds of thousands go at once, and the mirror is to
//! follow within the second.

use super::{
    Fib, Span, World,
    hops::HopsId,
    table::{Kept, WriterId},
    watch::{Act, Place},
};
use crate::{
    event::forwarding::{NextHop, RouteOp, RouteOrigin},
    turn::Turn,
};

impl Fib {
    /// All routes of a family that the dump did not show are gone, somewhere in `span`.
    pub(super) fn vanish(&mut self, turn: &mut Turn<'_>, world: World<'_>, ipv6: bool, span: Span) {
        let gone = self.mirror.take_unshown(ipv6);
        let same_place = |one: &Kept, other: &Kept| Place::of(one) == Place::of(other);
        // Those that share their hops went for the same reason.
        let mut judged: Option<(HopsId, RouteOrigin)> = None;
        for routes in gone.chunk_by(same_place) {
            let Some(first) = routes.first() else {
                continue;
            };
            let origin = match judged {
                Some((hops, origin)) if hops == first.hops => origin,
                Some(_) | None => self.origin_of(first),
            };
            judged = Some((first.hops, origin));
            let act = Act {
                op: RouteOp::Removed,
                origin,
                writer: WriterId::default(),
                span,
            };
            self.leave(turn, world, routes, first, act);
        }
        self.release(&gone);
    }

    /// `routes`, all of one place and `first` the preferred among them, are gone from the mirror.
    fn leave(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        routes: &[Kept],
        first: &Kept,
        act: Act,
    ) {
        let place = Place::of(first);
        let left = self.mirror.best(place.table, place.prefix);
        let after = self.standing_of(left.as_ref());
        // The kernel used the first of all, which may be one that is left.
        let used = left.as_ref().filter(|left| left.id < first.id);
        let before = self.standing_of(Some(used.unwrap_or(first)));
        self.step_to(turn, world, place, (before, after), first.protocol, act);
        // The prefix's fate is one; the others are counted.
        for other in routes.iter().skip(1) {
            let origin = self.origin_of(other);
            let totals = turn.totals.fib(world.node);
            totals.count(RouteOp::Removed, other.protocol, origin);
        }
    }

    /// By whose will a route went that is not there any more: nobody's, if what it hung on is gone.
    fn origin_of(&self, missing: &Kept) -> RouteOrigin {
        let Some(set) = self.mirror.hops.get(missing.hops) else {
            return RouteOrigin::Explicit;
        };
        let ipv4 = missing.id.prefix.address.is_ipv4();
        let lame = |hop: &NextHop| {
            let up = self.links.get(&hop.interface).is_some_and(|link| link.up);
            let mut addresses = self.addresses.iter();
            !up || !addresses.any(|(of, on, _)| *of == hop.interface && on.is_ipv4() == ipv4)
        };
        if set.object.is_some() || set.hops.iter().any(lame) {
            RouteOrigin::Silent
        } else {
            RouteOrigin::Explicit
        }
    }
}

//! What peers said about prefixes just now, that the kernel's routes may still have to follow, and how
//! long they took.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    Fib, Span, World,
    join::Fate,
    watch::{Gap, Place, Standing},
};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    event::forwarding::{RouteSource, TABLE_MAIN},
    time::Timestamp,
    turn::Turn,
};

/// Withdrawals and announcements are remembered this long, and so many of them.
const MESSAGES_FOR: Duration = Duration::from_secs(10);
const MAX_MESSAGES: usize = 65_536;

/// A message about a prefix that the kernel's routes may still have to follow.
#[derive(Clone, Copy, Debug)]
struct Message {
    peer: PeerAddress,
    at: Timestamp,
    withdrawn: bool,
}

/// Those that are remembered.
#[derive(Debug, Default)]
pub(super) struct Messages {
    known: BTreeMap<Prefix, Message>,
    order: VecDeque<(Timestamp, Prefix)>,
    /// Of peers that are forgotten too: they are few.
    pub lasts: BTreeMap<PeerAddress, Lasts>,
}

/// How long the kernel's routes took to follow a peer, the latest of each; with rtnetlink as the source
/// until they were noticed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Lasts {
    /// From an UPDATE that announces.
    pub announce: Option<Duration>,
    /// From one that withdraws.
    pub withdraw: Option<Duration>,
    /// From the session's end.
    pub down: Option<Duration>,
}

impl Messages {
    fn add(&mut self, prefix: Prefix, message: Message) {
        self.known.insert(prefix, message);
        self.order.push_back((message.at, prefix));
    }

    /// Old ones go.
    pub(super) fn forget(&mut self, now: Timestamp) {
        while let Some((at, prefix)) = self.order.front().copied() {
            let many = self.order.len() > MAX_MESSAGES;
            if !many && now.since(at) < MESSAGES_FOR {
                break;
            }
            self.order.pop_front();
            if self.known.get(&prefix).is_some_and(|old| old.at == at) {
                self.known.remove(&prefix);
            }
        }
    }
}

impl Fib {
    /// Who withdrew `prefix` just now, if somebody did.
    pub(super) fn withdrawn_by(&self, prefix: Prefix) -> Option<PeerAddress> {
        let message = self.watch.messages.known.get(&prefix);
        message.filter(|told| told.withdrawn).map(|told| told.peer)
    }

    /// When `prefix` was announced, if that was just now.
    pub(super) fn announced_at(&self, prefix: Prefix) -> Option<Timestamp> {
        let message = self.watch.messages.known.get(&prefix);
        message.filter(|told| !told.withdrawn).map(|told| told.at)
    }

    /// `peer` announced or withdrew `prefix` in a message that arrived at `at` and that this node took
    /// just now. Its speaker may have acted on it meanwhile.
    pub(super) fn hear(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        (peer, at): (PeerAddress, Timestamp),
        prefix: Prefix,
        withdrawn: bool,
    ) {
        self.expect(turn);
        self.watch.messages.forget(turn.now);
        let message = Message {
            peer,
            at,
            withdrawn,
        };
        self.watch.messages.add(prefix, message);
        let place = Place {
            table: TABLE_MAIN,
            prefix,
        };
        self.measure_before(turn, world, place, message);
        // Told already, where it was acknowledged late (TCP may take 200 ms) or read late: a gap that has
        // not lasted is no loss yet.
        if withdrawn && self.watch.gaps.get(&place).is_some_and(Gap::is_open) {
            self.judge_again(world, place);
            let planned = |gap: &Gap| gap.fate == Fate::Planned;
            if self.watch.gaps.get(&place).is_some_and(planned) {
                self.tell_gone(turn, world, place);
            }
        }
    }

    /// What a message asked for may be done before it counts: it arrives up to 40 ms before it is
    /// acknowledged.
    fn measure_before(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        place: Place,
        message: Message,
    ) {
        let done = if message.withdrawn {
            let gap = self.watch.gaps.get(&place);
            gap.map(|gap| gap.span)
        } else if let Standing::Usable(..) = self.standing(place) {
            let best = self.mirror.best(place.table, place.prefix);
            best.map(|best| Span {
                earliest: best.since,
                latest: best.since,
            })
        } else {
            None
        };
        let Some(span) = done.filter(|span| span.latest >= message.at) else {
            return;
        };
        let exact = turn.exact;
        turn.exact &= self.followed == Some(RouteSource::Probe);
        if message.withdrawn {
            self.measure_removal(turn, world, place.prefix, span);
        } else {
            self.measure_programming(turn, world, place.prefix, span);
        }
        turn.exact = exact;
    }

    /// A route that an announcement asked for is there.
    pub(super) fn measure_programming(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        prefix: Prefix,
        span: Span,
    ) {
        let told = self.watch.messages.known.get(&prefix).copied();
        let Some(message) = told.filter(|told| !told.withdrawn) else {
            return;
        };
        self.watch.messages.known.remove(&prefix);
        let took = span.latest.since(message.at);
        self.watch
            .messages
            .lasts
            .entry(message.peer)
            .or_default()
            .announce = Some(took);
        if turn.exact {
            turn.totals.fib(world.node).update_to_fib.observe(took);
        }
    }

    /// A route that a withdrawal, or a session's end, asked to go is gone.
    pub(super) fn measure_removal(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        prefix: Prefix,
        span: Span,
    ) {
        let told = self.watch.messages.known.get(&prefix).copied();
        if let Some(message) = told.filter(|told| told.withdrawn) {
            let took = span.latest.since(message.at);
            self.watch
                .messages
                .lasts
                .entry(message.peer)
                .or_default()
                .withdraw = Some(took);
            if turn.exact {
                turn.totals.fib(world.node).withdraw_to_fib.observe(took);
            }
            return;
        }
        // Few are down: whether one announced it is asked of these only.
        for (address, peer) in world.candidates(prefix) {
            let down = peer.session.down.filter(|_| !peer.session.is_up());
            let Some(down) = down.and_then(|down| down.at) else {
                continue;
            };
            if !peer.exchange.rib.has_prefix(prefix) {
                continue;
            }
            let took = span.latest.since(down);
            self.watch.messages.lasts.entry(address).or_default().down = Some(took);
            if turn.exact {
                turn.totals.fib(world.node).down_to_withdraw.observe(took);
            }
        }
    }
}

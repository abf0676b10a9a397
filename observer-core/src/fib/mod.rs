//! A node's forwarding as the kernel has it: the mirror of its routes, and what they hang on.
//!
//! Here facts become a mirror. What changes mean for the cluster's routes is in `watch`, whose sessions
//! they hang on in `join`, how many become one change in `burst`. Only routes of BIRD and Felix make
//! changes and notices; all others are mirrored and counted.
//!
//! rtnetlink does not tell of every removal. Where something that routes hang on goes, the kernel's
//! routes are asked for again, and what is missing was removed silently, between the moment before that
//! and the dump.

mod at_node;
mod burst;
mod hops;
mod join;
mod links;
mod messages;
mod settled;
mod table;
mod tell;
pub mod totals;
mod unprogrammed;
mod vanish;
mod view;
mod watch;
mod writers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub(crate) use join::World;
pub(crate) use settled::Programmed;
pub(crate) use unprogrammed::RECOVERY;
pub(crate) use view::{Clocks, path};

use self::{
    burst::Bursts,
    hops::{HopSet, HopsId},
    table::{Kept, Mirror, RouteId, WriterId},
    unprogrammed::Silent,
    watch::{Act, Place, Watch},
    writers::Writers,
};
use crate::{
    address::PeerAddress,
    change::Request,
    deadline::Due,
    event::{
        NetnsId,
        forwarding::{
            Forwarding, NeighbourState, NextHop, Route, RouteChange, RouteOp, RouteOrigin,
            RouteSource, Rule,
        },
    },
    time::Timestamp,
    turn::Turn,
};

/// Addresses, links and neighbours that are remembered, each.
const MAX_SURROUNDINGS: usize = 65_536;

/// When something happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span {
    pub earliest: Timestamp,
    pub latest: Timestamp,
}

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Link {
    pub name: String,
    pub up: bool,
    pub carrier: bool,
    pub master: Option<u32>,
    /// Of a VRF: its table.
    pub vrf: Option<u32>,
}

/// A dump of a family's routes that goes on.
#[derive(Debug)]
struct Dump {
    ipv6: bool,
    since: Timestamp,
    /// Removed since it began; it may show them all the same.
    removed: BTreeSet<RouteId>,
}

/// One thing for each family.
#[derive(Clone, Copy, Debug, Default)]
struct ByFamily<T> {
    v4: T,
    v6: T,
}

impl<T> ByFamily<T> {
    const fn of(&mut self, ipv6: bool) -> &mut T {
        if ipv6 { &mut self.v6 } else { &mut self.v4 }
    }
}

/// One node's forwarding.
#[derive(Debug)]
pub(crate) struct Fib {
    netns: NetnsId,
    mirror: Mirror,
    writers: Writers,
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr, u8)>,
    neighbours: BTreeMap<(u32, IpAddr), NeighbourState>,
    /// Known peers on a link that do not answer for their link-layer address.
    unresolved: BTreeSet<PeerAddress>,
    rules: ByFamily<Vec<Rule>>,
    followed: Option<RouteSource>,
    dump: Option<Dump>,
    /// IPv4 routes with others behind them that are known by the same: the mirror has the first, which
    /// the kernel uses.
    doubled: BTreeSet<RouteId>,
    /// All routes of the family were seen once.
    known: ByFamily<bool>,
    /// A dump was asked for and has not begun.
    asked: ByFamily<bool>,
    watch: Watch,
    bursts: Bursts,
    /// Where the gap led that the correlator was told of last.
    told: Option<HopsId>,
    silent: Silent,
}

impl<T> ByFamily<T> {
    const fn get(&self, ipv6: bool) -> &T {
        if ipv6 { &self.v6 } else { &self.v4 }
    }
}

impl Fib {
    pub fn new(netns: NetnsId) -> Self {
        Self {
            netns,
            mirror: Mirror::default(),
            writers: Writers::default(),
            links: BTreeMap::new(),
            addresses: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            unresolved: BTreeSet::new(),
            rules: ByFamily::default(),
            followed: None,
            dump: None,
            doubled: BTreeSet::new(),
            known: ByFamily::default(),
            asked: ByFamily::default(),
            watch: Watch::default(),
            bursts: Bursts::default(),
            told: None,
            silent: Silent::default(),
        }
    }

    fn take_in(&mut self, turn: &mut Turn<'_>, world: World<'_>, told: &Forwarding) {
        let span = Span {
            earliest: turn.earliest,
            latest: turn.at,
        };
        match told {
            Forwarding::Followed { by } => self.followed = Some(*by),
            Forwarding::Changed { source, changes } => {
                // On its way still when another source took over.
                if self.followed.is_some_and(|followed| followed != *source) {
                    return;
                }
                for change in changes {
                    self.change(turn, world, change, span);
                }
            }
            Forwarding::DumpBegun { ipv6, since } => {
                self.mirror.hide(*ipv6);
                *self.asked.of(*ipv6) = false;
                self.doubled
                    .retain(|id| id.prefix.address.is_ipv6() != *ipv6);
                self.dump = Some(Dump {
                    ipv6: *ipv6,
                    since: *since,
                    removed: BTreeSet::new(),
                });
            }
            Forwarding::Dumped { routes } => {
                for route in routes {
                    self.compare(turn, world, route);
                }
            }
            Forwarding::DumpEnded { complete } => self.end_dump(turn, world, *complete),
            Forwarding::Link {
                interface,
                name,
                up,
                carrier,
                master,
                vrf,
            } => {
                let link = Link {
                    name: name.clone(),
                    up: *up,
                    carrier: *carrier,
                    master: *master,
                    vrf: *vrf,
                };
                self.link_told(turn, world, *interface, link, span);
            }
            Forwarding::LinkGone { interface } => self.link_gone(turn, world, *interface, span),
            Forwarding::Address {
                interface,
                address,
                length,
                gone,
            } => {
                let key = (*interface, *address, *length);
                if !*gone {
                    if self.addresses.len() < MAX_SURROUNDINGS {
                        self.addresses.insert(key);
                    }
                } else if self.addresses.remove(&key) {
                    self.suspect_interface(turn, *interface);
                }
            }
            Forwarding::NextHopObject { id, .. } => {
                if self.mirror.hops.any(|set| set.object == Some(*id)) {
                    self.suspect(turn, false);
                    self.suspect(turn, true);
                }
            }
            Forwarding::Neighbour {
                interface,
                address,
                state,
            } => self.neighbour_told(turn, world, (*interface, *address), *state, span),
            Forwarding::Rules { ipv6, rules } => self.rules.of(*ipv6).clone_from(rules),
        }
    }

    /// Routes over `interface` may have gone, or changed, without a word.
    fn suspect_interface(&mut self, turn: &mut Turn<'_>, interface: u32) {
        let uses = |hop: &NextHop| hop.interface == interface;
        if self.mirror.hops.any(|set| set.hops.iter().any(uses)) {
            self.suspect(turn, false);
            self.suspect(turn, true);
        }
    }

    /// Events were lost: anything may have changed.
    pub fn suspect_all(&mut self, turn: &mut Turn<'_>) {
        self.suspect(turn, false);
        self.suspect(turn, true);
    }

    fn suspect(&mut self, turn: &mut Turn<'_>, ipv6: bool) {
        // Before the first dump there is nothing that could be missed.
        if *self.known.get(ipv6) && !std::mem::replace(self.asked.of(ipv6), true) {
            let (netns, since) = (self.netns, turn.earliest);
            turn.ask(Request::DumpRoutes { netns, ipv6, since });
        }
    }

    fn change(&mut self, turn: &mut Turn<'_>, world: World<'_>, change: &RouteChange, span: Span) {
        let RouteChange {
            op,
            origin,
            writer,
            route,
        } = change;
        let act = Act {
            op: *op,
            origin: *origin,
            writer: self.writers.id(writer.as_ref()),
            span,
        };
        match op {
            RouteOp::Removed if self.is_another(turn, route) => {}
            RouteOp::Removed => self.remove(turn, world, route, act),
            RouteOp::Appended if self.mirror.get(&RouteId::of(route)).is_some() => {
                self.double(RouteId::of(route));
            }
            RouteOp::Added | RouteOp::Appended | RouteOp::Replaced => {
                self.write(turn, world, route, act);
            }
        }
    }

    /// There is one more route that is known by `id`.
    fn double(&mut self, id: RouteId) {
        if id.prefix.address.is_ipv4() && self.doubled.len() < MAX_SURROUNDINGS {
            self.doubled.insert(id);
        }
    }

    /// Whether `route`, which is removed, is not the one that the mirror has but one behind it. If it is
    /// the mirror's, a dump will show which one takes its place.
    fn is_another(&mut self, turn: &mut Turn<'_>, route: &Route) -> bool {
        let id = RouteId::of(route);
        if !self.doubled.contains(&id) {
            return false;
        }
        let Some(kept) = self.mirror.get(&id) else {
            return false;
        };
        let hops = self.hops(kept.hops);
        if kept.protocol != route.protocol || hops.hops != route.next_hops {
            return true;
        }
        self.suspect(turn, false);
        false
    }

    /// A dump shows `route`.
    fn compare(&mut self, turn: &mut Turn<'_>, world: World<'_>, route: &Route) {
        let Some(dump) = &self.dump else {
            return;
        };
        let id = RouteId::of(route);
        // It changed since the dump began, and the change is the newer …
        if dump.removed.contains(&id) {
            return;
        }
        // … or this is one more that is known by the same, and the kernel uses the first.
        if self.mirror.show(&id) {
            self.double(id);
            return;
        }
        let act = Act {
            op: RouteOp::Added,
            origin: RouteOrigin::Explicit,
            writer: WriterId::default(),
            span: Span {
                earliest: dump.since,
                latest: turn.at,
            },
        };
        self.write(turn, world, route, act);
    }

    fn end_dump(&mut self, turn: &mut Turn<'_>, world: World<'_>, complete: bool) {
        let Some(dump) = self.dump.take() else {
            return;
        };
        if !complete {
            return;
        }
        let span = Span {
            earliest: dump.since,
            latest: turn.at,
        };
        self.vanish(turn, world, dump.ipv6, span);
        let known = self.known.of(dump.ipv6);
        if std::mem::replace(known, true) {
            turn.totals.fib(world.node).resyncs += 1;
        }
    }

    fn write(&mut self, turn: &mut Turn<'_>, world: World<'_>, route: &Route, mut act: Act) {
        let place = Place {
            table: route.table,
            prefix: route.prefix,
        };
        let before = self.standing(place);
        let id = RouteId::of(route);
        let mut old: Vec<Kept> = Vec::new();
        if act.op == RouteOp::Replaced {
            // What it replaces may be attached to another interface.
            let twins = self.mirror.of_prefix(place.table, place.prefix);
            let twins = twins
                .iter()
                .map(|twin| twin.id)
                .filter(|twin| *twin != id && (twin.tos, twin.metric) == (route.tos, route.metric));
            let twins: Vec<RouteId> = twins.collect();
            old.extend(twins.iter().filter_map(|twin| self.mirror.remove(twin)));
        }
        let replaced = self.mirror.set(route, act.span.latest, act.writer);
        let mut same = false;
        if let Some(replaced) = replaced {
            same = old.is_empty() && self.restore_if_same(&replaced, act.writer);
            old.push(replaced);
        }
        if !same {
            act.op = if old.is_empty() {
                RouteOp::Added
            } else {
                RouteOp::Replaced
            };
            self.step(turn, world, place, before, route.protocol, act);
        }
        self.release(&old);
    }

    /// What was written is what was there: it is as old as before.
    fn restore_if_same(&mut self, old: &Kept, writer: WriterId) -> bool {
        let Some(now) = self.mirror.get(&old.id) else {
            return false;
        };
        let same = (now.hops, now.protocol, now.kind) == (old.hops, old.protocol, old.kind);
        if same {
            let writer = if writer == WriterId::default() {
                old.writer
            } else {
                writer
            };
            self.mirror.put(&Kept { writer, ..*old });
        }
        same
    }

    /// Removes `route`, or with IPv6 those hops of it that are told.
    fn remove(&mut self, turn: &mut Turn<'_>, world: World<'_>, route: &Route, act: Act) {
        let id = RouteId::of(route);
        let kept = self.mirror.get(&id);
        let set = kept.and_then(|kept| self.mirror.hops.get(kept.hops));
        if let (Some(kept), Some(set)) = (kept, set)
            && route.prefix.address.is_ipv6()
        {
            let removed = |hop: &&NextHop| {
                let same =
                    |gone: &NextHop| (gone.gateway, gone.interface) == (hop.gateway, hop.interface);
                route.next_hops.iter().any(same)
            };
            let left: Vec<NextHop> = set
                .hops
                .iter()
                .filter(|hop| !removed(hop))
                .copied()
                .collect();
            if !left.is_empty() && left.len() < set.hops.len() {
                let rest = Route {
                    kind: kept.kind,
                    protocol: kept.protocol,
                    object: set.object,
                    next_hops: left,
                    ..route.clone()
                };
                self.write(turn, world, &rest, act);
                return;
            }
        }
        self.take_out(turn, world, id, act);
    }

    fn take_out(&mut self, turn: &mut Turn<'_>, world: World<'_>, id: RouteId, act: Act) {
        if let Some(dump) = &mut self.dump
            && dump.ipv6 == id.prefix.address.is_ipv6()
        {
            dump.removed.insert(id);
        }
        let place = Place {
            table: id.table,
            prefix: id.prefix,
        };
        let before = self.standing(place);
        if let Some(old) = self.mirror.remove(&id) {
            self.step(turn, world, place, before, old.protocol, act);
            self.release(&[old]);
        }
    }

    fn release(&mut self, old: &[Kept]) {
        for kept in old {
            self.mirror.hops.release(kept.hops);
        }
    }

    fn tear_down(&mut self, turn: &mut Turn<'_>, world: World<'_>) {
        let all: Vec<RouteId> = self.mirror.routes(None).map(|kept| kept.id).collect();
        let act = Act {
            op: RouteOp::Removed,
            origin: RouteOrigin::Teardown,
            writer: WriterId::default(),
            span: Span {
                earliest: turn.earliest,
                latest: turn.at,
            },
        };
        for id in all {
            self.take_out(turn, world, id, act);
        }
        self.settle_all(turn, world);
        self.bursts.flush(turn, world.node, true);
    }

    fn hops(&self, id: HopsId) -> Arc<HopSet> {
        self.mirror.hops.get(id).map(Arc::clone).unwrap_or_default()
    }

    fn set_deadline(&self, turn: &mut Turn<'_>) {
        let due = [self.watch.due(), self.bursts.due(), self.silent.due()];
        if let Some(at) = due.into_iter().flatten().min() {
            turn.deadlines.hasten(Due::Fib(self.netns), at);
        }
    }

    /// Does what is due; `programs` is whether the local speaker may program routes at all.
    fn run_due(&mut self, turn: &mut Turn<'_>, world: World<'_>, programs: bool) {
        self.watch_due(turn, world);
        self.look_for_silence(turn, world, programs);
        self.bursts.flush(turn, world.node, false);
    }
}

//! Routes and paths for users.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{Fib, World, hops::HopSet, join::Fate, table::Kept, watch::Gap};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    event::{
        NetnsId,
        forwarding::{NextHop, Protocol, RouteKind, TABLE_MAIN},
    },
    node::Node,
    notice::RouteOwner,
    route_view::{
        FibView, HopView, LatencyView, LegView, PathHopView, PathPeerView, PathView, RouteCount,
        RouteFilter, RouteState, RouteView, RoutesView,
    },
    time::{Timestamp, WallOffset},
};

/// Nodes that a path goes through at most.
const MAX_LEGS: usize = 8;
/// Tables that a packet without marks looks in where no rules were told: local, main, default.
const USUAL_TABLES: [u32; 3] = [255, TABLE_MAIN, 253];

/// What a view is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub now: Timestamp,
    pub wall: WallOffset,
}

impl Fib {
    /// Whether routes are followed, and all of a family were seen once.
    pub const fn is_observed(&self) -> bool {
        self.followed.is_some() && (self.known.v4 || self.known.v6)
    }
}

impl Node {
    fn world(&self) -> World<'_> {
        World {
            node: &self.name,
            peers: &self.peers,
            announcers: &self.announcers,
            connections: &self.connections,
        }
    }

    /// Appends the routes that `filter` wants.
    pub fn routes(&self, clocks: Clocks, filter: &RouteFilter, out: &mut RoutesView) {
        out.nodes.push(self.fib_view(clocks));
        let world = self.world();
        for kept in self.fib.mirror.routes(None) {
            if !wanted(filter, &kept) {
                continue;
            }
            let view = self.fib.route_view(world, clocks, &kept);
            if !push(out, filter, &self.fib, world, view, kept.id.prefix) {
                return;
            }
        }
        self.missing(clocks, filter, out);
    }

    /// Appends what is announced or was there, and is not there.
    fn missing(&self, clocks: Clocks, filter: &RouteFilter, out: &mut RoutesView) {
        if filter.owner.is_some_and(|owner| owner != Protocol::BIRD) {
            return;
        }
        let world = self.world();
        let mut seen = BTreeSet::new();
        let lost = self.fib.lost(world, clocks);
        for (prefix, view) in lost {
            seen.insert(prefix);
            if matches(filter, prefix) && !push(out, filter, &self.fib, world, view, prefix) {
                return;
            }
        }
        for (address, peer) in &self.peers {
            if !world.is_up(*address) {
                continue;
            }
            for prefix in peer.exchange.rib.unicast() {
                if !matches(filter, prefix) || !self.fib.is_missing(clocks.now, prefix) {
                    continue;
                }
                if !seen.insert(prefix) {
                    continue;
                }
                let view = RouteView {
                    node: self.name.clone(),
                    prefix: prefix.to_string(),
                    state: RouteState::Missing,
                    table: TABLE_MAIN,
                    kind: None,
                    owner: None,
                    metric: None,
                    next_hops: Vec::new(),
                    since: None,
                    writer: None,
                    announced_by: names(world.announcers(prefix)),
                };
                if !push(out, filter, &self.fib, world, view, prefix) {
                    return;
                }
            }
        }
    }

    /// How its forwarding does as a whole.
    pub fn fib_view(&self, clocks: Clocks) -> FibView {
        let fib = &self.fib;
        let counts = fib
            .mirror
            .counts()
            .map(|((protocol, ipv6), count)| RouteCount {
                protocol: protocol.name(),
                ip_version: if ipv6 { 6 } else { 4 },
                count,
            });
        let seconds = |took: Option<Duration>| took.map(|took| took.as_secs_f64());
        let latencies = fib
            .watch
            .messages
            .lasts
            .iter()
            .map(|(peer, lasts)| LatencyView {
                peer: peer.to_string(),
                update_to_fib_seconds: seconds(lasts.announce),
                withdraw_to_fib_seconds: seconds(lasts.withdraw),
                down_to_withdraw_seconds: seconds(lasts.down),
            });
        FibView {
            node: self.name.clone(),
            source: fib.followed,
            complete: fib.known.v4 && fib.known.v6,
            routes: counts.collect(),
            unprogrammed: fib.unprogrammed(self.world(), clocks.now),
            latencies: latencies.collect(),
        }
    }

    /// What this node does with a packet, and the node addresses it may go on to.
    fn leg(&self, clocks: Clocks, source: Option<IpAddr>, destination: IpAddr) -> LegView {
        let world = self.world();
        let from = source.and_then(|source| {
            let route = self.fib.taken(None, source)?;
            let set = self.fib.hops(route.hops);
            let hop = set.hops.first().filter(|hop| hop.gateway.is_none())?;
            (route.kind == RouteKind::Unicast && route.id.prefix.is_host())
                .then(|| self.fib.interface(hop.interface))
        });
        let Some(route) = self.fib.taken(source, destination) else {
            return LegView {
                node: self.name.clone(),
                from,
                route: None,
                hops: Vec::new(),
            };
        };
        let set = self.fib.hops(route.hops);
        let peers: Vec<PathPeerView> = if RouteOwner::of(route.protocol).is_watched() {
            let hung_on = world.peers_of(route.id.prefix, &set).into_iter();
            hung_on
                .filter_map(|address| self.path_peer(address))
                .collect()
        } else {
            Vec::new()
        };
        let hops = set.hops.iter().map(|hop| {
            let link = self.fib.links.get(&hop.interface);
            let next = hop.gateway.unwrap_or(destination);
            PathHopView {
                hop: self.fib.hop_view(hop),
                link_up: link.map(|link| link.up && link.carrier),
                neighbour: self.fib.neighbours.get(&(hop.interface, next)).copied(),
                peers: peers.clone(),
            }
        });
        LegView {
            node: self.name.clone(),
            from,
            hops: hops.collect(),
            route: Some(self.fib.route_view(world, clocks, &route)),
        }
    }

    fn path_peer(&self, address: PeerAddress) -> Option<PathPeerView> {
        let peer = self.peers.get(&address)?;
        Some(PathPeerView {
            peer: address.to_string(),
            peer_node: peer.name.clone(),
            state: peer.session.state,
            since: peer.session.since().map(|since| since.wall),
            last_cause_text: peer.session.last_flap().map(|flap| flap.cause_text.clone()),
            stale: peer.exchange.restart.is_some(),
        })
    }

    fn has_address(&self, address: IpAddr) -> bool {
        let mut own = self.fib.addresses.iter();
        own.any(|(_, own, _)| *own == address)
    }
}

/// The way of a packet that starts at the node that `begins` picks, or the one that has `source`.
pub(crate) fn path(
    nodes: &BTreeMap<NetnsId, Node>,
    clocks: Clocks,
    begins: Option<&str>,
    source: Option<IpAddr>,
    destination: IpAddr,
) -> Option<PathView> {
    let holds = |node: &&Node| {
        source.is_some_and(|source| {
            node.has_address(source)
                || node.fib.taken(None, source).is_some_and(|route| {
                    let set = node.fib.hops(route.hops);
                    let attached = set.hops.first().is_some_and(|hop| hop.gateway.is_none());
                    route.id.prefix.is_host() && attached && !route.kind.drops()
                })
        })
    };
    let mut node = match begins {
        Some(name) => nodes.values().find(|node| node.name == name)?,
        None => nodes
            .values()
            .find(holds)
            .or_else(|| nodes.values().next())?,
    };
    let mut view = PathView {
        source,
        destination,
        legs: Vec::new(),
        verdict: String::new(),
        arrives: None,
        partial: false,
    };
    for number in 0..MAX_LEGS {
        let leg = node.leg(clocks, source, destination);
        let next = next_node(nodes.values(), &leg);
        let (verdict, arrives) = judge(&leg);
        view.legs.push(leg);
        view.verdict = verdict;
        view.arrives = arrives;
        match next.filter(|_| arrives.is_none()) {
            Some(next) if number + 1 < MAX_LEGS => node = next,
            Some(_) => view.verdict = format!("goes in circles: {MAX_LEGS} nodes and no end"),
            None => break,
        }
    }
    Some(view)
}

/// The observed node that a leg's first live hop leads to.
fn next_node<'a>(mut nodes: impl Iterator<Item = &'a Node>, leg: &LegView) -> Option<&'a Node> {
    let hop = leg.hops.iter().find(|hop| !hop.hop.dead)?;
    let gateway = hop.hop.gateway?;
    nodes.find(|node| node.name != leg.node && node.has_address(gateway))
}

/// What becomes of a packet after a leg: in words, and whether it arrives, where that is decided.
fn judge(leg: &LegView) -> (String, Option<bool>) {
    let node = &leg.node;
    let Some(route) = &leg.route else {
        return (format!("{node} has no route: unreachable"), Some(false));
    };
    let prefix = &route.prefix;
    match route.kind {
        Some(RouteKind::Local) => return (format!("delivered on {node}"), Some(true)),
        Some(kind) if kind.drops() => {
            return (
                format!("dropped on {node}: {} {prefix}", kind.name()),
                Some(false),
            );
        }
        _ => {}
    }
    let live = leg.hops.iter().filter(|hop| !hop.hop.dead);
    let (mut ways, mut broken) = (0, Vec::new());
    for hop in live {
        ways += 1;
        let way = hop.hop.gateway.map_or_else(
            || hop.hop.interface.clone(),
            |gateway| format!("{gateway} on {}", hop.hop.interface),
        );
        if hop.link_up == Some(false) {
            broken.push(format!("{way}: link down"));
        } else if hop.neighbour == Some(crate::event::forwarding::NeighbourState::Failed) {
            broken.push(format!("{way}: the neighbour does not answer"));
        }
    }
    if ways == 0 {
        return (
            format!("dropped on {node}: every interface of {prefix} is down"),
            Some(false),
        );
    }
    if broken.len() == ways {
        return (
            format!("lost after {node}: {}", broken.join(", ")),
            Some(false),
        );
    }
    let gateway = leg.hops.iter().find_map(|hop| hop.hop.gateway);
    match gateway {
        None => (format!("delivered from {node} on the link"), Some(true)),
        Some(gateway) => (
            format!("{node} hands it to {gateway}; what that does is not observed"),
            None,
        ),
    }
}

fn wanted(filter: &RouteFilter, kept: &Kept) -> bool {
    let owner = match filter.owner {
        Some(owner) => kept.protocol == owner,
        None => filter.all || RouteOwner::of(kept.protocol).is_watched(),
    };
    owner && matches(filter, kept.id.prefix)
}

fn matches(filter: &RouteFilter, prefix: Prefix) -> bool {
    filter
        .within
        .is_none_or(|within| prefix.covers(within) || within.covers(prefix))
}

/// Appends `view` if it is wanted; false when there is no room for more.
fn push(
    out: &mut RoutesView,
    filter: &RouteFilter,
    fib: &Fib,
    world: World<'_>,
    view: RouteView,
    prefix: Prefix,
) -> bool {
    if filter.wrong && !view.state.is_wrong() {
        return true;
    }
    if let Some(peers) = &filter.peers {
        let kept = fib.mirror.best(view.table, prefix);
        let set = kept.map(|kept| fib.hops(kept.hops)).unwrap_or_default();
        let hung_on = world.peers_of(prefix, &set);
        if !hung_on.iter().any(|peer| peers.contains(&peer.ip)) {
            return true;
        }
    }
    if out.routes.len() >= filter.limit {
        out.truncated = true;
        return false;
    }
    out.routes.push(view);
    true
}

fn names(peers: impl Iterator<Item = PeerAddress>) -> Vec<String> {
    peers.map(|peer| peer.to_string()).collect()
}

impl Fib {
    fn route_view(&self, world: World<'_>, clocks: Clocks, kept: &Kept) -> RouteView {
        let announced_by = names(world.announcers(kept.id.prefix));
        let state = if kept.protocol != Protocol::BIRD || kept.kind != RouteKind::Unicast {
            RouteState::Own
        } else if !announced_by.is_empty() {
            RouteState::Programmed
        } else if world.all_read() {
            RouteState::Stray
        } else {
            RouteState::Own
        };
        RouteView {
            node: world.node.to_owned(),
            prefix: kept.id.prefix.to_string(),
            state,
            table: kept.id.table,
            kind: Some(kept.kind),
            owner: Some(kept.protocol.name()),
            metric: Some(kept.id.metric),
            next_hops: self.hop_views(&self.hops(kept.hops)),
            since: Some(clocks.wall.wall(kept.since)),
            writer: self.writers.get(kept.writer).cloned(),
            announced_by,
        }
    }

    /// Routes that are lost and not back, as users see them.
    fn lost(&self, world: World<'_>, clocks: Clocks) -> impl Iterator<Item = (Prefix, RouteView)> {
        let lost = |gap: &Gap| gap.settled && gap.fate != Fate::Planned;
        let open = self.watch.gaps.iter().filter(move |(_, gap)| lost(gap));
        open.map(move |(place, gap)| {
            let peers = world.announcers(place.prefix);
            let view = RouteView {
                node: world.node.to_owned(),
                prefix: place.prefix.to_string(),
                state: RouteState::Lost,
                table: place.table,
                kind: None,
                owner: Some(gap.protocol.name()),
                metric: None,
                next_hops: self.hop_views(&self.hops(gap.hops)),
                since: Some(clocks.wall.wall(gap.span.latest)),
                writer: self.writers.get(gap.writer).cloned(),
                announced_by: peers.map(|peer| peer.to_string()).collect(),
            };
            (place.prefix, view)
        })
    }

    fn hop_views(&self, set: &HopSet) -> Vec<HopView> {
        set.hops.iter().map(|hop| self.hop_view(hop)).collect()
    }

    fn hop_view(&self, hop: &NextHop) -> HopView {
        HopView {
            gateway: hop.gateway,
            interface: self.interface(hop.interface),
            weight: hop.weight,
            dead: hop.dead,
        }
    }

    /// An interface's name, or its index.
    fn interface(&self, index: u32) -> String {
        let link = self.links.get(&index);
        link.map_or_else(|| index.to_string(), |link| link.name.clone())
    }

    /// The route that a packet takes, by the rules that a packet without marks comes by: as one of the
    /// VRF that its source belongs to, or else of none. What only a VRF leads to is looked up there.
    fn taken(&self, source: Option<IpAddr>, destination: IpAddr) -> Option<Kept> {
        let vrf = source.and_then(|source| self.vrf_of(source));
        let found = self.taken_in(vrf, source, destination);
        found.or_else(|| {
            let mut tables = self.links.values().filter_map(|link| link.vrf);
            tables.find_map(|table| self.mirror.longest(table, destination))
        })
    }

    /// The table of the VRF that an address belongs to: by the interface that has it or leads to it.
    fn vrf_of(&self, address: IpAddr) -> Option<u32> {
        let table_of = |interface: u32| {
            let master = self.links.get(&interface)?.master?;
            self.links.get(&master)?.vrf
        };
        let own = self.addresses.iter().filter(|(_, own, _)| *own == address);
        own.map(|(interface, _, _)| *interface)
            .find_map(table_of)
            .or_else(|| {
                let mut tables = self.links.values().filter_map(|link| link.vrf);
                tables.find(|table| {
                    let route = self.mirror.longest(*table, address);
                    let route = route.filter(|route| route.id.prefix.length > 0);
                    let set = route.and_then(|route| self.mirror.hops.get(route.hops));
                    set.is_some_and(|set| set.hops.iter().any(|hop| hop.gateway.is_none()))
                })
            })
    }

    fn taken_in(
        &self,
        vrf: Option<u32>,
        source: Option<IpAddr>,
        destination: IpAddr,
    ) -> Option<Kept> {
        let rules = self.rules.get(destination.is_ipv6());
        if rules.is_empty() {
            let mut tables = USUAL_TABLES.into_iter();
            return tables.find_map(|table| self.mirror.longest(table, destination));
        }
        let has = |prefix: Option<Prefix>, address: Option<IpAddr>| {
            prefix.is_none_or(|prefix| address.is_some_and(|address| prefix.contains(address)))
        };
        rules
            .iter()
            .filter(|rule| !rule.narrow && has(rule.from, source))
            .filter(|rule| !rule.vrf || vrf.is_some())
            .filter(|rule| has(rule.to, Some(destination)))
            .filter_map(|rule| {
                let table = if rule.vrf { vrf } else { rule.table };
                self.mirror.longest(table?, destination)
            })
            .find(|kept| kept.kind != RouteKind::Throw)
    }
}

//! Links and neighbours that peers are reached over. What hangs on a link is told by addresses: a
//! tunnel's routes name the tunnel, not the link below it.

use std::net::IpAddr;

use super::{Fib, Link, MAX_SURROUNDINGS, Span, World, table::Kept};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    event::forwarding::{NeighbourState, NextHop},
    notice::{LinkNotice, LinkStep, NeighbourNotice, Notice, RouteOwner},
    turn::Turn,
};

/// Routes that are looked at for those over one neighbour.
const SEARCHED: usize = 65_536;
/// So many of them are enough to probe what is behind it.
const SAMPLE: usize = 4;

impl Link {
    /// Whether packets can leave by it.
    const fn is_usable(&self) -> bool {
        self.up && self.carrier
    }
}

impl Fib {
    /// A link is as `link` says.
    pub(super) fn link_told(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        interface: u32,
        link: Link,
        span: Span,
    ) {
        if self.links.len() >= MAX_SURROUNDINGS && !self.links.contains_key(&interface) {
            return;
        }
        let (up, usable) = (link.up, link.is_usable());
        let step = match (usable, up) {
            (true, _) => LinkStep::Up,
            (false, true) => LinkStep::NoCarrier,
            (false, false) => LinkStep::Down,
        };
        let Some(before) = self.links.insert(interface, link) else {
            return;
        };
        if before.is_usable() != usable {
            self.tell_link(turn, world, (interface, &before.name), step, span);
        }
        if before.up != up {
            self.suspect_interface(turn, interface);
        }
    }

    /// There is no such link any more.
    pub(super) fn link_gone(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        interface: u32,
        span: Span,
    ) {
        if let Some(before) = self.links.remove(&interface)
            && before.is_usable()
        {
            let link = (interface, before.name.as_str());
            self.tell_link(turn, world, link, LinkStep::Gone, span);
        }
        self.addresses.retain(|(of, _, _)| *of != interface);
        self.neighbours.retain(|(of, _), _| *of != interface);
        self.suspect_interface(turn, interface);
    }

    fn tell_link(
        &self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        (interface, name): (u32, &str),
        step: LinkStep,
        span: Span,
    ) {
        let peers = self.behind(world, interface);
        if peers.is_empty() {
            return;
        }
        turn.notices.push(Notice::Link(LinkNotice {
            netns: self.netns,
            interface,
            name: name.to_owned(),
            earliest: span.earliest,
            latest: span.latest,
            step,
            peers,
        }));
    }

    /// The known peers that are reached over a link: those in one of its networks, and those to whom
    /// this node speaks from one of its addresses.
    fn behind(&self, world: World<'_>, interface: u32) -> Vec<PeerAddress> {
        let own: Vec<(IpAddr, u8)> = { self.addresses.iter() }
            .filter(|(of, _, _)| *of == interface)
            .map(|(_, address, length)| (*address, *length))
            .collect();
        let near = |ip: IpAddr| {
            own.iter().any(|(address, length)| {
                let network = Prefix {
                    address: *address,
                    length: *length,
                };
                network.contains(ip)
            })
        };
        let speaks = |peer: &PeerAddress| {
            let carrier = world.peers.get(peer).and_then(|peer| peer.session.carrier);
            let local = carrier
                .and_then(|id| world.connections.get(&id))
                .map(|connection| connection.socket.local.ip());
            local.is_some_and(|local| own.iter().any(|(address, _)| *address == local))
        };
        let reached =
            |peer: &&PeerAddress| peer.scope == interface || near(peer.ip) || speaks(peer);
        world.peers.keys().filter(reached).copied().collect()
    }

    /// A neighbour's state is another now.
    pub(super) fn neighbour_told(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        (interface, address): (u32, IpAddr),
        state: NeighbourState,
        span: Span,
    ) {
        let key = (interface, address);
        if state == NeighbourState::Gone {
            self.neighbours.remove(&key);
        } else if self.neighbours.len() < MAX_SURROUNDINGS || self.neighbours.contains_key(&key) {
            self.neighbours.insert(key, state);
        }
        let peer = PeerAddress::new(address, interface);
        let failed = state == NeighbourState::Failed;
        // Whoever does not answer is asked again and again, and fails each time.
        let news = match state {
            NeighbourState::Failed => {
                let matters = world.peers.contains_key(&peer) || self.is_hop(interface, address);
                matters && self.unresolved.insert(peer)
            }
            NeighbourState::Usable => self.unresolved.remove(&peer),
            NeighbourState::Incomplete | NeighbourState::Gone => false,
        };
        if !news {
            return;
        }
        let link = self.links.get(&interface);
        turn.notices.push(Notice::Neighbour(NeighbourNotice {
            netns: self.netns,
            peer,
            link: link.map_or_else(|| interface.to_string(), |link| link.name.clone()),
            earliest: span.earliest,
            latest: span.latest,
            failed,
            prefixes: self.some_over(interface, address),
        }));
    }

    /// Whether routes lead over a neighbour, who need not be a peer: with route reflectors other nodes are not.
    fn is_hop(&self, interface: u32, address: IpAddr) -> bool {
        let over = |hop: &NextHop| hop.gateway == Some(address) && hop.interface == interface;
        self.mirror.hops.any(|set| set.hops.iter().any(over))
    }

    /// Some prefixes of the cluster whose routes lead over a neighbour.
    fn some_over(&self, interface: u32, address: IpAddr) -> Vec<Prefix> {
        let mirror = &self.mirror;
        let over = |hop: &NextHop| hop.gateway == Some(address) && hop.interface == interface;
        let leads = |kept: &Kept| {
            let watched = RouteOwner::of(kept.protocol).is_watched();
            let set = mirror.hops.get(kept.hops).filter(|_| watched);
            set.is_some_and(|set| set.hops.iter().any(over))
        };
        let routes = mirror.routes(None).take(SEARCHED).filter(leads);
        routes.map(|kept| kept.id.prefix).take(SAMPLE).collect()
    }
}

//! Routes and the sessions they hang on: who announces a prefix, and whether its disappearance was
//! asked for.

use std::{collections::BTreeMap, net::IpAddr};

use super::hops::HopSet;
use crate::{
    address::PeerAddress, announcers::Announcers, bgp::Prefix, bgp_view::ConversationView,
    connection::Connection, event::SocketId, node::Peer,
};

/// What a node's forwarding is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World<'a> {
    /// The node.
    pub node: &'a str,
    pub peers: &'a BTreeMap<PeerAddress, Peer>,
    pub announcers: &'a Announcers,
    pub connections: &'a BTreeMap<SocketId, Connection>,
}

/// What is to be thought of a route that somebody deleted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fate {
    /// An UPDATE of a healthy session asked for it.
    Planned,
    /// None did.
    Unplanned,
    /// It is announced by a session that is up: the UPDATE that withdraws it, or that session's end,
    /// may have been seen by the kernel's routes before it was seen here.
    Early,
    /// Nobody is known to announce it, but those who may have are not read from the beginning of their
    /// sessions: what they announced and withdrew a moment ago counts once it is acknowledged.
    Unread,
}

impl World<'_> {
    /// The known peers that a route of `prefix` over `hops` hangs on: those that announce it, else
    /// those whose address is its next hop.
    pub fn peers_of(&self, prefix: Prefix, hops: &HopSet) -> Vec<PeerAddress> {
        let routers: Vec<PeerAddress> = self.routers(hops).collect();
        let has = |address: &PeerAddress| self.announces_to_us(*address, prefix);
        // In a mesh every next hop announces its own: no need to ask thousands.
        if !routers.is_empty() && routers.iter().all(has) {
            return routers;
        }
        let announcers: Vec<PeerAddress> = self.announcers(prefix).collect();
        if !announcers.is_empty() {
            return announcers;
        }
        // A reflector's session ended, and the next hops are its clients.
        if routers.is_empty() {
            let had = |peer: &Peer| peer.exchange.rib.had_prefix(prefix);
            let former = self.peers.iter().filter(|(_, peer)| had(peer));
            return former.map(|(address, _)| *address).collect();
        }
        routers
    }

    /// The peers that announce `prefix` now, stale or not.
    pub fn announcers(&self, prefix: Prefix) -> impl Iterator<Item = PeerAddress> {
        self.candidates(prefix)
            .filter(move |(_, peer)| peer.exchange.rib.has_prefix(prefix))
            .map(|(address, _)| address)
    }

    /// The peers that may announce `prefix`: those that are known to have, else all.
    pub fn candidates(&self, prefix: Prefix) -> impl Iterator<Item = (PeerAddress, &Peer)> {
        let named = self.announcers.candidates(prefix);
        let all = named.is_none().then(|| self.peers.iter());
        let all = all
            .into_iter()
            .flatten()
            .map(|(address, peer)| (*address, peer));
        let peer = |address| Some((address, self.peers.get(&address)?));
        named.into_iter().flatten().filter_map(peer).chain(all)
    }

    /// Whether the peer announces `prefix` now, stale or not.
    fn announces_to_us(&self, address: PeerAddress, prefix: Prefix) -> bool {
        let peer = self.peers.get(&address);
        peer.is_some_and(|peer| peer.exchange.rib.has_prefix(prefix))
    }

    /// What to think of the deletion of `prefix`, which led over `hops`; `withdrawn` is who withdrew it
    /// just before, if somebody did.
    pub fn fate(&self, prefix: Prefix, hops: &HopSet, withdrawn: Option<PeerAddress>) -> Fate {
        // In a mesh the next hop announces it: no need to ask thousands.
        let early =
            |address: PeerAddress| self.is_up(address) && self.announces_to_us(address, prefix);
        if self.routers(hops).any(early) {
            return Fate::Early;
        }
        let mut announced = false;
        for address in self.announcers(prefix) {
            if self.is_up(address) {
                return Fate::Early;
            }
            announced = true;
        }
        if announced {
            return Fate::Unplanned;
        }
        let mut suspects: Vec<PeerAddress> = match withdrawn {
            Some(address) if self.is_up(address) => return Fate::Planned,
            Some(_) => return Fate::Unplanned,
            None => self.routers(hops).collect(),
        };
        if suspects.is_empty() {
            suspects = self.peers.keys().copied().collect();
        }
        let all_up = !suspects.is_empty() && suspects.iter().all(|address| self.is_up(*address));
        if !all_up {
            Fate::Unplanned
        } else if suspects.iter().all(|address| self.is_read(*address)) {
            // Whoever announced it would still be seen to, unless it withdrew it.
            Fate::Planned
        } else {
            Fate::Unread
        }
    }

    /// Whether this node announces `prefix` on a session that is up.
    pub fn announces(&self, prefix: Prefix) -> bool {
        let mut peers = self.peers.iter();
        peers.any(|(address, peer)| {
            peer.exchange.advertised.has_prefix(prefix) && self.is_up(*address)
        })
    }

    /// Whether the session with a peer is Established.
    pub fn is_up(&self, address: PeerAddress) -> bool {
        let peer = self.peers.get(&address);
        peer.is_some_and(|peer| peer.session.is_up())
    }

    /// Whether every session that is up was read from its beginning, and one is up.
    pub fn all_read(&self) -> bool {
        let mut up = self
            .peers
            .keys()
            .filter(|peer| self.is_up(**peer))
            .peekable();
        up.peek().is_some() && up.all(|peer| self.is_read(*peer))
    }

    /// Whether all that the peer ever announced on its session was read.
    fn is_read(&self, address: PeerAddress) -> bool {
        let owner = self
            .peers
            .get(&address)
            .and_then(|peer| peer.exchange.rib.owner);
        owner
            .and_then(|id| self.connections.get(&id))
            .is_some_and(|connection| connection.wire.view() == ConversationView::Complete)
    }

    /// Known peers among the gateways.
    fn routers(&self, hops: &HopSet) -> impl Iterator<Item = PeerAddress> {
        hops.hops
            .iter()
            .filter_map(|hop| Some(PeerAddress::new(hop.gateway?, hop.interface)))
            .filter(|address| self.peers.contains_key(address))
    }
}

/// The gateways of a route.
pub(crate) fn gateways(hops: &HopSet) -> Vec<IpAddr> {
    hops.hops.iter().filter_map(|hop| hop.gateway).collect()
}

//! Whether what a peer announces is in the kernel's tables, as far as that is to be known before a restart.

use std::collections::BTreeSet;

use super::{
    Fib,
    hops::HopsId,
    watch::{Place, Standing},
};
use crate::{
    address::PeerAddress, event::forwarding::TABLE_MAIN, node::Node, notice::RouteOwner,
    time::Timestamp,
};

/// Prefixes of a peer that are looked up at most: the answer is asked for at every scrape.
const LOOKED_UP: usize = 1_024;

/// How much of what a peer announces is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Programmed {
    /// Nothing is known to be announced.
    NothingAnnounced,
    /// Some: filters may keep the rest out.
    Some,
    /// None of so many, for longer than programming takes.
    None(usize),
}

impl Node {
    /// Whether anything that a peer announces is in the main table, by whomever.
    pub fn programmed(&self, peer: PeerAddress, now: Timestamp) -> Programmed {
        let Some(peer) = self.peers.get(&peer) else {
            return Programmed::NothingAnnounced;
        };
        let rib = &peer.exchange.rib;
        let mut announced = rib.unicast().take(LOOKED_UP).peekable();
        if announced.peek().is_none() {
            return Programmed::NothingAnnounced;
        }
        let table = TABLE_MAIN;
        let there = |prefix| {
            let standing = self.fib.standing(Place { table, prefix });
            !matches!(standing, Standing::Absent | Standing::Dead)
        };
        let missing = |prefix| !there(prefix) && self.fib.is_missing(now, prefix);
        if announced.all(missing) {
            Programmed::None(rib.len())
        } else {
            Programmed::Some
        }
    }

    /// Where routes of the cluster lead, as next hops.
    pub fn next_hops(&self) -> BTreeSet<PeerAddress> {
        let mirror = &self.fib.mirror;
        let watched = mirror
            .routes(None)
            .filter(|kept| RouteOwner::of(kept.protocol).is_watched());
        let sets: BTreeSet<HopsId> = watched.map(|kept| kept.hops).collect();
        let hops = sets.into_iter().filter_map(|id| mirror.hops.get(id));
        hops.flat_map(|set| set.hops.iter())
            .filter_map(|hop| Some(PeerAddress::new(hop.gateway?, hop.interface)))
            .collect()
    }
}

impl Fib {
    /// Whether there are routes of the cluster that lead anywhere.
    pub fn has_routes(&self) -> bool {
        let mut routes = self.mirror.routes(None);
        routes.any(|kept| RouteOwner::of(kept.protocol).is_watched() && !kept.kind.drops())
    }
}

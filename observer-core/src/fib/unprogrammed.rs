//! Sessions that are Established while nothing they announce is in the kernel's tables.
//!
//! A BIRD that restarts gracefully (`-R`) with a peer still away waits for it, up to 240 s, before it
//! programs anything: every session looks healthy, and no pod can be reached.

use std::{collections::BTreeMap, time::Duration};

use super::{Fib, World};
use crate::{
    address::PeerAddress, bgp::Prefix, change::Change, event::forwarding::TABLE_MAIN,
    route_view::Unprogrammed, time::Timestamp, turn::Turn,
};

use super::watch::{Place, Standing};

/// How often sessions are compared with the tables.
const LOOK: Duration = Duration::from_secs(5);
/// How long programming may take before it counts as missing.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// BIRD's recovery timer (`graceful restart wait`).
pub(crate) const RECOVERY: Duration = Duration::from_mins(4);

/// What is known of such sessions.
#[derive(Debug, Default)]
pub(super) struct Silent {
    /// When to look next.
    next: Option<Timestamp>,
    /// Peers from which nothing is programmed: when that was first seen, and whether it was told.
    peers: BTreeMap<PeerAddress, (Timestamp, bool)>,
}

impl Silent {
    pub const fn due(&self) -> Option<Timestamp> {
        self.next
    }
}

impl Fib {
    /// Something was announced: whether it is programmed is to be looked at.
    pub(super) fn expect(&mut self, turn: &Turn<'_>) {
        if self.silent.next.is_none() && self.followed.is_some() {
            self.silent.next = Some(turn.at.after(LOOK));
        }
    }

    /// Compares, if it is time to. A speaker that programs no routes, as `GoBGP`, owes none.
    pub(super) fn look_for_silence(
        &mut self,
        turn: &mut Turn<'_>,
        world: World<'_>,
        programs: bool,
    ) {
        if self.silent.next.is_none_or(|next| next > turn.now) {
            return;
        }
        let mut announcing = false;
        let mut silent = std::mem::take(&mut self.silent.peers);
        silent.retain(|address, _| world.is_up(*address));
        for (address, peer) in world.peers {
            if !world.is_up(*address) || peer.exchange.rib.len() == 0 {
                silent.remove(address);
                continue;
            }
            announcing = true;
            let programmed = peer
                .exchange
                .rib
                .unicast()
                .any(|prefix| self.is_there(prefix));
            if programmed {
                if let Some((since, true)) = silent.remove(address) {
                    let change = Change::Programmed {
                        peer: address.to_string(),
                        seconds: turn.now.since(since).as_secs_f64(),
                    };
                    turn.tell(world.node, change);
                }
                continue;
            }
            let (since, told) = silent.entry(*address).or_insert((turn.now, false));
            if programs && !*told && turn.now.since(*since) >= GRACE {
                *told = true;
                let change = Change::NotProgrammed {
                    peer: address.to_string(),
                    announced: u64::try_from(peer.exchange.rib.len()).unwrap_or(u64::MAX),
                    expected_within_seconds: left(*since, turn.now),
                };
                turn.tell(world.node, change);
            }
        }
        self.silent.peers = silent;
        // A session that comes up later announces before anything can be missing.
        self.silent.next = announcing.then(|| turn.again(LOOK));
    }

    /// Sessions from which nothing is programmed, as users see them.
    pub(super) fn unprogrammed(&self, world: World<'_>, now: Timestamp) -> Vec<Unprogrammed> {
        let told = self.silent.peers.iter().filter(|(_, (_, told))| *told);
        told.map(|(address, (since, _))| {
            let peer = world.peers.get(address);
            let announced = peer.map_or(0, |peer| peer.exchange.rib.len());
            Unprogrammed {
                peer: address.to_string(),
                announced: u64::try_from(announced).unwrap_or(u64::MAX),
                seconds: now.since(*since).as_secs_f64(),
                expected_within_seconds: left(*since, now),
            }
        })
        .collect()
    }

    /// Whether a watched route of `prefix`, or one of this node's own, is in the main table.
    fn is_there(&self, prefix: Prefix) -> bool {
        let table = TABLE_MAIN;
        matches!(
            self.standing(Place { table, prefix }),
            Standing::Usable(..) | Standing::Drops(_)
        )
    }

    /// Whether a watched route of `prefix` in the main table leads somewhere.
    pub(crate) fn leads_on(&self, prefix: Prefix) -> bool {
        let table = TABLE_MAIN;
        matches!(self.standing(Place { table, prefix }), Standing::Usable(..))
    }

    /// Whether `prefix` ought to be there by now and is not.
    pub(super) fn is_missing(&self, now: Timestamp, prefix: Prefix) -> bool {
        let fresh = self
            .announced_at(prefix)
            .is_some_and(|at| now.since(at) < GRACE);
        !fresh && *self.known.get(prefix.address.is_ipv6()) && !self.is_there(prefix)
    }
}

fn left(since: Timestamp, now: Timestamp) -> f64 {
    RECOVERY.saturating_sub(now.since(since)).as_secs_f64()
}

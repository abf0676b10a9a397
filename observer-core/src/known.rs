//! Known peers (DESIGN §3): how they come to be known, are restored, saved and forgotten.
//!
//! A peer that the inventory stops naming is forgotten as soon as its session is down and the local
//! speaker has stopped dialling it; one that `peers forget` names at once, even while it is up: it is
//! known again when evidence of it shows. A namespace that goes leaves its peers behind by its node's
//! name, and gets them back when that name is observed again.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use crate::{
    address::{PeerAddress, is_link_local},
    bgp_view::ConversationView,
    change::{Change, Request},
    connection::Connection,
    deadline::Due,
    event::{InventoryPeer, LossStage, SocketId},
    exchange::Exchange,
    inventory::Configured,
    node::{Naming, Node, Peer},
    peer::{KnownBy, SavedPeer, SessionState},
    session::Session,
    terms::SavedTerms,
    turn::{Moment, Turn},
};

/// Peers per node. Only local configuration makes peers; this bounds a local process that dials the
/// whole world's port 179.
pub(crate) const MAX_PEERS: usize = 16_384;
/// A peer that the inventory dropped is forgotten once the local speaker has not dialled it for this
/// long: before, its configuration still names it.
const STOPPED_DIALLING: Duration = Duration::from_mins(1);

impl Node {
    /// Whether `address` is a known peer; the inventory may name it without its interface.
    pub fn is_known(&mut self, turn: &mut Turn<'_>, address: PeerAddress) -> bool {
        if self.peers.contains_key(&address) {
            return true;
        }
        let named = !self.own.contains(&address.ip)
            && turn.inventory.find(&self.name, address.ip).is_some();
        named && self.ensure_known(turn, address, KnownBy::Inventory)
    }

    /// Makes `address` a known peer if there is room; false if there is not.
    pub fn ensure_known(&mut self, turn: &mut Turn<'_>, address: PeerAddress, by: KnownBy) -> bool {
        if let Some(peer) = self.peers.get_mut(&address) {
            if peer.known_by == KnownBy::Restored {
                peer.known_by = by;
            }
        } else {
            let peer = Peer::new(by, turn.moment());
            if !self.add_peer(turn, address, peer) {
                return false;
            }
        }
        self.adopt_candidates(turn, address);
        true
    }

    fn add_peer(&mut self, turn: &mut Turn<'_>, address: PeerAddress, mut peer: Peer) -> bool {
        if self.peers.len() >= MAX_PEERS {
            turn.lost(LossStage::Table, 1);
            return false;
        }
        if !self.own.contains(&address.ip)
            && let Some(entry) = turn.inventory.find(&self.name, address.ip)
        {
            peer.take_name(entry);
            peer.take_terms(turn.inventory.configured(&self.name, address.ip));
        }
        let change = Change::PeerKnown {
            peer: address.to_string(),
            known_by: peer.known_by,
        };
        self.peers.insert(address, peer);
        turn.tell(&self.name, change);
        turn.ask(Request::Trust {
            netns: self.netns,
            address: address.ip,
        });
        let silent = turn.again(turn.config.forget_after());
        turn.deadlines
            .set(Due::Silence(self.netns, address), silent);
        true
    }

    /// Something was heard of a peer.
    pub fn heard(&mut self, turn: &Turn<'_>, address: PeerAddress, retransmits: u64) {
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.heard = turn.moment();
            peer.retransmits = peer.retransmits.saturating_add(retransmits);
        }
    }

    /// The inventory is new, or is to be applied to a new node.
    pub fn apply_inventory(&mut self, turn: &mut Turn<'_>) {
        let inventory = turn.inventory;
        let named = inventory.of(&self.name);
        let complete = inventory.cluster().is_complete();
        let mut dropped = Vec::new();
        for (address, peer) in &mut self.peers {
            let entry = inventory.find(&self.name, address.ip);
            let own = self.own.contains(&address.ip);
            if let Some(entry) = entry.filter(|_| !own) {
                peer.take_name(entry);
                peer.take_terms(inventory.configured(&self.name, address.ip));
            } else if peer.naming == Naming::Named || (complete && peer.was_named_before()) {
                peer.naming = Naming::Dropped;
                dropped.push(*address);
            }
        }
        for address in dropped {
            self.consider_forgetting(turn, address);
        }
        // A link-local address is no peer before a connection shows on which interface.
        let missing = { named.into_iter() }.filter(|ip| !is_link_local(*ip));
        let missing: Vec<IpAddr> = missing.filter(|ip| !self.own.contains(ip)).collect();
        for ip in missing {
            self.ensure_known(turn, PeerAddress::new(ip, 0), KnownBy::Inventory);
        }
    }

    /// Takes back what the state directory, or a namespace of the same name, remembered. Peers that
    /// had been silent for too long are not taken back.
    pub fn restore(&mut self, turn: &mut Turn<'_>, saved: &[SavedPeer]) {
        for saved in saved {
            let address = PeerAddress::new(saved.address, saved.scope);
            if address.ip.is_unspecified() {
                continue;
            }
            if let Some(peer) = self.peers.get_mut(&address) {
                peer.merge(saved);
                continue;
            }
            let now = turn.moment();
            let heard = Moment::restored(saved.last_heard_at.unwrap_or(now.wall));
            let left = turn.config.forget_after().checked_sub(heard.until(now));
            let named = turn.inventory.find(&self.name, address.ip).is_some();
            let Some(left) = left.or_else(|| named.then(Duration::default)) else {
                let reason = silent_for(heard.until(now));
                let peer = address.to_string();
                turn.tell(&self.name, Change::PeerForgotten { peer, reason });
                continue;
            };
            if self.add_peer(turn, address, Peer::restored(saved, heard)) {
                let silent = turn.again(left);
                turn.deadlines
                    .set(Due::Silence(self.netns, address), silent);
                self.refresh(turn, address);
                self.adopt_candidates(turn, address);
            }
        }
        if self.dumped {
            self.count_unseen_ends(turn);
        }
    }

    /// Forgets a peer if it is time; otherwise looks again when it may be.
    pub fn consider_forgetting(&mut self, turn: &mut Turn<'_>, address: PeerAddress) {
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        let busy = peer.session.is_up()
            || peer.session.pending.is_some()
            || peer
                .connections
                .iter()
                .any(|id| self.connections.get(id).is_some_and(Connection::is_live));
        let named = peer.naming == Naming::Named;
        let leaving = peer.naming == Naming::Dropped;
        let silent = peer.heard.until(turn.moment());
        let after = turn.config.forget_after();
        let dialling = peer
            .dialled_at
            .is_some_and(|at| turn.at.since(at) < STOPPED_DIALLING);
        if !busy && leaving && !dialling {
            self.forget(turn, address, "the inventory does not name it any more");
            return;
        }
        if !busy && !named && silent >= after {
            let reason = silent_for(silent);
            self.forget(turn, address, &reason);
            return;
        }
        let next = if leaving {
            turn.again(STOPPED_DIALLING)
        } else if busy || named {
            turn.again(after)
        } else {
            turn.again(after.saturating_sub(silent))
        };
        turn.deadlines.set(Due::Silence(self.netns, address), next);
    }

    /// An operator wants `ip` forgotten, on whatever interface.
    pub fn forget_ip(&mut self, turn: &mut Turn<'_>, ip: IpAddr) {
        let ip = ip.to_canonical();
        let meant: Vec<PeerAddress> = self
            .peers
            .keys()
            .copied()
            .filter(|address| address.ip == ip)
            .collect();
        for address in meant {
            self.forget(turn, address, "an operator said so");
        }
    }

    /// Forgets a peer, its connections and its history.
    pub fn forget(&mut self, turn: &mut Turn<'_>, address: PeerAddress, reason: &str) {
        self.settle(turn, address, true);
        let Some(peer) = self.peers.remove(&address) else {
            return;
        };
        let connections: Vec<SocketId> = peer.connections.iter().copied().collect();
        for id in connections {
            self.remove_connection(turn, id);
        }
        turn.deadlines.clear(Due::Cause(self.netns, address));
        turn.deadlines.clear(Due::Silence(self.netns, address));
        turn.deadlines.clear(Due::Restart(self.netns, address));
        turn.deadlines.clear(Due::Held(self.netns, address));
        turn.deadlines.clear(Due::Hold(self.netns, address));
        let name = address.to_string();
        turn.tell(
            &self.name,
            Change::PeerForgotten {
                peer: name,
                reason: reason.to_owned(),
            },
        );
        if !self.peers.keys().any(|other| other.ip == address.ip) {
            turn.ask(Request::Distrust {
                netns: self.netns,
                address: address.ip,
            });
        }
    }

    /// What the state directory should remember of this node's peers.
    pub fn save(&self) -> Vec<SavedPeer> {
        self.peers
            .iter()
            .map(|(address, peer)| {
                let owner = peer.exchange.rib.owner;
                let wire = owner.and_then(|id| Some(&self.connections.get(&id)?.wire));
                let whole = wire.is_some_and(|wire| wire.view() == ConversationView::Complete);
                peer.save(*address, peer.exchange.terms(whole))
            })
            .collect()
    }
}

impl Peer {
    pub(crate) fn new(by: KnownBy, heard: Moment) -> Self {
        Self {
            known_by: by,
            origin: by,
            naming: Naming::Never,
            disabled: None,
            name: None,
            kind: None,
            asn: None,
            connections: BTreeSet::new(),
            session: Session::default(),
            dialled_at: None,
            tried: false,
            restored: false,
            heard,
            retransmits: 0,
            establish: None,
            exchange: Exchange::default(),
        }
    }

    fn restored(saved: &SavedPeer, heard: Moment) -> Self {
        let mut session = Session::restored(saved.flaps, &saved.recent_flaps, saved.was_up);
        session.up = saved.established_at.map(Moment::restored);
        session.down = saved.last_down_at.map(Moment::restored);
        Self {
            origin: saved.known_by,
            name: saved.peer_node.clone(),
            kind: saved.peer_type,
            asn: saved.asn,
            tried: saved.known_by == KnownBy::Dialled || saved.established_at.is_some(),
            session,
            restored: true,
            exchange: Exchange {
                remembered: saved.terms.clone(),
                ..Exchange::default()
            },
            ..Self::new(KnownBy::Restored, heard)
        }
    }

    /// Was met before what the state directory knows of it came: its history goes before.
    fn merge(&mut self, saved: &SavedPeer) {
        if std::mem::replace(&mut self.restored, true) {
            return;
        }
        self.origin = saved.known_by;
        self.name = self.name.take().or_else(|| saved.peer_node.clone());
        self.kind = self.kind.or(saved.peer_type);
        self.asn = self.asn.or(saved.asn);
        self.exchange.remembered.clone_from(&saved.terms);
        let met_up = self.session.is_up() || self.session.up.is_some();
        self.session.was_up = saved.was_up && !met_up;
        self.session.prepend(saved.flaps, &saved.recent_flaps);
        if self.session.up.is_none() {
            self.session.up = saved.established_at.map(Moment::restored);
        }
        if self.session.down.is_none() {
            self.session.down = saved.last_down_at.map(Moment::restored);
        }
    }

    fn take_name(&mut self, entry: &InventoryPeer) {
        self.naming = Naming::Named;
        if self.known_by == KnownBy::Restored {
            self.known_by = KnownBy::Inventory;
        }
        self.name = entry.name.clone().or_else(|| self.name.take());
        self.kind = entry.peer_type.or(self.kind);
        self.asn = entry.asn.or(self.asn);
    }

    /// What the local speaker says of it, where nothing else does.
    fn take_terms(&mut self, configured: Option<&Configured>) {
        self.disabled = configured.and_then(|peer| peer.disabled.clone());
        if let Some((kind, asn)) = configured.map(Configured::terms) {
            self.kind = self.kind.or(kind);
            self.asn = self.asn.or(asn);
        }
    }

    /// An inventory named it in an earlier run, and nothing has been heard of it in this one.
    fn was_named_before(&self) -> bool {
        self.naming == Naming::Never
            && self.known_by == KnownBy::Restored
            && (self.origin == KnownBy::Inventory || self.name.is_some())
    }

    fn save(&self, address: PeerAddress, terms: Option<SavedTerms>) -> SavedPeer {
        let session = &self.session;
        SavedPeer {
            address: address.ip,
            scope: address.scope,
            known_by: self.origin,
            peer_node: self.name.clone(),
            peer_type: self.kind,
            asn: self.asn,
            last_heard_at: Some(self.heard.wall),
            established_at: session.up.map(|up| up.wall),
            last_down_at: session.down.map(|down| down.wall),
            // An end that is not yet counted would be lost with the agent: better found again.
            was_up: session.state == SessionState::Established
                || session.pending.is_some()
                || session.was_up,
            terms,
            flaps: session.flaps,
            recent_flaps: VecDeque::clone(&session.recent).into(),
        }
    }
}

/// Whether a peer that was saved is to be forgotten at `now`, having been silent for `after`.
pub(crate) fn is_outdated(saved: &SavedPeer, now: jiff::Timestamp, after: Duration) -> bool {
    let heard = Moment::restored(saved.last_heard_at.unwrap_or(now));
    heard.until(Moment::restored(now)) > after
}

/// In whole hours, or in seconds where the setting is that short.
fn silent_for(silent: Duration) -> String {
    let seconds = silent.as_secs();
    if seconds >= 7_200 {
        format!("silent for {} h", seconds / 3_600)
    } else {
        format!("silent for {seconds} s")
    }
}

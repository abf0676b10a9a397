//! Peers as users see them.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    address::PeerAddress,
    bgp::{Family, OpenFacts, capabilities},
    bgp_view::{BgpView, ConversationView},
    connection::{Connection, UNANSWERED},
    exchange::{Exchange, Sides},
    held,
    hold::HoldTimer,
    node::{Node, Peer},
    peer::{PeerView, SessionState},
    restart,
    time::Timestamp,
    wire::Wire,
};

impl Node {
    /// Every known peer, by address, as of `now`.
    pub fn views(&self, now: Timestamp) -> impl Iterator<Item = PeerView> {
        self.peers
            .iter()
            .map(move |(address, peer)| self.view(*address, peer, now))
    }

    fn view(&self, address: PeerAddress, peer: &Peer, now: Timestamp) -> PeerView {
        let session = &peer.session;
        let live: Vec<&Connection> = peer
            .connections
            .iter()
            .filter_map(|id| self.connections.get(id))
            .filter(|connection| connection.is_live())
            .collect();
        let carrier = session.carrier.and_then(|id| self.connections.get(&id));
        let shown = carrier.or_else(|| live.iter().copied().find(|live| live.is_usable()));
        let last = session.recent.back();
        PeerView {
            node: self.name.clone(),
            peer: address.to_string(),
            ip_version: address.ip_version(),
            peer_node: peer.name.clone(),
            peer_type: peer.kind,
            asn: peer.asn.or_else(|| {
                let open = peer.exchange.opens.received.as_ref();
                open.map(OpenFacts::asn)
            }),
            state: session.state,
            up: session.is_up(),
            since: session.since().map(|since| since.wall),
            inherited: session.inherited,
            known_by: peer.known_by,
            info: info(peer, carrier),
            last_cause: last.map(|flap| flap.cause.clone()),
            last_cause_text: last.map(|flap| flap.cause_text.clone()),
            cause_pending: session.pending.is_some(),
            established_at: session.up.map(|up| up.wall),
            last_down_at: session.down.map(|down| down.wall),
            flaps: session.flaps,
            failed_attempts: session.attempts.failed,
            last_failure: session.attempts.last.clone(),
            rtt_seconds: shown.and_then(rtt_seconds),
            retransmits: peer.retransmits,
            establish_seconds: peer.establish.map(|took| took.as_secs_f64()),
            last_data_age_seconds: shown
                .and_then(|shown| shown.last_data)
                .map(|at| now.since(at).as_secs_f64()),
            connections: live
                .iter()
                .map(|live| live.view(session.carrier == Some(live.socket.id)))
                .collect(),
            bgp: BgpView {
                tapped: !self.tapped.is_empty(),
                ..bgp(&peer.exchange, shown, carrier.is_some(), now)
            },
        }
    }
}

/// What messages showed; `shown` is the connection that is shown, and `up` whether a session rides on
/// it.
fn bgp(exchange: &Exchange, shown: Option<&Connection>, up: bool, now: Timestamp) -> BgpView {
    let wire = shown.map(|shown| &shown.wire);
    let age = |at: Option<Timestamp>| at.map(|at| now.since(at).as_secs_f64());
    let hold = wire.and_then(Wire::hold);
    let secs = |hold: Duration| u16::try_from(hold.as_secs()).ok();
    let keepalive_at = wire.map(|wire| wire.signs.keepalive_at).unwrap_or_default();
    let conversation = wire.map(Wire::view).unwrap_or_default();
    BgpView {
        tapped: false,
        conversation,
        inference: wire.map(Wire::inference).unwrap_or_default(),
        hold_time_secs: hold.and_then(secs),
        keepalive_secs: hold.and_then(|hold| secs(hold / 3)),
        keepalive_age_seconds: Sides {
            sent: age(keepalive_at.sent),
            received: age(keepalive_at.received),
        },
        hold_margin: shown
            .filter(|_| up)
            .and_then(HoldTimer::of)
            .map(|timer| timer.margin(now)),
        messages: exchange.messages,
        opens: exchange.opens.clone(),
        notifications: exchange.notifications.clone(),
        prefixes: of_families(exchange, exchange.rib.prefixes()),
        prefixes_complete: !exchange.rib.partial
            && (!up || conversation == ConversationView::Complete),
        advertised: of_families(exchange, exchange.advertised.prefixes()),
        advertised_complete: !exchange.advertised.partial
            && (!up || conversation == ConversationView::Complete),
        stale_prefixes: of_families(exchange, exchange.rib.stale()),
        announcements: exchange.rib.announcements,
        withdrawals: exchange.rib.withdrawals,
        replacements: exchange.rib.replacements,
        end_of_rib_seconds: exchange.end_of_rib.map(|took| took.as_secs_f64()),
        decode_errors: exchange
            .decode_errors
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count))
            .collect(),
        malformed_updates: exchange.malformed_updates,
        graceful_restart: restart::view(exchange, wire.filter(|_| up), now),
        held_stale: held::view(exchange, now),
        capabilities: capabilities(
            exchange.opens.sent.as_ref(),
            exchange.opens.received.as_ref(),
        ),
    }
}

/// `counts`, with a 0 for each family that both OPENs name and whose prefixes are read.
fn of_families(exchange: &Exchange, mut counts: BTreeMap<Family, u64>) -> BTreeMap<Family, u64> {
    if let (Some(ours), Some(theirs)) = (&exchange.opens.sent, &exchange.opens.received) {
        for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
            if ours.speaks(family) && theirs.speaks(family) {
                counts.entry(family).or_default();
            }
        }
    }
    counts
}

fn rtt_seconds(connection: &Connection) -> Option<f64> {
    let micros = connection.socket.srtt_micros;
    (micros > 0).then(|| f64::from(micros) / 1e6)
}

/// The one-line answer to "what is it doing".
fn info(peer: &Peer, carrier: Option<&Connection>) -> String {
    let session = &peer.session;
    if let Some(carrier) = carrier {
        let unanswered = carrier.socket.unanswered_retransmits;
        return if unanswered >= UNANSWERED {
            format!("Established; no answer to {unanswered} retransmissions")
        } else if session.inherited {
            "Established (inherited)".to_owned()
        } else {
            SessionState::Established.name().to_owned()
        };
    }
    let state = session.state.name();
    if session.pending.is_some() {
        return format!("{state}: session lost, cause pending");
    }
    if let Some(protocol) = &peer.disabled {
        return format!("{state}: protocol {protocol} is disabled");
    }
    if let Some(reason) = &session.attempts.last {
        let failed = session.attempts.failed;
        let plural = if failed == 1 { "" } else { "s" };
        return format!("{state}: {reason}, {failed} attempt{plural}");
    }
    match session.recent.back() {
        Some(flap) => format!("{state}: {}", flap.cause_text),
        None => state.to_owned(),
    }
}

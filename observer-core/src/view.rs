//! Peers as users see them.

use crate::{
    address::PeerAddress,
    connection::{Connection, UNANSWERED},
    node::{Node, Peer},
    peer::{PeerView, SessionState},
    time::Timestamp,
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
        let since = if session.is_up() {
            session.up
        } else {
            session.down
        };
        PeerView {
            node: self.name.clone(),
            peer: address.to_string(),
            ip_version: address.ip_version(),
            peer_node: peer.name.clone(),
            peer_type: peer.kind,
            asn: peer.asn,
            state: session.state,
            up: session.is_up(),
            since: since.map(|since| since.wall),
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
        }
    }
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

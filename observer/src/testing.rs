//! Views that tests of several sinks show.

use std::collections::BTreeMap;

use observer_core::{
    bgp::{
        AddPathFamily, AddPathMode, Family, OpenFacts, RestartFacts, RestartFamily, capabilities,
    },
    bgp_view::{BgpView, ConversationView, GracefulRestartView},
    cause::Cause,
    event::PeerType,
    exchange::Sides,
    incident::{
        Incident,
        record::{Subject, SubjectKind},
    },
    message_counts::{MalformedUpdates, MessageCounts},
    peer::{ConnectionView, Flap, KnownBy, PeerView, SessionState},
};

/// 2026-01-02 03:04:05 UTC.
pub fn noon() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_767_323_045).unwrap()
}

/// A peer of `node`, Established.
pub fn up(node: &str, peer: &str) -> PeerView {
    PeerView {
        node: node.to_owned(),
        peer: peer.to_owned(),
        ip_version: if peer.contains(':') { 6 } else { 4 },
        peer_node: Some("worker-2".to_owned()),
        peer_type: Some(PeerType::Mesh),
        asn: Some(64_512),
        state: SessionState::Established,
        up: true,
        since: Some(noon()),
        inherited: false,
        known_by: KnownBy::Established,
        info: "Established".to_owned(),
        last_cause: None,
        last_cause_text: None,
        cause_pending: false,
        established_at: Some(noon()),
        last_down_at: None,
        flaps: 0,
        failed_attempts: 0,
        last_failure: None,
        rtt_seconds: Some(0.000_25),
        retransmits: 1,
        establish_seconds: Some(0.001_5),
        last_data_age_seconds: Some(12.0),
        connections: vec![ConnectionView {
            local: "10.0.0.1:179".parse().unwrap(),
            remote: "10.0.0.2:40000".parse().unwrap(),
            tcp_state: "ESTABLISHED".to_owned(),
            carries_session: true,
            bytes_received: 100,
            bytes_acked: 90,
            send_queue: 0,
            receive_queue: 0,
        }],
        bgp: BgpView::default(),
    }
}

/// A peer of `node` that was lost and of which no inventory knows.
pub fn down(node: &str, peer: &str) -> PeerView {
    PeerView {
        peer_node: None,
        peer_type: None,
        asn: None,
        state: SessionState::Active,
        up: false,
        known_by: KnownBy::Dialled,
        info: format!("Active: {}", Cause::FinReceived),
        last_cause: Some(Cause::FinReceived),
        last_cause_text: Some(Cause::FinReceived.to_string()),
        established_at: None,
        last_down_at: Some(noon()),
        flaps: 2,
        failed_attempts: 3,
        last_failure: Some("connection refused (ECONNREFUSED)".to_owned()),
        rtt_seconds: None,
        retransmits: 7,
        establish_seconds: None,
        last_data_age_seconds: None,
        connections: Vec::new(),
        ..up(node, peer)
    }
}

/// A flap of `peer`, over.
pub fn flap(node: &str, peer: &str) -> Flap {
    Flap {
        node: node.to_owned(),
        peer: peer.to_owned(),
        number: 1,
        down_at: noon(),
        up_at: Some(noon()),
        down_seconds: Some(7.1),
        up_before_seconds: Some(7_200.0),
        cause: Cause::FinReceived,
        cause_text: Cause::FinReceived.to_string(),
        evidence: vec!["ESTABLISHED to CLOSE_WAIT".to_owned()],
    }
}

/// An incident of node `a` with this peer, open.
pub fn incident(id: &str, peer: &str) -> Incident {
    let subject = Subject {
        kind: SubjectKind::Peer,
        identity: peer.to_owned(),
        name: None,
    };
    Incident {
        id: id.to_owned(),
        cause: Cause::FinReceived.to_string(),
        ..Incident::blank("a", subject, noon())
    }
}

/// A peer of `node` whose messages were read from the first OPEN on.
pub fn read(node: &str, peer: &str) -> PeerView {
    let family = Family::IPV4_UNICAST;
    let counted = |update, keepalive| MessageCounts {
        open: 1,
        update,
        keepalive,
        ..MessageCounts::default()
    };
    PeerView {
        bgp: BgpView {
            tapped: true,
            conversation: ConversationView::Complete,
            hold_time_secs: Some(180),
            keepalive_secs: Some(60),
            keepalive_age_seconds: Sides {
                sent: Some(3.5),
                received: Some(12.0),
            },
            hold_margin: Some(0.95),
            messages: Sides {
                sent: counted(2, 7),
                received: counted(4, 8),
            },
            opens: Sides {
                sent: Some(open("10.0.0.1", 240)),
                received: Some(their_open()),
            },
            advertised: BTreeMap::from([(family, 1)]),
            advertised_complete: true,
            capabilities: capabilities(Some(&open("10.0.0.1", 240)), Some(&their_open())),
            prefixes: BTreeMap::from([(family, 3)]),
            prefixes_complete: true,
            stale_prefixes: BTreeMap::from([(family, 0)]),
            announcements: 5,
            withdrawals: 2,
            end_of_rib_seconds: Some(0.25),
            malformed_updates: Sides {
                received: MalformedUpdates {
                    treat_as_withdraw: 1,
                    ..MalformedUpdates::default()
                },
                ..Sides::default()
            },
            graceful_restart: Some(restart()),
            ..BgpView::default()
        },
        ..up(node, peer)
    }
}

/// Calico's OPEN.
fn open(id: &str, hold_secs: u16) -> OpenFacts {
    let family = Family::IPV4_UNICAST;
    OpenFacts {
        my_as: 64_512,
        four_octet_as: Some(64_512),
        hold_secs,
        bgp_id: id.parse().ok(),
        capabilities: vec![1, 2, 64, 65, 69],
        families: vec![family],
        route_refresh: true,
        add_path: vec![AddPathFamily {
            family,
            mode: AddPathMode::Both,
        }],
        restart: Some(RestartFacts {
            restart_secs: 120,
            families: vec![RestartFamily {
                family,
                forwarding: true,
            }],
            ..RestartFacts::default()
        }),
        ..OpenFacts::default()
    }
}

fn their_open() -> OpenFacts {
    OpenFacts {
        capabilities: vec![1, 64, 65, 69],
        route_refresh: false,
        ..open("10.0.0.2", 180)
    }
}

fn restart() -> GracefulRestartView {
    GracefulRestartView {
        negotiated: true,
        restart_secs: 120,
        restarted: false,
        notification: false,
        families: BTreeMap::from([(Family::IPV4_UNICAST, true)]),
        active: false,
        active_since: None,
        expires_in_seconds: None,
        awaited: Vec::new(),
    }
}

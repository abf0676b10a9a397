//! Series of what BGP messages showed: per peer where the node's packets are read, and per node.

use observer_core::{
    observer::{TapTotals, Totals},
    peer::PeerView,
};

use super::{
    of,
    page::{Labels, Page, float},
};

/// Value of a label for what a peer controls and no registry knows.
const OTHER: &str = "other";

/// Series of each peer. A node whose packets are not read has none: they would all say 0.
pub fn peers(page: &mut Page, peers: &[PeerView]) {
    let tapped = || peers.iter().filter(|peer| peer.bgp.tapped);
    page.counter(
        "bgp_observer_messages_total",
        "BGP messages exchanged with the peer, since it is known.",
        tapped().flat_map(|peer| {
            let messages = &peer.bgp.messages;
            [("sent", messages.sent), ("received", messages.received)]
                .into_iter()
                .flat_map(move |(direction, counts)| {
                    counts.by_type().map(|(of_type, count)| {
                        let labels = with(peer, [("direction", direction), ("type", of_type)]);
                        (labels, float(count))
                    })
                })
        }),
    );
    routes(page, peers);
    timers(page, peers);
    page.counter(
        "bgp_observer_malformed_updates_total",
        "Malformed UPDATEs received from the peer, by what RFC 7606 makes of them.",
        tapped().flat_map(|peer| {
            let counts = peer.bgp.malformed_updates.received.by_severity();
            counts.map(|(severity, count)| {
                (with(peer, [("treatment", severity.label())]), float(count))
            })
        }),
    );
}

fn routes(page: &mut Page, peers: &[PeerView]) {
    let tapped = || peers.iter().filter(|peer| peer.bgp.tapped);
    // A count of what was seen since the agent's start is no count of what there is.
    let whole = || tapped().filter(|peer| peer.bgp.prefixes_complete);
    page.gauge(
        "bgp_observer_prefixes",
        "Prefixes in the peer's Adj-RIB-In, stale ones included; absent when not read from the session's beginning.",
        whole().flat_map(|peer| {
            let by_family = peer.bgp.prefixes.iter();
            by_family.map(|(family, count)| (family_of(peer, family), float(*count)))
        }),
    );
    page.gauge(
        "bgp_observer_stale_prefixes",
        "Those among them that graceful restart keeps as stale.",
        whole().flat_map(|peer| {
            let by_family = peer.bgp.stale_prefixes.iter();
            by_family.map(|(family, count)| (family_of(peer, family), float(*count)))
        }),
    );
    page.counter(
        "bgp_observer_announcements_total",
        "Prefixes that the peer announced, repeated ones included, since it is known.",
        tapped().map(|peer| (of(peer), float(peer.bgp.announcements))),
    );
    page.counter(
        "bgp_observer_withdrawals_total",
        "Prefixes that the peer withdrew, since it is known.",
        tapped().map(|peer| (of(peer), float(peer.bgp.withdrawals))),
    );
    page.some_gauge(
        "bgp_observer_end_of_rib_last_seconds",
        "Time from Established to the peer's End-of-RIB, latest session.",
        tapped().map(|peer| (of(peer), peer.bgp.end_of_rib_seconds)),
    );
    page.gauge(
        "bgp_observer_graceful_restart_active",
        "Whether the peer restarts gracefully now: its routes are kept as stale.",
        tapped().map(|peer| {
            let restart = peer.bgp.graceful_restart.as_ref();
            let active = restart.is_some_and(|restart| restart.active);
            (of(peer), f64::from(u8::from(active)))
        }),
    );
}

fn timers(page: &mut Page, peers: &[PeerView]) {
    let up = || peers.iter().filter(|peer| peer.bgp.tapped && peer.up);
    page.some_gauge(
        "bgp_observer_keepalive_age_seconds",
        "Time since the peer's latest KEEPALIVE.",
        up().map(|peer| (of(peer), peer.bgp.keepalive_age_seconds.received)),
    );
    page.some_gauge(
        "bgp_observer_hold_time_seconds",
        "Hold time that both sides agreed on; 0 is none.",
        up().map(|peer| (of(peer), peer.bgp.hold_time_secs.map(f64::from))),
    );
    page.some_gauge(
        "bgp_observer_hold_margin_ratio",
        "Fraction of the hold time that is left until this node gives the peer up.",
        up().map(|peer| (of(peer), peer.bgp.hold_margin)),
    );
}

/// Series of each node.
pub fn nodes(page: &mut Page, totals: &Totals) {
    let code = |code: Option<u8>| code.map_or(OTHER.to_owned(), |code| code.to_string());
    page.counter(
        "bgp_observer_notifications_total",
        "NOTIFICATIONs by error code and subcode.",
        totals.wire.iter().flat_map(|(node, wire)| {
            let sides = &wire.notifications;
            [("sent", &sides.sent), ("received", &sides.received)]
                .into_iter()
                .flat_map(move |(direction, counts)| {
                    counts.iter().map(move |(key, count)| {
                        let labels = vec![
                            ("node", node.clone()),
                            ("direction", direction.to_owned()),
                            ("code", code(key.0)),
                            ("subcode", code(key.1)),
                        ];
                        (labels, float(*count))
                    })
                })
        }),
    );
    page.histogram(
        "bgp_observer_end_of_rib_seconds",
        "Time from Established to the peer's End-of-RIB.",
        totals
            .wire
            .iter()
            .map(|(node, wire)| (at(node), &wire.end_of_rib)),
    );
    page.histogram(
        "bgp_observer_keepalive_interval_seconds",
        "Time between two KEEPALIVEs received from a peer.",
        totals
            .wire
            .iter()
            .map(|(node, wire)| (at(node), &wire.keepalive_interval)),
    );
    tap(page, totals);
}

/// Name, help and value of a counter without labels.
type Simple = (&'static str, &'static str, fn(&TapTotals) -> u64);

fn tap(page: &mut Page, totals: &Totals) {
    page.counter(
        "bgp_observer_tap_segments_total",
        "TCP segments of BGP ports by what became of them.",
        totals.wire.iter().flat_map(|(node, wire)| {
            fates(&wire.tap).map(|(fate, count)| {
                let mut labels = at(node);
                labels.push(("fate", fate.to_owned()));
                (labels, float(count))
            })
        }),
    );
    let simple: [Simple; 5] = [
        (
            "bgp_observer_tap_conflicts_total",
            "Segments whose octets differ from those seen first.",
            |tap| tap.conflicts,
        ),
        (
            "bgp_observer_tap_out_of_window_total",
            "Segments that cannot be of their connection: forged, or of an older one.",
            |tap| tap.out_of_window,
        ),
        (
            "bgp_observer_tap_unacknowledged_bytes_total",
            "Octets that peers sent and the node's kernel never took.",
            |tap| tap.unacknowledged,
        ),
        (
            "bgp_observer_tap_gaps_total",
            "Holes in what the tap saw: octets that the kernel took and the tap missed.",
            |tap| tap.gaps,
        ),
        (
            "bgp_observer_tap_unfinished_messages_total",
            "Messages of which only a part had come when their connection was over.",
            |tap| tap.unfinished,
        ),
    ];
    for (name, help, count) in simple {
        let series = totals.wire.iter();
        page.counter(
            name,
            help,
            series.map(|(node, wire)| (at(node), float(count(&wire.tap)))),
        );
    }
}

/// What is wrong in messages, for the metric that also has what is wrong elsewhere.
pub fn decode_errors(totals: &Totals) -> impl Iterator<Item = (Labels, f64)> {
    totals.wire.iter().flat_map(|(node, wire)| {
        wire.decode_errors.iter().map(|(kind, count)| {
            let mut labels = at(node);
            labels.push(("kind", (*kind).to_owned()));
            (labels, float(*count))
        })
    })
}

/// Each segment has one.
const fn fates(tap: &TapTotals) -> [(&'static str, u64); 5] {
    [
        ("read", tap.segments),
        ("copy", tap.duplicates),
        ("transit", tap.transit),
        ("fragment", tap.fragments),
        ("corrupt", tap.corrupt),
    ]
}

fn at(node: &str) -> Labels {
    vec![("node", node.to_owned())]
}

fn with<const N: usize>(peer: &PeerView, more: [(&'static str, &str); N]) -> Labels {
    let mut labels = of(peer);
    labels.extend(more.map(|(name, value)| (name, value.to_owned())));
    labels
}

fn family_of(peer: &PeerView, family: &impl ToString) -> Labels {
    with(peer, [("afi_safi", &family.to_string())])
}

//! Which peers have all their series. With many peers the healthy ones have only what alerts read, and
//! count in what is said of their node: a mesh of n nodes would have n² of everything otherwise.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::OnceLock,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use observer_core::{event::PeerType, peer::PeerView};
use serde::{Deserialize, Serialize};

use super::page::{Page, float};

/// `auto` shows every peer of a node with up to so many.
const MANY: usize = 100;
/// A peer whose session was lost is shown for this long.
const REMEMBERED: i64 = 24 * 60 * 60;
/// Less than this fraction of the hold time left is no health.
const LOW_MARGIN: f64 = 1.0 / 3.0;
/// `auto` is decided so long after the start: by then the peers are known.
const DECIDED: Duration = Duration::from_mins(1);

/// Which peers are shown one by one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PeerMetrics {
    /// As full with up to 100 peers a minute after the start, else as unhealthy.
    Auto,
    /// All peers.
    Full,
    /// Peers that are down, about to be, or lost their session within 24 hours.
    Unhealthy,
    /// Those, and all that are not of the node-to-node mesh.
    External,
}

impl PeerMetrics {
    /// What it means for these peers.
    fn settled(self, peers: &[PeerView]) -> Self {
        if self != Self::Auto {
            return self;
        }
        let mut of_node: BTreeMap<&str, usize> = BTreeMap::new();
        for peer in peers {
            *of_node.entry(&peer.node).or_default() += 1;
        }
        if of_node.into_values().max() > Some(MANY) {
            Self::Unhealthy
        } else {
            Self::Full
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::Unhealthy => "unhealthy",
            Self::External => "external",
        }
    }

    fn shows(self, peer: &PeerView, now: jiff::Timestamp) -> bool {
        let mesh = peer.peer_type == Some(PeerType::Mesh);
        self == Self::Full || (self == Self::External && !mesh) || !is_healthy(peer, now)
    }

    /// The peers that have all their series.
    pub fn of(self, peers: &[PeerView], now: jiff::Timestamp) -> Cow<'_, [PeerView]> {
        if self == Self::Full {
            return peers.into();
        }
        let shown = peers.iter().filter(|peer| self.shows(peer, now));
        shown.cloned().collect()
    }
}

fn is_healthy(peer: &PeerView, now: jiff::Timestamp) -> bool {
    let lately = |at: jiff::Timestamp| now.duration_since(at).as_secs() < REMEMBERED;
    let malformed = { peer.bgp.malformed_updates.received.by_severity() }
        .into_iter()
        .any(|(_, count)| count > 0);
    peer.up
        && !peer.last_down_at.is_some_and(lately)
        && peer.bgp.hold_margin.is_none_or(|left| left >= LOW_MARGIN)
        && peer.bgp.stale_prefixes.values().all(|count| *count == 0)
        && !malformed
}

/// The mode of an agent: what `auto` means is decided once, or series would come and go.
#[derive(Debug)]
pub struct Visibility {
    wanted: PeerMetrics,
    begun: Instant,
    settled: OnceLock<PeerMetrics>,
}

impl Visibility {
    /// From now on.
    pub fn new(wanted: PeerMetrics) -> Self {
        Self {
            wanted,
            begun: Instant::now(),
            settled: OnceLock::new(),
        }
    }

    /// What holds for these peers.
    pub fn mode(&self, peers: &[PeerView]) -> PeerMetrics {
        if let Some(settled) = self.settled.get() {
            return *settled;
        }
        let mode = self.wanted.settled(peers);
        if self.begun.elapsed() >= DECIDED {
            return *self.settled.get_or_init(|| mode);
        }
        mode
    }
}

/// Adds what is said of all peers together, and how many are shown one by one.
pub(super) fn add(page: &mut Page, peers: &[PeerView], shown: &[PeerView], mode: PeerMetrics) {
    let mut counts: BTreeMap<(&str, &str), [u64; 2]> = BTreeMap::new();
    let mut visible: BTreeMap<&str, u64> = BTreeMap::new();
    for peer in peers {
        let of_type = peer.peer_type.map_or("", PeerType::name);
        let [up, down] = counts.entry((&peer.node, of_type)).or_default();
        *(if peer.up { up } else { down }) += 1;
        visible.entry(&peer.node).or_default();
    }
    for peer in shown {
        *visible.entry(&peer.node).or_default() += 1;
    }
    page.gauge(
        "bgp_observer_peers",
        "Known peers of the node by type and by whether their session is Established.",
        counts.iter().flat_map(|((node, of_type), [up, down])| {
            [("up", up), ("down", down)].map(|(state, count)| {
                let labels = vec![
                    ("node", (*node).to_owned()),
                    ("peer_type", (*of_type).to_owned()),
                    ("state", state.to_owned()),
                ];
                (labels, float(*count))
            })
        }),
    );
    page.gauge(
        "bgp_observer_peers_shown",
        "Peers of the node that have all their series, by the mode of --peer-metrics.",
        visible.into_iter().map(|(node, count)| {
            let mode = mode.name().to_owned();
            let labels = vec![("node", node.to_owned()), ("mode", mode)];
            (labels, float(count))
        }),
    );
}

#[cfg(test)]
#[path = "visible_tests.rs"]
mod tests;

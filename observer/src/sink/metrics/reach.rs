//! The metrics of probing. Every result has its counter from the start.

use observer_core::{observer::Totals, reach::ProbeResult};

use super::page::{Page, float};

/// Adds them to a scrape.
pub fn add(page: &mut Page, totals: &Totals) {
    page.histogram(
        "bgp_observer_reach_rtt_seconds",
        "Round trip to targets that were probed and answered.",
        totals
            .reach
            .iter()
            .map(|(node, reach)| (vec![("node", node.clone())], &reach.rtt)),
    );
    page.counter(
        "bgp_observer_reach_probes_total",
        "Probes of targets behind peers, by what became of them; unsent ones say nothing of a target.",
        totals.reach.iter().flat_map(|(node, reach)| {
            ProbeResult::ALL.map(|result| {
                let count = reach.probes.get(&result).copied().unwrap_or_default();
                let labels = vec![
                    ("node", node.clone()),
                    ("result", result.name().to_owned()),
                ];
                (labels, float(count))
            })
        }),
    );
}

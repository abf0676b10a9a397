//! How much an event holds, for whatever is bounded by that.

use observer_core::event::Fact;

/// What one route takes.
const ROUTE_OCTETS: usize = 128;

/// How many routes a fact has.
pub fn rows(fact: &Fact) -> usize {
    if let Fact::Forwarding { forwarding, .. } = fact {
        forwarding.route_count()
    } else {
        0
    }
}

/// Octets of a session's data in it.
pub fn payload_octets(fact: &Fact) -> usize {
    if let Fact::Segment { payload, .. } = fact {
        payload.len()
    } else {
        0
    }
}

/// Octets of what it holds beside itself.
pub fn octets(fact: &Fact) -> usize {
    payload_octets(fact) + rows(fact) * ROUTE_OCTETS
}

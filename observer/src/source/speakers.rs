//! Stand-in until the sources are merged.

use super::netns::Netns;

/// Process ids of the local processes that own BGP sockets in `netns`.
pub fn local_speakers(_netns: &Netns, _ports: &[u16]) -> Vec<u32> {
    Vec::new()
}

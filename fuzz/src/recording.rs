//! What must hold of a recording, whatever its bytes are.

use observer_core::{
    config::CoreConfig,
    record::{Entry, Header},
    replay::replay,
};

/// Lines that can be read are applied, and the same lines must give the same changes.
pub fn read(bytes: &[u8]) {
    let mut lines = bytes.split(|octet| *octet == b'\n');
    let header = lines
        .next()
        .and_then(|line| serde_json::from_slice::<Header>(line).ok());
    let config = header.map_or_else(CoreConfig::default, |header| header.config);
    let entries: Vec<Entry> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!(
        replay(config.clone(), entries.clone()),
        replay(config, entries)
    );
}

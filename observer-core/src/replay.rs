//! Replays what was recorded: the same events at the same times give the same changes.

use crate::{
    change::{ChangeRecord, Output},
    config::CoreConfig,
    observer::Observer,
    record::Entry,
};

/// The changes that a machine with `config` gives for `entries`, in order. Nothing runs after the
/// last entry: a recording holds every call.
pub fn replay(config: CoreConfig, entries: impl IntoIterator<Item = Entry>) -> Vec<ChangeRecord> {
    let mut observer = Observer::new(config);
    let mut changes = Vec::new();
    let mut out = Vec::new();
    for entry in entries {
        observer.apply(entry.now, &entry.event, &mut out);
        changes.extend(out.drain(..).filter_map(|output| match output {
            Output::Change(change) => Some(change),
            Output::Request(_) => None,
        }));
    }
    changes
}

//! Processes that write routes, by a number that fits into a route's entry.

use std::collections::BTreeMap;

use super::table::WriterId;
use crate::event::Process;

/// Processes that are remembered; writers beyond that stay unknown.
const MAX_WRITERS: usize = 4_096;

/// Processes by number.
#[derive(Debug, Default)]
pub(super) struct Writers {
    known: Vec<Process>,
    ids: BTreeMap<Process, u16>,
}

impl Writers {
    /// Its number; 0 for nobody.
    pub fn id(&mut self, writer: Option<&Process>) -> WriterId {
        let Some(process) = writer else {
            return WriterId::default();
        };
        if let Some(&id) = self.ids.get(process) {
            return WriterId(id);
        }
        if self.known.len() >= MAX_WRITERS {
            return WriterId::default();
        }
        self.known.push(process.clone());
        let id = u16::try_from(self.known.len()).unwrap_or_default();
        self.ids.insert(process.clone(), id);
        WriterId(id)
    }

    /// The process of that number.
    pub fn get(&self, id: WriterId) -> Option<&Process> {
        self.known.get(usize::from(id.0).checked_sub(1)?)
    }
}

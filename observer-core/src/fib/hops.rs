//! Sets of next hops, each kept once however many routes share it: a full table hangs on a few
//! routers.

use std::{collections::BTreeMap, sync::Arc};

use crate::event::forwarding::NextHop;

/// Where a route leads.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct HopSet {
    /// The nexthop object that it is of.
    pub object: Option<u32>,
    pub hops: Vec<NextHop>,
}

impl HopSet {
    /// A packet can leave by one of them.
    pub fn is_alive(&self) -> bool {
        self.hops.iter().any(|hop| !hop.dead)
    }
}

/// A set's number.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct HopsId(u32);

#[derive(Debug)]
struct Slot {
    set: Arc<HopSet>,
    uses: u32,
}

/// All sets in use.
#[derive(Debug, Default)]
pub(crate) struct Hops {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    ids: BTreeMap<Arc<HopSet>, u32>,
}

impl Hops {
    /// The number of `set`, which has a use more now.
    pub fn take(&mut self, set: HopSet) -> HopsId {
        if let Some(&id) = self.ids.get(&set) {
            self.keep(HopsId(id));
            return HopsId(id);
        }
        let set = Arc::new(set);
        let slot = Some(Slot {
            set: Arc::clone(&set),
            uses: 1,
        });
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.place(id) {
            *place = slot;
        }
        self.ids.insert(set, id);
        HopsId(id)
    }

    /// It has a use more.
    pub fn keep(&mut self, id: HopsId) {
        if let Some(Some(slot)) = self.place(id.0) {
            slot.uses = slot.uses.saturating_add(1);
        }
    }

    /// It has a use less; the last takes it away.
    pub fn release(&mut self, id: HopsId) {
        let Some(place) = self.place(id.0) else {
            return;
        };
        let Some(slot) = place else {
            return;
        };
        slot.uses = slot.uses.saturating_sub(1);
        if slot.uses == 0
            && let Some(slot) = place.take()
        {
            self.ids.remove(&slot.set);
            self.free.push(id.0);
        }
    }

    /// The set of that number.
    pub fn get(&self, id: HopsId) -> Option<&Arc<HopSet>> {
        let slot = self.slots.get(usize::try_from(id.0).ok()?)?.as_ref()?;
        Some(&slot.set)
    }

    /// Whether some set fulfils `condition`.
    pub fn any(&self, condition: impl FnMut(&HopSet) -> bool) -> bool {
        self.ids.keys().map(AsRef::as_ref).any(condition)
    }

    fn place(&mut self, id: u32) -> Option<&mut Option<Slot>> {
        self.slots.get_mut(usize::try_from(id).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(interface: u32) -> HopSet {
        HopSet {
            object: None,
            hops: vec![NextHop {
                interface,
                weight: 1,
                ..NextHop::default()
            }],
        }
    }

    #[test]
    fn a_set_is_kept_once_and_goes_with_its_last_use() {
        let mut hops = Hops::default();
        let one = hops.take(set(1));
        assert_eq!(hops.take(set(1)), one);
        let two = hops.take(set(2));
        assert_ne!(one, two);
        hops.release(one);
        assert_eq!(hops.get(one).map(|found| (**found).clone()), Some(set(1)));
        hops.release(one);
        assert!(hops.get(one).is_none());
        assert!(!hops.any(|set| set.hops.iter().any(|hop| hop.interface == 1)));
        assert_eq!(hops.take(set(3)), one, "a freed number is used again");
        assert_eq!(hops.get(two).map(|found| (**found).clone()), Some(set(2)));
    }
}

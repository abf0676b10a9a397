//! Losses told one by one would drown what they are about: the first of a stage is told at once,
//! those that follow together.

use std::{collections::BTreeMap, time::Duration};

use crate::event::LossStage;

/// How long losses that follow a told one are held back.
pub(crate) const HELD_BACK: Duration = Duration::from_secs(10);

/// Losses held back, by stage; a stage that is quiet has no entry.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    held: BTreeMap<LossStage, u64>,
}

impl Losses {
    /// `count` were lost: gives what to tell now, if anything.
    pub fn take_in(&mut self, stage: LossStage, count: u64) -> Option<u64> {
        if let Some(held) = self.held.get_mut(&stage) {
            *held = held.saturating_add(count);
            return None;
        }
        self.held.insert(stage, 0);
        Some(count)
    }

    /// Gives what was held back; after a quiet time the stage is as new.
    pub fn release(&mut self, stage: LossStage) -> Option<u64> {
        let held = self.held.get_mut(&stage)?;
        if *held > 0 {
            return Some(std::mem::take(held));
        }
        self.held.remove(&stage);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loss_is_told_at_once_and_a_flood_in_sums() {
        let mut losses = Losses::default();
        assert_eq!(losses.take_in(LossStage::Ring, 3), Some(3));
        assert_eq!(losses.take_in(LossStage::Ring, 4), None);
        assert_eq!(losses.take_in(LossStage::Ring, 5), None);
        assert_eq!(losses.take_in(LossStage::Queue, 1), Some(1));
        assert_eq!(losses.release(LossStage::Ring), Some(9));
        assert_eq!(losses.release(LossStage::Ring), None);
        assert_eq!(losses.take_in(LossStage::Ring, 1), Some(1));
    }
}

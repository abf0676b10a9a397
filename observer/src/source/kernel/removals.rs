//! Whether every removal of an IPv4 route was seen, by the kernel's own count.

/// How many removals were seen against how many the kernel's functions said they made.
#[derive(Debug, Default)]
pub struct Removals {
    /// What is already accounted for of the difference.
    settled: i64,
    /// Both, when they were last looked at.
    last: (u64, u64),
}

impl Removals {
    /// Takes in both totals, of which `returned` was read first: each removal is seen before the
    /// function that made it returns. Gives how many differ that did not before.
    pub fn compare(&mut self, returned: u64, seen: u64) -> u64 {
        let excess = returned
            .wrapping_sub(seen)
            .cast_signed()
            .wrapping_sub(self.settled);
        let at_rest = self.last == (returned, seen);
        self.last = (returned, seen);
        // More seen than returned may be a removal that goes on, unless nothing happens any more.
        if excess > 0 || at_rest {
            self.settled = self.settled.wrapping_add(excess);
            return excess.unsigned_abs();
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_that_was_not_seen_is_found_once() {
        let mut removals = Removals::default();
        assert_eq!(removals.compare(5, 5), 0);
        assert_eq!(removals.compare(9, 7), 2);
        assert_eq!(removals.compare(9, 7), 0);
        assert_eq!(removals.compare(10, 8), 0);
        assert_eq!(removals.compare(10, 8), 0);
    }

    #[test]
    fn a_removal_that_goes_on_is_no_difference_and_one_that_stays_is() {
        let mut removals = Removals::default();
        // A flush of many: seen one by one, returned at its end.
        assert_eq!(removals.compare(0, 300), 0);
        assert_eq!(removals.compare(0, 500), 0);
        assert_eq!(removals.compare(500, 500), 0);
        // A return that was missed.
        assert_eq!(removals.compare(500, 507), 0);
        assert_eq!(removals.compare(500, 507), 7);
        // It hides nothing later.
        assert_eq!(removals.compare(502, 508), 1);
    }
}

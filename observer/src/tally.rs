//! How often each of a few named things came about: who counts and who shows share it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Counts by name; a clone counts the same.
#[derive(Clone, Debug)]
pub struct Tally(Arc<[(&'static str, AtomicU64)]>);

impl Tally {
    /// Of things with these names, none of which has come about.
    pub fn of(names: impl IntoIterator<Item = &'static str>) -> Self {
        let zero = |name| (name, AtomicU64::new(0));
        Self(names.into_iter().map(zero).collect())
    }

    /// Counts `count` more of `name`, which is one of them.
    pub fn add(&self, name: &str, count: u64) {
        if let Some((_, counter)) = self.0.iter().find(|(one, _)| *one == name) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Each with its name.
    pub fn shown(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter();
        counts
            .map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn each_is_counted_by_whoever_has_a_clone() {
        let tally = Tally::of(["taken", "refused"]);
        tally.clone().add("refused", 2);
        tally.add("refused", 1);
        assert_eq!(tally.shown(), [("taken", 0), ("refused", 3)]);
    }
}

//! Puts events of several sources into one order by time.
//!
//! Each source is in order by itself but read at its own moment. An event is held until everything
//! that happened before it must have been read too: [`HOLD`] after it happened, and never longer
//! than [`BOUND`] after it came.

use std::{collections::BTreeMap, time::Duration};

use observer_core::{event::Event, time::Timestamp};

/// How old an event must be at the beginning of a drain of all sources to be let through.
pub const HOLD: Duration = Duration::from_millis(1);
/// How long an event with an odd time can be held at most.
pub const BOUND: Duration = Duration::from_millis(20);

/// Events that wait for their turn.
#[derive(Debug, Default)]
pub struct Reorder {
    /// By time, then by order of arrival, with the moment at which they go at the latest.
    held: BTreeMap<(Timestamp, u64), (Timestamp, Event)>,
    arrivals: u64,
}

impl Reorder {
    /// Takes in what was read at `now`.
    pub fn push(&mut self, now: Timestamp, events: impl IntoIterator<Item = Event>) {
        let bound = now.after(BOUND);
        for event in events {
            self.arrivals += 1;
            // An event from the future would overtake none and hold up all.
            let at = event.occurred.latest.min(bound);
            self.held.insert((at, self.arrivals), (bound, event));
        }
    }

    /// Lets through what can no longer be overtaken, given that every source was drained at
    /// `drained` or later.
    pub fn release(&mut self, drained: Timestamp, out: &mut Vec<Event>) {
        let horizon = drained.before(HOLD);
        while let Some(entry) = self.held.first_entry() {
            let ((at, _), (bound, _)) = (*entry.key(), entry.get());
            if at > horizon && *bound > drained {
                break;
            }
            out.push(entry.remove().1);
        }
    }

    /// Lets everything through.
    pub fn flush(&mut self, out: &mut Vec<Event>) {
        out.extend(
            std::mem::take(&mut self.held)
                .into_values()
                .map(|(_, event)| event),
        );
    }

    /// When [`release`](Self::release) lets something through next, if nothing else comes.
    pub fn due(&self) -> Option<Timestamp> {
        self.held
            .first_key_value()
            .map(|((at, _), (bound, _))| at.after(HOLD).min(*bound))
    }
}

#[cfg(test)]
mod tests {
    use observer_core::{event::Fact, time::Occurred};

    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(micros * 1_000)
    }

    /// Events are told apart by a count.
    fn event(micros: u64, count: u64) -> Event {
        Event {
            occurred: Occurred::kernel(at(micros)),
            fact: Fact::Strangers { connections: count },
        }
    }

    fn counts(events: &[Event]) -> Vec<u64> {
        events
            .iter()
            .filter_map(|event| {
                let Fact::Strangers { connections } = event.fact else {
                    return None;
                };
                Some(connections)
            })
            .collect()
    }

    #[test]
    fn sources_are_merged_by_time_and_ties_keep_their_order() {
        let mut reorder = Reorder::default();
        reorder.push(at(10_500), [event(10_100, 2), event(10_400, 4)]);
        reorder.push(at(10_600), [event(10_000, 1), event(10_100, 3)]);
        let mut out = Vec::new();
        reorder.release(at(11_100), &mut out);
        assert_eq!(counts(&out), [1, 2, 3]);
        assert_eq!(reorder.due(), Some(at(11_400)));
        reorder.release(at(11_400), &mut out);
        assert_eq!(counts(&out), [1, 2, 3, 4]);
        assert_eq!(reorder.due(), None);
    }

    #[test]
    fn a_late_event_goes_at_once() {
        let mut reorder = Reorder::default();
        let mut out = Vec::new();
        reorder.push(at(50_000), [event(20_000, 1)]);
        reorder.release(at(50_000), &mut out);
        assert_eq!(counts(&out), [1]);
    }

    #[test]
    fn an_event_from_the_future_is_held_no_longer_than_the_bound() {
        let mut reorder = Reorder::default();
        let mut out = Vec::new();
        reorder.push(at(1_000), [event(9_000_000, 2), event(900, 1)]);
        reorder.release(at(2_000), &mut out);
        assert_eq!(counts(&out), [1]);
        assert_eq!(reorder.due(), Some(at(21_000)));
        reorder.release(at(20_999), &mut out);
        assert_eq!(out.len(), 1);
        reorder.release(at(21_000), &mut out);
        assert_eq!(counts(&out), [1, 2]);
    }
}

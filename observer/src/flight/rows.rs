//! How many routes the flight recorder takes in. A full table would fill a generation by itself, and the
//! next one begins with a dump of the same table: it would dump and write without end, and keep nothing
//! else.

use std::{collections::BTreeSet, time::Duration};

use observer_core::{
    event::{Event, Fact, NetnsId, forwarding::Forwarding},
    time::Timestamp,
};

use crate::weight::rows;

/// So many are taken in, and as many again after a while.
const ROWS: usize = 131_072;
const RENEWED: Duration = Duration::from_mins(10);

/// What is left of them.
#[derive(Debug)]
pub struct Rows {
    left: usize,
    since: Timestamp,
    /// Namespaces of whose dump under way rows were left out.
    cut: BTreeSet<NetnsId>,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            left: ROWS,
            since: Timestamp::default(),
            cut: BTreeSet::new(),
        }
    }
}

impl Rows {
    /// `event` as it is to be recorded at `now`; none where its routes are too many.
    pub fn admit(&mut self, now: Timestamp, event: &Event) -> Option<Event> {
        let Fact::Forwarding { netns, forwarding } = &event.fact else {
            return Some(event.clone());
        };
        if now.since(self.since) >= RENEWED {
            self.left = ROWS;
            self.since = now;
        }
        let rows = rows(&event.fact);
        if rows > self.left {
            self.cut.insert(*netns);
            return None;
        }
        self.left -= rows;
        if matches!(forwarding, Forwarding::DumpBegun { .. }) {
            self.cut.remove(netns);
        }
        let ends = matches!(forwarding, Forwarding::DumpEnded { .. });
        if !ends || !self.cut.remove(netns) {
            return Some(event.clone());
        }
        // What was left out of it is not gone.
        let (netns, forwarding) = (*netns, Forwarding::DumpEnded { complete: false });
        let fact = Fact::Forwarding { netns, forwarding };
        let occurred = event.occurred;
        Some(Event { occurred, fact })
    }
}

#[cfg(test)]
mod tests {
    use observer_core::{
        bgp::Prefix,
        event::forwarding::{Protocol, Route, RouteKind, TABLE_MAIN},
    };

    use super::*;

    const NETNS: NetnsId = NetnsId(1);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn told(forwarding: Forwarding) -> Event {
        let netns = NETNS;
        Event::noticed(at(1), Fact::Forwarding { netns, forwarding })
    }

    fn dump(rows: &mut Rows, seconds: u64, routes: usize) -> (usize, bool) {
        let prefix = Prefix {
            address: [10, 0, 0, 0].into(),
            length: 24,
        };
        let route = Route {
            prefix,
            table: TABLE_MAIN,
            tos: 0,
            metric: 0,
            kind: RouteKind::Blackhole,
            protocol: Protocol::BIRD,
            object: None,
            next_hops: Vec::new(),
        };
        let chunk = told(Forwarding::Dumped {
            routes: vec![route; 512],
        });
        let (ipv6, since) = (false, at(0));
        assert!(
            rows.admit(at(seconds), &told(Forwarding::DumpBegun { ipv6, since }))
                .is_some()
        );
        let taken = (0..routes / 512).filter(|_| rows.admit(at(seconds), &chunk).is_some());
        let taken = taken.count() * 512;
        let end = rows.admit(at(seconds), &told(Forwarding::DumpEnded { complete: true }));
        let whole = told(Forwarding::DumpEnded { complete: true });
        (taken, end.unwrap() == whole)
    }

    #[test]
    fn a_table_that_is_too_large_is_cut_and_says_so() {
        let mut rows = Rows::default();
        assert_eq!(dump(&mut rows, 1, 51_200), (51_200, true));
        assert_eq!(dump(&mut rows, 2, 512_000), (ROWS - 51_200, false));
        assert_eq!(dump(&mut rows, 3, 512), (0, false));
        assert_eq!(dump(&mut rows, 602, 51_200), (51_200, true));
    }

    #[test]
    fn all_else_is_taken_in_whatever_the_routes_are() {
        let mut rows = Rows::default();
        dump(&mut rows, 1, 512_000);
        let link = told(Forwarding::LinkGone { interface: 7 });
        assert_eq!(rows.admit(at(2), &link), Some(link.clone()));
        let tick = Event::noticed(at(2), Fact::Tick);
        assert_eq!(rows.admit(at(2), &tick), Some(tick.clone()));
    }
}

//! The intake's part in routes: who tells of their changes, when they have to wait, and what has to be
//! looked up.

use std::time::Duration;

use observer_core::{
    event::{NetnsId, forwarding::RouteSource},
    time::Timestamp,
};
use tokio::sync::mpsc;

use super::{Queue, Reading};
use crate::{
    health::SourceStatus,
    routes::News,
    source::{clock::boottime_now, netns::Netns},
};

/// Routes that have to wait are looked at again after this.
const WAIT: Duration = Duration::from_millis(1);

/// Routes wait for room. So do those in the probes' ring.
pub async fn with_room(queue: &Queue, news: &mut mpsc::Receiver<News>) -> Option<News> {
    queue.room().await?;
    news.recv().await
}

impl Reading {
    pub(super) fn read_routes(&mut self, netns: NetnsId, handle: &Netns) {
        let begun = self.routes.begin(netns, handle, self.source_of(netns));
        let reason = begun.err().map(|error| format!("{error:#}"));
        self.tell_source(netns, SourceStatus::rtnetlink, reason);
    }

    /// Whose word on changes counts: the probes' where they run, for they miss none and know when and
    /// who.
    fn source_of(&self, netns: NetnsId) -> RouteSource {
        if self.probed.contains(&netns) {
            RouteSource::Probe
        } else {
            RouteSource::Netlink
        }
    }

    /// The probes have failed.
    pub(super) fn follow_netlink(&mut self) {
        for netns in std::mem::take(&mut self.probed) {
            self.routes.follow(netns, RouteSource::Netlink);
        }
    }

    pub(super) fn take_routes(&mut self, news: News) {
        match news {
            News::Events(events) => self.reorder.push(boottime_now(), events),
            News::Failed(netns, reason, since) => {
                self.routes.fail(netns, since);
                self.tell_source(netns, SourceStatus::rtnetlink, Some(reason));
            }
        }
    }

    /// Takes all that the readers have said. The probes' word on a route may be given to the core no sooner
    /// than that a dump had begun before: one that does not show the route yet would else end it.
    pub(super) fn take_waiting_routes(&mut self, waiting: &mut mpsc::Receiver<News>) {
        while let Ok(news) = waiting.try_recv() {
            self.take_routes(news);
        }
    }

    /// Has looked up what the probes could not tell whole.
    pub(super) fn look_up_routes(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        for ((netns, ipv6), since) in kernel.to_look_up() {
            self.routes.dump(netns, ipv6, since);
        }
    }

    /// When routes that wait in their ring are to be looked at again.
    pub(super) fn routes_due(&self) -> Option<Timestamp> {
        let wait = !self.probed.is_empty() && self.outbox.is_half_full();
        wait.then(|| boottime_now().after(WAIT))
    }
}

//! The intake's part in local BGP speakers and the taps: where they live, and where the taps have to be
//! moved for that.

use std::time::Duration;

use anyhow::anyhow;
use observer_core::event::{Fact, NetnsId, Process, TcpState};
use tracing::{info, warn};

use super::Reading;
use crate::{health::SourceStatus, source::clock::boottime_now, taps::Tapped};

/// How often the taps are moved to where speakers live and peers are routed now.
const RETAP: Duration = Duration::from_secs(5);
/// How long changes are gathered before the taps are moved for them.
const RETAP_SOON: Duration = Duration::from_millis(20);

impl Reading {
    /// Has the end of the processes that own sockets watched, and their sockets tapped.
    pub(super) fn watch_speakers(&mut self, netns: NetnsId, speakers: &[Process]) {
        let mut moved = false;
        for Process { pid, .. } in speakers {
            moved |= self.taps.speaks(netns, *pid);
            let watched = self.kernel.as_mut();
            if let Some(Err(error)) = watched.map(|kernel| kernel.add_speaker(*pid, netns)) {
                warn!(pid, "cannot watch a BGP speaker: {:#}", anyhow!(error));
            }
        }
        self.retap_soon_if(moved);
    }

    /// Learns from the kernel's own events who dials or listens, and who has ended.
    pub(super) fn note_speakers(&mut self) {
        let mut moved = false;
        for event in &self.drained {
            if let Fact::TcpState {
                socket,
                to: TcpState::Listen | TcpState::SynSent,
                process: Some(process),
                ..
            } = &event.fact
            {
                moved |= self.taps.speaks(socket.netns, process.pid);
            }
            if let Fact::SpeakerExited { netns, speaker, .. } = &event.fact {
                moved |= self.taps.ended(*netns, speaker.pid);
            }
        }
        self.retap_soon_if(moved);
    }

    /// Moves the taps before long, where something `moved`.
    pub(super) fn retap_soon_if(&mut self, moved: bool) {
        if moved {
            self.retap = self.retap.min(boottime_now().after(RETAP_SOON));
        }
    }

    /// Moves the taps to where speakers live and peers are routed now.
    pub(super) fn retap(&mut self) {
        self.retap = boottime_now().after(RETAP);
        let mut changes = Vec::new();
        let all = self.taps.refresh(self.kernel.as_mut(), &mut changes);
        self.reorder.push(boottime_now(), changes);
        for (netns, tapped) in all {
            self.tell_tap(netns, tapped);
        }
    }

    pub(super) fn tell_tap(&self, netns: NetnsId, tapped: Tapped) {
        let Some(node) = self.namespaces.node(netns) else {
            return;
        };
        let status = SourceStatus::tap(node, tapped);
        if !self.health.set(status.clone()) {
            return;
        }
        match (&status.reason, &status.instead_because) {
            (Some(reason), _) => warn!(node, "tap: {reason}"),
            (None, Some(why)) => info!(node, kind = status.kind, "tap: {why}"),
            (None, None) => info!(node, kind = status.kind, "tap"),
        }
    }
}

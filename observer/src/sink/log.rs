//! The log line of a change. A flap is told once, when its cause is final.

use observer_core::change::{Change, ChangeRecord};
use tracing::{debug, info, warn};

use crate::{show::words, terminal::plain};

/// Logs `record`.
pub fn tell(record: &ChangeRecord) {
    let node = plain(&record.node);
    let (peer, what) = words::describe(&record.change);
    let (peer, what) = (plain(peer), plain(&what));
    match &record.change {
        Change::Flap { .. }
        | Change::Lost { .. }
        | Change::ForeignDelete { .. }
        | Change::RouteFight { .. }
        | Change::ConcurrentRestarts { .. }
        | Change::NotProgrammed { .. }
        | Change::SpeakerEnded { .. }
        | Change::HoldMarginLow { .. }
        | Change::IncidentOpened { .. }
        | Change::IncidentClosed { .. } => {
            warn!(node, peer, "{what}");
        }
        Change::Routes(routes) if routes.event.is_loss() => warn!(node, peer, "{what}"),
        Change::Routes(_)
        | Change::Programmed { .. }
        | Change::SessionUp { .. }
        | Change::PeerKnown { .. }
        | Change::PeerForgotten { .. }
        | Change::SpeakerSeen { .. }
        | Change::FlapAmended { .. }
        | Change::GrStarted { .. }
        | Change::GrEnded { .. }
        | Change::Unanswered { .. } => info!(node, peer, "{what}"),
        Change::SessionDown { .. }
        | Change::SessionState { .. }
        | Change::ConnectFailed { .. }
        | Change::IncidentUpdated { .. } => {
            debug!(node, peer, "{what}");
        }
    }
}

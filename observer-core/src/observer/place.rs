//! Where a fact belongs.

use crate::event::{Fact, NetnsId};

/// The namespace that a fact about sockets or speakers belongs to.
pub(super) const fn netns_of(fact: &Fact) -> Option<NetnsId> {
    match fact {
        Fact::TcpState { socket, .. }
        | Fact::TcpError { socket, .. }
        | Fact::ResetReceived { socket }
        | Fact::ResetSent { socket }
        | Fact::Retransmit { socket }
        | Fact::SocketInfo { socket, .. } => Some(socket.netns),
        Fact::NodeObserved { netns, .. }
        | Fact::NodeGone { netns }
        | Fact::SocketGone { netns, .. }
        | Fact::SocketsDumped { netns, .. }
        | Fact::Segment { netns, .. }
        | Fact::TapAttached { netns, .. }
        | Fact::TapDetached { netns, .. }
        | Fact::TapFragments { netns, .. }
        | Fact::TapChecksums { netns, .. }
        | Fact::TapStrangers { netns, .. }
        | Fact::SpeakerExited { netns, .. }
        | Fact::SpeakerSignalled { netns, .. }
        | Fact::SpeakerOom { netns, .. }
        | Fact::Forwarding { netns, .. }
        | Fact::EchoReplied { netns, .. }
        | Fact::EchoFailed { netns, .. }
        | Fact::PacketsDropped { netns, .. } => Some(*netns),
        Fact::Tick
        | Fact::WallClock { .. }
        | Fact::PeersRestored { .. }
        | Fact::Inventory { .. }
        | Fact::PeersConfigured { .. }
        | Fact::Cluster { .. }
        | Fact::PeerForget { .. }
        | Fact::Strangers { .. }
        | Fact::IncidentsRestored { .. }
        | Fact::IncidentNote { .. }
        | Fact::PodsListed { .. }
        | Fact::Circumstances { .. }
        | Fact::Versions { .. }
        | Fact::Lost { .. } => None,
    }
}

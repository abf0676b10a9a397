//! What the core is told. Every event is serializable: a recorded file is a bug report, a replay
//! and a test.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    payload::Payload,
    time::{Occurred, Timestamp, WallOffset},
};

pub mod circumstances;
pub mod cluster;
pub mod configured;
pub mod drops;
pub mod forwarding;

/// The agent's number for an observed network namespace; one per (inode, generation), never used
/// again within a run, because the kernel does reuse inodes.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct NetnsId(pub u32);

/// A socket within a boot: its kernel cookie, or, on kernels without one, the agent's own number
/// for (address, birth).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct SocketId(pub u64);

/// One thing that happened, and when.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// When.
    pub occurred: Occurred,
    /// What.
    #[serde(flatten)]
    pub fact: Fact,
}

impl Event {
    /// `fact`, as the agent noticed it at `now`.
    pub const fn noticed(now: Timestamp, fact: Fact) -> Self {
        Self {
            occurred: Occurred::noticed(now, now),
            fact,
        }
    }
}

/// What happened. The kernel's words for the kernel's facts; nothing is concluded yet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// Time went by; deadlines that were due have run.
    Tick,
    /// Wall time was sampled.
    WallClock {
        /// CLOCK_REALTIME minus CLOCK_BOOTTIME.
        offset: WallOffset,
    },
    /// A namespace is observed from now on.
    NodeObserved {
        /// Its number.
        netns: NetnsId,
        /// Its node's name, as `node` in metrics.
        node: String,
    },
    /// A namespace is gone: its sockets and its speaker with it.
    NodeGone {
        /// Its number.
        netns: NetnsId,
    },
    /// What the state directory remembered of a node's peers.
    PeersRestored {
        /// The node.
        node: String,
        /// Its peers as saved.
        peers: Vec<crate::peer::SavedPeer>,
    },
    /// The inventory as it is now; it replaces what the same source said before.
    Inventory {
        /// Every peer that ought to be there.
        peers: Vec<InventoryPeer>,
    },
    /// A node's speaker said with whom it is configured; that replaces what it said before.
    PeersConfigured {
        /// The node.
        node: String,
        /// Where it was asked: a node may have one speaker per IP version.
        socket: String,
        /// Its peers.
        peers: Vec<configured::ConfiguredPeer>,
    },
    /// Something about the cluster that the observed nodes belong to.
    Cluster {
        /// What.
        #[serde(flatten)]
        cluster: cluster::ClusterFact,
    },
    /// Pods were asked for with [`Request::ListPods`](crate::change::Request::ListPods).
    PodsListed {
        /// The incident that they were asked for.
        incident: String,
        /// Those of the nodes that were asked about.
        pods: Vec<cluster::Pod>,
        /// Why some or all are missing, if they are.
        #[serde(default)]
        missing: Option<String>,
    },
    /// An incident's node was asked about with
    /// [`Request::AskCircumstances`](crate::change::Request::AskCircumstances).
    Circumstances {
        /// The incident.
        incident: String,
        /// The answer.
        told: circumstances::Circumstances,
    },
    /// An operator said to forget a peer.
    PeerForget {
        /// Node, or all nodes.
        node: Option<String>,
        /// The peer's address.
        peer: IpAddr,
    },
    /// A TCP socket changed state.
    TcpState {
        /// Which socket.
        #[serde(flatten)]
        socket: Socket,
        /// State before.
        from: TcpState,
        /// State after.
        to: TcpState,
        /// The process whose system call did it, where one did.
        process: Option<Process>,
    },
    /// The kernel reported an error to a socket's owner.
    TcpError {
        /// Which socket.
        #[serde(flatten)]
        socket: Socket,
        /// A positive errno.
        errno: i32,
    },
    /// A valid RST arrived for a socket.
    ResetReceived {
        /// Which socket.
        #[serde(flatten)]
        socket: Socket,
    },
    /// The kernel sent a RST for a socket.
    ResetSent {
        /// Which socket.
        #[serde(flatten)]
        socket: Socket,
    },
    /// A segment was sent again.
    Retransmit {
        /// Which socket.
        #[serde(flatten)]
        socket: Socket,
    },
    /// sock_diag's answer about one socket.
    SocketInfo {
        /// Which socket; its counters are those of the answer.
        #[serde(flatten)]
        socket: Socket,
        /// State at that moment.
        state: TcpState,
        /// Milliseconds since the last payload arrived (`tcpi_last_data_recv`).
        last_data_received_millis: Option<u32>,
        /// Bytes in the send queue, not yet acknowledged (`idiag_wqueue`).
        send_queue: u32,
        /// Bytes in the receive queue, not yet read (`idiag_rqueue`).
        receive_queue: u32,
        /// The process that owns it, where /proc told.
        process: Option<Process>,
    },
    /// sock_diag was asked for this socket and knows no such socket.
    SocketGone {
        /// Its namespace.
        netns: NetnsId,
        /// Its identity.
        id: SocketId,
    },
    /// A dump of a namespace's sockets is complete; [`Fact::SocketInfo`] came before for each. What
    /// was not in it does not exist.
    SocketsDumped {
        /// The namespace.
        netns: NetnsId,
        /// When the dump was begun; sockets younger than this may be missing from it.
        begun: Timestamp,
    },
    /// A BGP speaker of this host ended.
    SpeakerExited {
        /// The namespace it spoke in.
        netns: NetnsId,
        /// The speaker.
        speaker: Process,
        /// Exit status, if it ended by itself.
        status: Option<i32>,
        /// Number of the signal that ended it, if one did.
        signal: Option<i32>,
    },
    /// A signal was sent to a BGP speaker.
    SpeakerSignalled {
        /// The namespace it speaks in.
        netns: NetnsId,
        /// The speaker.
        speaker: Process,
        /// The signal's number.
        signal: i32,
        /// Who sent it; none when the kernel itself did.
        sender: Option<Process>,
    },
    /// The OOM killer chose a BGP speaker.
    SpeakerOom {
        /// The namespace it speaks in.
        netns: NetnsId,
        /// The speaker.
        speaker: Process,
    },
    /// Completed inbound connections of strangers, counted by the kernel since the last such event.
    Strangers {
        /// How many.
        connections: u64,
    },
    /// A TCP segment of a BGP port was seen on an interface of the node.
    Segment {
        /// Its namespace.
        netns: NetnsId,
        /// Index of the interface that showed it, 0 where that was our socket. One segment may be seen on
        /// several (bond, VLAN, bridge), and at the socket too.
        interface: u32,
        /// It left this host.
        sent: bool,
        /// Our end.
        local: SocketAddr,
        /// The other end; the scope of a link-local address is its interface's index.
        remote: SocketAddr,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number, where the flag is set.
        #[serde(default)]
        ack: Option<u32>,
        /// SYN.
        #[serde(default)]
        syn: bool,
        /// FIN.
        #[serde(default)]
        fin: bool,
        /// RST.
        #[serde(default)]
        rst: bool,
        /// What was captured of the payload.
        #[serde(default)]
        payload: Payload,
        /// Octets of payload beyond those, cut off by the capture.
        #[serde(default)]
        missing: u32,
    },
    /// Segments on an interface are seen from now on.
    TapAttached {
        /// The namespace.
        netns: NetnsId,
        /// The interface's index; 0 for the speakers' sockets, whatever the interface.
        interface: u32,
    },
    /// Segments on an interface are not seen any more.
    TapDetached {
        /// The namespace.
        netns: NetnsId,
        /// The interface's index.
        interface: u32,
    },
    /// Segments of strangers that the tap passed over, beyond what they may cost; counted since the
    /// last such event.
    TapStrangers {
        /// The namespace.
        netns: NetnsId,
        /// How many.
        count: u64,
    },
    /// IP fragments of TCP that the tap passed over, counted since the last such event.
    TapFragments {
        /// The namespace.
        netns: NetnsId,
        /// How many.
        count: u64,
    },
    /// Segments with a wrong checksum, which no kernel takes, that the tap passed over; counted since
    /// the last such event.
    TapChecksums {
        /// The namespace.
        netns: NetnsId,
        /// How many.
        count: u64,
    },
    /// Something about a namespace's routes, or what they hang on.
    Forwarding {
        /// The namespace.
        netns: NetnsId,
        /// What.
        #[serde(flatten)]
        forwarding: forwarding::Forwarding,
    },
    /// A target answered the echo of a [`Request::Echo`](crate::change::Request::Echo).
    EchoReplied {
        /// The namespace it was sent from.
        netns: NetnsId,
        /// The request's token.
        token: u64,
        /// Who answered.
        target: IpAddr,
        /// From sending to receiving, nanoseconds.
        rtt_nanos: u64,
    },
    /// An echo could not be sent, or an ICMP error came back for it. Silence is no fact: how long to
    /// wait is the core's business.
    EchoFailed {
        /// The namespace.
        netns: NetnsId,
        /// The request's token.
        token: u64,
        /// The target.
        target: IpAddr,
        /// A positive errno: what sending said, or what the ICMP error means.
        errno: i32,
    },
    /// The kernel dropped packets on their way to a watched prefix, or TCP there goes unanswered; see
    /// [`Request::Watch`](crate::change::Request::Watch).
    PacketsDropped {
        /// The namespace that dropped or sent them.
        netns: NetnsId,
        /// The watched prefix.
        prefix: crate::bgp::Prefix,
        /// Why.
        reason: drops::DropReason,
        /// How many since the last such event.
        packets: u64,
        /// When it happened to the first of them.
        first: Timestamp,
        /// When to the last.
        last: Timestamp,
    },
    /// What the store remembered of a node's incidents that were open when it was last written.
    IncidentsRestored {
        /// The node.
        node: String,
        /// Open incidents as last written.
        incidents: Vec<crate::incident::Incident>,
        /// When the agent last was alive; none where nobody knows.
        absent_since: Option<jiff::Timestamp>,
    },
    /// An operator wrote something to an incident.
    IncidentNote {
        /// Its id.
        id: String,
        /// What.
        note: String,
    },
    /// Versions that incidents name: agent, kernel, BIRD, Calico, where known. What was told before
    /// and is not named stays.
    Versions {
        /// By name.
        versions: std::collections::BTreeMap<String, String>,
    },
    /// Something was lost on the way to the core.
    Lost {
        /// Where.
        stage: LossStage,
        /// How many events.
        count: u64,
    },
}

/// A socket as an event shows it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Socket {
    /// Its namespace.
    pub netns: NetnsId,
    /// Its identity.
    pub id: SocketId,
    /// Our end. Port 0 while the kernel has not chosen one (CLOSE→SYN_SENT).
    pub local: SocketAddr,
    /// The other end; the scope of a link-local address is its interface's index.
    pub remote: SocketAddr,
    /// Payload bytes received so far.
    #[serde(default)]
    pub bytes_received: u64,
    /// Bytes acknowledged by the peer so far, as the kernel counts them (`tcpi_bytes_acked`): payload,
    /// plus one for the SYN of a connection that this side opened.
    #[serde(default)]
    pub bytes_acked: u64,
    /// Smoothed round-trip time in microseconds; 0 while none was measured.
    #[serde(default)]
    pub srtt_micros: u32,
    /// Segments retransmitted over its life.
    #[serde(default)]
    pub total_retransmits: u32,
    /// Times the oldest unacknowledged segment was retransmitted without answer.
    #[serde(default)]
    pub unanswered_retransmits: u8,
}

/// A process as seen at one moment.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Process {
    /// Thread group id in the host's pid namespace.
    pub pid: u32,
    /// Command name, at most 15 bytes; not UTF-8 is replaced.
    pub comm: String,
}

/// Linux's TCP states, `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(
    missing_docs,
    reason = "the kernel's names, explained by RFC 9293 section 3.3.2"
)]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
}

impl TcpState {
    /// From the kernel's number; none for numbers it does not have (as of Linux 6.18).
    pub const fn from_linux(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynRecv,
            _ => return None,
        })
    }

    /// The kernel's name, as `ss` and `/proc` know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::NewSynRecv => "NEW_SYN_RECV",
        }
    }
}

/// A peer that an inventory says ought to exist.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InventoryPeer {
    /// The observed node this is a peer of; none for every observed node except the peer itself.
    #[serde(default)]
    pub node: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// The name of the peer's node.
    #[serde(default)]
    pub name: Option<String>,
    /// Its kind, as calicoctl names it.
    #[serde(default)]
    pub peer_type: Option<PeerType>,
    /// Its AS number.
    #[serde(default)]
    pub asn: Option<u32>,
    /// Addresses behind it that may be probed: its tunnel address, pods that opted in.
    #[serde(default)]
    pub targets: Vec<IpAddr>,
}

/// calicoctl's peer types.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum PeerType {
    /// Part of the full mesh.
    #[serde(rename = "node-to-node mesh")]
    Mesh,
    /// A BGPPeer for one node.
    #[serde(rename = "node specific")]
    NodeSpecific,
    /// A BGPPeer for all nodes.
    #[serde(rename = "global")]
    Global,
}

impl PeerType {
    /// As calicoctl prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "node-to-node mesh",
            Self::NodeSpecific => "node specific",
            Self::Global => "global",
        }
    }
}

/// Where something was lost.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossStage {
    /// The main ring was full.
    Ring,
    /// The strangers' ring was full: expected in a flood, and harmless.
    StrangerRing,
    /// A kernel map was full.
    Map,
    /// The queue between a source and the core was full.
    Queue,
    /// A record's bytes made no sense.
    Decode,
    /// sock_diag's answers were cut short.
    SockDiag,
    /// The recorder could not write.
    Recorder,
    /// A bounded table of the core was full.
    Table,
    /// The tap's buffer was full: segments were not seen.
    Tap,
    /// The store could not write: what was seen is not kept.
    Store,
    /// rtnetlink's buffer was full (ENOBUFS), or a dump of routes failed; each counts once, whatever
    /// it held.
    Netlink,
}

impl LossStage {
    /// Every stage: their counters exist from the start.
    pub const ALL: [Self; 11] = [
        Self::Ring,
        Self::StrangerRing,
        Self::Map,
        Self::Queue,
        Self::Decode,
        Self::SockDiag,
        Self::Recorder,
        Self::Table,
        Self::Tap,
        Self::Store,
        Self::Netlink,
    ];

    /// The `stage` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::StrangerRing => "stranger_ring",
            Self::Map => "map",
            Self::Queue => "queue",
            Self::Decode => "decode",
            Self::SockDiag => "sock_diag",
            Self::Recorder => "recorder",
            Self::Table => "table",
            Self::Tap => "tap",
            Self::Store => "store",
            Self::Netlink => "netlink",
        }
    }
}

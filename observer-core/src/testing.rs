//! Builds events for tests: one observed node, millisecond times, sockets by number.

use crate::{
    Observer,
    change::{Change, ChangeRecord, Output, Request},
    config::CoreConfig,
    event::{Event, Fact, InventoryPeer, NetnsId, Process, Socket, SocketId, TcpState},
    peer::{Flap, KnownBy, PeerView, SavedPeer},
    record::Entry,
    terms::SavedTerms,
    time::{Occurred, Timestamp, WallOffset},
};

/// The one namespace of a scene.
pub(crate) const NETNS: NetnsId = NetnsId(1);
/// Its node's address.
pub(crate) const OWN: &str = "10.0.0.1";
/// The usual peer.
pub(crate) const PEER: &str = "10.0.0.2";

pub(crate) fn millis(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

pub(crate) fn process(pid: u32, comm: &str) -> Process {
    Process {
        pid,
        comm: comm.to_owned(),
    }
}

pub(crate) fn bird() -> Process {
    process(40, "bird")
}

/// A connection that the node dials to `peer`.
pub(crate) fn outbound(id: u64, peer: &str) -> Socket {
    socket(id, &format!("{OWN}:40000"), &format!("{peer}:179"))
}

/// A connection that `peer` dials to the node.
pub(crate) fn inbound(id: u64, peer: &str) -> Socket {
    socket(id, &format!("{OWN}:179"), &format!("{peer}:50000"))
}

pub(crate) fn socket(id: u64, local: &str, remote: &str) -> Socket {
    Socket {
        netns: NETNS,
        id: SocketId(id),
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        bytes_received: 0,
        bytes_acked: 0,
        srtt_micros: 100,
        total_retransmits: 0,
        unanswered_retransmits: 0,
    }
}

/// `socket` after that many bytes each way, the SYN not counted.
pub(crate) fn carrying(socket: Socket, bytes: u64) -> Socket {
    Socket {
        bytes_received: bytes,
        bytes_acked: bytes + 1,
        ..socket
    }
}

/// `socket` with its oldest segment that often retransmitted.
pub(crate) fn unanswered(socket: Socket, times: u8) -> Socket {
    Socket {
        total_retransmits: u32::from(times),
        unanswered_retransmits: times,
        ..socket
    }
}

/// A peer whose session was up in an earlier run, on these terms.
pub(crate) fn saved(peer: &str, terms: SavedTerms) -> SavedPeer {
    let wall = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    SavedPeer {
        address: peer.parse().unwrap(),
        scope: 0,
        known_by: KnownBy::Established,
        peer_node: None,
        peer_type: None,
        asn: None,
        last_heard_at: Some(wall),
        established_at: Some(wall),
        last_down_at: None,
        was_up: true,
        terms: Some(terms),
        flaps: 0,
        recent_flaps: Vec::new(),
    }
}

/// A machine, what it was told and what it said.
pub(crate) struct Scene {
    pub observer: Observer,
    pub now: u64,
    pub told: Vec<Entry>,
    pub changes: Vec<ChangeRecord>,
    pub requests: Vec<Request>,
}

impl Scene {
    /// Observes node n1, nothing else known; the first dump is still to come.
    pub fn new() -> Self {
        Self::with(CoreConfig::default())
    }

    pub fn with(config: CoreConfig) -> Self {
        let mut scene = Self {
            observer: Observer::new(config),
            now: 1_000,
            told: Vec::new(),
            changes: Vec::new(),
            requests: Vec::new(),
        };
        let offset = WallOffset {
            nanos: 1_700_000_000_000_000_000,
        };
        scene.tell(Fact::WallClock { offset });
        scene.tell(Fact::NodeObserved {
            netns: NETNS,
            node: "n1".to_owned(),
        });
        scene
    }

    /// As [`Self::new`], its first dump done and empty.
    pub fn started() -> Self {
        let mut scene = Self::new();
        scene.dumped();
        scene
    }

    /// As [`Self::started`], and an inventory names [`PEER`], of which it says no more.
    pub fn with_named_peer() -> Self {
        let mut scene = Self::started();
        let peer = InventoryPeer {
            node: None,
            address: PEER.parse().unwrap(),
            name: None,
            peer_type: None,
            asn: None,
            targets: Vec::new(),
        };
        scene.tell(Fact::Inventory { peers: vec![peer] });
        scene
    }

    /// The fact happens now; the kernel stamps it.
    pub fn tell(&mut self, fact: Fact) {
        let at = millis(self.now);
        let event = Event {
            occurred: Occurred::kernel(at),
            fact,
        };
        self.apply(Entry { now: at, event });
    }

    pub fn apply(&mut self, entry: Entry) {
        let mut out = Vec::new();
        self.observer.apply(entry.now, &entry.event, &mut out);
        self.told.push(entry);
        for output in out {
            match output {
                Output::Change(change) => self.changes.push(change),
                Output::Request(request) => self.requests.push(request),
            }
        }
    }

    /// Time passes; every deadline gets its tick.
    pub fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        while let Some(next) = self.observer.next_deadline() {
            let next = next.nanos().div_ceil(1_000_000);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.tell(Fact::Tick);
        }
        self.now = end;
        self.tell(Fact::Tick);
    }

    pub fn dumped(&mut self) {
        let begun = millis(self.now);
        let netns = NETNS;
        self.tell(Fact::SocketsDumped { netns, begun });
    }

    pub fn state(&mut self, socket: Socket, from: TcpState, to: TcpState) {
        self.state_by(socket, from, to, None);
    }

    pub fn state_by(&mut self, socket: Socket, from: TcpState, to: TcpState, by: Option<Process>) {
        self.tell(Fact::TcpState {
            socket,
            from,
            to,
            process: by,
        });
    }

    pub fn info(&mut self, socket: Socket, state: TcpState) {
        self.tell(Fact::SocketInfo {
            socket,
            state,
            last_data_received_millis: None,
            send_queue: 0,
            receive_queue: 0,
            process: None,
        });
    }

    /// As the kernel shows a dial: no source port yet.
    pub fn dial(&mut self, socket: Socket) {
        let mut first = socket;
        first.local.set_port(0);
        self.state_by(first, TcpState::Close, TcpState::SynSent, Some(bird()));
    }

    /// The node dials, TCP comes up after 1 ms, the session's bytes are found 20 ms later.
    pub fn establish(&mut self, socket: Socket) {
        self.dial(socket);
        self.now += 1;
        self.state(socket, TcpState::SynSent, TcpState::Established);
        self.now += 20;
        self.info(carrying(socket, 100), TcpState::Established);
    }

    pub fn view(&self) -> PeerView {
        let views = self.observer.peers(millis(self.now));
        assert_eq!(views.len(), 1, "{views:?}");
        views.into_iter().next().unwrap()
    }

    pub fn flaps(&self) -> Vec<Flap> {
        self.changes
            .iter()
            .filter_map(|record| match &record.change {
                Change::Flap { flap } => Some(flap.clone()),
                Change::PeerKnown { .. }
                | Change::PeerForgotten { .. }
                | Change::SessionState { .. }
                | Change::SessionUp { .. }
                | Change::SessionDown { .. }
                | Change::FlapAmended { .. }
                | Change::ConnectFailed { .. }
                | Change::Unanswered { .. }
                | Change::GrStarted { .. }
                | Change::GrEnded { .. }
                | Change::HoldMarginLow { .. }
                | Change::SpeakerEnded { .. }
                | Change::SpeakerSeen { .. }
                | Change::Routes(_)
                | Change::ForeignDelete { .. }
                | Change::RouteFight { .. }
                | Change::ConcurrentRestarts { .. }
                | Change::NotProgrammed { .. }
                | Change::Programmed { .. }
                | Change::IncidentOpened { .. }
                | Change::IncidentUpdated { .. }
                | Change::IncidentClosed { .. }
                | Change::Lost { .. } => None,
            })
            .collect()
    }

    /// The one flap there was.
    pub fn flap(&self) -> Flap {
        let flaps = self.flaps();
        assert_eq!(flaps.len(), 1, "{flaps:?}");
        flaps.into_iter().next().unwrap()
    }

    /// The changes since the last call but those of incidents, each in one word and its main value.
    pub fn story(&mut self) -> Vec<String> {
        self.changes
            .drain(..)
            .filter(|record| !is_of_incident(&record.change))
            .map(|record| tale(&record.change))
            .collect()
    }

    /// How often the machine asked about a socket since the last call.
    pub fn inspections(&mut self) -> usize {
        let asked = |request: &Request| matches!(request, Request::Inspect { .. });
        let count = self
            .requests
            .iter()
            .filter(|request| asked(request))
            .count();
        self.requests.retain(|request| !asked(request));
        count
    }
}

const fn is_of_incident(change: &Change) -> bool {
    matches!(
        change,
        Change::IncidentOpened { .. }
            | Change::IncidentUpdated { .. }
            | Change::IncidentClosed { .. }
            | Change::ConcurrentRestarts { .. }
    )
}

fn tale(change: &Change) -> String {
    match change {
        Change::PeerKnown { known_by, .. } => format!("known {known_by:?}"),
        Change::PeerForgotten { reason, .. } => format!("forgotten: {reason}"),
        Change::SessionState { from, to, .. } => format!("{} > {}", from.name(), to.name()),
        Change::SessionUp {
            inherited: true, ..
        } => "up, inherited".to_owned(),
        Change::SessionUp { .. } => "up".to_owned(),
        Change::SessionDown { .. } => "down".to_owned(),
        Change::Flap { flap } => format!("flap {}: {}", flap.number, flap.cause.label()),
        Change::FlapAmended { flap } => format!("amended: {}", flap.cause_text),
        Change::ConnectFailed { reason, .. } => format!("failed: {reason}"),
        Change::Unanswered { retransmits, .. } => format!("unanswered {retransmits}"),
        Change::GrStarted { stale, .. } => format!("restart, {stale} stale"),
        Change::GrEnded { how, dropped, .. } => format!("restart over: {how:?}, {dropped} dropped"),
        Change::HoldMarginLow { hold_secs, .. } => format!("hold margin low of {hold_secs} s"),
        Change::SpeakerEnded { speaker, end } => format!("{} {end}", speaker.comm),
        Change::SpeakerSeen { speaker } => format!("speaker {}", speaker.comm),
        Change::Routes(routes) => format!(
            "{} {} of {}",
            routes.count,
            routes.event.words(),
            routes.owner
        ),
        Change::ForeignDelete { prefix, .. } => format!("foreign delete of {prefix}"),
        Change::RouteFight { prefix, rounds, .. } => format!("fight {rounds} over {prefix}"),
        Change::ConcurrentRestarts { nodes, .. } => {
            format!("concurrent restarts: {}", nodes.join(", "))
        }
        Change::NotProgrammed {
            peer, announced, ..
        } => format!("{peer}: none of {announced} programmed"),
        Change::Programmed { peer, .. } => format!("{peer}: programmed"),
        Change::IncidentOpened { incident } => format!("incident: {}", incident.cause),
        Change::IncidentUpdated { incident } => format!("updated: {}", incident.verdict.name()),
        Change::IncidentClosed { incident } => format!("closed: {}", incident.verdict.name()),
        Change::Lost { stage, count } => format!("lost {} {count}", stage.name()),
    }
}

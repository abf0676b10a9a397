//! The state machine: one owner of everything known, fed one event at a time.
//!
//! What the agent is to do: send [`Fact::WallClock`] first, then [`Fact::NodeObserved`],
//! [`Fact::PeersRestored`] and [`Fact::Inventory`], then what a first dump shows, closed by
//! [`Fact::SocketsDumped`]; segments in the order of their time among the other events, and
//! [`LossStage::Tap`] when some were lost; a [`Fact::Tick`] whenever [`Observer::next_deadline`] has come and no
//! other event did; and carry out each [`Request`](crate::change::Request).

mod correlate;
mod place;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

pub use crate::totals::{Histogram, TapTotals, Totals, WireTotals};
use crate::{
    address::canonical,
    change::Output,
    config::CoreConfig,
    deadline::{Deadlines, Due},
    event::{Event, Fact, LossStage, NetnsId, Socket},
    evidence::Clue,
    fib::{self, Clocks},
    incident::{Dropped, Incidents},
    inventory::Inventory,
    known::is_outdated,
    loss::Losses,
    node::{Node, Urgency},
    notice::Notice,
    peer::{Flap, PeerView, SavedPeer},
    route_view::{FibView, PathView, RouteFilter, RoutesView},
    sockets::Inspected,
    tap::Tapped,
    time::{Timestamp, WallOffset},
    turn::Turn,
};

/// Everything the agent knows.
#[derive(Debug)]
pub struct Observer {
    config: CoreConfig,
    now: Timestamp,
    wall: WallOffset,
    seq: u64,
    inventory: Inventory,
    deadlines: Deadlines,
    totals: Totals,
    losses: Losses,
    nodes: BTreeMap<NetnsId, Node>,
    /// Those of the event being handled.
    notices: Vec<Notice>,
    incidents: Incidents,
    /// Peers of nodes that are not observed, now or yet.
    dormant: BTreeMap<String, Vec<SavedPeer>>,
}

impl Observer {
    /// Knows nothing yet.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            now: Timestamp::default(),
            wall: WallOffset::default(),
            seq: 0,
            inventory: Inventory::default(),
            deadlines: Deadlines::default(),
            totals: Totals::new(),
            losses: Losses::default(),
            nodes: BTreeMap::new(),
            notices: Vec::new(),
            incidents: Incidents::default(),
            dormant: BTreeMap::new(),
        }
    }

    /// Takes in `event` at `now` (never less than in the call before; deadlines that are due run
    /// first) and appends what follows from it to `out`.
    pub fn apply(&mut self, now: Timestamp, event: &Event, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        while let Some((at, due)) = self.deadlines.pop(self.now) {
            let told = out.len();
            if correlate::is_of_incidents(due) {
                self.with_incidents(at, out, |incidents, turn, nodes| {
                    incidents.run_due(turn, nodes, due);
                });
                continue;
            }
            let (mut turn, nodes) = self.turn(at, out);
            run_due(&mut turn, nodes, due);
            self.correlate(at, told, out);
        }
        let told = out.len();
        self.take_in(event, out);
        self.correlate(event.occurred.latest.min(self.now), told, out);
    }

    /// When [`Fact::Tick`] is needed at the latest, if nothing else comes before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }

    /// Every known peer, ordered by node and address, as of `now`.
    pub fn peers(&self, now: Timestamp) -> Vec<PeerView> {
        let mut nodes: Vec<&Node> = self.nodes.values().collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes.into_iter().flat_map(|node| node.views(now)).collect()
    }

    /// The flaps that are remembered, newest last; those of nodes that are not observed any more
    /// included.
    pub fn flaps(&self) -> Vec<Flap> {
        let dormant = self.dormant.values().flatten();
        let mut flaps: Vec<Flap> = self
            .nodes
            .values()
            .flat_map(|node| node.peers.values())
            .flat_map(|peer| peer.session.recent.iter())
            .chain(dormant.flat_map(|saved| saved.recent_flaps.iter()))
            .cloned()
            .collect();
        flaps.sort_by(|one, other| {
            let key = |flap: &Flap| (flap.down_at, flap.number);
            key(one)
                .cmp(&key(other))
                .then_with(|| (&one.node, &one.peer).cmp(&(&other.node, &other.peer)))
        });
        flaps
    }

    /// What the state directory should remember, by node; nodes that are not observed now included,
    /// as long as their peers would not be forgotten.
    pub fn save(&self) -> Vec<(String, Vec<SavedPeer>)> {
        let (now, after) = (self.wall.wall(self.now), self.config.forget_after());
        let mut saved = self.dormant.clone();
        for peers in saved.values_mut() {
            peers.retain(|peer| !is_outdated(peer, now, after));
        }
        saved.retain(|_, peers| !peers.is_empty());
        for node in self.nodes.values() {
            saved
                .entry(node.name.clone())
                .or_default()
                .extend(node.save());
        }
        saved.into_iter().collect()
    }

    /// The routes that `filter` wants, as of `now`.
    pub fn routes(&self, now: Timestamp, filter: &RouteFilter) -> RoutesView {
        let mut out = RoutesView::default();
        let wanted = |node: &&Node| filter.node.as_ref().is_none_or(|only| *only == node.name);
        for node in self.nodes.values().filter(wanted) {
            node.routes(self.clocks(now), filter, &mut out);
        }
        out
    }

    /// How the nodes' forwarding does as a whole, as of `now`.
    pub fn forwarding(&self, now: Timestamp) -> Vec<FibView> {
        let nodes = self.nodes.values();
        nodes.map(|node| node.fib_view(self.clocks(now))).collect()
    }

    /// The way of a packet from `source` to `destination`, beginning at `node`, or else at the node
    /// where `source` is, or else at the first; none when there is no such node.
    pub fn path(
        &self,
        now: Timestamp,
        node: Option<&str>,
        source: Option<IpAddr>,
        destination: IpAddr,
    ) -> Option<PathView> {
        let mut path = fib::path(&self.nodes, self.clocks(now), node, source, destination)?;
        if !self.config.all_routes {
            path.partial = true;
            path.arrives = None;
        }
        Some(path)
    }

    const fn clocks(&self, now: Timestamp) -> Clocks {
        let wall = self.wall;
        Clocks { now, wall }
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        self.totals.clone()
    }

    /// What is at hand for work that takes effect at `at`.
    fn turn<'a>(
        &'a mut self,
        at: Timestamp,
        out: &'a mut Vec<Output>,
    ) -> (Turn<'a>, &'a mut BTreeMap<NetnsId, Node>) {
        let turn = Turn {
            config: &self.config,
            now: self.now,
            at,
            earliest: at,
            exact: false,
            wall: self.wall,
            inventory: &self.inventory,
            deadlines: &mut self.deadlines,
            totals: &mut self.totals,
            losses: &mut self.losses,
            seq: &mut self.seq,
            out,
            notices: &mut self.notices,
        };
        (turn, &mut self.nodes)
    }

    fn take_in(&mut self, event: &Event, out: &mut Vec<Output>) {
        match &event.fact {
            Fact::Tick => {}
            Fact::IncidentsRestored {
                node,
                incidents: stored,
                absent_since,
            } => self.with_incidents(self.now, out, |incidents, turn, nodes| {
                incidents.restore(turn, nodes, node, stored, *absent_since);
            }),
            Fact::PodsListed {
                incident,
                pods,
                missing,
            } => self.with_incidents(self.now, out, |incidents, turn, _| {
                incidents.pods_listed(turn, incident, pods, missing.as_deref());
            }),
            Fact::Circumstances { incident, told } => {
                self.with_incidents(self.now, out, |incidents, turn, _| {
                    incidents.circumstances_told(turn, incident, told);
                });
            }
            Fact::IncidentNote { id, note } => {
                self.with_incidents(self.now, out, |incidents, turn, _| {
                    incidents.write_note(turn, id, note);
                });
            }
            Fact::Versions { versions } => self.incidents.learn_versions(versions),
            Fact::EchoReplied {
                netns,
                token,
                rtt_nanos,
                ..
            } => {
                let at = event.occurred.latest.min(self.now);
                let rtt = Duration::from_nanos(*rtt_nanos);
                self.with_incidents(at, out, |incidents, turn, nodes| {
                    let node = nodes.get(netns).map_or("", |node| node.name.as_str());
                    incidents.echo_replied(turn, node, *token, rtt);
                });
            }
            Fact::EchoFailed {
                netns,
                token,
                errno,
                ..
            } => {
                let at = event.occurred.latest.min(self.now);
                self.with_incidents(at, out, |incidents, turn, nodes| {
                    let node = nodes.get(netns).map_or("", |node| node.name.as_str());
                    incidents.echo_failed(turn, node, *token, *errno);
                });
            }
            Fact::PacketsDropped {
                netns,
                prefix,
                reason,
                packets,
                first,
                last,
            } => {
                let dropped = Dropped {
                    reason: *reason,
                    packets: *packets,
                    first: *first,
                    last: *last,
                };
                self.with_incidents(self.now, out, |incidents, turn, _| {
                    incidents.packets_dropped(turn, *netns, *prefix, dropped);
                });
            }
            Fact::WallClock { offset } => self.wall = *offset,
            Fact::NodeObserved { netns, node } => self.observe(event, *netns, node, out),
            Fact::NodeGone { netns } => self.close(event, *netns, out),
            Fact::PeersRestored { node, peers } => self.restore(event, node, peers, out),
            Fact::Inventory { peers } => {
                self.inventory.read(peers);
                self.for_each_node(event, out, None, |turn, node| node.apply_inventory(turn));
            }
            Fact::PeersConfigured {
                node,
                socket,
                peers,
            } => {
                self.inventory.configure(node, socket, peers);
                self.for_each_node(event, out, None, |turn, node| node.apply_inventory(turn));
            }
            Fact::Cluster { cluster } => {
                if self.inventory.learn(cluster) {
                    self.for_each_node(event, out, None, |turn, node| node.apply_inventory(turn));
                }
            }
            Fact::PeerForget { node, peer } => self.forget(event, node.as_deref(), *peer, out),
            Fact::Strangers { connections } => {
                self.totals.strangers = self.totals.strangers.saturating_add(*connections);
            }
            Fact::Lost { stage, count } => self.lose(event, *stage, *count, out),
            Fact::TcpState { .. }
            | Fact::TcpError { .. }
            | Fact::ResetReceived { .. }
            | Fact::ResetSent { .. }
            | Fact::Retransmit { .. }
            | Fact::Segment { .. }
            | Fact::TapAttached { .. }
            | Fact::TapDetached { .. }
            | Fact::TapFragments { .. }
            | Fact::TapChecksums { .. }
            | Fact::TapStrangers { .. }
            | Fact::SocketInfo { .. }
            | Fact::SocketGone { .. }
            | Fact::SocketsDumped { .. }
            | Fact::SpeakerExited { .. }
            | Fact::SpeakerSignalled { .. }
            | Fact::SpeakerOom { .. }
            | Fact::Forwarding { .. } => {
                let now = self.now;
                let (mut turn, nodes) = self.turn(now, out);
                turn.take_time_of(event);
                if let Some(node) =
                    place::netns_of(&event.fact).and_then(|netns| nodes.get_mut(&netns))
                {
                    take_in_at_node(&mut turn, node, &event.fact);
                }
            }
        }
    }

    fn for_each_node(
        &mut self,
        event: &Event,
        out: &mut Vec<Output>,
        only: Option<&str>,
        work: impl Fn(&mut Turn<'_>, &mut Node),
    ) {
        let now = self.now;
        let (mut turn, nodes) = self.turn(now, out);
        turn.take_time_of(event);
        for node in nodes.values_mut() {
            if only.is_none_or(|only| only == node.name) {
                work(&mut turn, node);
            }
        }
    }

    fn observe(&mut self, event: &Event, netns: NetnsId, name: &str, out: &mut Vec<Output>) {
        if let Some(node) = self.nodes.get(&netns) {
            if node.name == name {
                return;
            }
            self.close(event, netns, out);
        }
        self.totals.add_node(name);
        self.inventory.attend(name);
        let dormant = self.dormant.remove(name).unwrap_or_default();
        let mut node = Node::new(netns, name);
        let now = self.now;
        let (mut turn, nodes) = self.turn(now, out);
        turn.take_time_of(event);
        node.restore(&mut turn, &dormant);
        node.apply_inventory(&mut turn);
        nodes.insert(netns, node);
        let (mut turn, _) = self.turn(self.now, out);
        Incidents::watch(&mut turn, netns);
        self.with_incidents(self.now, out, |incidents, turn, nodes| {
            if let Some(node) = nodes.get(&netns) {
                incidents.awaken(turn, node);
            }
        });
    }

    fn close(&mut self, event: &Event, netns: NetnsId, out: &mut Vec<Output>) {
        if self.nodes.contains_key(&netns) {
            let at = event.occurred.latest.min(self.now);
            self.with_incidents(at, out, |incidents, turn, _| incidents.leave(turn, netns));
        }
        let Some(node) = self.nodes.remove(&netns) else {
            return;
        };
        let name = node.name.clone();
        let now = self.now;
        let (mut turn, _) = self.turn(now, out);
        turn.take_time_of(event);
        let left = node.close(&mut turn);
        self.dormant.insert(name, left);
    }

    fn restore(&mut self, event: &Event, name: &str, peers: &[SavedPeer], out: &mut Vec<Output>) {
        if self.nodes.values().any(|node| node.name == name) {
            self.for_each_node(event, out, Some(name), |turn, node| {
                node.restore(turn, peers);
            });
        } else {
            self.dormant.insert(name.to_owned(), peers.to_vec());
        }
    }

    fn forget(&mut self, event: &Event, only: Option<&str>, ip: IpAddr, out: &mut Vec<Output>) {
        self.for_each_node(event, out, only, |turn, node| node.forget_ip(turn, ip));
        let ip = ip.to_canonical();
        for (name, peers) in &mut self.dormant {
            if only.is_none_or(|only| only == name) {
                peers.retain(|saved| saved.address.to_canonical() != ip);
            }
        }
    }

    /// Lost evidence is replaced by a dump of every namespace: nobody knows whose it was.
    fn lose(&mut self, event: &Event, stage: LossStage, count: u64, out: &mut Vec<Output>) {
        if count == 0 {
            return;
        }
        let now = self.now;
        let (mut turn, nodes) = self.turn(now, out);
        turn.take_time_of(event);
        turn.lost(stage, count);
        let urgency = match stage {
            LossStage::Ring | LossStage::Queue | LossStage::Decode | LossStage::SockDiag => {
                Urgency::Now
            }
            LossStage::StrangerRing => Urgency::Sometime,
            LossStage::Tap => {
                for node in nodes.values_mut() {
                    node.miss_segments(&mut turn);
                }
                return;
            }
            // After a loss of rtnetlink's its source dumps again by itself.
            LossStage::Map
            | LossStage::Recorder
            | LossStage::Table
            | LossStage::Store
            | LossStage::Netlink => return,
        };
        for node in nodes.values_mut() {
            node.want_dump(&mut turn, urgency);
            if matches!(stage, LossStage::Queue | LossStage::Ring) {
                node.fib.suspect_all(&mut turn);
            }
        }
    }
}

fn run_due(turn: &mut Turn<'_>, nodes: &mut BTreeMap<NetnsId, Node>, due: Due) {
    let netns = match due {
        Due::Cause(netns, _)
        | Due::Connection(netns, _)
        | Due::Stranger(netns, _)
        | Due::Restart(netns, _)
        | Due::Held(netns, _)
        | Due::Hold(netns, _)
        | Due::Silence(netns, _)
        | Due::Fib(netns)
        | Due::Resync(netns) => netns,
        Due::Losses(stage) => return turn.losses_due(stage),
        Due::Incident(_) | Due::Echo(_) | Due::Gone(_) | Due::Baseline(_) => return,
    };
    let Some(node) = nodes.get_mut(&netns) else {
        return;
    };
    match due {
        Due::Cause(_, address) => node.settle(turn, address, true),
        Due::Connection(_, id) => node.connection_due(turn, id),
        Due::Stranger(_, id) => node.stranger_due(turn, id),
        Due::Restart(_, address) => node.restart_due(turn, address),
        Due::Held(_, address) => node.held_due(address),
        Due::Hold(_, address) => node.hold_due(turn, address),
        Due::Silence(_, address) => node.consider_forgetting(turn, address),
        Due::Fib(_) => node.forwarding_due(turn),
        Due::Resync(_) => node.dump(turn),
        Due::Losses(_) | Due::Incident(_) | Due::Echo(_) | Due::Gone(_) | Due::Baseline(_) => {}
    }
}

fn take_in_at_node(turn: &mut Turn<'_>, node: &mut Node, fact: &Fact) {
    match fact {
        Fact::TcpState {
            socket,
            from,
            to,
            process,
        } => node.tcp_state(turn, &canonical(socket), *from, *to, process.as_ref()),
        Fact::TcpError { socket, errno } => clue(turn, node, socket, Clue::Error(*errno)),
        Fact::ResetReceived { socket } => clue(turn, node, socket, Clue::ResetReceived),
        Fact::ResetSent { socket } => clue(turn, node, socket, Clue::ResetSent),
        Fact::Retransmit { socket } => node.retransmit(turn, &canonical(socket)),
        Fact::SocketInfo {
            socket,
            state,
            last_data_received_millis,
            send_queue,
            receive_queue,
            process,
        } => {
            let said = Inspected {
                socket: &canonical(socket),
                state: *state,
                last_data_received: last_data_received_millis
                    .map(|millis| Duration::from_millis(u64::from(millis))),
                queues: (*send_queue, *receive_queue),
                process: process.as_ref(),
            };
            node.inspected(turn, said);
        }
        Fact::SocketGone { id, .. } => node.socket_gone(turn, *id),
        Fact::SocketsDumped { begun, .. } => node.sockets_dumped(turn, *begun),
        Fact::SpeakerExited {
            speaker,
            status,
            signal,
            ..
        } => node.speaker_exited(turn, speaker, *status, *signal),
        Fact::SpeakerSignalled {
            speaker,
            signal,
            sender,
            ..
        } => node.speaker_signalled(turn, speaker, *signal, sender.as_ref()),
        Fact::SpeakerOom { speaker, .. } => node.speakers.out_of_memory(turn.at, speaker),
        Fact::Segment { .. } => {
            if let Some(tapped) = Tapped::of(fact) {
                node.segment(turn, &tapped);
            }
        }
        Fact::TapAttached { interface, .. } => node.tap_attached(*interface),
        Fact::TapDetached { interface, .. } => node.tap_detached(turn, *interface),
        Fact::TapFragments { count, .. } => {
            turn.totals.wire(&node.name).tap.fragments += count;
        }
        Fact::TapChecksums { count, .. } => {
            turn.totals.wire(&node.name).tap.corrupt += count;
        }
        Fact::TapStrangers { count, .. } => {
            turn.totals.wire(&node.name).tap.transit += count;
        }
        Fact::Forwarding { forwarding, .. } => node.forward(turn, forwarding),
        Fact::Tick
        | Fact::WallClock { .. }
        | Fact::NodeObserved { .. }
        | Fact::NodeGone { .. }
        | Fact::PeersRestored { .. }
        | Fact::Inventory { .. }
        | Fact::PeersConfigured { .. }
        | Fact::Cluster { .. }
        | Fact::PeerForget { .. }
        | Fact::Strangers { .. }
        | Fact::EchoReplied { .. }
        | Fact::EchoFailed { .. }
        | Fact::PacketsDropped { .. }
        | Fact::IncidentsRestored { .. }
        | Fact::IncidentNote { .. }
        | Fact::PodsListed { .. }
        | Fact::Circumstances { .. }
        | Fact::Versions { .. }
        | Fact::Lost { .. } => {}
    }
}

fn clue(turn: &mut Turn<'_>, node: &mut Node, socket: &Socket, clue: Clue) {
    node.clue(turn, &canonical(socket), clue);
}

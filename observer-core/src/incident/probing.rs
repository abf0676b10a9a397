//! When which targets are probed (DESIGN §3): at once and every 200 ms because of an incident, bounded
//! in targets, rate and time; slowly as a baseline where that is allowed. Sending is the edges' work.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{Incidents, Nodes, milestones::Within, probe::Probe, record::MilestoneKind};
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    change::Request,
    config::{ReachConfig, ReachMode},
    deadline::Due,
    event::NetnsId,
    node::{Node, Peer},
    reach::ProbeResult,
    time::Timestamp,
    turn::Turn,
};

/// The quick rhythm lasts this long, then one a second.
const QUICK: Duration = Duration::from_mins(1);
/// Once a minute after the time limit.
const SLOW: Duration = Duration::from_mins(1);
/// Observers of one peer's baseline at most.
const OBSERVERS: usize = 3;
/// Addresses of a block that may be its node's tunnel address: Calico hands them out from the start.
const FIRST_HOSTS: u128 = 3;
/// Prefixes whose addresses are tried per peer.
const PREFIXES: usize = 4;

/// Whose echo it is.
#[derive(Clone, Copy, Debug)]
enum Echo {
    Incident(u64),
    /// Sent at a moment; already said to be unreachable, or not.
    Baseline(NetnsId, PeerAddress, IpAddr, Timestamp, bool),
}

/// What is out, what is known to be alive, and how much may go out.
#[derive(Debug, Default)]
pub(super) struct Reach {
    token: u64,
    out: BTreeMap<u64, Echo>,
    /// Targets that answered, and when that echo was sent.
    alive: BTreeMap<(NetnsId, PeerAddress), (IpAddr, Timestamp)>,
    /// Which of a peer's candidates the baseline tries next.
    turn: BTreeMap<(NetnsId, PeerAddress), usize>,
    /// Echoes sent in the current second.
    second: Timestamp,
    sent: u32,
    /// Targets of all incidents.
    targets: usize,
}

impl Reach {
    /// A token, if one more echo may go out.
    fn allow(&mut self, config: &ReachConfig, now: Timestamp) -> Option<u64> {
        if now.since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.sent = 0;
        }
        if self.sent >= config.per_second {
            return None;
        }
        self.sent += 1;
        self.token += 1;
        Some(self.token)
    }

    /// What belonged to several incidents belongs to one.
    pub fn rename(&mut self, from: &BTreeSet<u64>, to: u64) {
        for echo in self.out.values_mut() {
            if matches!(echo, Echo::Incident(number) if from.contains(number)) {
                *echo = Echo::Incident(to);
            }
        }
    }

    /// An incident is over.
    pub fn forget(&mut self, gone: u64) {
        self.out
            .retain(|_, echo| !matches!(echo, Echo::Incident(number) if *number == gone));
    }

    /// A target answered an echo sent at `at`.
    pub fn remember(&mut self, netns: NetnsId, peer: PeerAddress, target: IpAddr, at: Timestamp) {
        self.alive.insert((netns, peer), (target, at));
    }
}

impl Incidents {
    /// Targets behind the peers of an incident are probed from now on.
    pub(super) fn begin_probing(&mut self, turn: &mut Turn<'_>, node: &Node, number: u64) {
        let reach = &turn.config.reach;
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if reach.mode == ReachMode::Off {
            return;
        }
        let limit = usize::try_from(reach.targets_per_incident).unwrap_or(usize::MAX);
        let peers: Vec<PeerAddress> = open.peers.iter().copied().collect();
        for address in peers {
            if open.probes.len() >= limit {
                break;
            }
            if open.probes.iter().any(|probe| probe.peer == address) {
                continue;
            }
            let alive = self.reach.alive.get(&(node.netns, address)).copied();
            let mut prefixes: Vec<Prefix> = open
                .members
                .get(&address)
                .map(|member| member.prefixes.clone())
                .unwrap_or_default();
            let gone = open
                .routes
                .gone
                .iter()
                .filter(|(_, gone)| gone.peers.contains(&address));
            prefixes.extend(gone.map(|(prefix, _)| *prefix).take(PREFIXES));
            let found = targets(
                turn,
                node,
                address,
                alive.map(|(target, _)| target),
                &prefixes,
            );
            for target in found.into_iter().take(limit - open.probes.len()) {
                let seen = alive
                    .filter(|(known, _)| *known == target)
                    .map(|(_, at)| at);
                open.probes
                    .push(Probe::new(target, address, open.begun, seen));
                self.reach.targets += 1;
            }
        }
        if !open.probes.is_empty() && open.next_echo.is_none() {
            self.echo_due(turn, number);
        }
    }

    /// Incidents that had targets are gone or one.
    pub(super) fn count_probes(&mut self) {
        self.reach.targets = self.open.values().map(|open| open.probes.len()).sum();
    }

    /// It is time for an incident's echoes.
    pub(super) fn echo_due(&mut self, turn: &mut Turn<'_>, number: u64) {
        let reach = &turn.config.reach;
        let all = self.reach.targets;
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        let now = turn.at;
        let deadline = now.before(Duration::from_millis(reach.timeout_millis));
        for probe in &mut open.probes {
            let was_silent = probe.is_silent();
            let lost = probe.expire(deadline);
            for token in &lost {
                self.reach.out.remove(token);
            }
            let lost = u64::try_from(lost.len()).unwrap_or(u64::MAX);
            { turn.totals.reach(&open.record.node) }.count(ProbeResult::Lost, lost);
            open.news |= was_silent != probe.is_silent();
            if !probe.may_send() {
                continue;
            }
            let Some(token) = self.reach.allow(reach, turn.now) else {
                break;
            };
            probe.send(token, now);
            self.reach.out.insert(token, Echo::Incident(number));
            turn.out.push(crate::change::Output::Request(Request::Echo {
                netns: open.netns,
                target: probe.target,
                token,
            }));
        }
        let pause = pause(reach, now.since(open.begun), all);
        let next = turn.again(pause);
        open.next_echo = Some(next);
        turn.deadlines.set(Due::Echo(number), next);
        if open.news || open.is_well(now) {
            self.look_again(turn, number);
        }
    }

    /// An echo was answered.
    pub fn echo_replied(&mut self, turn: &mut Turn<'_>, node: &str, token: u64, rtt: Duration) {
        // One that comes too late was counted as lost.
        if self.reach.out.contains_key(&token) {
            turn.totals.reach(node).answered(rtt);
        }
        self.settle_echo(turn, token, true);
    }

    /// An echo failed. What does not say that the target cannot be reached says nothing.
    pub fn echo_failed(&mut self, turn: &mut Turn<'_>, node: &str, token: u64, errno: i32) {
        const ENETDOWN: i32 = 100;
        const ENETUNREACH: i32 = 101;
        const EHOSTDOWN: i32 = 112;
        const EHOSTUNREACH: i32 = 113;
        // A blackhole route's.
        const EINVAL: i32 = 22;
        // What a moment later may go out: the edge's own ceiling, and full buffers.
        const ENOBUFS: i32 = 105;
        const ENOMEM: i32 = 12;
        const EAGAIN: i32 = 11;
        let unreachable = [ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, EINVAL].contains(&errno);
        if self.reach.out.contains_key(&token) {
            let result = if unreachable {
                ProbeResult::Unreachable
            } else {
                ProbeResult::Unsent
            };
            turn.totals.reach(node).count(result, 1);
        }
        if unreachable {
            self.settle_echo(turn, token, false);
            return;
        }
        // Of a baseline's, nothing is known that way: it is sent again.
        let Some(Echo::Incident(number)) = self.reach.out.remove(&token) else {
            return;
        };
        if [ENOBUFS, ENOMEM, EAGAIN].contains(&errno) {
            if let Some(open) = self.open.get_mut(&number) {
                open.probes
                    .iter_mut()
                    .for_each(|probe| probe.withdraw(token));
            }
            return;
        }
        if let Some(open) = self.open.get_mut(&number) {
            let what = format!("echoes cannot be sent: {}", crate::cause::Errno(errno));
            let mute = open.probes.iter().all(|probe| probe.mute);
            for probe in &mut open.probes {
                probe.mute = true;
            }
            if !mute {
                open.note(
                    turn,
                    MilestoneKind::Remark,
                    Within::exactly(turn.at),
                    what,
                    "the echo source",
                );
            }
        }
        self.look_again(turn, number);
    }

    fn settle_echo(&mut self, turn: &mut Turn<'_>, token: u64, answered: bool) {
        match self.reach.out.remove(&token) {
            Some(Echo::Incident(number)) => {
                let Some(open) = self.open.get_mut(&number) else {
                    return;
                };
                let before: Vec<bool> = open.probes.iter().map(Probe::is_settled).collect();
                for probe in &mut open.probes {
                    probe.settle(token, answered);
                }
                let after = open.probes.iter().map(Probe::is_settled);
                if !after.eq(before) {
                    open.news = true;
                    self.look_again(turn, number);
                }
            }
            Some(Echo::Baseline(netns, peer, target, sent, _)) if answered => {
                self.reach.remember(netns, peer, target, sent);
            }
            // Refused is no answer: the next look at the baseline finds it silent.
            Some(Echo::Baseline(netns, peer, target, sent, _)) => {
                let echo = Echo::Baseline(netns, peer, target, sent, true);
                self.reach.out.insert(token, echo);
            }
            None => {}
        }
    }

    /// It is time for the baseline of a node: silence of what was alive is a suspicion.
    pub(super) fn baseline_due(&mut self, turn: &mut Turn<'_>, node: &Node) {
        let reach = &turn.config.reach;
        let every = Duration::from_secs(reach.baseline_secs);
        let many = usize::try_from(reach.baseline_peers).unwrap_or(usize::MAX);
        let off = reach.mode == ReachMode::Off || every.is_zero();
        if off {
            return;
        }
        turn.deadlines
            .set(Due::Baseline(node.netns), turn.again(every));
        self.suspect_silent(turn, node);
        if node.peers.len() > many {
            return;
        }
        let mut wanted = Vec::new();
        for (address, peer) in &node.peers {
            let busy = self.by_peer.contains_key(&(node.netns, *address));
            if busy || !peer.session.is_up() || !observes(node, *address, peer) {
                continue;
            }
            let key = (node.netns, *address);
            let alive = self.reach.alive.get(&key).map(|(target, _)| *target);
            let candidates = match alive {
                Some(alive) => vec![alive],
                None => targets(
                    turn,
                    node,
                    *address,
                    None,
                    &peer.exchange.rib.sample(PREFIXES),
                ),
            };
            let next = self.reach.turn.entry(key).or_default();
            *next = next.wrapping_add(1);
            if let Some(target) = candidates.get(*next % candidates.len().max(1)) {
                wanted.push((*address, *target));
            }
        }
        for (peer, target) in wanted {
            let Some(token) = self.reach.allow(reach, turn.now) else {
                break;
            };
            let echo = Echo::Baseline(node.netns, peer, target, turn.at, false);
            self.reach.out.insert(token, echo);
            turn.ask(Request::Echo {
                netns: node.netns,
                target,
                token,
            });
        }
    }

    /// Baseline echoes without answer to targets that were alive: they are probed quickly now.
    fn suspect_silent(&mut self, turn: &mut Turn<'_>, node: &Node) {
        let deadline = turn
            .at
            .before(Duration::from_millis(turn.config.reach.timeout_millis));
        let (mut silent, mut lost) = (Vec::new(), 0);
        self.reach.out.retain(|_, echo| match echo {
            Echo::Baseline(netns, peer, target, sent, refused)
                if *netns == node.netns && *sent <= deadline =>
            {
                lost += u64::from(!*refused);
                silent.push((*peer, *target));
                false
            }
            Echo::Baseline(..) | Echo::Incident(_) => true,
        });
        turn.totals.reach(&node.name).count(ProbeResult::Lost, lost);
        for (peer, target) in silent {
            let alive = self.reach.alive.get(&(node.netns, peer));
            if alive.is_some_and(|(known, _)| *known == target) {
                let number = self.of_peer(turn, node, peer);
                self.watch_behind(turn, node, number, peer);
                self.begin_probing(turn, node, number);
                self.look_again(turn, number);
            }
        }
    }

    /// A node is observed: its baseline begins.
    pub fn watch(turn: &mut Turn<'_>, netns: NetnsId) {
        let reach = &turn.config.reach;
        if reach.mode != ReachMode::Off && reach.baseline_secs > 0 {
            let first = turn.again(Duration::from_secs(reach.baseline_secs));
            turn.deadlines.hasten(Due::Baseline(netns), first);
        }
    }

    /// Carries out what is due of incidents.
    pub fn run_due(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, due: Due) {
        if let Due::Incident(number) = due {
            self.incident_due(turn, nodes, number);
        } else if let Due::Echo(number) = due {
            self.echo_due(turn, number);
        } else if let Due::Gone(netns) = due
            && let Some(node) = nodes.get(&netns)
        {
            self.gone_due(turn, node);
            self.attend(turn, nodes);
        } else if let Due::Baseline(netns) = due
            && let Some(node) = nodes.get(&netns)
        {
            self.baseline_due(turn, node);
        }
    }
}

/// How long to the next echoes of an incident that is `age` old, `all` targets being probed in all.
fn pause(reach: &ReachConfig, age: Duration, all: usize) -> Duration {
    let base = if age >= Duration::from_secs(reach.give_up_secs) {
        SLOW
    } else if age >= QUICK {
        Duration::from_secs(1)
    } else {
        Duration::from_millis(reach.every_millis)
    };
    let all = u64::try_from(all).unwrap_or(u64::MAX);
    let fair = all.saturating_mul(1_000) / u64::from(reach.per_second.max(1));
    base.max(Duration::from_millis(fair))
}

/// Addresses behind a peer that may be probed, the most telling first.
fn targets(
    turn: &Turn<'_>,
    node: &Node,
    peer: PeerAddress,
    alive: Option<IpAddr>,
    prefixes: &[Prefix],
) -> Vec<IpAddr> {
    let reach = &turn.config.reach;
    let named = node.peers.get(&peer).and_then(|peer| peer.name.as_deref());
    let mut found: Vec<IpAddr> = alive.into_iter().collect();
    if reach.mode == ReachMode::Canary {
        let of_peer = |of: &str| of == peer.to_string() || Some(of) == named;
        let canaries = reach.canaries.iter().filter(|canary| {
            let behind = prefixes
                .iter()
                .any(|prefix| prefix.contains(canary.address));
            canary.peer.as_deref().map_or(behind, of_peer)
        });
        found.extend(canaries.map(|canary| canary.address));
    } else {
        let entry = turn.inventory.find(&node.name, peer.ip);
        found.extend(entry.iter().flat_map(|entry| entry.targets.iter().copied()));
        if reach.mode == ReachMode::Tunnel && found.is_empty() {
            let blocks = prefixes.iter().take(PREFIXES);
            found.extend(blocks.flat_map(|prefix| first_hosts(*prefix)));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|target| seen.insert(*target) && !node.own.contains(target));
    found
}

/// The first addresses of a block.
fn first_hosts(prefix: Prefix) -> impl Iterator<Item = IpAddr> {
    let (base, bits) = match prefix.address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let host_bits = u32::from(bits - prefix.length.min(bits));
    let hosts = 1_u128
        .checked_shl(host_bits)
        .unwrap_or(u128::MAX)
        .min(FIRST_HOSTS);
    // A default route or the like is no pod block.
    let hosts = if prefix.length < 8 { 0 } else { hosts };
    (0..hosts).map(move |host| {
        let address = base.saturating_add(host);
        match prefix.address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(address).unwrap_or(u32::MAX).into()),
            IpAddr::V6(_) => IpAddr::V6(address.into()),
        }
    })
}

/// Whether this node is among the few that watch `peer` all the time: those whose name and the
/// peer's address together score highest (rendezvous hashing).
fn observes(node: &Node, address: PeerAddress, peer: &Peer) -> bool {
    let key = address.to_string();
    let own = score(&node.name, &key);
    let others = node
        .peers
        .values()
        .filter_map(|other| other.name.as_deref())
        .filter(|name| Some(*name) != peer.name.as_deref() && *name != node.name);
    let ahead = others.filter(|name| score(name, &key) > own).count();
    ahead < OBSERVERS
}

/// FNV-1a: the same on every node.
fn score(observer: &str, peer: &str) -> u64 {
    let octets = observer.bytes().chain([0]).chain(peer.bytes());
    octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_s_first_addresses_are_tried_and_a_host_route_s_only_one() {
        let prefix = |text: &str, length| Prefix {
            address: text.parse().unwrap(),
            length,
        };
        let shown = |prefix| {
            first_hosts(prefix)
                .map(|ip| ip.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(prefix("10.244.2.0", 26)),
            ["10.244.2.0", "10.244.2.1", "10.244.2.2"]
        );
        assert_eq!(shown(prefix("10.244.2.7", 32)), ["10.244.2.7"]);
        assert_eq!(
            shown(prefix("fd00:2::40", 122)),
            ["fd00:2::40", "fd00:2::41", "fd00:2::42"]
        );
        assert!(shown(prefix("0.0.0.0", 0)).is_empty());
    }

    #[test]
    fn the_rhythm_slows_down_with_age_and_with_the_number_of_targets() {
        let reach = ReachConfig::default();
        for (age, all, millis) in [
            (0, 8, 200),
            (61, 8, 1_000),
            (601, 8, 60_000),
            (0, 8_000, 40_000),
        ] {
            let pause = pause(&reach, Duration::from_secs(age), all);
            assert_eq!(pause, Duration::from_millis(millis));
        }
    }
}

//! The slow baseline: one address behind each peer is asked all the time, because nothing else finds a
//! blackhole in which every table looks healthy. What stops answering is a suspicion.

use std::{net::IpAddr, time::Duration};

use super::{
    Incidents,
    probing::Echo,
    targets::{ENOUGH, PREFIXES, targets},
};
use crate::{
    address::PeerAddress,
    change::Request,
    config::ReachMode,
    deadline::Due,
    event::NetnsId,
    node::{Node, Peer},
    reach::ProbeResult,
    time::Timestamp,
    turn::Turn,
};

/// Observers of one peer's baseline at most.
const OBSERVERS: usize = 3;
/// Each candidate is tried so often before further addresses are looked for less often.
const TRIES: usize = 3;
/// From then on in one turn of so many.
const EXPLORES: usize = 12;

impl Incidents {
    /// It is time for the baseline of a node: echoes without answer are looked at, and new ones sent if
    /// their time has come.
    pub(super) fn baseline_due(&mut self, turn: &mut Turn<'_>, node: &Node) {
        let reach = &turn.config.reach;
        let every = Duration::from_secs(reach.baseline_secs);
        if reach.mode == ReachMode::Off || every.is_zero() {
            return;
        }
        let timeout = Duration::from_millis(reach.timeout_millis);
        self.suspect_silent(turn, node);
        let round = self.reach.rounds.get(&node.netns);
        if let Some(round) = round.copied().filter(|round| turn.at < *round) {
            turn.deadlines.set(Due::Baseline(node.netns), round);
            return;
        }
        let next = turn.again(every);
        self.reach.rounds.insert(node.netns, next);
        turn.deadlines.set(Due::Baseline(node.netns), next);
        if self.ask_all(turn, node) {
            let answered_by = turn.again(timeout);
            turn.deadlines
                .hasten(Due::Baseline(node.netns), answered_by);
        }
    }

    /// One address behind each peer is asked; gives whether any was.
    fn ask_all(&mut self, turn: &mut Turn<'_>, node: &Node) -> bool {
        let reach = &turn.config.reach;
        let many = usize::try_from(reach.baseline_peers).unwrap_or(usize::MAX);
        if node.peers.len() > many {
            return false;
        }
        let mut wanted = Vec::new();
        for (address, peer) in &node.peers {
            let busy = self.by_peer.contains_key(&(node.netns, *address));
            if busy || !peer.session.is_up() || !observes(node, *address, peer) {
                continue;
            }
            let of = (node.netns, *address);
            let known = self.reach.alive.of(of);
            let prefixes = peer.exchange.rib.sample(PREFIXES);
            let mut more = targets(turn, node, *address, Vec::new(), &prefixes);
            more.retain(|target| !known.contains(target));
            let number = self.reach.turn.entry(of).or_default();
            *number = number.wrapping_add(1);
            let chosen = choose(&known, &more, *number).into_iter().flatten();
            wanted.extend(chosen.map(|target| (*address, target)));
        }
        let mut asked = false;
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
            asked = true;
        }
        asked
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
                silent.push((*peer, *target, *sent));
                false
            }
            Echo::Baseline(..) | Echo::Incident(_) => true,
        });
        turn.totals.reach(&node.name).count(ProbeResult::Lost, lost);
        for (peer, target, sent) in silent {
            if self.reach.alive.at((node.netns, peer), target).is_some() {
                self.suspect_one(turn, node, peer, (target, sent));
            }
        }
    }

    /// An address that was alive did not answer an echo sent at `sent`.
    fn suspect_one(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: PeerAddress,
        (target, sent): (IpAddr, Timestamp),
    ) {
        let number = self.of_peer(turn, node, peer);
        self.watch_behind(turn, node, number, peer);
        self.begin_probing(turn, node, number);
        if let Some(open) = self.open.get_mut(&number) {
            if !open.told && open.members.is_empty() && sent < open.begun {
                open.begun = sent;
                open.record.opened_at = turn.wall.wall(sent);
            }
            let mut probes = open.probes.iter_mut();
            let probe = probes.find(|probe| probe.peer == peer && probe.target == target);
            if let Some(probe) = probe {
                probe.missed_before(sent);
            }
        }
        self.look_again(turn, number);
    }

    /// A node is observed: its baseline begins.
    pub fn watch(turn: &mut Turn<'_>, netns: NetnsId) {
        let reach = &turn.config.reach;
        if reach.mode != ReachMode::Off && reach.baseline_secs > 0 {
            let first = turn.again(Duration::from_secs(reach.baseline_secs));
            turn.deadlines.hasten(Due::Baseline(netns), first);
        }
    }
}

/// Which address turn `number` asks: of those `known` to answer one after the other. While that is none or a
/// single one, which may be a pod that goes, also one `more`, all the time at first and then now and then.
fn choose(known: &[IpAddr], more: &[IpAddr], number: usize) -> [Option<IpAddr>; 2] {
    let nth = |all: &[IpAddr]| all.get(number % all.len().max(1)).copied();
    let young = number < TRIES * (known.len() + more.len());
    let explores = young || number % EXPLORES == EXPLORES - 1;
    let more = match known.len() {
        0 => nth(more),
        one if one < ENOUGH && explores => nth(more),
        _ => None,
    };
    [nth(known), more]
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
    fn known_addresses_are_asked_and_others_looked_for_now_and_then() {
        let ip = |host: u8| IpAddr::from([10, 244, 2, host]);
        let (known, more) = ([ip(2)], [ip(0), ip(1)]);
        let asked = |turns: std::ops::Range<usize>, host| {
            let all = turns.flat_map(|number| choose(&known, &more, number));
            all.flatten().filter(|asked| *asked == ip(host)).count()
        };
        assert_eq!((asked(0..9, 0), asked(0..9, 1), asked(0..9, 2)), (5, 4, 9));
        let later = (asked(9..105, 0), asked(9..105, 1), asked(9..105, 2));
        assert_eq!(later.2, 96, "in every turn");
        assert_eq!(later.0 + later.1, 8, "{later:?}");
        assert_eq!(choose(&[], &[], 7), [None, None]);
        assert_eq!(choose(&[], &more, 1), [None, Some(ip(1))]);
        let enough = [ip(0), ip(2)];
        for number in 0..24 {
            let asked = choose(&enough, &[ip(1)], number);
            assert_eq!(asked, [Some(enough[number % 2]), None], "{number}");
        }
    }
}

//! What sessions, speakers and losses of evidence mean for incidents.

use std::time::Duration;

use super::{
    Incidents, Nodes,
    group::{self, local_subject, peer_subject},
    milestones::Within,
    open::{Open, is_local},
    record::MilestoneKind,
    together::name_mass,
    verdict::routes_of,
};
use crate::{
    address::PeerAddress,
    cause::Cause,
    change::RestartEnd,
    event::{LossStage, NetnsId},
    evidence::may_be_its_end,
    node::Node,
    notice::Falling,
    peer::Flap,
    turn::Turn,
};

/// A speaker's end is remembered this long for sessions whose cause comes later.
const ENDED_REMEMBERED: Duration = Duration::from_secs(10);

impl Incidents {
    /// A session went down; its cause is to come.
    pub(super) fn fall(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, falling: &Falling) {
        let Some(node) = nodes.get(&falling.netns) else {
            return;
        };
        let number = self.of_peer(turn, node, falling.peer);
        let within = Within {
            earliest: falling.earliest,
            latest: falling.latest,
        };
        if let Some(open) = self.open.get_mut(&number) {
            if open.members.is_empty() && !open.told && within.earliest < open.begun {
                open.begun = within.earliest;
                open.record.opened_at = turn.wall.wall(within.earliest);
            }
            open.routes_seen |= node.fib.is_observed();
            open.lose_session(
                turn,
                falling.peer,
                within,
                falling.prefixes.clone(),
                falling.announced,
            );
        }
        self.watch_drops(turn, number, falling.prefixes.iter().copied());
        self.claim_pending(turn, node.netns, falling.peer, number);
        self.begin_probing(turn, node, number);
        self.look_again(turn, number);
    }

    /// The open incident of this peer, or of its node under another address, else a new one.
    pub(super) fn of_peer(&mut self, turn: &mut Turn<'_>, node: &Node, peer: PeerAddress) -> u64 {
        if let Some(number) = self.by_peer.get(&(node.netns, peer)) {
            return *number;
        }
        let subject = peer_subject(node, peer);
        let identity = (node.netns, subject.identity.clone());
        let number = if let Some(number) = self.by_identity.get(&identity) {
            *number
        } else {
            let number = self.number();
            let mut open = Open::new(turn, node.netns, &node.name, subject, turn.earliest);
            open.peers.insert(peer);
            self.open.insert(number, open);
            self.by_identity.insert(identity, number);
            number
        };
        self.by_peer.insert((node.netns, peer), number);
        number
    }

    /// A flap's cause is final.
    pub(super) fn flap(&mut self, turn: &mut Turn<'_>, node: &Node, flap: &Flap, within: Within) {
        let Some(peer) = PeerAddress::parse(&flap.peer) else {
            return;
        };
        let fell = |number: &u64| {
            let open = self.open.get(number);
            open.is_some_and(|open| open.members.contains_key(&peer))
        };
        let known = self.by_peer.get(&(node.netns, peer)).copied().filter(fell);
        let number = known.unwrap_or_else(|| {
            // Nobody saw it fall: it was up when the agent last ran.
            let number = self.of_peer(turn, node, peer);
            if let Some(open) = self.open.get_mut(&number) {
                open.lose_session(turn, peer, within, Vec::new(), 0);
            }
            self.begin_probing(turn, node, number);
            number
        });
        let number = self.group(turn, node, number, &flap.cause);
        self.suspect_silence(turn, node, number, peer, flap);
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        let kept = open.members.get(&peer).is_some_and(|member| member.stale);
        let here = open.is_own_restart();
        if let Some(member) = open.members.get_mut(&peer) {
            member.counted = true;
            open.kept |= here && restarts_quietly(node, peer, &flap.cause);
            open.speaker_unseen |= !node.speakers.any() && may_be_its_end(&flap.cause);
            // What this node's own speaker programmed stays when it ends.
            if !kept && !here {
                open.presumed_lost = open.presumed_lost.saturating_add(member.announced);
            }
        }
        if let Some(session) = open.session_of(&flap.peer) {
            session.flap = Some(flap.number);
            session.cause.clone_from(&flap.cause_text);
        }
        name_cause(open, flap);
        if open.record.group_keys.is_empty() {
            let silent = if let Cause::HoldTimerExpired { silent_millis, .. } = &flap.cause {
                Some(Duration::from_millis(*silent_millis))
            } else {
                None
            };
            let (identity, at) = (&open.record.subject.identity, open.record.opened_at);
            open.record.group_keys = group::keys(identity, at, silent);
        }
        let what = format!("{}: {}", flap.peer, flap.cause_text);
        let said = |line: &&String| line.starts_with("NOTIFICATION");
        let told = flap.evidence.iter().find(said);
        let evidence = told
            .or(flap.evidence.first())
            .map_or("none", String::as_str)
            .to_owned();
        open.note(turn, MilestoneKind::Cause, within, what, &evidence);
        self.look_for_overlap(turn, (node, peer), number, (&flap.cause, within));
        self.hold(turn, node, number);
    }

    /// More is known of a flap's cause.
    pub(super) fn amend(&mut self, turn: &mut Turn<'_>, node: &Node, flap: &Flap) {
        self.at_open(turn, node, &flap.peer, |open, _, _| {
            let Some(session) = open.session_of(&flap.peer) else {
                return;
            };
            session.cause.clone_from(&flap.cause_text);
            let first = open.record.sessions.first();
            if first.is_some_and(|first| first.peer == flap.peer) {
                open.record.cause.clear();
                name_cause(open, flap);
            }
            if matches!(flap.cause, Cause::LocalSpeakerGone { .. }) && open.members.len() == 1 {
                open.record.subject = local_subject(node);
            }
            open.news = true;
        });
    }

    /// A session is Established again.
    pub(super) fn session_up(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: &str,
        within: Within,
    ) {
        self.at_open(turn, node, peer, |open, turn, address| {
            let Some(member) = open.members.get_mut(&address) else {
                return;
            };
            member.up = Some(within.latest);
            if let Some(session) = open.session_of(peer) {
                session.up_at = Some(turn.wall.wall(within.latest));
            }
            let what = format!("session with {peer} Established");
            let evidence = "OPEN and KEEPALIVE both ways";
            open.note(turn, MilestoneKind::SessionUp, within, what, evidence);
        });
    }

    /// Graceful restart keeps a peer's routes.
    pub(super) fn restart_began(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: &str,
        within: Within,
        (secs, stale): (u16, u64),
    ) {
        self.at_open(turn, node, peer, |open, turn, address| {
            open.kept = true;
            if let Some(member) = open.members.get_mut(&address) {
                member.stale = true;
                if member.counted {
                    open.presumed_lost = open.presumed_lost.saturating_sub(member.announced);
                }
            }
            // What a session older than the agent had brought is not known.
            let what = match stale {
                0 => format!("routes of {peer} are kept for {secs} s"),
                _ => format!("{} of {peer} stale, kept for {secs} s", routes_of(stale)),
            };
            let evidence = "what both OPENs agreed on";
            open.note(turn, MilestoneKind::RestartBegan, within, what, evidence);
        });
    }

    /// None of a peer's routes are stale any more.
    pub(super) fn restart_ended(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: &str,
        within: Within,
        (how, dropped): (RestartEnd, u64),
    ) {
        self.at_open(turn, node, peer, |open, turn, address| {
            if let Some(member) = open.members.get_mut(&address) {
                member.stale = false;
            }
            if how != RestartEnd::EndOfRib {
                open.failed_restart = Some(how);
                open.presumed_lost = open.presumed_lost.saturating_add(dropped);
            }
            let what = restart_end_words(peer, how, dropped);
            let evidence = "BGP messages and their timers";
            open.note(turn, MilestoneKind::RestartEnded, within, what, evidence);
        });
    }

    /// A peer is forgotten: nobody waits for it.
    pub(super) fn forgotten(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: &str,
        within: Within,
        reason: &str,
    ) {
        if let Some(address) = PeerAddress::parse(peer) {
            self.reach.forget_peer((node.netns, address));
        }
        self.at_open(turn, node, peer, |open, turn, address| {
            if let Some(member) = open.members.get_mut(&address) {
                member.forgotten = true;
                member.stale = false;
            }
            let planned = reason.contains("inventory") || reason.contains("De-configured");
            let all = open.members.values().all(|member| member.forgotten);
            open.decommissioned |= planned && all;
            open.routes
                .gone
                .retain(|_, gone| gone.peers.iter().any(|other| *other != address));
            open.probes.retain(|probe| probe.peer != address);
            let what = format!("{peer} forgotten: {reason}");
            let evidence = "inventory or operator";
            open.note(turn, MilestoneKind::Remark, within, what, evidence);
        });
    }

    /// Something happened to a peer: its open incident takes it in and is looked at again.
    fn at_open(
        &mut self,
        turn: &mut Turn<'_>,
        node: &Node,
        peer: &str,
        take_in: impl FnOnce(&mut Open, &Turn<'_>, PeerAddress),
    ) {
        let address = PeerAddress::parse(peer);
        let number = address.and_then(|address| self.by_peer.get(&(node.netns, address)).copied());
        if let (Some(address), Some(number)) = (address, number)
            && let Some(open) = self.open.get_mut(&number)
        {
            take_in(open, turn, address);
            self.look_again(turn, number);
        }
    }

    /// A local speaker ended.
    pub(super) fn speaker_ended(
        &mut self,
        turn: &mut Turn<'_>,
        netns: NetnsId,
        within: Within,
        words: String,
    ) {
        let local = self
            .open
            .values_mut()
            .find(|open| open.netns == netns && is_local(&open.record.subject));
        if let Some(open) = local {
            open.note(
                turn,
                MilestoneKind::SpeakerEnded,
                within,
                words.clone(),
                "its exit",
            );
        }
        let now = turn.at;
        self.ended
            .retain(|_, (at, _)| now.since(*at) <= ENDED_REMEMBERED);
        self.ended.insert(netns, (within.latest, words));
    }

    /// A local speaker is new.
    pub(super) fn speaker_seen(
        &mut self,
        turn: &mut Turn<'_>,
        netns: NetnsId,
        within: Within,
        words: String,
    ) {
        let local = self
            .open
            .values_mut()
            .find(|open| open.netns == netns && is_local(&open.record.subject));
        if let Some(open) = local {
            open.note(
                turn,
                MilestoneKind::SpeakerSeen,
                within,
                words,
                "its sockets",
            );
        }
    }

    /// Evidence was lost: every open incident's is incomplete.
    pub(super) fn lose_evidence(&mut self, turn: &mut Turn<'_>, stage: LossStage, count: u64) {
        if matches!(stage, LossStage::StrangerRing | LossStage::Recorder) {
            return;
        }
        let numbers: Vec<u64> = self.open.keys().copied().collect();
        for number in numbers {
            if let Some(open) = self.open.get_mut(&number) {
                let lost = open
                    .record
                    .evidence
                    .lost
                    .entry(stage.name().to_owned())
                    .or_default();
                *lost = lost.saturating_add(count);
                open.news = true;
            }
            self.look_again(turn, number);
        }
    }
}

fn restart_end_words(peer: &str, how: RestartEnd, dropped: u64) -> String {
    match how {
        RestartEnd::EndOfRib => format!("End-of-RIB of {peer}"),
        RestartEnd::Expired => format!(
            "restart time of {peer} ran out, {} dropped",
            routes_of(dropped)
        ),
        RestartEnd::NotPreserved => format!(
            "{peer} is back without its forwarding state, {} dropped",
            routes_of(dropped)
        ),
        RestartEnd::SecondRestart => {
            format!("{peer} fell again while its routes were stale, {dropped} dropped")
        }
    }
}

/// Whether peers keep this node's routes over the end of its speaker: it offered that for some family
/// (with none it only helps others to restart, RFC 4724 §3), and sent no NOTIFICATION.
fn restarts_quietly(node: &Node, peer: PeerAddress, cause: &Cause) -> bool {
    let offered = node.peers.get(&peer).is_some_and(|peer| {
        let remembered = peer.exchange.remembered.as_ref();
        match &peer.exchange.opens.sent {
            Some(open) => {
                let restart = open.restart.as_ref();
                restart.is_some_and(|restart| !restart.families.is_empty())
            }
            None => remembered.is_some_and(|terms| terms.own_restart.is_some()),
        }
    });
    let quiet = matches!(
        cause,
        Cause::LocalSpeakerGone {
            notification: None,
            ..
        }
    );
    offered && quiet
}

/// The first flap names the cause; that a session fell again is said.
fn name_cause(open: &mut Open, flap: &Flap) {
    let record = &mut open.record;
    if record.cause_label.is_none() || record.cause.is_empty() {
        record.cause_label = Some(flap.cause.label().to_owned());
        record.cause.clone_from(&flap.cause_text);
    }
    name_mass(open);
    if let Some((_, cut)) = &open.cut {
        open.record.cause.clone_from(cut);
    }
}

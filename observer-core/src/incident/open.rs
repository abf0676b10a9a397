//! One incident while it is open: what is known of it, and its record.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    drops::Drops,
    impact,
    marks::missing,
    milestones::{self, Within},
    probe::Probe,
    record::{Incident, MilestoneKind, Proof, SessionLoss, Subject, SubjectKind, Verdict},
    routes::{Routes, UNNAMED},
    verdict::{self, Cut, Known, Packets},
};
use crate::{
    address::PeerAddress, bgp::Prefix, change::RestartEnd, event::NetnsId, fib::RECOVERY,
    time::Timestamp, turn::Turn,
};

/// Sessions listed one by one.
const SESSIONS: usize = 64;
/// Once sessions are up for this long, routes that are not back are not waited for any more: longer
/// than BIRD's 240 s of recovery.
const STABLE: Duration = Duration::from_mins(5);
/// Everything has to be well for this long before an incident is over.
pub(super) const SETTLE: Duration = Duration::from_secs(2);
/// A target that never answered has this long to do so once all else is well.
const PATIENCE: Duration = Duration::from_secs(4);
/// Sessions that are up for so long should have brought their routes back.
const WAITS: Duration = Duration::from_secs(5);
/// Two updates of one record are at least this far apart.
pub(super) const UPDATES_APART: Duration = Duration::from_secs(1);

/// A record whose times grow is told again this often at most, seldom when it is old.
const GROWS: Duration = Duration::from_secs(10);

/// A session that belongs to it.
#[derive(Debug)]
pub(super) struct Member {
    pub up: Option<Timestamp>,
    /// Its routes are kept as stale.
    pub stale: bool,
    /// Its cause is final.
    pub counted: bool,
    /// Nobody waits for it any more.
    pub forgotten: bool,
    /// Some of what it had announced, and how many that were.
    pub prefixes: Vec<Prefix>,
    pub announced: u64,
}

/// An open incident.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one observation that comes on its own"
)]
pub(super) struct Open {
    pub netns: NetnsId,
    pub record: Incident,
    /// The first moment that belongs to it.
    pub begun: Timestamp,
    /// It was told.
    pub told: bool,
    pub told_at: Timestamp,
    /// Something changed since.
    pub news: bool,
    pub members: BTreeMap<PeerAddress, Member>,
    /// Peers behind which something is lost, though their sessions may be up.
    pub peers: BTreeSet<PeerAddress>,
    pub routes: Routes,
    pub probes: Vec<Probe>,
    pub drops: Drops,
    pub last_echo: Option<Timestamp>,
    pub next_echo: Option<Timestamp>,
    /// Since when it is probed quickly, and how often that began anew.
    pub quick_from: Timestamp,
    pub quickened: u32,
    /// Peers whose routes are announced and not programmed, and how many those are.
    pub unprogrammed: BTreeMap<PeerAddress, u64>,
    /// Since when that is waited for, and whether it was said what for.
    pub waiting: Option<Timestamp>,
    pub wait_told: bool,
    pub kept: bool,
    /// A session ended as if this node's BGP daemon had, and none is seen here.
    pub speaker_unseen: bool,
    /// All its sessions did, at once.
    pub ours: bool,
    pub failed_restart: Option<RestartEnd>,
    pub presumed_lost: u64,
    pub routes_seen: bool,
    pub decommissioned: bool,
    /// Its routes were withdrawn by an UPDATE: a loss only if what was in them is proven to live.
    pub withdrawn: bool,
    /// Its silences may be those of pods that are gone.
    pub doubtful: bool,
    /// Most of this node's sessions fell at once.
    pub mass: bool,
    /// What explains it whatever its sessions say: this node is cut off.
    pub cut: Option<(Cut, String)>,
    /// Links of this node that are down, by interface: name, and since when.
    pub links: BTreeMap<u32, (String, Timestamp)>,
    /// One was down for longer than the gap threshold.
    pub link_lost: bool,
    /// Peers on a link that do not answer for their link-layer address.
    pub unresolved: BTreeSet<PeerAddress>,
    /// Some prefixes whose routes lead over them.
    pub behind: BTreeMap<PeerAddress, Vec<Prefix>>,
    /// Those that did not at some time.
    pub mute_neighbours: BTreeSet<PeerAddress>,
    /// When a speaker ended, and that was it.
    pub restarted: Option<Timestamp>,
    /// Incidents of other nodes whose restart was not over then.
    pub overlaps: BTreeSet<u64>,
    /// Its cause is final, and it is told then: others may fall for the same reason.
    pub held: Option<Timestamp>,
    /// When its routes were last looked for.
    pub looked_at: Option<Timestamp>,
    /// Since when everything has been well.
    pub calm_since: Option<Timestamp>,
    /// Pods were asked for.
    pub pods_asked: bool,
    /// And Kubernetes about its node.
    pub circumstances_asked: bool,
    /// Taken over from an earlier run of the agent: what it had proven before.
    pub before: Option<(Verdict, Proof)>,
}

impl Open {
    /// `subject`, from `begun` on.
    pub fn new(
        turn: &Turn<'_>,
        netns: NetnsId,
        node: &str,
        subject: Subject,
        begun: Timestamp,
    ) -> Self {
        let record = Incident::blank(node, subject, turn.wall.wall(begun));
        Self::of(netns, record, begun)
    }

    fn of(netns: NetnsId, record: Incident, begun: Timestamp) -> Self {
        Self {
            netns,
            record,
            begun,
            told: false,
            told_at: begun,
            news: true,
            members: BTreeMap::new(),
            peers: BTreeSet::new(),
            routes: Routes::default(),
            probes: Vec::new(),
            drops: Drops::default(),
            last_echo: None,
            next_echo: None,
            quick_from: begun,
            quickened: 0,
            unprogrammed: BTreeMap::new(),
            waiting: None,
            wait_told: false,
            kept: false,
            speaker_unseen: false,
            ours: false,
            failed_restart: None,
            presumed_lost: 0,
            routes_seen: false,
            decommissioned: false,
            withdrawn: false,
            doubtful: false,
            mass: false,
            cut: None,
            links: BTreeMap::new(),
            link_lost: false,
            unresolved: BTreeSet::new(),
            behind: BTreeMap::new(),
            mute_neighbours: BTreeSet::new(),
            restarted: None,
            overlaps: BTreeSet::new(),
            held: None,
            looked_at: None,
            calm_since: None,
            pods_asked: false,
            circumstances_asked: false,
            before: None,
        }
    }

    /// As `record` says it was.
    pub fn restored(turn: &Turn<'_>, netns: NetnsId, record: Incident) -> Self {
        let at = turn.at;
        let routes = if record.prefixes.lost > 0 || record.prefixes.brief > 0 {
            Routes::restored(&record, turn)
        } else {
            Routes::default()
        };
        Self {
            told: true,
            routes_seen: true,
            // An earlier run has, if any was to.
            pods_asked: true,
            circumstances_asked: true,
            // Whether they are back the kernel's routes tell, once they are known.
            waiting: (record.prefixes.still_gone > 0).then_some(at),
            routes,
            before: Some((record.verdict, record.proof)),
            ..Self::of(netns, record, at)
        }
    }

    /// Something happened.
    pub fn note(
        &mut self,
        turn: &Turn<'_>,
        kind: MilestoneKind,
        within: Within,
        what: String,
        evidence: &str,
    ) {
        milestones::add(&mut self.record, turn, kind, within, what, evidence);
        self.news = true;
    }

    /// A session went down.
    pub fn lose_session(
        &mut self,
        turn: &Turn<'_>,
        address: PeerAddress,
        within: Within,
        prefixes: Vec<Prefix>,
        announced: u64,
    ) {
        self.forget_withdrawal();
        self.peers.insert(address);
        let member = Member {
            up: None,
            stale: false,
            counted: false,
            forgotten: false,
            prefixes,
            announced,
        };
        let before = self.members.insert(address, member);
        if let Some(member) = self.members.get_mut(&address)
            && let Some(before) = before
            && member.prefixes.is_empty()
        {
            member.prefixes = before.prefixes;
            member.announced = before.announced;
        }
        if self.record.sessions.len() < SESSIONS {
            self.record.sessions.push(SessionLoss {
                peer: address.to_string(),
                flap: None,
                down_at: turn.wall.wall(within.latest),
                up_at: None,
                cause: "pending".to_owned(),
            });
        }
        let what = format!("session with {address} down");
        self.note(
            turn,
            MilestoneKind::SessionDown,
            within,
            what,
            "TCP state of its connection",
        );
        self.calm_since = None;
    }

    /// A session that was down in an earlier run; `up` when it is not any more.
    pub fn take_back(&mut self, address: PeerAddress, up: Option<Timestamp>) {
        self.peers.insert(address);
        let member = Member {
            up,
            stale: false,
            counted: true,
            forgotten: false,
            prefixes: Vec::new(),
            announced: 0,
        };
        self.members.insert(address, member);
    }

    /// Another one turns out to be the same event.
    pub fn absorb(&mut self, turn: &Turn<'_>, other: Self) {
        if other.begun < self.begun && !self.told {
            self.begun = other.begun;
            self.record.opened_at = turn.wall.wall(other.begun);
        }
        self.members.extend(other.members);
        self.peers.extend(other.peers);
        let room = SESSIONS.saturating_sub(self.record.sessions.len());
        self.record
            .sessions
            .extend(other.record.sessions.into_iter().take(room));
        for milestone in other.record.milestones {
            milestones::insert(&mut self.record, milestone);
        }
        for (prefix, gone) in other.routes.gone {
            self.routes.lose(prefix, gone);
        }
        self.routes.lost += other.routes.lost;
        self.routes.micro += other.routes.micro;
        let limit = usize::try_from(turn.config.reach.targets_per_incident).unwrap_or(usize::MAX);
        let room = limit.saturating_sub(self.probes.len());
        self.probes.extend(other.probes.into_iter().take(room));
        self.drops.absorb(other.drops);
        self.kept |= other.kept;
        self.speaker_unseen |= other.speaker_unseen;
        self.presumed_lost += other.presumed_lost;
        self.calm_since = None;
        self.news = true;
    }

    /// The latest loss of this peer's session in the record.
    pub fn session_of(&mut self, peer: &str) -> Option<&mut SessionLoss> {
        let sessions = self.record.sessions.iter_mut();
        sessions.rev().find(|session| session.peer == peer)
    }

    /// Whether sessions are up, routes back, and targets answer; `stable` losses are not waited for.
    pub fn is_well(&self, now: Timestamp) -> bool {
        if !self.tables_are_well(now) {
            return false;
        }
        let well_for = now.since(self.recovered_at());
        // Behind what fell, silence may be stable as missing routes may: the pods were drained, say.
        let stable = well_for >= STABLE && self.fell();
        let mut peers = self.peers.iter();
        stable || peers.all(|peer| self.targets_settled(*peer, well_for))
    }

    /// Whether sessions are up and routes back.
    pub fn tables_are_well(&self, now: Timestamp) -> bool {
        let waits = |member: &Member| {
            !member.forgotten
                && (member.up.is_none()
                    || (member.stale && member.up.is_some_and(|up| now.since(up) < STABLE)))
        };
        if self.members.values().any(waits) {
            return false;
        }
        let missing = !self.routes.gone.is_empty() || !self.unprogrammed.is_empty();
        if missing && now < self.waits_until() {
            return false;
        }
        self.links.is_empty() || now >= self.waits_until()
    }

    /// Whether sessions fell or routes were gone.
    pub fn fell(&self) -> bool {
        !self.members.is_empty() || self.routes.any()
    }

    /// When the last session was up or the last route back.
    pub fn recovered_at(&self) -> Timestamp {
        let ups = self.members.values().filter_map(|member| member.up);
        let back = self.routes.last_back.map(|back| back.latest);
        ups.chain(back).max().unwrap_or(self.begun)
    }

    /// Whether the targets behind a peer answer; where none ever did, they had time to, sessions and
    /// routes being well for so long.
    fn targets_settled(&self, peer: PeerAddress, well_for: Duration) -> bool {
        let mut behind = self
            .probes
            .iter()
            .filter(|probe| probe.peer == peer)
            .peekable();
        if behind.peek().is_none() {
            return true;
        }
        let mut alive = behind
            .filter(|probe| probe.seen_alive || probe.mute)
            .peekable();
        if alive.peek().is_none() {
            return well_for >= PATIENCE;
        }
        alive.all(Probe::is_settled)
    }

    /// Until when routes are waited for.
    pub fn waits_until(&self) -> Timestamp {
        let ups = self.members.values().filter_map(|member| member.up);
        let last = self.routes.last_gone.map(|gone| gone.latest);
        let links = self.links.values().map(|(_, since)| *since).max();
        let since = ups
            .chain(last)
            .chain(links)
            .chain(self.waiting)
            .max()
            .unwrap_or(self.begun);
        since.after(STABLE)
    }

    /// Sessions are up and routes are not back: when BIRD's recovery timer has run out, if it waits. The timer
    /// began with its process, before the session.
    fn recovers_by(&self) -> Option<Timestamp> {
        let missing = !self.routes.gone.is_empty() || !self.unprogrammed.is_empty();
        let mut members = self.members.values();
        if !missing || self.withdrawn || members.any(|member| member.up.is_none()) {
            return None;
        }
        let ups = self.members.values().filter_map(|member| member.up);
        let since = ups.chain(self.waiting).max()?;
        Some(since.after(RECOVERY))
    }

    /// Says once, some time after sessions are up, that routes are not back and what may be waited for.
    pub fn remark_wait(&mut self, turn: &Turn<'_>) {
        let Some(by) = self.recovers_by().filter(|_| !self.wait_told) else {
            return;
        };
        if by.since(turn.at) + WAITS > RECOVERY {
            return;
        }
        self.wait_told = true;
        let gone = self.routes.gone.len() + self.unprogrammed.len();
        let what = format!(
            "sessions are up and {} not back: a BIRD that waits for peers that are away programs none for \
             up to {} s",
            match gone {
                1 => "1 route is".to_owned(),
                _ => format!("{gone} routes are"),
            },
            RECOVERY.as_secs()
        );
        let within = Within::exactly(turn.at);
        let evidence = "Adj-RIB-In and the kernel's routes";
        self.note(turn, MilestoneKind::Remark, within, what, evidence);
    }

    /// Whether a link of this node was, or is by `now`, down for longer than `threshold`.
    pub fn link_lost_by(&self, now: Timestamp, threshold: Duration) -> bool {
        let mut links = self.links.values();
        self.link_lost || links.any(|(_, since)| now.since(*since) > threshold)
    }

    /// This node's own speaker ended; its peers did not, nor is the node cut off from them.
    pub const fn is_own_restart(&self) -> bool {
        is_local(&self.record.subject) && !self.mass && self.cut.is_none()
    }

    /// What is known, for the verdict.
    pub fn known(&self, turn: &Turn<'_>) -> Known {
        let threshold = turn.config.gap();
        let lost =
            self.routes.lost_by(turn.at, threshold) + self.unprogrammed.values().sum::<u64>();
        let packets = Packets::of(&self.probes, threshold);
        Known {
            subject: self.record.subject.kind,
            sessions: self.record.sessions.len(),
            still_down: self
                .members
                .values()
                .any(|member| member.up.is_none() && !member.forgotten),
            kept: self.kept,
            failed_restart: self.failed_restart,
            lost,
            micro: self.routes.micro,
            still_gone: u64::try_from(self.routes.gone.len() + self.unprogrammed.len())
                .unwrap_or(u64::MAX),
            routes_seen: self.routes_seen || self.routes.any(),
            presumed_lost: self.presumed_lost,
            link_lost: self.link_lost_by(turn.at, threshold),
            link_down: !self.links.is_empty(),
            cut: self.cut.as_ref().map(|(cut, _)| *cut),
            packets,
            dropped: self.drops.proving(lost > 0, threshold),
            tcp_unanswered: self.drops.unanswered(),
            own_restart: self.ours || self.record.is_own_restart() && self.is_own_restart(),
            decommissioned: self.decommissioned,
            withdrawn: self.withdrawn,
            neighbours: self.mute_neighbours.len(),
            silence_doubted: self.doubtful,
        }
    }

    /// Whether the record says another verdict than what is known, or lengths of time that grow are
    /// long out of date.
    pub fn is_outdated(&self, turn: &Turn<'_>) -> bool {
        let known = self.known(turn);
        if self.before.is_none() && verdict::judge(&known) != self.record.verdict {
            return true;
        }
        let grows = known.still_gone > 0 || self.probes.iter().any(Probe::is_silent);
        let age = turn.at.since(self.begun);
        grows && turn.at.since(self.told_at) >= (age / 10).clamp(GROWS, GROWS * 60)
    }

    /// Brings the record in line with what is known.
    pub fn refresh(&mut self, turn: &Turn<'_>) {
        let known = self.known(turn);
        let (judged, proof) = (verdict::judge(&known), verdict::proof(&known));
        let waits = self.recovers_by();
        let record = &mut self.record;
        (record.verdict, record.proof) = match self.before {
            Some((before, proof_before)) if worse(before) > worse(judged) => (before, proof_before),
            Some(_) | None => (judged, proof),
        };
        record.updated_at = turn.wall.wall(turn.at);
        record.rests_on = verdict::rests_on(&known);
        record.would_change = verdict::would_change(&known, judged);
        record.next_check = verdict::next_check(&known, &record.cause, &record.subject.identity);
        if known.own_restart
            && let Some(key) = record.group_keys.first()
        {
            record.next_check = verdict::ask_the_peers(&record.next_check, key);
        }
        record.impact = impact::table(&known, record);
        record.routes_by = waits.map(|at| turn.wall.wall(at));
        if self.routes.any() {
            record.prefixes = self.routes.shown(turn.at, turn.config.gap());
            record.route_gap_seconds = self.routes.gap(turn.at);
            let owners = record.prefixes.by_owner.keys();
            record.route_owner = owners.max().cloned();
            self.mark_routes(turn);
        }
        self.mark_reach(turn);
        self.mark_drops(turn, known.dropped);
        let mut missing = missing(&known, &self.probes);
        if self.speaker_unseen {
            missing.push(
                "this node's BGP daemon is not seen: whether it ended, and who ended it".to_owned(),
            );
        }
        let removers = self.record.prefixes.deleted_by.keys();
        if { removers }.any(|remover| remover.starts_with(UNNAMED)) {
            missing
                .push("who removed routes, and exactly when: rtnetlink does not tell".to_owned());
        }
        self.record.evidence.missing = missing;
        let evidence = &mut self.record.evidence;
        evidence.complete = evidence.lost.is_empty() && self.record.absences.is_empty();
    }
}

/// Which of two verdicts an earlier run's must not be replaced by a lesser one.
const fn worse(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::NoImpact => 0,
        Verdict::Graceful => 1,
        Verdict::Decommissioned => 2,
        Verdict::MicroGap => 3,
        Verdict::RoutesLost => 4,
        Verdict::Blackholed => 5,
        Verdict::ReachabilityLost => 6,
    }
}

/// Whether the subject is this node.
pub(super) const fn is_local(subject: &Subject) -> bool {
    matches!(subject.kind, SubjectKind::Local)
}

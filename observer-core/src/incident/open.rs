//! One incident while it is open: what is known of it, and its record.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    impact,
    milestones::{self, Within},
    probe::Probe,
    record::{Incident, MilestoneKind, Proof, SessionLoss, Span, Subject, SubjectKind, Verdict},
    routes::Routes,
    verdict::{self, Known, routes_of},
};
use crate::{
    address::PeerAddress, bgp::Prefix, change::RestartEnd, event::NetnsId, time::Timestamp,
    turn::Turn,
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
    pub next_echo: Option<Timestamp>,
    /// Peers whose routes are announced and not programmed, and how many those are.
    pub unprogrammed: BTreeMap<PeerAddress, u64>,
    /// Since when that is waited for.
    pub waiting: Option<Timestamp>,
    pub kept: bool,
    pub failed_restart: Option<RestartEnd>,
    pub presumed_lost: u64,
    pub routes_seen: bool,
    pub decommissioned: bool,
    /// Most of this node's sessions fell at once.
    pub mass: bool,
    /// Its cause is final, and it is told then: others may fall for the same reason.
    pub held: Option<Timestamp>,
    /// Since when everything has been well.
    pub calm_since: Option<Timestamp>,
    /// Pods were asked for.
    pub pods_asked: bool,
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
        let opened_at = turn.wall.wall(begun);
        Self {
            netns,
            record: Incident::blank(node, subject, opened_at),
            begun,
            told: false,
            told_at: begun,
            news: true,
            members: BTreeMap::new(),
            peers: BTreeSet::new(),
            routes: Routes::default(),
            probes: Vec::new(),
            next_echo: None,
            unprogrammed: BTreeMap::new(),
            waiting: None,
            kept: false,
            failed_restart: None,
            presumed_lost: 0,
            routes_seen: false,
            decommissioned: false,
            mass: false,
            held: None,
            calm_since: None,
            pods_asked: false,
            before: None,
        }
    }

    /// As `record` says it was.
    pub fn restored(netns: NetnsId, record: Incident, at: Timestamp) -> Self {
        Self {
            netns,
            begun: at,
            told: true,
            told_at: at,
            news: true,
            members: BTreeMap::new(),
            peers: BTreeSet::new(),
            routes: Routes::default(),
            probes: Vec::new(),
            next_echo: None,
            unprogrammed: BTreeMap::new(),
            waiting: None,
            kept: false,
            failed_restart: None,
            presumed_lost: 0,
            routes_seen: true,
            decommissioned: false,
            mass: false,
            held: None,
            calm_since: None,
            // An earlier run has, if any was to.
            pods_asked: true,
            before: Some((record.verdict, record.proof)),
            record,
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
        self.kept |= other.kept;
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
        let recovered = self.recovered_at();
        self.peers
            .iter()
            .all(|peer| self.targets_settled(*peer, now.since(recovered)))
    }

    /// When the last session was up or the last route back.
    fn recovered_at(&self) -> Timestamp {
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
        let since = ups
            .chain(last)
            .chain(self.waiting)
            .max()
            .unwrap_or(self.begun);
        since.after(STABLE)
    }

    /// What is known, for the verdict.
    pub fn known(&self, turn: &Turn<'_>) -> Known {
        let threshold = turn.config.gap();
        Known {
            subject: self.record.subject.kind,
            sessions: self.record.sessions.len(),
            still_down: self
                .members
                .values()
                .any(|member| member.up.is_none() && !member.forgotten),
            kept: self.kept,
            failed_restart: self.failed_restart,
            lost: self.routes.lost_by(turn.at, threshold) + self.unprogrammed.values().sum::<u64>(),
            micro: self.routes.micro,
            still_gone: u64::try_from(self.routes.gone.len() + self.unprogrammed.len())
                .unwrap_or(u64::MAX),
            routes_seen: self.routes_seen || self.routes.any(),
            presumed_lost: self.presumed_lost,
            unreachable: self.probes.iter().any(Probe::was_unreachable),
            alive: self
                .probes
                .iter()
                .any(|probe| probe.seen_alive && probe.sent > 0),
            decommissioned: self.decommissioned,
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
        let record = &mut self.record;
        (record.verdict, record.proof) = match self.before {
            Some((before, proof_before)) if worse(before) > worse(judged) => (before, proof_before),
            Some(_) | None => (judged, proof),
        };
        record.updated_at = turn.wall.wall(turn.at);
        record.rests_on = verdict::rests_on(&known);
        verdict::would_change(&known, judged).clone_into(&mut record.would_change);
        record.next_check = verdict::next_check(&known, &record.cause, &record.subject.identity);
        record.impact = impact::table(&known, &record.subject);
        if self.routes.any() {
            record.prefixes = self.routes.shown();
            record.route_gap_seconds = self.routes.gap(turn.at);
            let owners = record.prefixes.by_owner.keys();
            record.route_owner = owners.max().cloned();
            self.mark_routes(turn);
        }
        self.mark_reach(turn);
        self.record.evidence.missing = missing(&known, &self.probes);
        let evidence = &mut self.record.evidence;
        evidence.complete = evidence.lost.is_empty() && self.record.absences.is_empty();
    }

    fn mark_routes(&mut self, turn: &Turn<'_>) {
        // rtnetlink has no times: what is known to the moment was stamped by a probe.
        let evidence = |at: Within| {
            if at.earliest == at.latest {
                "the kernel's routes (probe)"
            } else {
                "the kernel's routes (rtnetlink)"
            }
        };
        let routes = &self.routes;
        let gone = u64::try_from(routes.gone.len()).unwrap_or(u64::MAX);
        let total = self.record.prefixes.lost;
        let writers: Vec<&str> = self
            .record
            .prefixes
            .deleted_by
            .keys()
            .map(String::as_str)
            .collect();
        let by = writers.join(", ");
        let marks = [
            (
                MilestoneKind::FirstRouteGone,
                routes.first_gone,
                format!("first route gone, removed by: {by}"),
            ),
            (
                MilestoneKind::LastRouteGone,
                routes.last_gone,
                format!("last route gone, {} in all", routes_of(total)),
            ),
            (
                MilestoneKind::FirstRouteBack,
                routes.first_back,
                "first route back".to_owned(),
            ),
            (
                MilestoneKind::LastRouteBack,
                routes.last_back.filter(|_| gone == 0),
                "last route back".to_owned(),
            ),
        ];
        for (kind, at, what) in marks {
            match at {
                Some(at) => {
                    milestones::renew(&mut self.record, turn, kind, at, what, evidence(at));
                }
                None => self
                    .record
                    .milestones
                    .retain(|milestone| milestone.kind != kind),
            }
        }
    }

    fn mark_reach(&mut self, turn: &Turn<'_>) {
        const ECHO: &str = "ICMP echo";
        self.record.targets = self.probes.iter().map(Probe::report).collect();
        let silenced: Vec<&Probe> = self
            .probes
            .iter()
            .filter(|probe| probe.was_unreachable())
            .collect();
        let first = silenced.iter().filter_map(|probe| probe.first_loss).min();
        let last = silenced.iter().filter_map(|probe| probe.last_loss).max();
        let silent = silenced.iter().any(|probe| probe.is_silent());
        let again = silenced.iter().filter_map(|probe| probe.again_at).max();
        let spans: Vec<Span> = silenced
            .iter()
            .filter_map(|probe| probe.unreachable())
            .collect();
        let names: Vec<String> = silenced
            .iter()
            .map(|probe| probe.target.to_string())
            .collect();
        self.record.unreachable_seconds = widest(&spans).or_else(|| {
            let alive = self
                .probes
                .iter()
                .any(|probe| probe.seen_alive && probe.sent > 0);
            alive.then_some(Span {
                min: 0.0,
                max: Some(0.0),
            })
        });
        let names = names.join(", ");
        if let (Some(first), Some(last)) = (first, last) {
            let what = format!("no answer from {names}");
            let record = &mut self.record;
            milestones::renew(
                record,
                turn,
                MilestoneKind::FirstLoss,
                Within::exactly(first),
                what,
                ECHO,
            );
            let what = format!("last echo without answer from {names}");
            milestones::renew(
                record,
                turn,
                MilestoneKind::LastLoss,
                Within::exactly(last),
                what,
                ECHO,
            );
        }
        if let Some((missed, heard)) = again.filter(|_| !silent) {
            let within = Within {
                earliest: missed,
                latest: heard,
            };
            let verb = if silenced.len() == 1 {
                "answers"
            } else {
                "answer"
            };
            let what = format!("{names} {verb} again");
            milestones::renew(
                &mut self.record,
                turn,
                MilestoneKind::ReachableAgain,
                within,
                what,
                ECHO,
            );
        }
    }
}

/// The widest of several spans.
fn widest(spans: &[Span]) -> Option<Span> {
    let mut spans = spans.iter().copied();
    let first = spans.next()?;
    Some(spans.fold(first, |one, other| Span {
        min: one.min.max(other.min),
        max: one.max.zip(other.max).map(|(one, other)| one.max(other)),
    }))
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

fn missing(known: &Known, probes: &[Probe]) -> Vec<String> {
    let mut missing = Vec::new();
    if !known.routes_seen {
        missing.push("the kernel's routes were not observed".to_owned());
    }
    if probes.is_empty() {
        missing.push("nothing was probed: reachability is inferred".to_owned());
    }
    let answers = |peer| {
        probes
            .iter()
            .any(|probe| probe.peer == peer && probe.seen_alive)
    };
    for probe in probes.iter().filter(|probe| !answers(probe.peer)) {
        missing.push(format!(
            "{} was never seen alive: its silence proves nothing",
            probe.target
        ));
    }
    missing
}

/// Whether the subject is this node.
pub(super) const fn is_local(subject: &Subject) -> bool {
    matches!(subject.kind, SubjectKind::Local)
}

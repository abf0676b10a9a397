//! What can be done to a mesh, and what the agent must say then: both as data.

mod admin_reset;
mod firewall;
mod kill;
mod linkdown;
mod record;
mod refuse;
mod reset;
mod restart;
mod wrong_as;

use std::{fmt, time::Duration};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use observer_core::{
    cause::Cause,
    change::{Change, RestartEnd},
    peer::{Flap, PeerView},
};

pub use self::record::ExpectedIncident;
use crate::{
    agent::Told,
    firewall as wall,
    lab::{Lab, Node},
    netns, programs,
    speaker::Speaker,
};

/// The scenarios. The victim is always n2.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Scenario {
    /// n2's speaker gets SIGTERM and is back after 3 s.
    Restart,
    /// n2's speaker gets SIGKILL and is back after 3 s.
    Kill,
    /// n2's firewall drops BGP in both directions until every session fell; what the old connections
    /// still had to say comes after the new ones are up.
    Firewall,
    /// n2's speaker ends for good: who dials it is refused.
    Refuse,
    /// n2's kernel resets its sessions.
    Reset,
    /// n2's uplink is down for 4 s.
    Linkdown,
    /// n2's speaker is started again with an AS that nobody expects of it.
    WrongAs,
    /// n2's BIRD restarts its sessions (`birdc restart`).
    AdminReset,
}

/// What is done, in order, and what must follow.
#[derive(Debug)]
pub struct Script {
    /// In a line.
    pub title: &'static str,
    /// What is done.
    pub steps: Vec<Step>,
    /// What must follow.
    pub expected: Expected,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When.
    pub when: When,
    /// What.
    pub act: Act,
}

/// When something is done.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// This long after the first step.
    After(Duration),
    /// As soon as every expected flap is recorded.
    Fallen,
    /// As soon as every expected flap is over: all sessions are up again.
    Risen,
}

/// What is done to the victim.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Its speaker gets a signal that ends it.
    End(Signal),
    /// Its speaker is started.
    Start,
    /// Its speaker is started as one of AS [`FOREIGN_ASN`].
    StartForeign,
    /// Its BIRD restarts every session.
    RestartSessions,
    /// Its firewall drops all BGP.
    Drop,
    /// Its firewall lets new BGP connections pass; those there were when it began to drop stay cut.
    Admit,
    /// Its firewall lets BGP pass again.
    Pass,
    /// Its kernel resets every BGP connection (`ss --kill`).
    Reset,
    /// Its uplink goes down.
    LinkDown,
    /// Its uplink comes back, with the default route that went with it.
    LinkUp,
}

/// What must follow. Sessions that are not named must stay up and count no flap.
#[derive(Debug, Default)]
pub struct Expected {
    /// Sessions that fall once.
    pub flaps: Vec<ExpectedFlap>,
    /// Whether they come back; those that do not must show down.
    pub recovers: bool,
    /// Sessions that cannot be built up, and a word of why that must be told.
    pub failures: Vec<(Session, &'static str)>,
    /// Sessions whose routes are stale from their fall to End-of-RIB.
    pub restarts: Vec<Session>,
    /// What the incidents must say.
    pub incidents: Vec<ExpectedIncident>,
    /// How long the agent is watched when nothing is to follow.
    pub calm: Duration,
}

/// One direction of a session: the node that sees it and its peer's address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Session {
    /// The observed node.
    pub node: String,
    /// The peer.
    pub peer: String,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.node, self.peer)
    }
}

/// A session that falls.
#[derive(Clone, Debug)]
pub struct ExpectedFlap {
    /// Which.
    pub session: Session,
    /// Causes that are right, as labels.
    pub causes: &'static [&'static str],
    /// Words that the cause must say.
    pub words: Vec<&'static str>,
}

/// The AS of a node whose operator mistook the number.
pub const FOREIGN_ASN: u32 = 64513;

/// Who plays.
#[derive(Debug)]
pub struct Cast<'a> {
    victim: &'a Node,
    others: Vec<&'a Node>,
    graceful: bool,
}

impl<'a> Cast<'a> {
    /// n2 is the victim.
    pub fn of(lab: &'a Lab) -> Result<Self> {
        let victim = lab.node(2)?;
        let others = lab
            .nodes()
            .iter()
            .filter(|node| node.name != victim.name)
            .collect();
        Ok(Self {
            victim,
            others,
            graceful: lab.manners().graceful_restart,
        })
    }

    /// Sessions whose other node keeps the victim's routes when it crashes: those of BIRD, which
    /// says that it preserved them (RFC 4724's F bit), with BIRD.
    fn keep_stale(&self) -> Vec<Session> {
        let keeps = |node: &&&Node| node.speaker.is_bird() && self.victim.speaker.is_bird();
        let nodes = self.others.iter().filter(keeps);
        let sessions = nodes.map(|node| session(node, self.victim));
        sessions.filter(|_| self.graceful).collect()
    }

    /// Every other node's session with the victim falls for one of `causes`, in words that hold
    /// `words`.
    fn others_see(
        &self,
        causes: &'static [&'static str],
        words: &[&'static str],
    ) -> Vec<ExpectedFlap> {
        let session = |node: &&Node| session(node, self.victim);
        self.others
            .iter()
            .map(|node| ExpectedFlap {
                session: session(node),
                causes,
                words: words.to_vec(),
            })
            .collect()
    }

    /// The victim's own sessions fall for one of `causes`, in words that hold `words`.
    fn victim_sees(
        &self,
        causes: &'static [&'static str],
        words: &[&'static str],
    ) -> Vec<ExpectedFlap> {
        self.others
            .iter()
            .map(|node| ExpectedFlap {
                session: session(self.victim, node),
                causes,
                words: words.to_vec(),
            })
            .collect()
    }

    /// Sessions whose other node dials the victim, by Calico's rule.
    fn dial_victim(&self) -> impl Iterator<Item = Session> {
        let victim = self.victim;
        self.others
            .iter()
            .filter(|node| node.address.to_string() > victim.address.to_string())
            .map(|node| session(node, victim))
    }
}

fn session(node: &Node, peer: &Node) -> Session {
    Session {
        node: node.name.clone(),
        peer: peer.address.to_string(),
    }
}

impl Scenario {
    /// Its script for this lab.
    pub fn script(self, lab: &Lab) -> Result<Script> {
        let cast = Cast::of(lab)?;
        // Said before anything is done, not in the middle.
        if self == Self::Firewall {
            programs::find("nftables", "nft")?;
        }
        ensure!(
            self != Self::AdminReset || cast.victim.speaker.is_bird(),
            "{} has no `birdc restart`: that scenario needs a BIRD",
            cast.victim.speaker.title()
        );
        Ok(match self {
            Self::Restart => restart::script(&cast),
            Self::Kill => kill::script(&cast),
            Self::Firewall => firewall::script(&cast),
            Self::Refuse => refuse::script(&cast),
            Self::Reset => reset::script(&cast),
            Self::Linkdown => linkdown::script(&cast),
            Self::WrongAs => wrong_as::script(&cast),
            Self::AdminReset => admin_reset::script(&cast),
        })
    }

    /// The hold time that it needs to be quick.
    pub const fn hold(self) -> Option<u16> {
        match self {
            Self::Firewall => Some(9),
            Self::Restart
            | Self::Kill
            | Self::Refuse
            | Self::Reset
            | Self::Linkdown
            | Self::WrongAs
            | Self::AdminReset => None,
        }
    }
}

const fn at(seconds: u64, act: Act) -> Step {
    Step {
        when: When::After(Duration::from_secs(seconds)),
        act,
    }
}

impl Act {
    /// What is done, in words.
    pub fn describe(self, victim: &Node) -> String {
        let Node { name, speaker, .. } = victim;
        let who = format!("{} of {name}", speaker.title());
        match self {
            Self::End(signal) => {
                format!(
                    "{who} (pid {}) gets {signal}",
                    victim.pid().unwrap_or_default()
                )
            }
            Self::Start => format!("{who} is started"),
            Self::StartForeign => format!("{who} is started with AS {FOREIGN_ASN}"),
            Self::RestartSessions => format!("{who} restarts its sessions (birdc restart)"),
            Self::Drop => format!("the firewall of {name} drops tcp/179"),
            Self::Admit => format!("the firewall of {name} passes new connections to tcp/179"),
            Self::Pass => format!("the firewall of {name} passes tcp/179 again"),
            Self::Reset => format!("the kernel of {name} resets its BGP connections (ss --kill)"),
            Self::LinkDown => format!("eth0 of {name} goes down"),
            Self::LinkUp => format!("eth0 of {name} comes back"),
        }
    }

    /// Does it.
    pub fn perform(self, lab: &Lab) -> Result<()> {
        let victim = lab.node(2)?;
        let ns = &victim.namespace;
        match self {
            Self::End(signal) => lab.signal(victim, signal),
            Self::Start => {
                lab.await_end(victim, Duration::from_secs(15))?;
                lab.start(victim)
            }
            Self::StartForeign => {
                lab.await_end(victim, Duration::from_secs(15))?;
                lab.configure_as(victim, FOREIGN_ASN, "")?;
                lab.start(victim)
            }
            Self::RestartSessions => lab.neighbors(victim).iter().try_for_each(|peer| {
                lab.birdc(victim, &format!("restart {}", peer.protocol()))
                    .map(drop)
            }),
            Self::Drop => wall::cut(ns),
            Self::Admit => wall::admit_new(ns),
            Self::Pass => wall::lift(ns),
            Self::Reset => {
                let mut ss = programs::find("iproute2", "ss")?.command();
                ss.args(["--kill", "--tcp", "--numeric", "state", "established"]);
                ss.args(["(", "sport", "=", "179", "or", "dport", "=", "179", ")"]);
                netns::output(ns, &mut ss).map(drop)
            }
            Self::LinkDown => netns::ip(Some(ns), &["link set eth0 down".to_owned()]),
            Self::LinkUp => netns::ip(
                Some(ns),
                &[
                    "link set eth0 up".to_owned(),
                    "route add default via 10.0.0.254".to_owned(),
                ],
            ),
        }
    }
}

impl Expected {
    /// Whether all expected flaps are recorded.
    pub fn fallen(&self, flaps: &[Flap]) -> bool {
        self.flaps
            .iter()
            .all(|expected| flaps.iter().any(|flap| expected.session.is(flap)))
    }

    /// Whether all expected flaps are over.
    pub fn risen(&self, flaps: &[Flap]) -> bool {
        self.flaps.iter().all(|expected| {
            let mut flaps = flaps.iter().filter(|flap| expected.session.is(flap));
            flaps.any(|flap| flap.up_at.is_some())
        })
    }

    /// What is not as expected, in words; `before` are the peers before the first step, `flaps`
    /// those recorded since, `told` the changes.
    pub fn differences(
        &self,
        before: &[PeerView],
        after: &[PeerView],
        flaps: &[Flap],
        told: &[Told],
    ) -> Vec<String> {
        let mut differences = self.outstanding(before, after, flaps, told);
        for expected in &self.flaps {
            let mut flaps = flaps.iter().filter(|flap| expected.session.is(flap));
            if let (Some(flap), None) = (flaps.next(), flaps.next()) {
                differences.extend(expected.differences(flap));
            }
        }
        differences
    }

    /// What time may still bring: which sessions are up, how many flaps were counted.
    pub fn outstanding(
        &self,
        before: &[PeerView],
        after: &[PeerView],
        flaps: &[Flap],
        told: &[Told],
    ) -> Vec<String> {
        let mut differences = Vec::new();
        for peer in after {
            let session = Session {
                node: peer.node.clone(),
                peer: peer.peer.clone(),
            };
            let expected = self
                .flaps
                .iter()
                .any(|expected| expected.session == session);
            let counted_before = before
                .iter()
                .find(|old| old.node == peer.node && old.peer == peer.peer)
                .map_or(0, |old| old.flaps);
            let counted = peer.flaps.saturating_sub(counted_before);
            let recorded = flaps.iter().filter(|flap| session.is(flap)).count() as u64;
            let wanted = u64::from(expected);
            if counted != wanted || recorded != wanted {
                differences.push(format!(
                    "{session}: {wanted} flap(s) expected, {counted} counted, {recorded} recorded"
                ));
            }
            let up = !expected || self.recovers;
            if peer.up != up {
                let should = if up { "up" } else { "down" };
                differences.push(format!(
                    "{session}: should be {should}, is {:?}",
                    peer.state
                ));
            }
            if peer.cause_pending {
                differences.push(format!("{session}: its cause is still pending"));
            }
        }
        for old in before {
            if !after
                .iter()
                .any(|peer| peer.node == old.node && peer.peer == old.peer)
            {
                differences.push(format!("{} → {}: no longer known", old.node, old.peer));
            }
        }
        for (session, word) in &self.failures {
            let reasons = session.failures(told);
            if !reasons.iter().any(|reason| reason.contains(word)) {
                differences.push(format!(
                    "{session}: a failure should say `{word}`, told were {reasons:?}"
                ));
            }
        }
        for session in &self.restarts {
            let course = session.restart(told);
            if course != ["stale", "end_of_rib"] {
                differences.push(format!(
                    "{session}: its routes should be stale until End-of-RIB, told was {course:?}"
                ));
            }
        }
        differences
    }
}

impl ExpectedFlap {
    fn differences(&self, flap: &Flap) -> Vec<String> {
        let Self {
            session,
            causes,
            words,
        } = self;
        let label = flap.cause.label();
        let mut differences = Vec::new();
        if !causes.contains(&label) {
            differences.push(format!(
                "{session}: cause should be {}, is {label} ({})",
                causes.join(" or "),
                flap.cause_text
            ));
        } else if let Some(word) = words.iter().find(|word| !flap.cause_text.contains(**word)) {
            differences.push(format!(
                "{session}: the cause should name `{word}`, says `{}`",
                flap.cause_text
            ));
        }
        if flap.evidence.is_empty() && !matches!(flap.cause, Cause::Unknown | Cause::Unobserved) {
            differences.push(format!("{session}: the cause has no evidence"));
        }
        differences
    }
}

impl Session {
    /// Whether `flap` is one of this session.
    pub fn is(&self, flap: &Flap) -> bool {
        flap.node == self.node && flap.peer == self.peer
    }

    /// Why attempts to build it up failed, as told.
    fn failures<'a>(&self, told: &'a [Told]) -> Vec<&'a str> {
        let changes = self.changes(told);
        let reason = |change: &'a Change| {
            if let Change::ConnectFailed { peer, reason, .. } = change {
                (*peer == self.peer).then_some(reason.as_str())
            } else {
                None
            }
        };
        changes.filter_map(reason).collect()
    }

    /// The course of its graceful restart, as told.
    fn restart(&self, told: &[Told]) -> Vec<&'static str> {
        let changes = self.changes(told);
        let stage = |change: &Change| {
            let (peer, stage) = if let Change::GrStarted { peer, .. } = change {
                (peer, "stale")
            } else if let Change::GrEnded { peer, how, .. } = change {
                let ended = match how {
                    RestartEnd::EndOfRib => "end_of_rib",
                    RestartEnd::Expired => "expired",
                    RestartEnd::NotPreserved => "not_preserved",
                    RestartEnd::SecondRestart => "second_restart",
                };
                (peer, ended)
            } else {
                return None;
            };
            (*peer == self.peer).then_some(stage)
        };
        changes.filter_map(stage).collect()
    }

    /// The changes at its node.
    fn changes<'a>(&self, told: &'a [Told]) -> impl Iterator<Item = &'a Change> {
        let here = |told: &&Told| told.record.node == self.node;
        told.iter().filter(here).map(|told| &told.record.change)
    }
}

/// What the victim's speaker's end looks like from outside: BIRD and FRR close in order; `GoBGP` may
/// leave unread data behind, and the kernel then sends RST instead of FIN.
fn closed(victim: &Node) -> &'static [&'static str] {
    match victim.speaker {
        Speaker::Bird | Speaker::Bird2 | Speaker::Frr | Speaker::Openbgpd | Speaker::Exabgp => {
            &["fin_received"]
        }
        Speaker::Gobgp => &["fin_received", "rst_received"],
    }
}

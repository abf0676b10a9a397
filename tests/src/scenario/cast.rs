//! Who plays in a scenario, and what each of them sees of it.

use std::fmt;

use anyhow::Result;
use nix::sys::signal::Signal;
use observer_core::{
    change::{Change, RestartEnd},
    peer::{Flap, PeerView},
};

use super::{ExpectedFlap, ExpectedLoss, Extent, VICTIM};
use crate::{
    agent::Told,
    lab::{Lab, Node},
    rights::Overlay,
    speaker::{Manners, Speaker},
};

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

/// Who plays.
#[derive(Debug)]
pub struct Cast<'a> {
    pub(super) observer: &'a Node,
    pub(super) victim: &'a Node,
    pub(super) others: Vec<&'a Node>,
    pub(super) manners: Manners,
    /// What the agents may.
    pub(super) overlay: Overlay,
}

impl<'a> Cast<'a> {
    /// n2 is the victim, n1 watches.
    pub fn of(lab: &'a Lab, overlay: Overlay) -> Result<Self> {
        let victim = lab.node(VICTIM)?;
        let others = lab
            .nodes()
            .iter()
            .filter(|node| node.name != victim.name)
            .collect();
        Ok(Self {
            observer: lab.node(1)?,
            victim,
            others,
            manners: lab.manners(),
            overlay,
        })
    }

    /// Sessions whose other node keeps the victim's routes when it crashes: those of BIRD, which
    /// says that it preserved them (RFC 4724's F bit), with BIRD. How that ends is `course`.
    pub(super) fn keep_stale(
        &self,
        course: &'static [&'static str],
    ) -> Vec<(Session, &'static [&'static str])> {
        let keeps = |node: &&&Node| node.speaker.is_bird() && self.victim.speaker.is_bird();
        let nodes = self.others.iter().filter(keeps);
        let sessions = nodes.map(|node| session(node, self.victim));
        let kept = sessions.filter(|_| self.manners.graceful_restart);
        kept.map(|session| (session, course)).collect()
    }

    /// What pods of n1 suffer towards pods of the victim, and that n1's incident with it says so; not
    /// measured where the victim programs no routes.
    pub(super) fn loss(&self, extent: Extent) -> Option<ExpectedLoss> {
        self.victim.speaker.is_bird().then(|| ExpectedLoss {
            from: 1,
            to: VICTIM,
            extent,
            witnesses: vec![session(self.observer, self.victim)],
        })
    }

    /// What n1 records of the victim, what the victim records of n1, and of itself.
    pub(super) fn ends(&self) -> Vec<Session> {
        let (observer, victim) = (self.observer, self.victim);
        vec![
            session(observer, victim),
            session(victim, observer),
            session(victim, victim),
        ]
    }

    /// Every other node's session with the victim falls for one of `causes`, in words that hold
    /// `words`.
    pub(super) fn others_see(
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
                unseen: None,
            })
            .collect()
    }

    /// The victim's own sessions fall for one of `causes`, in words that hold `words`.
    pub(super) fn victim_sees(
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
                unseen: None,
            })
            .collect()
    }

    /// The victim's speaker ends by `signal`.
    pub(super) fn victim_ends(&self, signal: Signal) -> Vec<ExpectedFlap> {
        let own_end = |other: &&Node| self.own_end(session(self.victim, other), signal);
        self.others.iter().map(own_end).collect()
    }

    /// A session falls because the speaker of its own node ends by `signal`. Who sees no process sees what it
    /// sent, and says that it sees no more.
    pub(super) fn own_end(&self, session: Session, signal: Signal) -> ExpectedFlap {
        let killed = signal == Signal::SIGKILL;
        let (causes, words): (&[&str], _) = match self.overlay {
            Overlay::Ebpf if killed => (&["local_speaker_gone"], "SIGKILL from"),
            Overlay::Ebpf => (&["local_speaker_gone"], "SIGTERM from"),
            Overlay::Base if killed => (&["fin_sent"], "local speaker closed the connection"),
            Overlay::Base => (&["notification_sent"], "this node sent Cease"),
        };
        ExpectedFlap {
            session,
            causes,
            words: vec![words],
            unseen: (self.overlay == Overlay::Base)
                .then_some("whether it ended, and who ended it, is not known"),
        }
    }

    /// Sessions whose other node dials the victim, by Calico's rule.
    pub(super) fn dial_victim(&self) -> impl Iterator<Item = Session> {
        let victim = self.victim;
        self.others
            .iter()
            .filter(|node| node.address.to_string() > victim.address.to_string())
            .map(|node| session(node, victim))
    }
}

pub(super) fn session(node: &Node, peer: &Node) -> Session {
    Session {
        node: node.name.clone(),
        peer: peer.address.to_string(),
    }
}

impl Session {
    /// That of node `number` with the victim.
    pub fn with_victim(lab: &Lab, number: usize) -> Result<Self> {
        Ok(session(lab.node(number)?, lab.node(VICTIM)?))
    }

    /// Whether `peer` is what its node shows of it.
    pub fn is_of(&self, peer: &PeerView) -> bool {
        peer.node == self.node && peer.peer == self.peer
    }

    /// Whether `flap` is one of this session.
    pub fn is(&self, flap: &Flap) -> bool {
        flap.node == self.node && flap.peer == self.peer
    }

    /// Why attempts to build it up failed, as told.
    pub(super) fn failures<'a>(&self, told: &'a [Told]) -> Vec<&'a str> {
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
    pub(super) fn restart(&self, told: &[Told]) -> Vec<&'static str> {
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
pub(super) fn closed(victim: &Node) -> &'static [&'static str] {
    match victim.speaker {
        Speaker::Bird | Speaker::Bird2 | Speaker::Frr | Speaker::Openbgpd | Speaker::Exabgp => {
            &["fin_received"]
        }
        Speaker::Gobgp => &["fin_received", "rst_received"],
    }
}

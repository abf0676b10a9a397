//! What one peer and this node have said to each other, over all connections since the peer is known.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    bgp::{MessageKind, NotificationFacts, OpenFacts, Prefix, UpdateFacts, iana},
    bgp_view::NotificationView,
    conversation::{Direction, Observation, Seen},
    event::SocketId,
    evidence::Clue,
    message_counts::{MalformedUpdates, MessageCounts},
    restart::Window,
    rib::Rib,
    terms::SavedTerms,
    time::{Timestamp, WallOffset},
    totals::WireTotals,
    wire::Signs,
};

/// One thing of each direction.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sides<T> {
    /// What this node sent.
    pub sent: T,
    /// What the peer sent and this node's kernel took.
    pub received: T,
}

impl<T> Sides<T> {
    /// That of a direction; `a` is this node.
    pub const fn of(&self, direction: Direction) -> &T {
        match direction {
            Direction::AToB => &self.sent,
            Direction::BToA => &self.received,
        }
    }

    /// Likewise, to change.
    pub(crate) const fn of_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::AToB => &mut self.sent,
            Direction::BToA => &mut self.received,
        }
    }
}

/// What was said since the peer is known.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub messages: Sides<MessageCounts>,
    /// The latest OPENs.
    pub opens: Sides<Option<OpenFacts>>,
    /// The latest NOTIFICATIONs, and when.
    pub notifications: Sides<Option<NotificationView>>,
    /// Things wrong, by kind.
    pub decode_errors: BTreeMap<&'static str, u64>,
    pub malformed_updates: Sides<MalformedUpdates>,
    /// Adj-RIB-In.
    pub rib: Rib,
    /// Adj-RIB-Out; what the peer holds as stale is stale in it.
    pub advertised: Rib,
    /// The peer holds this node's routes as stale.
    pub held: Option<Window>,
    /// The peer's routes are stale, or were until End-of-RIB of some families.
    pub restart: Option<Window>,
    /// Stale routes that End-of-RIBs dropped in this restart.
    pub swept: u64,
    pub end_of_rib: Option<Duration>,
    /// It announced others' routes (RFC 4456): a route reflector.
    pub reflects: bool,
    /// This node announced others' routes to it, likewise.
    pub reflected: bool,
    /// What an earlier run of the agent read.
    pub remembered: Option<SavedTerms>,
}

impl Exchange {
    /// Routes kept, both ways.
    pub fn routes(&self) -> usize {
        self.rib.len() + self.advertised.len()
    }
}

/// Observations of one connection while they are taken in.
pub(crate) struct Listening<'a> {
    pub exchange: &'a mut Exchange,
    pub totals: &'a mut WireTotals,
    pub id: SocketId,
    pub wall: WallOffset,
    /// The session rides on this connection, or may come to.
    pub carries: bool,
    /// How many routes more there may be.
    pub room: usize,
    /// Routes for which there was no room.
    pub refused: u64,
    /// Prefixes announced (true) and withdrawn, in order.
    pub learned: Vec<(Prefix, bool)>,
    /// The last End-of-RIB that a restart waited for came.
    pub restart_over: bool,
    /// What bears on the connection's end.
    pub clues: Vec<Clue>,
    /// The session's state may be another.
    pub news: bool,
}

impl Listening<'_> {
    /// Takes in one observation.
    pub fn take(&mut self, signs: &mut Signs, observation: &Observation<'_>) {
        let Observation {
            at,
            direction,
            seen,
        } = *observation;
        let received = direction == Direction::BToA;
        match seen {
            Seen::Syn => signs.begun = true,
            Seen::Open(open) => {
                *signs.open.of_mut(direction) = true;
                *self.exchange.opens.of_mut(direction) = Some(open.clone());
                self.news = true;
            }
            Seen::Keepalive => {
                if received {
                    self.time_keepalive(signs, at);
                    signs.hear(at);
                }
                let before = (signs.keepalive, signs.established_at);
                signs.keep_alive(at, direction);
                self.news |= before != (signs.keepalive, signs.established_at);
            }
            Seen::Update(facts, _) => {
                if let Some(severity) = facts.severity {
                    let counts = self.exchange.malformed_updates.of_mut(direction);
                    counts.count(severity);
                }
                if received {
                    signs.hear(at);
                    self.learn(signs, at, facts);
                } else {
                    self.advertise(signs, facts);
                }
            }
            Seen::Notification(notification) => {
                self.notify(signs, at, direction, notification);
            }
            Seen::Malformed(kind, error) => {
                let label = error.kind.label();
                *self.exchange.decode_errors.entry(label).or_default() += 1;
                *self.totals.decode_errors.entry(label).or_default() += 1;
                signs.broken |= kind.is_none() || kind == Some(MessageKind::Open);
                self.news = true;
            }
            Seen::Gap(_) | Seen::Resync(_) => {
                signs.broken = true;
                self.news = true;
            }
            Seen::Closed | Seen::Reset => {
                signs.passed = true;
                self.news = true;
                let sent = !received;
                self.clues.push(if matches!(seen, Seen::Closed) {
                    Clue::FinSeen { sent }
                } else {
                    Clue::ResetSeen { sent }
                });
            }
            Seen::RouteRefresh(_) | Seen::Unknown(_) => {}
        }
    }

    fn time_keepalive(&mut self, signs: &Signs, at: Timestamp) {
        if let Some(before) = signs.keepalive_at.received {
            self.totals.keepalive_interval.observe(at.since(before));
        }
    }

    fn learn(&mut self, signs: &Signs, at: Timestamp, facts: &UpdateFacts<'_>) {
        let exchange = &mut *self.exchange;
        if !self.carries || !exchange.rib.is_for(self.id, signs.is_telling()) {
            return;
        }
        let learned = &mut self.learned;
        let refused = exchange
            .rib
            .update(facts, self.room, &mut |prefix, announced| {
                learned.push((prefix, announced));
            });
        self.refused = self.refused.saturating_add(refused);
        exchange.reflects |= facts.originator.is_some() || !facts.cluster_list.is_empty();
        let Some(family) = facts.end_of_rib else {
            return;
        };
        let first = exchange.rib.complete.insert(family);
        if let Some(up) = signs.established_at.filter(|_| first) {
            exchange.end_of_rib = Some(at.since(up));
            self.totals.end_of_rib.observe(at.since(up));
        }
        let swept = exchange.rib.sweep(family);
        exchange.swept += u64::try_from(swept).unwrap_or(u64::MAX);
        let window = exchange.restart.as_mut();
        self.restart_over |= window.is_some_and(|window| window.complete(family));
    }

    fn advertise(&mut self, signs: &Signs, facts: &UpdateFacts<'_>) {
        let exchange = &mut *self.exchange;
        if !self.carries || !exchange.advertised.is_for(self.id, signs.is_telling()) {
            return;
        }
        let refused = exchange.advertised.update(facts, self.room, &mut |_, _| {});
        exchange.reflected |= facts.originator.is_some() || !facts.cluster_list.is_empty();
        self.refused = self.refused.saturating_add(refused);
        if let Some(family) = facts.end_of_rib {
            exchange.complete_held(family);
        }
    }

    fn notify(
        &mut self,
        signs: &mut Signs,
        at: Timestamp,
        direction: Direction,
        notification: &NotificationFacts,
    ) {
        signs.notified = true;
        signs.passed = true;
        self.news = true;
        self.totals.count_notification(direction, notification);
        *self.exchange.notifications.of_mut(direction) = Some(NotificationView {
            at: self.wall.wall(at),
            notification: notification.clone(),
            words: notification.to_string(),
        });
        self.clues.push(Clue::Notification {
            sent: direction == Direction::AToB,
            notification: notification.clone(),
        });
    }
}

/// Whether a NOTIFICATION of ours says that the peer is no longer configured here (RFC 4486 §4).
pub(crate) fn deconfigures(notification: &NotificationFacts) -> bool {
    (notification.code, notification.subcode)
        == (iana::error_code::CEASE, iana::cease::PEER_DE_CONFIGURED)
}

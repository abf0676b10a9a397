//! What one peer and this node have said to each other, over all connections since the peer is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    bgp::{MessageKind, NotificationFacts, OpenFacts, iana},
    conversation::{Direction, DirectionCounters, Observation, Seen},
    evidence::Clue,
    time::Timestamp,
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

/// Messages by type.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct MessageCounts {
    /// OPENs, readable or not; so with all types.
    pub open: u64,
    /// UPDATEs.
    pub update: u64,
    /// NOTIFICATIONs.
    pub notification: u64,
    /// KEEPALIVEs.
    pub keepalive: u64,
    /// ROUTE-REFRESHes.
    pub route_refresh: u64,
    /// Messages of no known type.
    pub other: u64,
}

impl MessageCounts {
    /// Of one direction of a conversation.
    pub(crate) const fn of(counters: &DirectionCounters) -> Self {
        Self {
            open: counters.open,
            update: counters.update,
            notification: counters.notification,
            keepalive: counters.keepalive,
            route_refresh: counters.route_refresh,
            other: counters.other,
        }
    }

    /// Adds what `now` has more than `before`.
    pub(crate) fn add_since(&mut self, now: &Self, before: &Self) {
        let add = |count: &mut u64, now: u64, before: u64| {
            *count = count.saturating_add(now.saturating_sub(before));
        };
        add(&mut self.open, now.open, before.open);
        add(&mut self.update, now.update, before.update);
        add(
            &mut self.notification,
            now.notification,
            before.notification,
        );
        add(&mut self.keepalive, now.keepalive, before.keepalive);
        add(
            &mut self.route_refresh,
            now.route_refresh,
            before.route_refresh,
        );
        add(&mut self.other, now.other, before.other);
    }

    /// Each count with the value of its `type` label.
    pub const fn by_type(&self) -> [(&'static str, u64); 6] {
        [
            ("open", self.open),
            ("update", self.update),
            ("notification", self.notification),
            ("keepalive", self.keepalive),
            ("route_refresh", self.route_refresh),
            ("other", self.other),
        ]
    }
}

/// What was said since the peer is known.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub messages: Sides<MessageCounts>,
    /// The latest OPENs.
    pub opens: Sides<Option<OpenFacts>>,
    /// The latest NOTIFICATIONs, and when.
    pub notifications: Sides<Option<(Timestamp, NotificationFacts)>>,
    /// Things wrong, by kind.
    pub decode_errors: BTreeMap<&'static str, u64>,
}

/// Observations of one connection while they are taken in.
pub(crate) struct Listening<'a> {
    pub exchange: &'a mut Exchange,
    pub totals: &'a mut WireTotals,
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
            Seen::Update(..) => {
                if received {
                    signs.hear(at);
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
            }
            Seen::RouteRefresh(_) | Seen::Unknown(_) => {}
        }
    }

    fn time_keepalive(&mut self, signs: &Signs, at: Timestamp) {
        if let Some(before) = signs.keepalive_at.received {
            self.totals.keepalive_interval.observe(at.since(before));
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
        *self.exchange.notifications.of_mut(direction) = Some((at, notification.clone()));
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

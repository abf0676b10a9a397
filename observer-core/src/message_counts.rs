//! How many messages there were, by type, and how many of them were malformed.

use serde::{Deserialize, Serialize};

use crate::bgp::{MessageKind, Severity};

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
    /// One more of this type.
    pub(crate) const fn count(&mut self, kind: MessageKind) {
        let count = match kind {
            MessageKind::Open => &mut self.open,
            MessageKind::Update => &mut self.update,
            MessageKind::Notification => &mut self.notification,
            MessageKind::Keepalive => &mut self.keepalive,
            MessageKind::RouteRefresh => &mut self.route_refresh,
            MessageKind::Unknown(_) => &mut self.other,
        };
        *count = count.saturating_add(1);
    }

    /// Messages of all types.
    pub fn total(&self) -> u64 {
        let counts = self.by_type().into_iter();
        counts.fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Adds those of `more`.
    pub fn add(&mut self, more: &Self) {
        self.add_since(more, &Self::default());
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

/// Malformed UPDATEs by what RFC 7606 has their receiver do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct MalformedUpdates {
    /// Goes on without an attribute.
    pub attribute_discard: u64,
    /// Takes what they announce as withdrawn.
    pub treat_as_withdraw: u64,
    /// Ends the session.
    pub session_reset: u64,
}

impl MalformedUpdates {
    pub(crate) const fn count(&mut self, severity: Severity) {
        let count = match severity {
            Severity::AttributeDiscard => &mut self.attribute_discard,
            Severity::TreatAsWithdraw => &mut self.treat_as_withdraw,
            Severity::SessionReset => &mut self.session_reset,
        };
        *count = count.saturating_add(1);
    }

    /// Each count with its kind.
    pub const fn by_severity(&self) -> [(Severity, u64); 3] {
        [
            (Severity::AttributeDiscard, self.attribute_discard),
            (Severity::TreatAsWithdraw, self.treat_as_withdraw),
            (Severity::SessionReset, self.session_reset),
        ]
    }
}

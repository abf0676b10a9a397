//! How an incident is told, kept up to date, and comes to its end; how one outlives the agent.

use std::{collections::VecDeque, time::Duration};

use super::{
    CLOSED, CLOSED_LINES, Incidents, Nodes, circumstances,
    doubt::withdrawal_words,
    group::{id, keys},
    milestones::{Within, add},
    open::{Open, SETTLE, UPDATES_APART, is_local},
    record::{Absence, Incident, MilestoneKind},
    verdict::routes_of,
};
use crate::{
    address::PeerAddress, bgp::Prefix, change::Change, deadline::Due, event::NetnsId, node::Node,
    time::Timestamp, turn::Turn,
};

/// Other incidents named at most.
const RELATED: usize = 32;

impl Incidents {
    /// Something about an incident changed: when it has to be looked at next.
    pub(super) fn look_again(&mut self, turn: &mut Turn<'_>, number: u64) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if open.told {
            let soon = if open.is_well(turn.at) {
                turn.at
            } else {
                open.told_at.after(UPDATES_APART).max(turn.at)
            };
            turn.deadlines.hasten(Due::Incident(number), soon);
        }
        let threshold = turn.config.gap();
        turn.deadlines.hasten(
            Due::Incident(number),
            turn.again(threshold + Duration::from_millis(1)),
        );
    }

    /// It is time to look at an incident.
    pub(super) fn incident_due(&mut self, turn: &mut Turn<'_>, nodes: &Nodes, number: u64) {
        let now = turn.at;
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if let Some(node) = nodes.get(&open.netns) {
            regain_unseen(turn, open, node);
            open.weigh(turn, node);
            if open.told && open.tables_are_well(now) {
                open.fade(turn, node, now.since(open.recovered_at()));
            }
        }
        let well = open.is_well(now);
        if !open.told {
            let threshold = turn.config.gap();
            let lasted =
                open.routes.lost_by(now, threshold) > 0 || open.link_lost_by(now, threshold);
            let proven = open.is_proven(turn);
            let next = turn.again(Duration::from_millis(250));
            if let Some(held) = open.held.filter(|held| now < *held) {
                turn.deadlines.set(Due::Incident(number), held.min(next));
                return;
            }
            if (lasted && !open.withdrawn) || proven || open.held.is_some() {
                if open.withdrawn {
                    open.record.cause = withdrawal_words(open);
                } else if open.record.cause.is_empty() {
                    open.record.cause = silence_words(open);
                }
                self.gather(turn, nodes, number);
                self.publish(turn, number);
            } else if open.came_to_nothing(now) {
                self.drop_suspicion(turn, number);
                return;
            } else {
                turn.deadlines.set(Due::Incident(number), next);
                return;
            }
        }
        self.ask_for_pods(turn, number);
        self.ask_for_circumstances(turn, number);
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        open.remark_wait(turn);
        open.news |= open.is_outdated(turn);
        if well {
            let since = *open.calm_since.get_or_insert(now);
            if now.since(since) >= SETTLE {
                self.close(turn, number, since);
                return;
            }
            turn.deadlines
                .set(Due::Incident(number), since.after(SETTLE));
        } else {
            open.calm_since = None;
            let next = if open.routes.gone.is_empty() {
                turn.again(Duration::from_secs(1))
            } else {
                turn.again(Duration::from_secs(1)).min(open.waits_until())
            };
            let next = if open.probes.is_empty() && open.routes.gone.is_empty() {
                turn.again(Duration::from_mins(1))
            } else {
                next.max(turn.again(Duration::from_millis(250)))
            };
            turn.deadlines.set(Due::Incident(number), next);
        }
        self.update(turn, number);
    }

    /// Tells what is new of a told incident.
    fn update(&mut self, turn: &mut Turn<'_>, number: u64) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if !open.told || !open.news {
            return;
        }
        let due = open.told_at.after(UPDATES_APART);
        if turn.at < due {
            turn.deadlines.hasten(Due::Incident(number), due);
            return;
        }
        open.news = false;
        open.told_at = turn.at;
        open.refresh(turn);
        let incident = Box::new(open.record.clone());
        let node = incident.node.clone();
        turn.tell(&node, Change::IncidentUpdated { incident });
    }

    /// An incident is more than a suspicion: it is told.
    pub(super) fn publish(&mut self, turn: &mut Turn<'_>, number: u64) {
        let Some(open) = self.open.get_mut(&number).filter(|open| !open.told) else {
            return;
        };
        open.refresh(turn);
        // What is known within bounds only, as the end of a route is from rtnetlink, may have begun earlier:
        // the record says so there, and counts from the first moment that is certain.
        let certain = open.record.milestones.iter().map(|one| one.latest).min();
        let opened_at = &mut open.record.opened_at;
        *opened_at = certain.map_or(*opened_at, |certain| certain.max(*opened_at));
        let (netns, node, at) = (open.netns, open.record.node.clone(), open.record.opened_at);
        let id = id(&node, at, |id| self.ids.contains(id));
        self.ids.insert(id.clone());
        let others = self
            .open
            .iter_mut()
            .filter(|(other, open)| **other != number && open.netns == netns && open.told);
        let mut related = Vec::new();
        for (_, open) in others.take(RELATED) {
            related.push(open.record.id.clone());
            if open.record.related.len() < RELATED {
                open.record.related.push(id.clone());
                open.news = true;
            }
        }
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        open.told = true;
        open.news = false;
        open.told_at = turn.at;
        open.record.id = id;
        open.record.related = related;
        open.record.versions.clone_from(&self.versions);
        if open.record.group_keys.is_empty() {
            open.record.group_keys = keys(&open.record.subject.identity, at, None);
        }
        open.refresh(turn);
        let incident = Box::new(open.record.clone());
        turn.tell(&node, Change::IncidentOpened { incident });
    }

    fn drop_suspicion(&mut self, turn: &mut Turn<'_>, number: u64) {
        if let Some(open) = self.take_out(turn, number) {
            self.learn_from(&open);
        }
    }

    /// Which addresses answer is known of what was probed. What does not any more may be gone.
    fn learn_from(&mut self, open: &Open) {
        for probe in &open.probes {
            let of = (open.netns, probe.peer);
            if probe.is_silent() || probe.faded {
                self.reach.alive.forget(of, probe.target);
            } else if let Some(at) = probe.last_ok() {
                self.reach.alive.remember(of, probe.target, at);
            }
        }
    }

    fn take_out(&mut self, turn: &mut Turn<'_>, number: u64) -> Option<Open> {
        turn.deadlines.clear(Due::Incident(number));
        turn.deadlines.clear(Due::Echo(number));
        self.by_peer.retain(|_, of| *of != number);
        self.by_identity.retain(|_, of| *of != number);
        self.reach.forget(number);
        self.watched.forget(turn, number);
        let taken = self.open.remove(&number);
        self.count_probes();
        taken
    }

    /// Everything has been well since `since`, or stays as it is.
    fn close(&mut self, turn: &mut Turn<'_>, number: u64, since: Timestamp) {
        let Some(mut open) = self.take_out(turn, number) else {
            return;
        };
        open.refresh(turn);
        self.learn_from(&open);
        if !open.told {
            return;
        }
        let mut record = open.record;
        record.closed_at = Some(turn.wall.wall(last_moment(&record, since, turn)));
        circumstances::ask(turn, &record);
        self.finish(turn, record);
    }

    fn finish(&mut self, turn: &mut Turn<'_>, record: Incident) {
        turn.totals.incident_closed(&record);
        self.closed.push_back(record.clone());
        for id in bound(&mut self.closed) {
            self.ids.remove(&id);
        }
        let node = record.node.clone();
        let incident = Box::new(record);
        turn.tell(&node, Change::IncidentClosed { incident });
    }

    /// A namespace is gone: its incidents end with what is known.
    pub fn leave(&mut self, turn: &mut Turn<'_>, netns: NetnsId) {
        self.pending.remove(&netns);
        turn.deadlines.clear(Due::Gone(netns));
        turn.deadlines.clear(Due::Baseline(netns));
        self.reach.rounds.remove(&netns);
        let numbers: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.netns == netns)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            if let Some(open) = self.open.get_mut(&number) {
                let what = "the observed namespace is gone".to_owned();
                open.note(
                    turn,
                    MilestoneKind::Remark,
                    Within::exactly(turn.at),
                    what,
                    "the agent",
                );
            }
            self.close(turn, number, turn.at);
        }
    }

    /// What the store remembered as open goes on when its node is observed; the time in which nobody
    /// observed is named.
    pub fn restore(
        &mut self,
        turn: &mut Turn<'_>,
        nodes: &Nodes,
        name: &str,
        incidents: &[Incident],
        absent_since: Option<jiff::Timestamp>,
    ) {
        self.stored
            .insert(name.to_owned(), (incidents.to_vec(), absent_since));
        if let Some(node) = nodes.values().find(|node| node.name == name) {
            self.awaken(turn, node);
        }
    }

    /// A node is observed: its stored incidents go on.
    pub fn awaken(&mut self, turn: &mut Turn<'_>, node: &Node) {
        let Some((incidents, absent_since)) = self.stored.remove(&node.name) else {
            return;
        };
        let now = turn.wall.wall(turn.at);
        for mut record in incidents {
            if self.ids.contains(&record.id) || record.closed_at.is_some() || record.id.is_empty() {
                continue;
            }
            let from = absent_since
                .unwrap_or(record.updated_at)
                .max(record.updated_at);
            record.absences.push(Absence { from, to: now });
            record.evidence.complete = false;
            let what = format!("observer absent from {from} to {now}");
            let (kind, within) = (MilestoneKind::Remark, Within::exactly(turn.at));
            add(&mut record, turn, kind, within, what, "the store");
            self.resume(turn, node.netns, record, |address| {
                node.peers.get(&address).map(|peer| peer.session.is_up())
            });
        }
    }

    fn resume(
        &mut self,
        turn: &mut Turn<'_>,
        netns: NetnsId,
        record: Incident,
        is_up: impl Fn(PeerAddress) -> Option<bool>,
    ) {
        let number = self.number();
        let peers: Vec<String> = record
            .sessions
            .iter()
            .filter(|session| session.up_at.is_none())
            .map(|session| session.peer.clone())
            .collect();
        let mut open = Open::restored(turn, netns, record);
        for peer in peers.iter().filter_map(|peer| PeerAddress::parse(peer)) {
            let up = match is_up(peer) {
                None => continue,
                Some(up) => up.then_some(turn.at),
            };
            open.take_back(peer, up);
            self.by_peer.insert((netns, peer), number);
        }
        let known = u64::try_from(open.routes.gone.len()).unwrap_or(u64::MAX);
        let nameless = open.record.prefixes.still_gone.saturating_sub(known);
        if nameless > 0 {
            let what = format!(
                "{} more that were gone are not known by name",
                routes_of(nameless)
            );
            let within = Within::exactly(turn.at);
            open.note(turn, MilestoneKind::Remark, within, what, "the store");
        }
        let subject = &open.record.subject;
        if !is_local(subject) {
            let identity = (netns, subject.identity.clone());
            self.by_identity.insert(identity, number);
        }
        self.ids.insert(open.record.id.clone());
        self.open.insert(number, open);
        self.look_again(turn, number);
    }

    /// An operator wrote something.
    pub fn write_note(&mut self, turn: &mut Turn<'_>, id: &str, text: &str) {
        self.write_down(turn, id, |mut named| {
            named.record().note = Some(text.to_owned());
            true
        });
    }

    /// Has what is told of an incident by its name written down, whether it goes on or is over; `write` says
    /// whether that is news.
    pub(super) fn write_down(
        &mut self,
        turn: &mut Turn<'_>,
        id: &str,
        write: impl FnOnce(Named<'_>) -> bool,
    ) {
        let mut all = self.open.iter_mut();
        if let Some((number, open)) = all.find(|(_, open)| open.record.id == id) {
            let number = *number;
            open.news |= write(Named::Open(open));
            self.look_again(turn, number);
        } else if let Some(record) = self.closed.iter_mut().find(|record| record.id == id)
            && write(Named::Closed(record))
        {
            let incident = Box::new(record.clone());
            let node = incident.node.clone();
            turn.tell(&node, Change::IncidentUpdated { incident });
        }
    }
}

/// Forgets the oldest of `closed` until the rest is within the bounds; the last one stays in any case. Gives
/// the ids of those forgotten.
fn bound(closed: &mut VecDeque<Incident>) -> Vec<String> {
    let mut lines: usize = closed.iter().map(Incident::lines).sum();
    let mut forgotten = Vec::new();
    while (closed.len() > CLOSED || lines > CLOSED_LINES)
        && closed.len() > 1
        && let Some(oldest) = closed.pop_front()
    {
        lines = lines.saturating_sub(oldest.lines());
        forgotten.push(oldest.id);
    }
    forgotten
}

/// An incident that has a name.
pub(super) enum Named<'a> {
    /// It goes on.
    Open(&'a mut Open),
    /// It is over.
    Closed(&'a mut Incident),
}

impl Named<'_> {
    pub(super) fn record(&mut self) -> &mut Incident {
        match self {
            Self::Open(open) => &mut open.record,
            Self::Closed(record) => record,
        }
    }
}

/// The last moment that belongs to the incident: the latest milestone before it was well.
fn last_moment(record: &Incident, since: Timestamp, turn: &Turn<'_>) -> Timestamp {
    let calm = turn.wall.wall(since);
    let last = record
        .milestones
        .iter()
        .filter(|milestone| milestone.kind != MilestoneKind::Remark)
        .map(|milestone| milestone.latest)
        .filter(|at| *at <= calm)
        .max();
    last.map_or(since, |last| turn.wall.boot(last))
}

/// Routes that are back by now and of which nobody tells that: those that were gone when the agent last
/// ran, and those that were withdrawn.
fn regain_unseen(turn: &Turn<'_>, open: &mut Open, node: &Node) {
    let looked = open.looked_at.replace(turn.at).unwrap_or(open.begun);
    let resumed = open.before.is_some();
    let last_seen = open.record.absences.last().map(|absence| absence.from);
    let absent = last_seen.map(|from| turn.wall.boot(from));
    let back = Within {
        earliest: absent.filter(|_| resumed).unwrap_or(looked),
        latest: turn.at,
    };
    let gone: Vec<Prefix> = if resumed {
        open.routes.gone.keys().copied().collect()
    } else {
        open.routes.withdrawn.iter().copied().collect()
    };
    for prefix in gone.into_iter().filter(|prefix| node.fib.leads_on(*prefix)) {
        open.routes.regain(prefix, back, turn.config.gap());
        open.news = true;
    }
}

fn silence_words(open: &Open) -> String {
    let silent: Vec<String> = open
        .probes
        .iter()
        .filter(|probe| probe.was_silent())
        .map(|probe| probe.target.to_string())
        .collect();
    if silent.is_empty() {
        return "routes gone, and no session fell".to_owned();
    }
    let mut words = format!(
        "{} stopped answering while the session was up and its routes were there",
        silent.join(", ")
    );
    for peer in open.mute_neighbours.iter().take(1) {
        let more = format!("; {peer} does not answer on its link (ARP, neighbour discovery)");
        words.push_str(&more);
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{CLOSED, CLOSED_LINES, bound};
    use crate::incident::record::{Affected, ImpactRow, Incident, Subject, SubjectKind};

    fn closed(count: usize, rows: usize) -> VecDeque<Incident> {
        let one = |number: usize| {
            let subject = Subject {
                kind: SubjectKind::Peer,
                identity: "10.0.0.2".to_owned(),
                name: None,
            };
            let mut one = Incident::blank("n1", subject, jiff::Timestamp::UNIX_EPOCH);
            one.id = number.to_string();
            let row = ImpactRow {
                traffic: String::new(),
                affected: Affected::No,
                reason: String::new(),
            };
            one.impact = vec![row; rows];
            one
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn closed_incidents_are_bounded_by_number_and_by_size() {
        let mut short = closed(CLOSED + 2, 0);
        assert_eq!(bound(&mut short), ["0", "1"]);
        assert_eq!(short.len(), CLOSED);

        let mut long = closed(CLOSED, 99);
        let forgotten = bound(&mut long);
        assert_eq!(long.len(), CLOSED_LINES / 100);
        assert_eq!(forgotten.len(), CLOSED - long.len());
        assert_eq!(
            long.back().map(|last| last.id.clone()),
            Some((CLOSED - 1).to_string())
        );

        let mut one = closed(1, 2 * CLOSED_LINES);
        assert!(bound(&mut one).is_empty());
    }
}

//! One target that is probed: what its answers and its silence prove.
//!
//! Echoes are judged in the order they were sent, so that an answer does not end a silence whose
//! last echoes are still out.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use super::record::{Span, TargetReport};
use crate::{address::PeerAddress, time::Timestamp};

/// Echoes out at most.
const OUT: usize = 32;
/// So many in a row without answer are no accident.
pub(super) const PROVES: u32 = 3;
/// What explains a silence may be known so long after its first echo was sent.
const EXPLAINS: Duration = Duration::from_millis(250);
/// So many in a row answered prove recovery.
const RECOVERED: u32 = 3;

#[derive(Debug)]
struct Flight {
    token: u64,
    sent: Timestamp,
    answered: Option<bool>,
}

/// A silence.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// It began after this.
    after: Timestamp,
    first: Timestamp,
    last: Timestamp,
    lost: u32,
}

/// A probed target.
#[derive(Debug)]
pub(super) struct Probe {
    pub target: IpAddr,
    pub peer: PeerAddress,
    flights: VecDeque<Flight>,
    /// When the last echo that was answered was sent; what is known from before included.
    last_ok: Option<Timestamp>,
    /// Before the first echo it was reachable for all that is known.
    begun: Timestamp,
    silence: Option<Silence>,
    pub seen_alive: bool,
    /// Nothing could be sent: its silence proves nothing.
    pub mute: bool,
    pub sent: u64,
    pub answered: u64,
    in_row: u32,
    /// Echoes that were lost one after the other, at most.
    most: u32,
    /// Silences that are over, shortest and longest possible.
    over: Option<(Duration, Duration)>,
    pub first_loss: Option<Timestamp>,
    pub last_loss: Option<Timestamp>,
    /// Its first silence, if what it had answered before was asked by somebody else, long before perhaps:
    /// that last answer, and the first echo without one.
    unwatched: Option<(Timestamp, Timestamp)>,
    /// When its first silence began at the earliest, as others than its own answers tell.
    explained: Option<Timestamp>,
    /// Its silence is not counted any more: it may be gone itself.
    pub faded: bool,
    /// When the first echo after a silence was sent that was answered.
    pub again_at: Option<(Timestamp, Timestamp)>,
}

impl Probe {
    /// `alive` is when an earlier echo that it answered was sent.
    pub const fn new(
        target: IpAddr,
        peer: PeerAddress,
        begun: Timestamp,
        alive: Option<Timestamp>,
    ) -> Self {
        Self {
            target,
            peer,
            flights: VecDeque::new(),
            last_ok: alive,
            begun,
            silence: None,
            seen_alive: alive.is_some(),
            mute: false,
            sent: 0,
            answered: 0,
            in_row: 0,
            most: 0,
            over: None,
            first_loss: None,
            last_loss: None,
            unwatched: None,
            explained: None,
            faded: false,
            again_at: None,
        }
    }

    /// Whether one more echo may go out.
    pub fn may_send(&self) -> bool {
        self.flights.len() < OUT && !self.mute
    }

    /// An echo goes out.
    pub fn send(&mut self, token: u64, at: Timestamp) {
        self.sent = self.sent.saturating_add(1);
        self.flights.push_back(Flight {
            token,
            sent: at,
            answered: None,
        });
    }

    /// An echo that somebody else sent before its own was not answered.
    pub fn missed_before(&mut self, sent: Timestamp) {
        if self.answered == 0 && self.silence.is_none() {
            self.sent = self.sent.saturating_add(1);
            self.miss(sent);
        }
    }

    /// It was answered, or failed for certain.
    pub fn settle(&mut self, token: u64, answered: bool) {
        let flight = self.flights.iter_mut().find(|flight| flight.token == token);
        if let Some(flight) = flight {
            flight.answered = Some(answered);
        }
        self.judge(None);
    }

    /// It never went out: that says nothing of the target.
    pub fn withdraw(&mut self, token: u64) {
        let out = self.flights.len();
        self.flights.retain(|flight| flight.token != token);
        if self.flights.len() < out {
            self.sent = self.sent.saturating_sub(1);
        }
        self.judge(None);
    }

    /// Echoes sent before `deadline` are lost: their tokens.
    pub fn expire(&mut self, deadline: Timestamp) -> Vec<u64> {
        self.judge(Some(deadline))
    }

    fn judge(&mut self, deadline: Option<Timestamp>) -> Vec<u64> {
        let mut lost = Vec::new();
        while let Some(flight) = self.flights.front() {
            let expired = deadline.is_some_and(|deadline| flight.sent <= deadline);
            let answered = match flight.answered {
                Some(answered) => answered,
                None if expired => {
                    lost.push(flight.token);
                    false
                }
                None => break,
            };
            let sent = flight.sent;
            self.flights.pop_front();
            if answered {
                self.hear(sent);
            } else {
                self.miss(sent);
            }
        }
        lost
    }

    fn hear(&mut self, sent: Timestamp) {
        self.answered = self.answered.saturating_add(1);
        self.in_row = self.in_row.saturating_add(1);
        self.seen_alive = true;
        self.faded = false;
        if let Some(silence) = self.silence.take() {
            let (min, max) = self.over.unwrap_or_default();
            self.over = Some((
                min + silence.last.since(silence.first),
                max + sent.since(silence.after),
            ));
            self.again_at = Some((silence.last, sent));
        }
        self.last_ok = Some(sent);
    }

    fn miss(&mut self, sent: Timestamp) {
        self.in_row = 0;
        let after = self.last_ok.unwrap_or(self.begun);
        if self.silence.is_none() && self.answered == 0 && self.last_ok.is_some() {
            self.unwatched = Some((after, sent));
        }
        let silence = self.silence.get_or_insert(Silence {
            after,
            first: sent,
            last: sent,
            lost: 0,
        });
        silence.last = sent;
        silence.lost = silence.lost.saturating_add(1);
        self.most = self.most.max(silence.lost);
        self.first_loss.get_or_insert(sent);
        self.last_loss = Some(sent);
    }

    /// It was reachable before or is again, and is not now, for certain.
    pub fn is_silent(&self) -> bool {
        self.seen_alive && self.silence.is_some_and(|silence| silence.lost >= PROVES)
    }

    /// Its silence, over or not, proves that it could not be reached.
    pub const fn was_unreachable(&self) -> bool {
        self.seen_alive && (self.over.is_some() || self.silence_counts())
    }

    /// It answers now.
    pub const fn is_answering(&self) -> bool {
        self.in_row > 0 && self.silence.is_none()
    }

    /// It was silent and answers again: it was never gone itself.
    pub const fn came_back(&self) -> bool {
        self.was_silent() && self.over.is_some() && self.silence.is_none()
    }

    /// Its silence proves nothing any more.
    pub fn fade(&mut self) {
        self.faded = true;
        self.seen_alive = false;
    }

    /// Takes in what others tell of the beginning of its first silence.
    pub fn explain(&mut self, moments: &[Timestamp]) {
        let Some((_, first)) = self.unwatched else {
            return;
        };
        let near = |at: &&Timestamp| **at <= first.after(EXPLAINS);
        self.explained = moments.iter().filter(near).max().copied();
    }

    /// The last answer before its first silence, if somebody else had asked.
    pub const fn unwatched_after(&self) -> Option<Timestamp> {
        match self.unwatched {
            Some((after, _)) => Some(after),
            None => None,
        }
    }

    /// What of its silence lies before what explains it.
    fn excess(&self) -> Duration {
        let explained = self.unwatched.zip(self.explained);
        explained.map_or(Duration::ZERO, |((after, first), explained)| {
            explained.min(first).since(after)
        })
    }

    /// So many echoes were lost in a row that it was no accident.
    pub const fn was_silent(&self) -> bool {
        self.seen_alive && self.most >= PROVES
    }

    const fn silence_counts(&self) -> bool {
        match self.silence {
            Some(silence) => silence.lost >= 2,
            None => false,
        }
    }

    /// It answered the last few echoes, or nothing can be sent to it.
    pub const fn is_settled(&self) -> bool {
        self.in_row >= RECOVERED || self.mute
    }

    /// The last echo it answered.
    pub const fn last_ok(&self) -> Option<Timestamp> {
        self.last_ok
    }

    /// How long it could not be reached, by `now`.
    pub fn unreachable(&self) -> Option<Span> {
        if !self.was_unreachable() {
            return None;
        }
        let (min, max) = self.over.unwrap_or_default();
        Some(match self.silence.filter(|silence| silence.lost >= 2) {
            Some(silence) => Span {
                min: (min + silence.last.since(silence.first)).as_secs_f64(),
                max: None,
            },
            None => Span {
                min: min.as_secs_f64(),
                max: Some(max.saturating_sub(self.excess()).as_secs_f64()),
            },
        })
    }

    /// As the record shows it.
    pub fn report(&self) -> TargetReport {
        TargetReport {
            target: self.target,
            peer: self.peer.to_string(),
            seen_alive: self.seen_alive,
            sent: self.sent,
            answered: self.answered,
            unreachable_seconds: self.unreachable(),
            reachable: (self.seen_alive && self.sent > 0).then(|| self.silence.is_none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn probe(alive: Option<Timestamp>) -> Probe {
        let ip: IpAddr = "10.244.2.2".parse().unwrap();
        Probe::new(
            ip,
            PeerAddress::new("10.0.0.2".parse().unwrap(), 0),
            at(1_000),
            alive,
        )
    }

    /// Every 200 ms from 1 s on; answered but from `from` to `to`.
    fn run(probe: &mut Probe, from: u64, to: u64) {
        for step in 0..50 {
            let now = 1_000 + step * 200;
            probe.send(step, at(now));
            if !(from..to).contains(&now) {
                probe.settle(step, true);
            }
            probe.expire(at(now.saturating_sub(1_000)));
        }
        probe.expire(at(20_000));
    }

    #[test]
    fn a_silence_lies_between_its_echoes_and_those_answered_around_it() {
        let mut probe = probe(None);
        run(&mut probe, 2_000, 4_000);
        let span = probe.unreachable().unwrap();
        assert_eq!((span.min, span.max), (1.8, Some(2.2)));
        assert!(probe.is_settled() && probe.was_unreachable());
    }

    #[test]
    fn without_an_answer_before_the_silence_begins_at_the_event() {
        let mut probe = probe(None);
        run(&mut probe, 0, 4_000);
        let span = probe.unreachable().unwrap();
        assert_eq!((span.min, span.max), (2.8, Some(3.0)));
    }

    #[test]
    fn a_target_never_seen_alive_proves_nothing() {
        let mut probe = probe(None);
        run(&mut probe, 0, 100_000);
        assert_eq!(probe.unreachable(), None);
        assert!(!probe.is_settled() && !probe.was_unreachable() && !probe.is_silent());
    }

    #[test]
    fn what_was_alive_before_is_silent_after_three_echoes() {
        let mut probe = probe(Some(at(900)));
        for token in 0..3 {
            probe.send(token, at(1_000 + token * 200));
        }
        assert!(!probe.is_silent());
        probe.expire(at(3_000));
        assert!(probe.is_silent());
        assert_eq!(probe.unreachable().unwrap().max, None);
    }
}

//! The session with one peer: its state, its flaps and the attempts to bring it up. Knows which
//! connection it rides on, but no bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    cause::Cause,
    change::Change,
    event::SocketId,
    evidence::{Evidence, Verdict, says_more},
    peer::{Flap, SessionState},
    speaker::Speakers,
    time::Timestamp,
    turn::{Moment, Turn},
};

/// Flaps remembered per peer: those that `peer` shows, and some more. The store has all. With each change they
/// are written to the state directory, too, so of many peers there must not be many.
const MAX_FLAPS: usize = 16;
/// Reasons of failed attempts remembered per peer, to tell each only now and then.
const MAX_REASONS: usize = 8;
/// A reason that alternates with others is told again after this.
const TELL_AGAIN: Duration = Duration::from_mins(1);
/// From this many alike failures on, the states in between are not told any more: a speaker retries
/// every few seconds for ever.
const TIRED: u32 = 2;
/// How long after a session's end evidence may amend its record.
const AMENDABLE: Duration = Duration::from_mins(1);
/// How much later than a close its speaker's exit may come to explain it in an amendment.
const AMEND_WAIT: Duration = Duration::from_secs(1);

/// Whose session, in the words of changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub node: &'a str,
    pub peer: &'a str,
}

/// The session with one peer.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub state: SessionState,
    /// The state last told.
    told: SessionState,
    /// The connection it rides on while Established.
    pub carrier: Option<SocketId>,
    /// When it last came up.
    pub up: Option<Moment>,
    /// When it last went down.
    pub down: Option<Moment>,
    /// It was Established already when first seen.
    pub inherited: bool,
    /// It went down and that is not yet counted.
    pub pending: Option<Pending>,
    /// The end that the latest flap was counted for.
    counted: Option<Counted>,
    pub attempts: Attempts,
    /// Flaps counted.
    pub flaps: u64,
    /// The latest, oldest first.
    pub recent: VecDeque<Flap>,
    /// The state directory says that it was up, and nobody has looked since.
    pub was_up: bool,
}

/// A session's end whose cause is awaited.
#[derive(Debug)]
pub(crate) struct Pending {
    pub carrier: SocketId,
    down: Moment,
    up_before: Option<Duration>,
}

#[derive(Debug)]
struct Counted {
    carrier: SocketId,
    at: Timestamp,
    evidence: Evidence,
}

/// Attempts that failed since the session was last Established.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    pub failed: u64,
    pub last: Option<String>,
    alike: u32,
    told: BTreeMap<String, Timestamp>,
}

impl Session {
    /// As restored: down, whatever it was.
    pub fn restored(flaps: u64, recent: &[Flap], was_up: bool) -> Self {
        let skipped = recent.len().saturating_sub(MAX_FLAPS);
        Self {
            flaps,
            recent: recent.iter().skip(skipped).cloned().collect(),
            was_up,
            ..Self::default()
        }
    }

    pub const fn is_up(&self) -> bool {
        self.carrier.is_some()
    }

    /// Since when it is up or down; none when it was never seen up nor going down.
    pub const fn since(&self) -> Option<Moment> {
        if self.is_up() { self.up } else { self.down }
    }

    /// The flap that says why it was lost last; none while that is not known yet.
    pub fn last_flap(&self) -> Option<&Flap> {
        self.recent.back().filter(|_| self.pending.is_none())
    }

    /// The state is `state` now. Told unless it is one more round of the same failing attempts.
    pub fn enter(&mut self, turn: &mut Turn<'_>, subject: Subject<'_>, state: SessionState) {
        self.state = state;
        let up = SessionState::Established;
        let matters = state == up || self.told == up || self.attempts.alike < TIRED;
        if self.told == state || !matters {
            return;
        }
        let change = Change::SessionState {
            peer: subject.peer.to_owned(),
            from: self.told,
            to: state,
        };
        self.told = state;
        turn.tell(subject.node, change);
    }

    /// It is Established, on `carrier`. An end that is pending is to be counted before.
    pub fn establish(
        &mut self,
        turn: &mut Turn<'_>,
        subject: Subject<'_>,
        carrier: SocketId,
        inherited: bool,
        took: Option<Duration>,
    ) {
        let unseen = std::mem::take(&mut self.was_up) && !inherited;
        if unseen {
            self.count_unseen(turn, subject, "came up anew on another connection");
        }
        let now = turn.moment();
        self.carrier = Some(carrier);
        self.up = Some(now);
        self.inherited = inherited;
        self.attempts = Attempts::default();
        let down_for = self
            .down
            .filter(|_| !unseen)
            .map(|down| down.until(now).as_secs_f64());
        if let Some(flap) = self.recent.back_mut()
            && flap.up_at.is_none()
        {
            flap.up_at = Some(now.wall);
            flap.down_seconds = down_for;
            if inherited {
                let line = "came back unseen: `up_at` is when it was found up";
                flap.evidence.push(line.to_owned());
            }
        }
        self.enter(turn, subject, SessionState::Established);
        turn.tell(
            subject.node,
            Change::SessionUp {
                peer: subject.peer.to_owned(),
                inherited,
                establish_seconds: took.map(|took| took.as_secs_f64()),
                down_seconds: down_for.filter(|_| !inherited),
            },
        );
    }

    /// It is not Established any more; `state` is what it is instead.
    pub fn lose(&mut self, turn: &mut Turn<'_>, subject: Subject<'_>, state: SessionState) {
        let Some(carrier) = self.carrier.take() else {
            return;
        };
        let down = turn.moment();
        let seen_up = self.up.filter(|_| !self.inherited);
        self.pending = Some(Pending {
            carrier,
            down,
            up_before: seen_up.map(|up| up.until(down)),
        });
        self.down = Some(down);
        self.inherited = false;
        self.enter(turn, subject, state);
        turn.tell(
            subject.node,
            Change::SessionDown {
                peer: subject.peer.to_owned(),
            },
        );
    }

    /// Counts the end that is pending, once, as `verdict` explains it; `evidence` may amend it later.
    pub fn count(
        &mut self,
        turn: &mut Turn<'_>,
        subject: Subject<'_>,
        verdict: Verdict,
        evidence: Evidence,
    ) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.counted = Some(Counted {
            carrier: pending.carrier,
            at: pending.down.at.unwrap_or(turn.at),
            evidence,
        });
        self.record(turn, subject, pending.down, pending.up_before, verdict);
    }

    /// Counts an end that nobody saw: it was up when the state was saved. `found` is how that showed.
    pub fn count_unseen(&mut self, turn: &mut Turn<'_>, subject: Subject<'_>, found: &str) {
        self.was_up = false;
        let last_up = self.up.map(|up| up.wall);
        let mut evidence = vec![format!("was Established when the agent last ran; {found}")];
        if let Some(wall) = last_up {
            evidence.push(format!("Established since {wall} by the record"));
        }
        let now = turn.moment();
        self.down = Some(now);
        let verdict = Verdict {
            cause: Cause::Unobserved,
            evidence,
            settled: true,
        };
        self.record(turn, subject, now, None, verdict);
    }

    fn record(
        &mut self,
        turn: &mut Turn<'_>,
        subject: Subject<'_>,
        down: Moment,
        up_before: Option<Duration>,
        verdict: Verdict,
    ) {
        self.flaps = self.flaps.saturating_add(1);
        turn.totals.count_flap(subject.node, &verdict.cause);
        let flap = Flap {
            node: subject.node.to_owned(),
            peer: subject.peer.to_owned(),
            number: self.flaps,
            down_at: down.wall,
            up_at: None,
            down_seconds: None,
            up_before_seconds: up_before.map(|up| up.as_secs_f64()),
            cause_text: verdict.cause.to_string(),
            cause: verdict.cause,
            evidence: verdict.evidence,
        };
        if self.recent.len() >= MAX_FLAPS {
            self.recent.pop_front();
        }
        self.recent.push_back(flap.clone());
        turn.tell(subject.node, Change::Flap { flap });
    }

    /// Whether evidence may still amend the latest flap at `at`.
    pub fn is_amendable(&self, at: Timestamp) -> bool {
        self.counted
            .as_ref()
            .is_some_and(|counted| at.since(counted.at) <= AMENDABLE)
    }

    /// The evidence that `carrier`'s end left, if the latest flap was counted for that.
    pub fn counted_evidence(&mut self, carrier: SocketId) -> Option<&mut Evidence> {
        self.counted
            .as_mut()
            .filter(|counted| counted.carrier == carrier)
            .map(|counted| &mut counted.evidence)
    }

    /// Amends the latest flap if what is known now says more. Never counts.
    pub fn amend(&mut self, turn: &mut Turn<'_>, subject: Subject<'_>, speakers: &Speakers) {
        let (Some(counted), Some(flap)) = (&self.counted, self.recent.back_mut()) else {
            return;
        };
        let wait = turn.config.cause_wait().max(AMEND_WAIT);
        let verdict = counted.evidence.conclude(speakers, wait);
        if !says_more(&flap.cause, &verdict.cause) {
            return;
        }
        flap.cause_text = verdict.cause.to_string();
        flap.cause = verdict.cause;
        flap.evidence = verdict.evidence;
        let flap = flap.clone();
        turn.tell(subject.node, Change::FlapAmended { flap });
    }

    /// An attempt failed: counted always, told when it is news.
    pub fn fail(
        &mut self,
        turn: &mut Turn<'_>,
        subject: Subject<'_>,
        outbound: bool,
        reason: String,
    ) {
        let attempts = &mut self.attempts;
        attempts.failed = attempts.failed.saturating_add(1);
        attempts.alike = attempts.alike.saturating_add(1);
        let same = attempts.last.as_ref() == Some(&reason);
        attempts.last = Some(reason.clone());
        let told = attempts.told.get(&reason);
        if same || told.is_some_and(|told| turn.at.since(*told) < TELL_AGAIN) {
            return;
        }
        attempts.alike = 1;
        if attempts.told.len() < MAX_REASONS || told.is_some() {
            attempts.told.insert(reason.clone(), turn.at);
        }
        turn.tell(
            subject.node,
            Change::ConnectFailed {
                peer: subject.peer.to_owned(),
                outbound,
                reason,
            },
        );
    }

    /// Puts what the state directory remembered before what this run counted already.
    pub fn prepend(&mut self, flaps: u64, recent: &[Flap]) {
        self.flaps = self.flaps.saturating_add(flaps);
        for flap in &mut self.recent {
            flap.number = flap.number.saturating_add(flaps);
        }
        for flap in recent.iter().rev() {
            if self.recent.len() >= MAX_FLAPS {
                break;
            }
            self.recent.push_front(flap.clone());
        }
    }
}

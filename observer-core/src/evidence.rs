//! What was seen of a connection's end, and what to conclude from it.
//!
//! A NOTIFICATION that was read outranks all else; then TCP's facts and the local speaker's.

use std::{fmt, time::Duration};

use crate::{
    bgp::{NotificationFacts, iana::error_code},
    cause::{Cause, TimerOwner},
    event::{Process, TcpState},
    speaker::{Explained, Speakers},
    time::Timestamp,
};
pub(crate) use crate::{clue::Clue, failure::Failure};

/// Clues kept per connection; a connection that errs again and again keeps the latest.
const MAX_CLUES: usize = 12;
/// The shortest hold time a speaker may use (RFC 4271 section 4.2), less the kernel's rounding: a
/// shorter silence ends no session.
const SHORTEST_HOLD: Duration = Duration::from_millis(2_900);
/// A speaker's hold timer may fire early: RFC 4271 §10 lets timers be shortened by a quarter, which
/// BIRD 1.6 does with this one too,
const HOLD_JITTER: f64 = 0.75;
/// and BIRD counts whole seconds.
const HOLD_ROUNDING: Duration = Duration::from_millis(1_100);

const ECONNABORTED: i32 = 103;
const ECONNRESET: i32 = 104;
const ECONNREFUSED: i32 = 111;

/// Said of an end that may have been the speaker's, where none is known here.
const SPEAKER_UNSEEN: &str =
    "no BGP daemon of this node is seen: whether it ended, and who ended it, is not known";

/// How a connection stopped being usable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// The peer closed first.
    FinReceived,
    /// Our side closed first.
    FinSent,
    /// Without any FIN: RST, error, abort.
    Closed,
    /// Nobody saw it.
    Missing,
}

impl Way {
    /// Which side closed first, from the state that a connection in use went to.
    pub const fn of(to: TcpState) -> Self {
        match to {
            TcpState::CloseWait | TcpState::LastAck => Self::FinReceived,
            TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::TimeWait => {
                Self::FinSent
            }
            TcpState::Close
            | TcpState::Established
            | TcpState::SynSent
            | TcpState::SynRecv
            | TcpState::Listen
            | TcpState::NewSynRecv => Self::Closed,
        }
    }
}

/// The moment a connection stopped being usable.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub at: Timestamp,
    pub way: Way,
    /// Whose system call it was, or else who owned the socket.
    pub process: Option<Process>,
    /// Whether it was a system call of that process.
    pub by_call: bool,
    /// How long nothing had been received, at least.
    pub silent: Duration,
    /// Retransmissions of the oldest segment without answer.
    pub unanswered: u8,
    /// Data of ours had been waiting for an answer, by sock_diag.
    pub stuck: bool,
    /// The hold time of both OPENs, where they were read.
    pub hold: Option<Duration>,
}

/// What is known of one connection's end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    clues: Vec<(Timestamp, Clue)>,
    pub end: Option<End>,
}

/// A cause and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub cause: Cause,
    /// In words, in order.
    pub evidence: Vec<String>,
    /// Nothing that may still come within the cause's wait would change it.
    pub settled: bool,
}

impl Evidence {
    pub fn add(&mut self, at: Timestamp, clue: Clue) {
        if clue.is_seen() {
            // Who sends one again and again drives nothing else out.
            self.clues.retain(|(_, old)| *old != clue);
        }
        if self.clues.len() >= MAX_CLUES {
            self.clues.remove(0);
        }
        self.clues.push((at, clue));
    }

    /// Why the session that rode on this connection went down. `wait` is how far apart facts of the
    /// same end may lie.
    pub fn conclude(&self, speakers: &Speakers, wait: Duration) -> Verdict {
        let Some(end) = &self.end else {
            return Verdict {
                cause: Cause::Unknown,
                evidence: Vec::new(),
                settled: false,
            };
        };
        let explained = speakers.explain(end.at, end.process.as_ref().map(|by| by.pid), wait);
        let mut evidence: Vec<String> = self.near(end, wait).map(ToString::to_string).collect();
        end.describe(&mut evidence);
        if let Some((sent, notification)) = self.notification(end, wait) {
            let (cause, settled) = end.notified(explained, sent, notification);
            if !speakers.any() && may_be_its_end(&cause) {
                evidence.push(SPEAKER_UNSEEN.to_owned());
            }
            return Verdict {
                cause,
                evidence,
                settled,
            };
        }
        let (cause, settled) = match end.way {
            // A speaker that is told to end says so (Cease), and the peer may close on reading that
            // before the speaker does.
            Way::FinReceived => match explained {
                Some(explained) if explained.end.was_asked() => {
                    end.local(Some(explained), Cause::FinReceived, &mut evidence)
                }
                Some(_) | None => (Cause::FinReceived, true),
            },
            Way::FinSent => end.local(explained, Cause::FinSent, &mut evidence),
            Way::Closed => self.closed(end, explained, wait, &mut evidence),
            Way::Missing => self.missing(end, explained, wait, &mut evidence),
        };
        if !speakers.any() && may_be_its_end(&cause) {
            evidence.push(SPEAKER_UNSEEN.to_owned());
        }
        Verdict {
            cause,
            evidence,
            settled,
        }
    }

    /// The kernel did not tell how it ended: what the tap saw of its end does, what came first of it.
    fn missing(
        &self,
        end: &End,
        explained: Option<Explained>,
        wait: Duration,
        evidence: &mut Vec<String>,
    ) -> (Cause, bool) {
        match self.seen(end, wait) {
            Some(Clue::FinSeen { sent: false }) => (Cause::FinReceived, true),
            Some(Clue::FinSeen { .. }) => end.local(explained, Cause::FinSent, evidence),
            Some(Clue::ResetSeen { sent: false }) => (Cause::ResetReceived, true),
            Some(Clue::ResetSeen { .. }) => end.local(explained, Cause::ResetSent, evidence),
            _ => match self.closed(end, explained, wait, evidence) {
                (Cause::Unknown, _) => (Cause::Unobserved, true),
                known => known,
            },
        }
    }

    fn seen<'a>(&'a self, end: &'a End, wait: Duration) -> Option<&'a Clue> {
        self.near(end, wait).find(|clue| clue.is_seen())
    }

    fn closed(
        &self,
        end: &End,
        explained: Option<Explained>,
        wait: Duration,
        evidence: &mut Vec<String>,
    ) -> (Cause, bool) {
        if self.has(end, wait, &Clue::ResetReceived) {
            return (Cause::ResetReceived, true);
        }
        // A socket closed with SO_LINGER 0 sends a RST and reports ECONNRESET to itself.
        let sent = self.has(end, wait, &Clue::ResetSent);
        match self.errno(end, wait) {
            Some(ECONNABORTED) => return (Cause::ResetSent, true),
            Some(ECONNRESET) if !sent => return (Cause::ResetReceived, true),
            Some(errno) if errno != ECONNRESET => return (Cause::TcpError { errno }, true),
            Some(_) | None => {}
        }
        if sent || end.by_call {
            return end.local(explained, Cause::ResetSent, evidence);
        }
        match explained {
            Some(explained) if explained.ended => {
                end.local(Some(explained), Cause::Unknown, evidence)
            }
            Some(_) | None => (Cause::Unknown, false),
        }
    }

    /// Why an attempt failed: a connection that ended before any session rode on it.
    pub fn failure(&self, wait: Duration) -> Failure {
        let Some(end) = &self.end else {
            return Failure::Unobserved;
        };
        if let Some((sent, notification)) = self.notification(end, wait) {
            let notification = notification.clone();
            return Failure::Notified { sent, notification };
        }
        let received = self.has(end, wait, &Clue::ResetReceived);
        match self.errno(end, wait) {
            Some(ECONNREFUSED) => return Failure::Refused,
            Some(ECONNRESET | ECONNABORTED) | None => {}
            Some(errno) => return Failure::Error(errno),
        }
        match end.way {
            Way::FinReceived => Failure::ClosedByPeer,
            Way::FinSent => Failure::ClosedByUs,
            Way::Closed if received => Failure::Refused,
            Way::Closed if self.has(end, wait, &Clue::ResetSent) => Failure::ResetByUs,
            Way::Closed => Failure::GivenUp,
            Way::Missing => match self.seen(end, wait) {
                Some(Clue::FinSeen { sent: false }) => Failure::ClosedByPeer,
                Some(Clue::FinSeen { .. }) => Failure::ClosedByUs,
                Some(Clue::ResetSeen { sent: false }) => Failure::Refused,
                Some(Clue::ResetSeen { .. }) => Failure::ResetByUs,
                _ => Failure::Unobserved,
            },
        }
    }

    fn near<'a>(&'a self, end: &'a End, wait: Duration) -> impl Iterator<Item = &'a Clue> {
        self.clues
            .iter()
            .filter(|(_, clue)| end.way == Way::Missing || !clue.is_seen())
            .filter(move |(at, clue)| clue.bears_on(*at, end, wait))
            .map(|(_, clue)| clue)
    }

    /// The first NOTIFICATION that this end follows: who sent it, and what it says.
    fn notification<'a>(
        &'a self,
        end: &'a End,
        wait: Duration,
    ) -> Option<(bool, &'a NotificationFacts)> {
        self.near(end, wait).find_map(|clue| match clue {
            Clue::Notification { sent, notification } => Some((*sent, notification)),
            Clue::ResetReceived
            | Clue::ResetSent
            | Clue::Error(_)
            | Clue::Went(_)
            | Clue::FinSeen { .. }
            | Clue::ResetSeen { .. }
            | Clue::Missing => None,
        })
    }

    fn has(&self, end: &End, wait: Duration, wanted: &Clue) -> bool {
        self.near(end, wait).any(|clue| clue == wanted)
    }

    fn errno(&self, end: &End, wait: Duration) -> Option<i32> {
        self.near(end, wait).find_map(|clue| match clue {
            Clue::Error(errno) => Some(*errno),
            Clue::ResetReceived
            | Clue::ResetSent
            | Clue::Went(_)
            | Clue::FinSeen { .. }
            | Clue::ResetSeen { .. }
            | Clue::Missing
            | Clue::Notification { .. } => None,
        })
    }
}

impl End {
    /// That of a connection of which only segments were seen.
    pub const fn unseen(at: Timestamp) -> Self {
        Self {
            at,
            way: Way::Missing,
            process: None,
            by_call: false,
            silent: Duration::ZERO,
            unanswered: 0,
            stuck: false,
            hold: None,
        }
    }

    /// Our side closed it: because its speaker ended, because it heard nothing, or else `plain`.
    fn local(
        &self,
        explained: Option<Explained>,
        plain: Cause,
        evidence: &mut Vec<String>,
    ) -> (Cause, bool) {
        if let Some(Explained {
            speaker,
            end,
            ended,
        }) = explained
        {
            let cause = Cause::LocalSpeakerGone {
                speaker,
                end,
                notification: None,
            };
            evidence.push(cause.to_string());
            return (cause, ended);
        }
        if self.held_too_long() {
            return (self.hold_timer(None), false);
        }
        (plain, false)
    }

    /// Whether nothing was heard for as long as a hold timer takes. Where nobody read the OPENs, our
    /// own data must have gone unanswered too.
    fn held_too_long(&self) -> bool {
        match self.hold {
            Some(hold) => {
                !hold.is_zero() && self.silent + HOLD_ROUNDING >= hold.mul_f64(HOLD_JITTER)
            }
            None => self.silent >= SHORTEST_HOLD && (self.unanswered > 0 || self.stuck),
        }
    }

    fn hold_timer(&self, told_by: Option<TimerOwner>) -> Cause {
        Cause::HoldTimerExpired {
            silent_millis: u64::try_from(self.silent.as_millis()).unwrap_or(u64::MAX),
            told_by,
        }
    }

    /// A NOTIFICATION says why. A Cease of ours may be a speaker's last word: why it ended says more,
    /// and may still come.
    fn notified(
        &self,
        explained: Option<Explained>,
        sent: bool,
        notification: &NotificationFacts,
    ) -> (Cause, bool) {
        let kept = notification.clone();
        match (notification.code, sent, explained) {
            (error_code::HOLD_TIMER_EXPIRED, true, _) => {
                (self.hold_timer(Some(TimerOwner::ThisNode)), true)
            }
            (error_code::HOLD_TIMER_EXPIRED, false, _) => {
                (self.hold_timer(Some(TimerOwner::Peer)), true)
            }
            (error_code::CEASE, true, Some(explained)) => {
                let cause = Cause::LocalSpeakerGone {
                    speaker: explained.speaker,
                    end: explained.end,
                    notification: Some(kept),
                };
                (cause, explained.ended)
            }
            (error_code::CEASE, true, None) => (Cause::NotificationSent(kept), false),
            (_, true, _) => (Cause::NotificationSent(kept), true),
            (_, false, _) => (Cause::NotificationReceived(kept), true),
        }
    }

    fn describe(&self, evidence: &mut Vec<String>) {
        if self.by_call
            && let Some(process) = &self.process
        {
            evidence.push(format!("closed by {}", Named(process)));
        }
        if self.unanswered == 0 && !self.stuck && !(self.hold.is_some() && self.held_too_long()) {
            return;
        }
        evidence.push(format!(
            "nothing received for {:.1} s",
            self.silent.as_secs_f64()
        ));
        if self.unanswered > 0 {
            evidence.push(format!("{} retransmissions unanswered", self.unanswered));
        } else if self.stuck {
            evidence.push("sent data unanswered".to_owned());
        }
    }
}

struct Named<'a>(&'a Process);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Process { pid, comm } = self.0;
        write!(f, "{} (pid {pid})", comm.escape_debug())
    }
}

/// Whether `later`, seen after a flap was counted with `counted`, says more about why: then the
/// record is amended.
pub(crate) fn says_more(counted: &Cause, later: &Cause) -> bool {
    let gone = matches!(later, Cause::LocalSpeakerGone { .. });
    match counted {
        Cause::Unknown | Cause::Unobserved => !matches!(later, Cause::Unknown | Cause::Unobserved),
        Cause::FinSent | Cause::ResetSent => gone || was_said(later),
        Cause::LocalSpeakerGone { .. } => gone && counted != later,
        Cause::NotificationSent(_) => gone,
        Cause::ResetReceived
        | Cause::FinReceived
        | Cause::TcpError { .. }
        | Cause::HoldTimerExpired { told_by: None, .. } => was_said(later),
        Cause::NotificationReceived(_) | Cause::HoldTimerExpired { .. } => false,
    }
}

/// Whether the local speaker may have ended: it would have looked like that.
pub(crate) fn may_be_its_end(cause: &Cause) -> bool {
    match cause {
        Cause::FinSent | Cause::ResetSent => true,
        Cause::NotificationSent(notification) => notification.code == error_code::CEASE,
        Cause::NotificationReceived(_)
        | Cause::ResetReceived
        | Cause::FinReceived
        | Cause::TcpError { .. }
        | Cause::HoldTimerExpired { .. }
        | Cause::LocalSpeakerGone { .. }
        | Cause::Unobserved
        | Cause::Unknown => false,
    }
}

/// Whether a NOTIFICATION said so.
const fn was_said(cause: &Cause) -> bool {
    match cause {
        Cause::NotificationReceived(_)
        | Cause::NotificationSent(_)
        | Cause::HoldTimerExpired {
            told_by: Some(_), ..
        }
        | Cause::LocalSpeakerGone {
            notification: Some(_),
            ..
        } => true,
        Cause::ResetReceived
        | Cause::ResetSent
        | Cause::FinReceived
        | Cause::FinSent
        | Cause::TcpError { .. }
        | Cause::HoldTimerExpired { .. }
        | Cause::LocalSpeakerGone { .. }
        | Cause::Unobserved
        | Cause::Unknown => false,
    }
}

#[cfg(test)]
mod tests;

//! The BGP speakers of one node: which processes they are, who signalled them, how they ended.
//!
//! Only remembers; whether a speaker's end explains a session's is asked by `evidence`.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cause::{Signal, SpeakerEnd},
    event::Process,
    time::Timestamp,
};

/// Speakers remembered per node; the one longest not heard of makes room.
const MAX_SPEAKERS: usize = 64;
/// Different signals remembered per speaker.
const MAX_SIGNALS: usize = 8;
/// An end counts for connections closed up to this long after it: the kernel closes a dead process's
/// sockets at once, a thousand of them not quite.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);
/// A terminating signal explains a close that follows within this.
const SIGNAL_EXPLAINS: Duration = Duration::from_secs(1);
/// A signal belongs to an exit or kill that follows within this: longer than a kubelet's grace.
const SIGNAL_REMEMBERED: Duration = Duration::from_mins(1);

/// The speakers of one node.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    by_pid: BTreeMap<u32, Speaker>,
}

#[derive(Debug)]
struct Speaker {
    process: Process,
    heard: Timestamp,
    /// It was noted, not only heard of in a signal or an exit.
    noted: bool,
    signals: Vec<(Timestamp, Signal)>,
    oom: Option<Timestamp>,
    ended: Option<(Timestamp, SpeakerEnd)>,
}

/// A speaker's end that explains why one of its connections was closed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explained {
    pub speaker: Process,
    pub end: SpeakerEnd,
    /// False while only the signal was seen: the end itself is still to come.
    pub ended: bool,
}

/// What is new about a speaker that was just noted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Noted {
    First,
    Again,
}

impl Speakers {
    /// `process` did what only a speaker does.
    pub fn note(&mut self, at: Timestamp, process: &Process) -> Noted {
        let reused = self
            .by_pid
            .get(&process.pid)
            .and_then(|speaker| speaker.ended.as_ref())
            .is_some_and(|(ended, _)| at.since(*ended) > CLOSES_WITHIN);
        if reused {
            self.by_pid.remove(&process.pid);
        }
        let speaker = self.entry(at, process);
        speaker.heard = speaker.heard.max(at);
        if std::mem::replace(&mut speaker.noted, true) {
            Noted::Again
        } else {
            Noted::First
        }
    }

    /// Whether one of them may program the kernel's routes as BIRD does: unless those that run are all
    /// of other kinds, which leave that to others.
    pub fn may_program(&self) -> bool {
        let running = |speaker: &&Speaker| speaker.noted && speaker.ended.is_none();
        let mut running = self.by_pid.values().filter(running).peekable();
        running.peek().is_none() || running.any(|speaker| speaker.process.comm.starts_with("bird"))
    }

    /// Whether any is known.
    pub fn any(&self) -> bool {
        self.by_pid.values().any(|speaker| speaker.noted)
    }

    /// `process` was sent a signal.
    pub fn signal(&mut self, at: Timestamp, process: &Process, signal: Signal) {
        let speaker = self.entry(at, process);
        speaker
            .signals
            .retain(|(_, old)| old.number != signal.number);
        if speaker.signals.len() >= MAX_SIGNALS {
            speaker.signals.remove(0);
        }
        speaker.signals.push((at, signal));
    }

    /// The OOM killer chose `process`.
    pub fn out_of_memory(&mut self, at: Timestamp, process: &Process) {
        self.entry(at, process).oom = Some(at);
    }

    /// `process` ended; gives how, or none when that was known already.
    pub fn exit(
        &mut self,
        at: Timestamp,
        process: &Process,
        status: Option<i32>,
        signal: Option<i32>,
    ) -> Option<SpeakerEnd> {
        let speaker = self.entry(at, process);
        if let Some((ended, _)) = speaker.ended
            && at.since(ended) <= CLOSES_WITHIN
        {
            return None;
        }
        let end = speaker.end(at, status, signal);
        speaker.ended = Some((at, end.clone()));
        Some(end)
    }

    /// Whether a speaker's end explains that a connection of process `pid` was closed by our side at
    /// `closed`. Without a pid the only speaker that ended or was told to end around then is taken.
    pub fn explain(
        &self,
        closed: Timestamp,
        pid: Option<u32>,
        wait: Duration,
    ) -> Option<Explained> {
        if let Some(pid) = pid {
            return self.by_pid.get(&pid)?.explain(closed, wait);
        }
        let near = |at: &Timestamp| closed.since(*at) <= wait;
        let mut explained = self
            .by_pid
            .values()
            .filter(|speaker| speaker.ended.as_ref().is_none_or(|(at, _)| near(at)))
            .filter_map(|speaker| speaker.explain(closed, wait));
        let only = explained.next()?;
        explained.next().is_none().then_some(only)
    }

    fn entry(&mut self, at: Timestamp, process: &Process) -> &mut Speaker {
        if !self.by_pid.contains_key(&process.pid) && self.by_pid.len() >= MAX_SPEAKERS {
            let oldest = self.by_pid.iter().min_by_key(|(_, speaker)| speaker.heard);
            if let Some(pid) = oldest.map(|(pid, _)| *pid) {
                self.by_pid.remove(&pid);
            }
        }
        self.by_pid
            .entry(process.pid)
            .or_insert_with(|| Speaker::new(at, process))
    }
}

impl Speaker {
    fn new(at: Timestamp, process: &Process) -> Self {
        Self {
            process: process.clone(),
            heard: at,
            noted: false,
            signals: Vec::new(),
            oom: None,
            ended: None,
        }
    }

    fn end(&self, at: Timestamp, status: Option<i32>, signal: Option<i32>) -> SpeakerEnd {
        if self
            .oom
            .is_some_and(|oom| at.since(oom) <= SIGNAL_REMEMBERED)
            && signal.is_none_or(|number| number == SIGKILL)
        {
            return SpeakerEnd::OutOfMemory;
        }
        let remembered = |(sent, _): &&(Timestamp, Signal)| at.since(*sent) <= SIGNAL_REMEMBERED;
        match signal {
            Some(number) => SpeakerEnd::Killed {
                signal: self
                    .signals
                    .iter()
                    .filter(remembered)
                    .find(|(_, sent)| sent.number == number)
                    .map_or(
                        Signal {
                            number,
                            sender: None,
                        },
                        |(_, sent)| sent.clone(),
                    ),
            },
            None => SpeakerEnd::Exited {
                status: status.unwrap_or_default(),
                asked: self
                    .signals
                    .iter()
                    .filter(remembered)
                    .rfind(|(_, sent)| asks_to_end(sent.number))
                    .map(|(_, sent)| sent.clone()),
            },
        }
    }

    fn explain(&self, closed: Timestamp, wait: Duration) -> Option<Explained> {
        let explained = |end: SpeakerEnd, ended| Explained {
            speaker: self.process.clone(),
            end,
            ended,
        };
        if let Some((at, end)) = &self.ended
            && closed.since(*at) <= CLOSES_WITHIN
        {
            let later = at.since(closed);
            let asked = self.asked_before(closed).is_some();
            if later <= wait || (asked && later <= SIGNAL_REMEMBERED) {
                return Some(explained(end.clone(), true));
            }
        }
        if self
            .oom
            .is_some_and(|oom| oom <= closed && closed.since(oom) <= CLOSES_WITHIN)
        {
            return Some(explained(SpeakerEnd::OutOfMemory, false));
        }
        let signal = self.asked_before(closed)?.clone();
        Some(explained(SpeakerEnd::Killed { signal }, false))
    }

    /// The latest terminating signal shortly before `closed`.
    fn asked_before(&self, closed: Timestamp) -> Option<&Signal> {
        self.signals
            .iter()
            .rfind(|(at, sent)| {
                asks_to_end(sent.number) && *at <= closed && closed.since(*at) <= SIGNAL_EXPLAINS
            })
            .map(|(_, sent)| sent)
    }
}

const SIGKILL: i32 = 9;

/// Whether a speaker that gets this signal is meant to end. SIGHUP is not in: speakers reload on it.
const fn asks_to_end(signal: i32) -> bool {
    const SIGINT: i32 = 2;
    const SIGQUIT: i32 = 3;
    const SIGABRT: i32 = 6;
    const SIGTERM: i32 = 15;
    matches!(signal, SIGINT | SIGQUIT | SIGABRT | SIGKILL | SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(250);

    fn millis(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn bird() -> Process {
        Process {
            pid: 40,
            comm: "bird".to_owned(),
        }
    }

    fn from_bash(number: i32) -> Signal {
        Signal {
            number,
            sender: Some(Process {
                pid: 7,
                comm: "bash".to_owned(),
            }),
        }
    }

    #[test]
    fn a_kill_names_the_signal_and_its_sender() {
        let mut speakers = Speakers::default();
        speakers.signal(millis(10), &bird(), from_bash(9));
        let end = speakers.exit(millis(11), &bird(), None, Some(9));
        assert_eq!(
            end,
            Some(SpeakerEnd::Killed {
                signal: from_bash(9)
            })
        );
        let explained = speakers.explain(millis(12), Some(40), WAIT).unwrap();
        assert!(explained.ended);
        assert_eq!(
            explained.end,
            SpeakerEnd::Killed {
                signal: from_bash(9)
            }
        );
        assert_eq!(speakers.exit(millis(13), &bird(), None, Some(9)), None);
    }

    #[test]
    fn a_term_alone_explains_a_close_within_a_second_until_the_exit_says_more() {
        let mut speakers = Speakers::default();
        speakers.signal(millis(1_000), &bird(), from_bash(15));
        let explained = speakers.explain(millis(1_900), Some(40), WAIT).unwrap();
        assert!(!explained.ended);
        assert_eq!(speakers.explain(millis(2_100), Some(40), WAIT), None);
        speakers.exit(millis(3_500), &bird(), Some(0), None);
        let explained = speakers.explain(millis(1_900), Some(40), WAIT).unwrap();
        assert!(explained.ended);
        assert_eq!(
            explained.end,
            SpeakerEnd::Exited {
                status: 0,
                asked: Some(from_bash(15))
            }
        );
    }

    #[test]
    fn an_oom_kill_is_not_just_a_kill() {
        let mut speakers = Speakers::default();
        speakers.out_of_memory(millis(5), &bird());
        let killed = Signal {
            number: 9,
            sender: None,
        };
        speakers.signal(millis(6), &bird(), killed);
        let end = speakers.exit(millis(7), &bird(), None, Some(9));
        assert_eq!(end, Some(SpeakerEnd::OutOfMemory));
    }

    #[test]
    fn a_reload_signal_does_not_explain_a_close() {
        let mut speakers = Speakers::default();
        speakers.signal(millis(5), &bird(), from_bash(1));
        assert_eq!(speakers.explain(millis(6), Some(40), WAIT), None);
    }

    #[test]
    fn an_exit_long_before_or_after_a_close_does_not_explain_it() {
        let mut speakers = Speakers::default();
        speakers.exit(millis(10_000), &bird(), Some(1), None);
        assert_eq!(speakers.explain(millis(9_000), Some(40), WAIT), None);
        assert_eq!(speakers.explain(millis(20_000), Some(40), WAIT), None);
        assert_eq!(
            speakers.explain(millis(9_900), None, WAIT).unwrap().speaker,
            bird()
        );
    }

    #[test]
    fn without_a_pid_two_ended_speakers_explain_nothing() {
        let mut speakers = Speakers::default();
        let bird6 = Process {
            pid: 41,
            comm: "bird6".to_owned(),
        };
        speakers.exit(millis(10), &bird(), None, Some(9));
        speakers.exit(millis(10), &bird6, None, Some(9));
        assert_eq!(speakers.explain(millis(11), None, WAIT), None);
        assert!(speakers.explain(millis(11), Some(41), WAIT).is_some());
    }

    #[test]
    fn a_flood_of_processes_stays_bounded() {
        let mut speakers = Speakers::default();
        for pid in 0..1_000 {
            let process = Process {
                pid,
                comm: "x".to_owned(),
            };
            assert_eq!(
                speakers.note(millis(u64::from(pid)), &process),
                Noted::First
            );
            assert_eq!(
                speakers.note(millis(u64::from(pid)), &process),
                Noted::Again
            );
        }
        assert_eq!(speakers.by_pid.len(), MAX_SPEAKERS);
    }
}

//! Whether pods reach one another, asked every 50 ms by somebody who is not the agent.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use crate::{lab::Node, netns, wait};

/// How often.
const EVERY: Duration = Duration::from_millis(50);
/// An answer may take so long and not longer: after a second TCP asks again by itself.
const PATIENCE: Duration = Duration::from_millis(900);

/// Asks until it is stopped.
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Answer>>>,
}

/// What came of one question.
#[derive(Clone, Copy, Debug)]
struct Answer {
    asked: jiff::Timestamp,
    answered: bool,
}

/// A time in which a pod was not reached.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// The first question without answer.
    pub from: jiff::Timestamp,
    /// The next one that had one, if there was one.
    pub until: Option<jiff::Timestamp>,
    /// How far apart questions were where it began and ended: so much longer or shorter it may have been.
    pub blur: Duration,
}

impl Outage {
    /// How long; none while it goes on.
    pub fn seconds(self) -> Option<f64> {
        let until = self.until?;
        Some(until.duration_since(self.from).as_secs_f64())
    }
}

/// A connection to a closed port: refused where the pod is reached.
struct Question {
    asked: jiff::Timestamp,
    began: Instant,
    /// None when the kernel knows no way there.
    socket: Option<Socket>,
}

impl Question {
    fn ask(target: SocketAddr) -> Self {
        let connect = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&target.into()) {
                Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(socket),
                Err(error) => Err(error),
                Ok(()) => Ok(socket),
            }
        };
        Self {
            asked: jiff::Timestamp::now(),
            began: Instant::now(),
            socket: connect().ok(),
        }
    }

    /// Whether it was answered, once that is known.
    fn outcome(&self) -> Option<bool> {
        let Some(socket) = &self.socket else {
            return Some(false);
        };
        match socket.take_error() {
            Ok(Some(error)) => Some(error.kind() == ErrorKind::ConnectionRefused),
            Ok(None) if self.began.elapsed() < PATIENCE => None,
            Ok(None) | Err(_) => Some(false),
        }
    }
}

impl Pinger {
    /// From the pod of `from` to that of `to`, from its first answer on.
    pub fn start(from: &Node, to: &Node) -> Result<Self> {
        let (namespace, target) = (from.pod_namespace.clone(), SocketAddr::from((to.pod, 9)));
        let (stop, reached) = (Arc::default(), Arc::default());
        let asking = (Arc::clone(&stop), Arc::clone(&reached));
        let ask = move || ask(target, &asking.0, &asking.1);
        let thread = thread::spawn(move || netns::inside(&namespace, ask));
        let pinger = Self { stop, thread };
        wait::soon("first answer", PATIENCE * 5, || {
            let reached: bool = reached.load(Ordering::Relaxed);
            ensure!(reached, "the pod is not reached");
            Ok(())
        })?;
        Ok(pinger)
    }

    /// The times in which the pod was not reached, oldest first.
    pub fn stop(self) -> Result<Vec<Outage>> {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.thread.join().map_err(|_| anyhow!("it panicked"))??;
        let first = answers.iter().position(|first| first.answered);
        Ok(outages(
            answers.get(first.unwrap_or_default()..).unwrap_or_default(),
        ))
    }
}

fn ask(target: SocketAddr, stopped: &AtomicBool, reached: &AtomicBool) -> Vec<Answer> {
    let mut out: VecDeque<Question> = VecDeque::new();
    let mut answers = Vec::new();
    loop {
        let turn = Instant::now();
        let asks = !stopped.load(Ordering::Relaxed);
        if asks {
            out.push_back(Question::ask(target));
        }
        while let Some((asked, answered)) = out
            .front()
            .and_then(|question| Some((question.asked, question.outcome()?)))
        {
            answers.push(Answer { asked, answered });
            reached.fetch_or(answered, Ordering::Relaxed);
            out.pop_front();
        }
        if !asks && out.is_empty() {
            return answers;
        }
        thread::sleep(EVERY.saturating_sub(turn.elapsed()));
    }
}

fn outages(answers: &[Answer]) -> Vec<Outage> {
    let mut outages: Vec<Outage> = Vec::new();
    let mut before = None;
    for answer in answers {
        let apart = before.map_or(Duration::ZERO, |before| {
            answer.asked.duration_since(before).unsigned_abs()
        });
        let going_on = outages.last_mut().filter(|last| last.until.is_none());
        match (going_on, answer.answered) {
            (Some(last), true) => {
                last.until = Some(answer.asked);
                last.blur += apart;
            }
            (None, false) => outages.push(Outage {
                from: answer.asked,
                until: None,
                blur: apart,
            }),
            (Some(_), false) | (None, true) => {}
        }
        before = Some(answer.asked);
    }
    outages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_a_question_without_answer_to_the_next_with_one() {
        let at = |millis| jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
        let told = [true, false, false, true, true, false];
        let answers: Vec<Answer> = (0..)
            .map(|turn| at(turn * 50))
            .zip(told)
            .map(|(asked, answered)| Answer { asked, answered })
            .collect();
        let outages = outages(&answers);
        let lengths: Vec<Option<f64>> = outages.iter().map(|one| one.seconds()).collect();
        assert_eq!(lengths, [Some(0.1), None]);
        assert_eq!(outages[0].from, at(50));
        assert_eq!(outages[0].blur, Duration::from_millis(100));
    }
}

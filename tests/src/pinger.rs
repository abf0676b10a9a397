//! Whether pods reach one another, asked every 50 ms by somebody who is not the agent.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{lab::Node, netns};

/// How often.
const EVERY: Duration = Duration::from_millis(50);

/// Asks until it is stopped.
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<(Instant, bool)>>>,
}

impl Pinger {
    /// From the pod of `from` to that of `to`: a connection to a closed port is refused where the
    /// pod is reached.
    pub fn start(from: &Node, to: &Node) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, target) = (from.pod_namespace.clone(), SocketAddr::from((to.pod, 9)));
        let stopped = Arc::clone(&stop);
        let ask = move || {
            let mut answers = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = TcpStream::connect_timeout(&target, EVERY);
                let refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
                answers.push((asked, answer.as_ref().is_err_and(refused)));
                thread::sleep(EVERY.saturating_sub(asked.elapsed()));
            }
            answers
        };
        let thread = thread::spawn(move || netns::inside(&namespace, ask));
        Self { stop, thread }
    }

    /// How long the pod was not reached, from the first question without answer to the next one that
    /// had one.
    pub fn stop(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.thread.join().map_err(|_| anyhow!("it panicked"))??;
        let first = answers.iter().position(|(_, answered)| !answered);
        let (before, after) = answers.split_at(first.unwrap_or(answers.len()));
        let Some((from, _)) = after.first() else {
            return Ok(Duration::ZERO);
        };
        before.last().context("the pod was never reached")?;
        let (to, _) = after
            .iter()
            .find(|(_, answered)| *answered)
            .context("the pod was not reached again")?;
        Ok(to.duration_since(*from))
    }
}

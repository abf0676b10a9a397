//! BIRD's control socket as a second source of who ought to be a peer: `show protocols all`, asked now and
//! then. The connection gives up the right to change anything (`restrict`) before it asks, and does not ask
//! where BIRD does not confirm that.

mod answer;

use std::{
    fmt,
    future::pending,
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use observer_core::{
    change::{Change, ChangeRecord},
    event::{Fact, configured::ConfiguredPeer},
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use self::answer::{MOST, Protocols};
use crate::{
    health::{Health, SourceStatus},
    keeper::Keeper,
    tally::Tally,
};

/// How often it is asked.
const EVERY: Duration = Duration::from_mins(1);
/// And how soon again when there was no answer: a BIRD that restarts is back within seconds.
const AGAIN: Duration = Duration::from_secs(10);
/// How long BIRD has to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Not sooner than this, whatever happens.
const SOONEST: Duration = Duration::from_secs(2);
/// What a session's end or a new BIRD has to do with its configuration BIRD knows a moment later.
const MOMENT: Duration = Duration::from_millis(500);
/// What is said again and again is told the core every so many times.
const RETELL: u32 = 10;

/// A socket, and of which node BIRD is that listens there.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BirdSocket {
    /// The node; none for the only one.
    pub node: Option<String>,
    /// Its path.
    pub path: PathBuf,
}

impl FromStr for BirdSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, path) = match text.split_once('=') {
            Some((node, path)) => (Some(node), path),
            None => (None, text),
        };
        if !path.starts_with('/') || node == Some("") {
            return Err(format!("'{text}' is no absolute path, nor NODE=PATH"));
        }
        Ok(Self {
            node: node.map(str::to_owned),
            path: path.into(),
        })
    }
}

impl fmt::Display for BirdSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}=")?;
        }
        write!(f, "{}", self.path.display())
    }
}

#[derive(Debug, Error)]
enum Failure {
    #[error("nobody listens there: {0}")]
    Absent(#[source] io::Error),
    #[error("BIRD did not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    #[error(transparent)]
    Answer(#[from] answer::Failure),
}

/// How asking ended: the values of a metric's label.
const RESULTS: [&str; 5] = ["taken", "absent", "silent", "garbage", "refused"];

impl Failure {
    const fn result(&self) -> &'static str {
        match self {
            Self::Absent(_) => "absent",
            Self::Silent | Self::Broken(_) => "silent",
            Self::Answer(answer::Failure::Refused(_)) => "refused",
            Self::Answer(_) => "garbage",
        }
    }
}

/// Counts how asking ended.
pub fn results() -> Tally {
    Tally::of(RESULTS)
}

/// Begins to ask, each in a task of its own.
pub fn start(
    sockets: Vec<(String, PathBuf)>,
    keeper: &Keeper,
    health: &Health,
    counts: &Tally,
    tasks: &mut JoinSet<()>,
) {
    for (node, path) in sockets {
        let follower = Follower {
            node,
            path,
            keeper: keeper.clone(),
            health: health.clone(),
            counts: counts.clone(),
        };
        tasks.spawn(follower.run());
    }
}

/// Asks once, for `check`.
pub fn look(sockets: &[(String, PathBuf)]) -> Vec<SourceStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let status = |(node, path): &(String, PathBuf)| {
        let reason = match &runtime {
            Ok(runtime) => runtime.block_on(ask(path)).err().map(|why| why.to_string()),
            Err(error) => Some(error.to_string()),
        };
        SourceStatus::bird(node, path, reason)
    };
    sockets.iter().map(status).collect()
}

struct Follower {
    node: String,
    path: PathBuf,
    keeper: Keeper,
    health: Health,
    counts: Tally,
}

impl Follower {
    /// Asks until the agent stops. What was said holds until something else is.
    async fn run(self) {
        let mut said: Option<Vec<ConfiguredPeer>> = None;
        let mut untold = 0;
        let Ok(page) = self.keeper.events(u64::MAX).await else {
            return;
        };
        let mut news = page.next;
        loop {
            let asked = Instant::now();
            let pause = match ask(&self.path).await {
                Ok(peers) => {
                    self.counts.add(RESULTS[0], 1);
                    self.health
                        .set(SourceStatus::bird(&self.node, &self.path, None));
                    untold += 1;
                    if said.as_ref() != Some(&peers) || untold >= RETELL {
                        self.tell_switched(said.as_deref().unwrap_or_default(), &peers);
                        untold = 0;
                        let told = Fact::PeersConfigured {
                            node: self.node.clone(),
                            socket: self.path.display().to_string(),
                            peers: peers.clone(),
                        };
                        // An error means that the agent is stopping.
                        if self.keeper.tell(vec![told]).await.is_err() {
                            return;
                        }
                        said = Some(peers);
                    }
                    EVERY
                }
                Err(failure) => {
                    self.counts.add(failure.result(), 1);
                    let why = failure.to_string();
                    let status = SourceStatus::bird(&self.node, &self.path, Some(why.clone()));
                    if self.health.set(status) {
                        warn!(node = self.node, socket = %self.path.display(), "BIRD does not say who its peers are: {why}");
                    }
                    AGAIN
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.occasion(&mut news) => {
                    sleep_until((asked + SOONEST).max(Instant::now() + MOMENT)).await;
                }
            }
        }
    }

    /// Waits for something that may have to do with the configuration: a session that ended, a new BIRD.
    async fn occasion(&self, news: &mut broadcast::Receiver<Arc<ChangeRecord>>) {
        loop {
            match news.recv().await {
                Ok(record) => {
                    let is_one = matches!(
                        record.change,
                        Change::SessionDown { .. } | Change::SpeakerSeen { .. }
                    );
                    if is_one && record.node == self.node {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => return,
                Err(RecvError::Closed) => pending().await,
            }
        }
    }

    fn tell_switched(&self, before: &[ConfiguredPeer], now: &[ConfiguredPeer]) {
        let was_off = |peer: &ConfiguredPeer| {
            let mut same = before.iter().filter(|old| old.protocol == peer.protocol);
            same.next().is_some_and(|old| old.disabled)
        };
        for peer in now.iter().filter(|peer| peer.disabled != was_off(peer)) {
            let how = if peer.disabled { "disabled" } else { "enabled" };
            info!(node = self.node, peer = %peer.address, "protocol {} of BIRD is {how}", peer.protocol);
        }
    }
}

async fn ask(path: &Path) -> Result<Vec<ConfiguredPeer>, Failure> {
    ask_within(path, ANSWER).await
}

async fn ask_within(path: &Path, limit: Duration) -> Result<Vec<ConfiguredPeer>, Failure> {
    let asked = timeout(limit, converse(path)).await;
    asked.map_err(|_| Failure::Silent)?
}

async fn converse(path: &Path) -> Result<Vec<ConfiguredPeer>, Failure> {
    let stream = UnixStream::connect(path).await.map_err(Failure::Absent)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(u64::try_from(MOST).unwrap_or(u64::MAX));
    // 0001 greets, 0016 confirms.
    expect(&mut reader, 1).await?;
    writer
        .write_all(b"restrict\n")
        .await
        .map_err(Failure::Broken)?;
    expect(&mut reader, 16).await?;
    let question = writer.write_all(b"show protocols all\n");
    question.await.map_err(Failure::Broken)?;
    let mut protocols = Protocols::default();
    reply(&mut reader, |line| protocols.take(line)).await?;
    Ok(protocols.peers())
}

/// A reply of one line, with this code.
async fn expect(reader: &mut (impl AsyncBufRead + Unpin), code: u16) -> Result<(), Failure> {
    let last = reply(reader, |_| {}).await?;
    if last.0 == code {
        Ok(())
    } else {
        let said = format!("{:04} {}", last.0, last.1);
        Err(answer::Failure::Garbage(said.chars().take(40).collect()).into())
    }
}

/// Hands on each line of a reply but the last, and gives that one.
async fn reply(
    reader: &mut (impl AsyncBufRead + Unpin),
    mut take: impl FnMut(answer::Line<'_>),
) -> Result<(u16, String), Failure> {
    let mut before = None;
    let mut octets = Vec::new();
    loop {
        octets.clear();
        let read = reader.read_until(b'\n', &mut octets).await;
        if read.map_err(Failure::Broken)? == 0 || !octets.ends_with(b"\n") {
            // The connection ended, or so much was read that no more is.
            return Err(answer::Failure::Endless.into());
        }
        let text = String::from_utf8_lossy(&octets);
        let line = answer::line(&text, before)?;
        before = Some(line.code);
        if line.last {
            return Ok((line.code, line.text.to_owned()));
        }
        take(line);
    }
}

#[cfg(test)]
#[path = "bird/tests.rs"]
mod tests;

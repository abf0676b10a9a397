//! One kind of object: listed once, then watched, then whatever it takes to go on.
//!
//! kube's own watcher does the same but keeps bookmarks and resumed watches to itself, and these are
//! what tells that nothing has changed: without them nobody could say how old what is known is.

use std::{collections::BTreeMap, fmt::Debug, hash::BuildHasher, pin::pin, time::Duration};

use futures_util::StreamExt as _;
use kube::{
    Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use observer_core::event::cluster::{ClusterFact, ClusterKind, ClusterObject};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{
    sync::mpsc,
    time::{Instant, error::Elapsed, sleep, timeout},
};
use tracing::debug;

use crate::health::{Health, SourceStatus};

/// Objects in one page of a list, from a server that answers in pages unasked.
const PAGE: u32 = 500;

/// How long `check` waits for an answer.
const LOOK: Duration = Duration::from_secs(5);

/// How patient and how pressing it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// At most this long before the first question, so that a cluster's agents do not ask at once.
    pub spread: Duration,
    /// How long the API server has for an answer.
    pub answer: Duration,
    /// How long a watch lasts.
    pub watch: Duration,
    /// The pause after a first failure; it doubles.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// The longest pause where the API has no such kind or forbids to read it.
    pub refused: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            spread: Duration::from_secs(2),
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(290),
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            refused: Duration::from_mins(5),
        }
    }
}

/// Why an answer is missing.
#[derive(Debug, Error)]
enum Failure {
    #[error("the cluster has no {0}")]
    Absent(&'static str),
    #[error("forbidden: {0}")]
    Forbidden(String),
    #[error("the API server did not answer in time")]
    Silent(#[from] Elapsed),
    #[error("what was known is too old to go on from")]
    Expired,
    #[error("the watch ended at once")]
    Brief,
    #[error("{0}")]
    Other(String),
    /// Nobody wants to know any more.
    #[error("stopping")]
    Stopping,
}

impl Failure {
    fn of(kind: ClusterKind, error: kube::Error) -> Self {
        let text = chain(&error);
        let kube::Error::Api(status) = error else {
            return Self::Other(text);
        };
        Self::of_status(kind, status.code, status.message)
    }

    fn of_status(kind: ClusterKind, code: u16, message: String) -> Self {
        match code {
            404 => Self::Absent(kind.name()),
            401 | 403 => Self::Forbidden(message),
            410 => Self::Expired,
            code => Self::Other(format!("the API server answered {code}: {message}")),
        }
    }
}

/// An error with all that caused it, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What follows one kind.
pub(super) struct Follower<K> {
    pub api: Api<K>,
    pub kind: ClusterKind,
    pub read: fn(&K) -> Option<ClusterObject>,
    pub facts: mpsc::Sender<ClusterFact>,
    pub health: Health,
    pub pace: Pace,
}

impl<K> Follower<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Follows until nobody takes the facts any more.
    pub async fn run(self) {
        sleep(jitter(self.pace.spread)).await;
        let mut known = Known::default();
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let outcome = match known.version.clone() {
                None => self.list(&mut known).await,
                Some(version) => self.watch(&mut known, &version).await,
            };
            let failure = match outcome {
                Ok(()) => {
                    failures = 0;
                    continue;
                }
                Err(Failure::Stopping) => return,
                Err(failure) => failure,
            };
            // A watch that held for a while and then broke is a first failure.
            if begun.elapsed() > self.pace.longest {
                failures = 0;
            }
            debug!(kind = self.kind.name(), "{failure}");
            if matches!(failure, Failure::Expired) {
                known.version = None;
            } else if self.tell_failure(&failure).await.is_err() {
                return;
            }
            sleep(self.pause(&failure, failures)).await;
            failures += 1;
        }
    }

    fn pause(&self, failure: &Failure, failures: u32) -> Duration {
        // An API server that comes up forbids and lacks what it allows and has a moment later: asked again
        // soon, and then less and less often.
        let longest = match failure {
            Failure::Absent(_) | Failure::Forbidden(_) => self.pace.refused,
            Failure::Silent(_)
            | Failure::Expired
            | Failure::Brief
            | Failure::Other(_)
            | Failure::Stopping => self.pace.longest,
        };
        let doubled = self.pace.first * 2_u32.pow(failures.min(16));
        let pause = doubled.min(longest);
        pause / 2 + jitter(pause / 2)
    }

    async fn tell(&self, fact: ClusterFact) -> Result<(), Failure> {
        let sent = self.facts.send(fact).await;
        sent.map_err(|_| Failure::Stopping)
    }

    async fn tell_failure(&self, failure: &Failure) -> Result<(), Failure> {
        let reason = Some(failure.to_string());
        self.health.set(SourceStatus::cluster(self.kind, reason));
        self.health.cluster_stale(self.kind);
        if matches!(failure, Failure::Absent(_) | Failure::Forbidden(_)) {
            let of = self.kind;
            self.tell(ClusterFact::Unavailable { of }).await?;
        }
        Ok(())
    }

    /// The API server has just said that what is known is so.
    fn confirmed(&self) {
        self.health.set(SourceStatus::cluster(self.kind, None));
        self.health.cluster_live(self.kind);
    }

    async fn list(&self, known: &mut Known) -> Result<(), Failure> {
        let mut objects = BTreeMap::new();
        let mut version = None;
        // Of the server's cache, which a limit would have it leave aside: a cluster's agents that start
        // together are not to read its database.
        let mut params = ListParams::default().match_any();
        loop {
            let page = timeout(self.pace.answer, self.api.list(&params)).await?;
            let page = page.map_err(|error| Failure::of(self.kind, error))?;
            for object in page.items.iter().filter_map(self.read) {
                objects.insert(object.name().to_owned(), object);
            }
            version = page.metadata.resource_version.or(version);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => {
                    params = ListParams::default().limit(PAGE).continue_token(&token);
                }
                None => break,
            }
        }
        known.objects.clone_from(&objects);
        known.version = version.or_else(|| Some("0".to_owned()));
        self.confirmed();
        self.tell(ClusterFact::Listed {
            of: self.kind,
            objects: objects.into_values().collect(),
        })
        .await
    }

    /// Watches from `version` on, until the watch ends as agreed.
    async fn watch(&self, known: &mut Known, version: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        let seconds = u32::try_from(self.pace.watch.as_secs().max(1)).unwrap_or(u32::MAX);
        let params = WatchParams::default().timeout(seconds);
        let stream = timeout(self.pace.answer, self.api.watch(&params, version)).await?;
        let mut stream = pin!(stream.map_err(|error| Failure::of(self.kind, error))?);
        // The server has taken the version as one to go on from.
        self.confirmed();
        let patience = self.pace.watch + self.pace.answer;
        while let Some(event) = timeout(patience, stream.next()).await? {
            let event = event.map_err(|error| Failure::of(self.kind, error))?;
            if let Some(fact) = known.take(self.kind, self.read, event)? {
                self.tell(fact).await?;
            }
        }
        if begun.elapsed() < self.pace.first {
            return Err(Failure::Brief);
        }
        Ok(())
    }
}

/// Whether objects of a kind can be read.
pub(super) async fn look<K>(api: &Api<K>, kind: ClusterKind) -> SourceStatus
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = ListParams::default().limit(1);
    let asked = timeout(LOOK, api.list(&params)).await;
    let failure = match asked {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(Failure::of(kind, error)),
        Err(elapsed) => Some(elapsed.into()),
    };
    SourceStatus::cluster(kind, failure.map(|failure| failure.to_string()))
}

/// What was read so far.
#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<String, ClusterObject>,
    /// Where to go on from; none before the first list.
    version: Option<String>,
}

impl Known {
    /// Takes an event of the watch in; an object in which nothing of interest changed is no news.
    fn take<K: Resource>(
        &mut self,
        kind: ClusterKind,
        read: fn(&K) -> Option<ClusterObject>,
        event: WatchEvent<K>,
    ) -> Result<Option<ClusterFact>, Failure> {
        let (object, exists) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
            WatchEvent::Deleted(object) => (object, false),
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                return Ok(None);
            }
            WatchEvent::Error(status) => {
                return Err(Failure::of_status(kind, status.code, status.message));
            }
        };
        self.version = object
            .meta()
            .resource_version
            .clone()
            .or(self.version.take());
        let Some(name) = object.meta().name.clone() else {
            return Ok(None);
        };
        // One that makes no sense any more is as good as gone.
        let fact = match read(&object).filter(|_| exists) {
            Some(object) => {
                let before = self.objects.insert(name, object.clone());
                (before.as_ref() != Some(&object)).then_some(ClusterFact::Changed { object })
            }
            None => { self.objects.remove(&name) }
                .is_some()
                .then_some(ClusterFact::Gone { of: kind, name }),
        };
        Ok(fact)
    }
}

/// At most `most`, by chance.
pub(super) fn jitter(most: Duration) -> Duration {
    let chance = std::hash::RandomState::new().hash_one(0_u8) % 1_024;
    most * u32::try_from(chance).unwrap_or_default() / 1_024
}

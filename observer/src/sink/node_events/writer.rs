//! Writes Events to Kubernetes' API, in a task of its own: the one thing that the agent writes there.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Event, EventSource, Node, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{Backlog, Fate, Reason, Telling, Waiting};
use crate::{
    health::{Health, SourceStatus},
    source::{clock::boottime_now, kube::chain},
    tally::Tally,
};

/// Where Events of what has no namespace belong.
const NAMESPACE: &str = "default";
/// Who says so.
const CONTROLLER: &str = "bgp-observer";
/// How long the API server has for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// The pause after a first failure; it doubles.
const FIRST: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST: Duration = Duration::from_mins(5);
/// An object's name has at most 253 characters; so much of it is the node's.
const NAME: usize = 200;

/// Why an Event was not written.
#[derive(Debug)]
enum Failure {
    /// It never will be.
    Refused(String),
    /// It may be later.
    Later(String),
}

impl Failure {
    fn of(error: &kube::Error) -> Self {
        let text = chain(error);
        // An API server that comes up forbids what it allows a moment later.
        let is_final = |code| matches!(code, 400 | 404 | 413 | 422);
        if let kube::Error::Api(status) = error
            && is_final(status.code)
        {
            Self::Refused(text)
        } else {
            Self::Later(text)
        }
    }
}

/// Writes what is handed to it.
pub struct Writer {
    /// The API.
    pub client: Client,
    /// What is to be told.
    pub tellings: mpsc::Receiver<Telling>,
    /// How often what came about.
    pub counts: Tally,
    /// Told whether Events can be written.
    pub health: Health,
}

impl Writer {
    /// Writes until nobody hands on anything.
    pub async fn run(mut self) {
        self.health.set(SourceStatus::node_events(None));
        let mut backlog = Backlog::default();
        let mut failures = 0;
        let mut not_before = Instant::now();
        loop {
            let due = backlog.due();
            let due = due.map(|at| not_before.max(Instant::now() + at.since(boottime_now())));
            tokio::select! {
                telling = self.tellings.recv() => {
                    let Some(telling) = telling else { return };
                    let merged = backlog.take(boottime_now(), telling);
                    self.counts.add(Fate::Merged.name(), merged);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if self.tell(&mut backlog).await {
                        failures = 0;
                    } else {
                        let pause = FIRST * 2_u32.pow(failures);
                        not_before = Instant::now() + pause.min(LONGEST);
                        failures = (failures + 1).min(16);
                    }
                }
            }
        }
    }

    /// Tells what may be told now. Whether the API took it.
    async fn tell(&self, backlog: &mut Backlog) -> bool {
        while let Some((waiting, merged)) = backlog.next(boottime_now()) {
            self.counts.add(Fate::Merged.name(), merged);
            match write(&self.client, &waiting, false).await {
                Ok(()) => {
                    self.counts.add(Fate::Written.name(), 1);
                    if self.health.set(SourceStatus::node_events(None)) {
                        info!("Events are written to Kubernetes' API again");
                    }
                }
                Err(Failure::Refused(why)) => {
                    self.counts.add(Fate::Failed.name(), 1);
                    self.complain(&why);
                }
                Err(Failure::Later(why)) => {
                    if !backlog.put_back(boottime_now(), waiting) {
                        self.counts.add(Fate::Failed.name(), 1);
                    }
                    self.complain(&why);
                    return false;
                }
            }
        }
        true
    }

    fn complain(&self, why: &str) {
        if self
            .health
            .set(SourceStatus::node_events(Some(why.to_owned())))
        {
            warn!("an Event could not be written to Kubernetes' API: {why}");
        }
    }
}

/// Asks whether an Event of `node` could be written, and writes none.
pub async fn look(client: &Client, node: &str) -> SourceStatus {
    let telling = Telling {
        incident: String::new(),
        node: node.to_owned(),
        reason: Reason::Incident,
        at: jiff::Timestamp::now(),
        words: "no Event: whether one could be written".to_owned(),
    };
    let waiting = Waiting {
        telling,
        since: boottime_now(),
        others: 0,
    };
    let failed = write(client, &waiting, true).await.err();
    SourceStatus::node_events(failed.map(|failure| match failure {
        Failure::Refused(why) | Failure::Later(why) => why,
    }))
}

async fn write(client: &Client, waiting: &Waiting, dry_run: bool) -> Result<(), Failure> {
    let node = &waiting.telling.node;
    let uid = answer(uid(client, node)).await?;
    let uid = uid.ok_or_else(|| Failure::Refused(format!("the cluster has no node {node}")))?;
    let event = event(waiting, uid);
    let params = PostParams {
        dry_run,
        ..PostParams::default()
    };
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    match timeout(ANSWER, events.create(&params, &event)).await {
        // It was taken before, and the answer was lost.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(&error)),
        Err(_) => Err(silent()),
    }
}

async fn answer<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    let told = timeout(ANSWER, asked).await;
    told.map_err(|_| silent())?
        .map_err(|error| Failure::of(&error))
}

fn silent() -> Failure {
    Failure::Later("the API server did not answer in time".to_owned())
}

/// A node that left and came again has another identity: asked for each time, of the server's cache, and
/// with the right that there is anyway.
async fn uid(client: &Client, node: &str) -> kube::Result<Option<String>> {
    let itself = ListParams::default()
        .fields(&format!("metadata.name={node}"))
        .match_any();
    let nodes = Api::<Node>::all(client.clone());
    let found = nodes.list_metadata(&itself).await?;
    Ok(found.items.into_iter().find_map(|node| node.metadata.uid))
}

/// In the older form of Events, as the kubelet writes its own: in that of `events.k8s.io` some API servers
/// (1.20 is one) refuse those of what has no namespace, unless they lie in `kube-system`.
fn event(waiting: &Waiting, uid: String) -> Event {
    let telling = &waiting.telling;
    let node = telling.node.as_str();
    let over = match telling.reason {
        Reason::Recovered | Reason::NotRecovered => "end",
        Reason::SpeakerGone | Reason::SessionsLost | Reason::RoutesLost | Reason::Incident => {
            "begin"
        }
    };
    // The same whenever it is tried again: one that was taken is not taken twice.
    let prefix = head(node, NAME).trim_end_matches(['.', '-']);
    let name = format!("{prefix}.{:x}.{over}", telling.at.as_microsecond());
    let text = |text: &str| Some(text.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: text(NAMESPACE),
            ..ObjectMeta::default()
        },
        count: Some(1),
        first_timestamp: Some(Time(telling.at)),
        last_timestamp: Some(Time(telling.at)),
        involved_object: ObjectReference {
            api_version: text("v1"),
            kind: text("Node"),
            name: text(node),
            uid: Some(uid),
            ..ObjectReference::default()
        },
        message: Some(waiting.note()),
        reason: text(telling.reason.name()),
        source: Some(EventSource {
            component: text(CONTROLLER),
            host: text(node),
        }),
        type_: text(telling.reason.severity()),
        ..Event::default()
    }
}

/// The first characters of a name, which has only such of one octet.
fn head(text: &str, most: usize) -> &str {
    text.get(..most).unwrap_or(text)
}

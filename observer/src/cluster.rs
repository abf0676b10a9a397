//! Whether and how the agent reads Kubernetes' API: connects, and hands on to the core what is said.
//! The agent runs without it, too, and goes on when the API server does not.

use ::kube::Client;
use anyhow::{Context as _, Result};
use clap::ValueEnum;
use observer_core::event::{Fact, cluster::ClusterKind};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{info, warn};

use crate::{
    cross_check::{self, Comparisons},
    health::{Health, SourceStatus},
    keeper::Keeper,
    sink::node_events,
    source::kube,
    tally::Tally,
};

/// Whether Kubernetes' API is read.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kubernetes {
    /// In a pod, with its account.
    Auto,
    /// In a pod with its account, elsewhere as $KUBECONFIG or ~/.kube/config says.
    On,
    /// Never.
    Off,
}

impl Kubernetes {
    /// Whether it is to be read here.
    pub fn is_wanted(self) -> bool {
        match self {
            Self::Auto => kube::in_cluster(),
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// Whether each kind of object can be read, for `check`; and whether Events of `events` can be written.
pub fn look(wanted: Kubernetes, events: Option<&str>) -> Vec<SourceStatus> {
    if !wanted.is_wanted() {
        return Vec::new();
    }
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot ask the API")
        .and_then(|runtime| {
            runtime.block_on(async {
                let client = kube::connect().await?;
                let mut sources = kube::look(&client).await;
                if let Some(node) = events {
                    sources.push(node_events::look(&client, node).await);
                }
                Ok(sources)
            })
        });
    match asked {
        Ok(sources) => sources,
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &anyhow::Error) -> Vec<SourceStatus> {
    let status = |kind| SourceStatus::cluster(kind, Some(format!("{error:#}")));
    ClusterKind::ALL.map(status).into()
}

/// Whether pods are read.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KubernetesPods {
    /// Those of the nodes whose routes an incident lost, once per incident.
    On,
    /// Never.
    Off,
}

/// What the core wants to know of Kubernetes for an incident.
#[derive(Clone, Debug)]
pub enum Question {
    /// The pods of some nodes.
    Pods {
        /// The incident.
        incident: String,
        /// The nodes.
        nodes: Vec<String>,
    },
    /// How a node fares.
    Circumstances {
        /// The incident.
        incident: String,
        /// The node.
        node: String,
    },
}

/// Questions that can wait; those beyond have no answer, and their incidents less to tell.
pub const QUESTIONS: usize = 32;

/// What is done with the API.
#[derive(Debug)]
pub struct Wanted {
    /// Whether it is spoken with at all.
    pub kubernetes: Kubernetes,
    /// What the core asks.
    pub questions: mpsc::Receiver<Question>,
    /// Whether pods may be listed.
    pub pods: bool,
    /// What is to be written as Events, where they are, and its counts.
    pub events: Option<(mpsc::Receiver<node_events::Telling>, Tally)>,
    /// Where comparisons with CalicoNodeStatus go, where they are made.
    pub comparisons: Option<Comparisons>,
}

/// Begins to read, where that is wanted. What is asked for by name and cannot be is an error; a pod
/// without an account only knows less.
pub async fn start(
    wanted: Wanted,
    health: &Health,
    keeper: &Keeper,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let Wanted {
        kubernetes: wanted,
        questions,
        pods,
        events,
        comparisons,
    } = wanted;
    if !wanted.is_wanted() {
        if events.is_some() {
            warn!("no Events are written: Kubernetes' API is not spoken with here");
        }
        return Ok(());
    }
    let client = match kube::connect().await {
        Ok(client) => client,
        Err(error) if wanted == Kubernetes::On => return Err(error),
        Err(error) => {
            warn!("peers have no names from Kubernetes: {error:#}");
            for status in unreadable(&error) {
                health.set(status);
            }
            return Ok(());
        }
    };
    info!("reading nodes and Calico's objects from Kubernetes' API");
    let mut facts = kube::follow(&client, health, tasks);
    if let Some((tellings, counts)) = events {
        let writer = node_events::Writer {
            client: client.clone(),
            tellings,
            counts,
            health: health.clone(),
        };
        tasks.spawn(writer.run());
    }
    if let Some(comparisons) = comparisons {
        let (client, keeper, health) = (client.clone(), keeper.clone(), health.clone());
        let every = cross_check::EVERY;
        tasks.spawn(cross_check::run(client, keeper, health, comparisons, every));
    }
    tasks.spawn(answer(client, keeper.clone(), questions, pods));
    let keeper = keeper.clone();
    tasks.spawn(async move {
        while let Some(cluster) = facts.recv().await {
            // An error means that the agent is stopping.
            if keeper.tell(vec![Fact::Cluster { cluster }]).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Answers the core's questions, one after the other; of pods only where they may be listed.
async fn answer(
    client: Client,
    keeper: Keeper,
    mut questions: mpsc::Receiver<Question>,
    pods: bool,
) {
    while let Some(question) = questions.recv().await {
        let fact = match question {
            Question::Pods { incident, nodes } => {
                let (pods, missing) = kube::pods_of(&client, &nodes).await;
                Fact::PodsListed {
                    incident,
                    pods,
                    missing,
                }
            }
            Question::Circumstances { incident, node } => Fact::Circumstances {
                incident,
                told: kube::circumstances_of(&client, &node, pods).await,
            },
        };
        // An error means that the agent is stopping.
        if keeper.tell(vec![fact]).await.is_err() {
            return;
        }
    }
}

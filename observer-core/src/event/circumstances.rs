//! What Kubernetes says of an incident's node, asked when the incident is told and when it is over:
//! whether the node takes work, and how the pod fares that runs its BGP daemon.

use serde::{Deserialize, Serialize};

/// As Kubernetes' API told it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Circumstances {
    /// The node; none when the cluster has no node of that name.
    pub node: Option<NodeCondition>,
    /// Its calico-node pods: one, two while one replaces another, none where pods may not be listed.
    pub speakers: Vec<SpeakerPod>,
    /// Why some or all is missing, if it is.
    pub missing: Option<String>,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct NodeCondition {
    /// Its name.
    pub name: String,
    /// No pods are scheduled to it: somebody means to take it out.
    pub cordoned: bool,
    /// Whether its kubelet says that it is ready; none when nobody says.
    pub ready: Option<bool>,
    /// Why it is or is not, in Kubernetes' one word.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<jiff::Timestamp>,
}

/// A pod that runs a node's BGP daemon. Its times are of whole seconds, by the kubelet's clock.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct SpeakerPod {
    /// As `NAMESPACE/NAME`.
    pub pod: String,
    /// When the pod was made: a rollout or a deletion replaces it, a crash does not.
    pub made_at: Option<jiff::Timestamp>,
    /// It is being deleted.
    pub leaving: bool,
    /// Which revision of the DaemonSet it is of.
    pub revision: Option<String>,
    /// Whether its container passes its readiness probe.
    pub ready: bool,
    /// How often its container was started again.
    pub restarts: u32,
    /// Why its container does not run, if it does not.
    pub waiting: Option<String>,
    /// Since when it runs.
    pub started_at: Option<jiff::Timestamp>,
    /// How its container ended the last time.
    pub last_end: Option<ContainerEnd>,
}

/// The end of a container.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ContainerEnd {
    /// In Kubernetes' one word: `OOMKilled`, `Error`, `Completed`.
    pub reason: Option<String>,
    /// 128 and the signal's number for one that a signal ended.
    pub exit_code: i32,
    /// When.
    pub at: Option<jiff::Timestamp>,
}

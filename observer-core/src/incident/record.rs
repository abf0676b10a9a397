//! The record of one incident: the JSON of `/api/v1/incidents`, what the store keeps and what
//! `incident` prints. Plain data; how it comes about is the other modules' concern.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::event::circumstances::Circumstances;

/// One incident as seen from one node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Incident {
    /// Opening time (UTC, to the microsecond) and node: sorts by time, unique across restarts.
    pub id: String,
    /// The observed node that witnessed it.
    pub node: String,
    /// What it happened to.
    pub subject: Subject,
    /// Two keys, each of the subject and one of two time grids that are half a width apart. Records
    /// of other nodes that share either are of the same event: moments less than half a width apart
    /// share at least one, wherever the grids' lines fall.
    pub group_keys: Vec<String>,
    /// The first moment at which something of it had happened for certain.
    pub opened_at: jiff::Timestamp,
    /// When everything was back, or stably gone; none while it is open.
    pub closed_at: Option<jiff::Timestamp>,
    /// When this record last changed.
    pub updated_at: jiff::Timestamp,
    /// What it came to, so far while it is open.
    pub verdict: Verdict,
    /// Whether evidence of reachability proves the verdict.
    pub proof: Proof,
    /// Why it happened, in words.
    pub cause: String,
    /// The `cause` label of the first flap; none where no session fell.
    #[serde(default)]
    pub cause_label: Option<String>,
    /// Sessions that went down within it.
    #[serde(default)]
    pub sessions: Vec<SessionLoss>,
    /// What happened, in order of time.
    #[serde(default)]
    pub milestones: Vec<Milestone>,
    /// Milestones left out between the first and the last ones kept.
    #[serde(default)]
    pub milestones_dropped: u64,
    /// Prefixes that were lost.
    #[serde(default)]
    pub prefixes: LostPrefixes,
    /// Pods that it concerned, where they were asked for.
    #[serde(default)]
    pub pods: Option<AffectedPods>,
    /// How the node it happened to fared, where Kubernetes was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circumstances: Option<Circumstances>,
    /// Addresses that were probed because of it.
    #[serde(default)]
    pub targets: Vec<TargetReport>,
    /// Packets that this node dropped on their way to lost prefixes.
    #[serde(default)]
    pub dropped: Vec<DroppedPackets>,
    /// What TCP of this node's own processes had to send again there, or gave up. It fits a loss and does
    /// not prove it.
    #[serde(default)]
    pub unanswered: Vec<DroppedPackets>,
    /// Sessions are up and routes are not back: a BIRD that restarts gracefully waits for peers that are
    /// away, until this moment at the latest.
    #[serde(default)]
    pub routes_by: Option<jiff::Timestamp>,
    /// From the first lost route to the last one back; none when none was lost.
    #[serde(default)]
    pub route_gap_seconds: Option<Span>,
    /// How long targets could not be reached; none when that was not measured.
    #[serde(default)]
    pub unreachable_seconds: Option<Span>,
    /// How good the evidence is.
    #[serde(default)]
    pub evidence: EvidenceState,
    /// Who installs the routes here: `bird`, `felix`; none while no route told.
    #[serde(default)]
    pub route_owner: Option<String>,
    /// Versions of agent, kernel, BIRD and Calico, where known.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// Who was affected, direction by direction.
    #[serde(default)]
    pub impact: Vec<ImpactRow>,
    /// What the verdict rests on.
    #[serde(default)]
    pub rests_on: String,
    /// What would have made it another one.
    #[serde(default)]
    pub would_change: String,
    /// The one thing to look at next.
    #[serde(default)]
    pub next_check: String,
    /// Incidents of this node that were open at the same time.
    #[serde(default)]
    pub related: Vec<String>,
    /// Times in which nobody observed.
    #[serde(default)]
    pub absences: Vec<Absence>,
    /// What an operator wrote to it.
    #[serde(default)]
    pub note: Option<String>,
}

impl Incident {
    /// Whether it is the end of this node's own speaker. Its record tells of one direction only: what
    /// this node could reach. Whether others could reach the pods here is in their records.
    pub fn is_own_restart(&self) -> bool {
        self.subject.kind == SubjectKind::Local
            && self.cause_label.as_deref() == Some("local_speaker_gone")
    }

    /// How much it tells, in lines of about 200 octets each: what keeps many is bounded by these.
    pub fn lines(&self) -> usize {
        let pods = self.pods.as_ref().map_or(0, |pods| pods.listed.len());
        1 + self.sessions.len()
            + self.milestones.len()
            + self.prefixes.listed.len()
            + pods
            + self.targets.len()
            + self.dropped.len()
            + self.unanswered.len()
            + self.impact.len()
    }

    /// One of which nothing is known yet.
    pub fn blank(node: &str, subject: Subject, opened_at: jiff::Timestamp) -> Self {
        Self {
            id: String::new(),
            node: node.to_owned(),
            subject,
            group_keys: Vec::new(),
            opened_at,
            closed_at: None,
            updated_at: opened_at,
            verdict: Verdict::NoImpact,
            proof: Proof::Inferred,
            cause: String::new(),
            cause_label: None,
            sessions: Vec::new(),
            milestones: Vec::new(),
            milestones_dropped: 0,
            prefixes: LostPrefixes::default(),
            pods: None,
            circumstances: None,
            targets: Vec::new(),
            dropped: Vec::new(),
            unanswered: Vec::new(),
            routes_by: None,
            route_gap_seconds: None,
            unreachable_seconds: None,
            evidence: EvidenceState::default(),
            route_owner: None,
            versions: BTreeMap::new(),
            impact: Vec::new(),
            rests_on: String::new(),
            would_change: String::new(),
            next_check: String::new(),
            related: Vec::new(),
            absences: Vec::new(),
            note: None,
        }
    }
}

/// What an incident happened to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Subject {
    /// Its kind.
    pub kind: SubjectKind,
    /// What every witness calls it: its BGP identifier where an OPEN told, else its address.
    pub identity: String,
    /// Its node's name, where known.
    pub name: Option<String>,
}

/// Kinds of subjects.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// Another node.
    Peer,
    /// A peer that reflects others' routes (RFC 4456).
    RouteReflector,
    /// The observed node itself.
    Local,
}

/// What an incident came to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A session fell, graceful restart covered it: no route was lost.
    Graceful,
    /// Routes were gone for less than the gap threshold.
    MicroGap,
    /// Routes were gone for longer.
    RoutesLost,
    /// Targets could not be reached, and sessions or routes show why.
    ReachabilityLost,
    /// Targets could not be reached while session and routes looked healthy.
    Blackholed,
    /// A session fell and nothing followed from it.
    NoImpact,
    /// The node was taken out on purpose.
    Decommissioned,
}

impl Verdict {
    /// Every verdict: their counters exist from the start.
    pub const ALL: [Self; 7] = [
        Self::Graceful,
        Self::MicroGap,
        Self::RoutesLost,
        Self::ReachabilityLost,
        Self::Blackholed,
        Self::NoImpact,
        Self::Decommissioned,
    ];

    /// The `verdict` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::MicroGap => "micro_gap",
            Self::RoutesLost => "routes_lost",
            Self::ReachabilityLost => "reachability_lost",
            Self::Blackholed => "blackholed",
            Self::NoImpact => "no_impact",
            Self::Decommissioned => "decommissioned",
        }
    }
}

/// How sure a statement about reachability is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Sessions and routes say so; nobody measured whether packets passed.
    Inferred,
    /// Packets say so.
    Proven,
}

/// One session's loss within an incident.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionLoss {
    /// The peer's address.
    pub peer: String,
    /// Number of the flap, as `flaps` shows it; none while its cause is pending.
    pub flap: Option<u64>,
    /// When it went down.
    pub down_at: jiff::Timestamp,
    /// When it was Established again.
    pub up_at: Option<jiff::Timestamp>,
    /// Why, in words.
    pub cause: String,
}

/// Something that happened within an incident.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Milestone {
    /// What kind of thing.
    pub kind: MilestoneKind,
    /// Not before this.
    pub earliest: jiff::Timestamp,
    /// Not after this; equal where the moment is exact.
    pub latest: jiff::Timestamp,
    /// What, in words.
    pub what: String,
    /// Who says so.
    pub evidence: String,
}

/// Kinds of milestones, in the order in which a plain restart passes them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MilestoneKind {
    /// The local speaker ended.
    SpeakerEnded,
    /// A session went down.
    SessionDown,
    /// Its cause was settled.
    Cause,
    /// Graceful restart keeps routes as stale.
    RestartBegan,
    /// A link of this node went down or came up, or a neighbour stopped or began to answer on it.
    Link,
    /// The first route was gone.
    FirstRouteGone,
    /// The last route was gone.
    LastRouteGone,
    /// The first evidence that a target was unreachable.
    FirstLoss,
    /// The last such evidence.
    LastLoss,
    /// A new local speaker was seen.
    SpeakerSeen,
    /// A session was Established again.
    SessionUp,
    /// The peer's End-of-RIB came, or its graceful restart ended otherwise.
    RestartEnded,
    /// The first route was back.
    FirstRouteBack,
    /// The last route was back.
    LastRouteBack,
    /// Targets answered again.
    ReachableAgain,
    /// Anything else that bears on it.
    Remark,
}

/// Prefixes that were lost.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LostPrefixes {
    /// How many were gone for longer than the gap threshold, each counted once.
    pub lost: u64,
    /// How many were gone for no longer than that.
    #[serde(default)]
    pub brief: u64,
    /// How many of them are not back.
    pub still_gone: u64,
    /// By whose routes they were, those gone briefly included: `bird`, `felix`, `other`.
    pub by_owner: BTreeMap<String, u64>,
    /// By who removed them, likewise.
    pub deleted_by: BTreeMap<String, u64>,
    /// By the node whose block they are or lie in, where the cluster's API told.
    #[serde(default)]
    pub by_node: BTreeMap<String, u64>,
    /// The first of them, one by one.
    pub listed: Vec<LostPrefix>,
}

/// One lost prefix.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LostPrefix {
    /// In CIDR form.
    pub prefix: String,
    /// The node whose block it is or lies in.
    #[serde(default)]
    pub node: Option<String>,
    /// Peers that had announced it.
    pub peers: Vec<String>,
    /// What became of it, in words: absent, unreachable, blackhole …
    pub how: String,
    /// Who removed it, as far as somebody saw.
    pub deleted_by: String,
    /// Seconds until it was back; none while it is not.
    pub gap_seconds: Option<f64>,
}

/// Pods behind what was lost, as the cluster's API listed them when the incident was told.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AffectedPods {
    /// How many.
    pub count: u64,
    /// By what keeps them running, as `NAMESPACE/KIND/NAME`.
    pub workloads: BTreeMap<String, u64>,
    /// The first of them, one by one.
    pub listed: Vec<AffectedPod>,
    /// Why some or all are missing, if they are.
    pub missing: Option<String>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AffectedPod {
    /// As `NAMESPACE/NAME`.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its addresses that were concerned.
    pub addresses: Vec<IpAddr>,
}

/// What probing one address showed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TargetReport {
    /// The address.
    pub target: IpAddr,
    /// The peer behind which it lies.
    pub peer: String,
    /// It answered before, or answered again after: its silence proves something.
    pub seen_alive: bool,
    /// Echoes sent.
    pub sent: u64,
    /// Echoes answered.
    pub answered: u64,
    /// How long it did not answer; none when it always did or was never seen alive.
    pub unreachable_seconds: Option<Span>,
    /// It answers now.
    pub reachable: Option<bool>,
}

/// Packets to one prefix to which one thing happened on this node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DroppedPackets {
    /// In CIDR form.
    pub prefix: String,
    /// What, in words: why they were dropped, or what TCP did.
    pub reason: String,
    /// How many.
    pub packets: u64,
    /// When it happened to the first.
    pub first: jiff::Timestamp,
    /// When to the last.
    pub last: jiff::Timestamp,
}

/// A length of time that lies within bounds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Span {
    /// At least, in seconds.
    pub min: f64,
    /// At most, in seconds; none while it goes on.
    pub max: Option<f64>,
}

/// How good the evidence of an incident is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct EvidenceState {
    /// Nothing was lost or missing while it was open.
    pub complete: bool,
    /// Events lost meanwhile, by stage.
    pub lost: BTreeMap<String, u64>,
    /// What could not be seen at all, in words.
    pub missing: Vec<String>,
}

/// Whether one kind of traffic was affected.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ImpactRow {
    /// Which traffic, in words.
    pub traffic: String,
    /// Whether it was.
    pub affected: Affected,
    /// Why that is said.
    pub reason: String,
}

/// Whether traffic was affected.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Affected {
    /// It was.
    Yes,
    /// It was not.
    No,
    /// It must have been, by what routes show.
    Inferred,
    /// It could not be seen from this node.
    Unknown,
}

/// A time in which the agent did not run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Absence {
    /// From.
    pub from: jiff::Timestamp,
    /// To.
    pub to: jiff::Timestamp,
}

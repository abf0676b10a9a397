//! `kubectl bgp-observer`: the whole cluster from one prompt.
//!
//! It is the same program under the name by which kubectl finds its plugins. It asks every agent by
//! `kubectl exec`, with the rights of whoever runs it, and joins what they say. An agent that does not
//! answer is named, never left out in silence.

mod agents;
mod group;
mod print;

use std::{ffi::OsStr, path::Path};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use observer_core::{
    incident::Incident,
    peer::PeerView,
    safety::{Safe, Safety},
};
use serde::Deserialize;

use crate::{
    cli::{Answer, BadUsage, Format},
    show::{safe, status},
    terminal,
};
use agents::{Agent, Cluster, Said};

/// What kubectl looks for in `$PATH` when it is told `kubectl bgp-observer`: a dash in a plugin's name
/// is an underscore in its file's.
const NAME: &str = "kubectl-bgp_observer";

/// Every node's observer at once: which BGP session fell, why, and what it cost.
#[derive(Debug, Parser)]
#[command(name = "kubectl bgp-observer", version, about, after_help = EXIT_CODES)]
struct Plugin {
    #[command(flatten)]
    cluster: Cluster,

    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 bad usage, 3 the answer is no, 4 the answer \
                          is unknown: an agent did not answer.\nAll times are UTC.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the peers of all nodes
    Status(StatusArgs),
    /// Show the incidents, one line for all nodes that witnessed the same
    Incidents(IncidentsArgs),
    /// Tell one incident by all its witnesses, in one timeline
    Incident(IncidentArgs),
    /// Say whether the next node's BGP daemon may be restarted now: exits 0 if every node says so, 3 if
    /// one says no, 4 if one does not know or does not answer
    SafeToRestart(SafeArgs),
}

/// Flags of `status`.
#[derive(Args, Debug)]
struct StatusArgs {
    /// Only peers that are down
    #[arg(long)]
    down: bool,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Flags of `incidents`.
#[derive(Args, Debug)]
struct IncidentsArgs {
    /// Only those that were opened in this last time, like 1h or 7d
    #[arg(long, value_name = "SPAN")]
    since: Option<String>,
    /// Only those that are not over
    #[arg(long)]
    open: bool,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Flags of `incident`.
#[derive(Args, Debug)]
struct IncidentArgs {
    /// The id of any witness's record, or `last`
    #[arg(value_name = "ID")]
    id: String,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Flags of `safe-to-restart`.
#[derive(Args, Debug)]
struct SafeArgs {
    /// This peer (address or node's name) may be down; may be given again
    #[arg(long, value_name = "PEER")]
    accept_missing: Vec<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Deserialize)]
struct Incidents {
    /// Absent in an older agent's answer.
    #[serde(default)]
    now: Option<jiff::Timestamp>,
    incidents: Vec<Incident>,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Safety>,
}

/// Whether the process was started as kubectl's plugin, by its first argument.
pub fn is_plugin(started_as: Option<&OsStr>) -> bool {
    started_as
        .and_then(|path| Path::new(path).file_name())
        .is_some_and(|name| name == NAME)
}

/// Runs the command that the plugin was started with.
pub fn run() -> Result<Answer> {
    let plugin = Plugin::parse();
    let agents = plugin.cluster.agents()?;
    match &plugin.command {
        Command::Status(args) => all_peers(&plugin.cluster, &agents, args),
        Command::Incidents(args) => all_incidents(&plugin.cluster, &agents, args),
        Command::Incident(args) => one_incident(&plugin.cluster, &agents, args),
        Command::SafeToRestart(args) => is_safe(&plugin.cluster, &agents, args),
    }
}

fn all_peers(cluster: &Cluster, agents: &[Agent], args: &StatusArgs) -> Result<Answer> {
    let mut words = vec!["status", "-o", "json"];
    words.extend(args.down.then_some("--down"));
    let said = cluster.ask::<Peers>(agents, &words);
    let mut peers: Vec<PeerView> = said
        .told()
        .flat_map(|(_, told)| told.peers.clone())
        .collect();
    peers.sort_by(|one, other| (&one.node, &one.peer).cmp(&(&other.node, &other.peer)));
    let text = match args.output {
        Format::Json => {
            terminal::json(&serde_json::json!({ "peers": peers, "unanswered": said.silent() }))?
        }
        Format::Table if peers.is_empty() && args.down => "No known peer is down.\n".to_owned(),
        Format::Table if peers.is_empty() => "No BGP peer is known.\n".to_owned(),
        Format::Table => status::table(&peers, false, jiff::Timestamp::now()),
    };
    said.end(&text)
}

fn all_incidents(cluster: &Cluster, agents: &[Agent], args: &IncidentsArgs) -> Result<Answer> {
    let mut words = vec!["incidents", "-o", "json"];
    if let Some(since) = &args.since {
        words.extend(["--since", since.as_str()]);
    }
    words.extend(args.open.then_some("--open"));
    let said = cluster.ask::<Incidents>(agents, &words);
    let groups = groups(&said);
    let text = match args.output {
        Format::Json => {
            terminal::json(&serde_json::json!({ "groups": groups, "unanswered": said.silent() }))?
        }
        Format::Table if groups.is_empty() => "No incident.\n".to_owned(),
        Format::Table => print::lines(&groups),
    };
    said.end(&text)
}

fn one_incident(cluster: &Cluster, agents: &[Agent], args: &IncidentArgs) -> Result<Answer> {
    let said = cluster.ask::<Incidents>(agents, &["incidents", "-o", "json"]);
    let groups = groups(&said);
    let group = match args.id.as_str() {
        "last" => groups.first(),
        id => groups.iter().find(|group| group.has(id)),
    };
    let Some(group) = group else {
        said.complain();
        bail!(BadUsage(format!(
            "no agent that answered has an incident `{}`: `kubectl bgp-observer incidents` lists them",
            args.id
        )));
    };
    let text = match args.output {
        Format::Json => {
            terminal::json(&serde_json::json!({ "group": group, "unanswered": said.silent() }))?
        }
        Format::Table => {
            let clocks = said.told_when().filter_map(|(agent, when, told)| {
                Some((agent.node.as_str(), when.clock(told.now?)))
            });
            print::story(group, &clocks.collect::<Vec<_>>())
        }
    };
    said.end(&text)
}

/// Newest first.
fn groups(said: &Said<'_, Incidents>) -> Vec<group::Group> {
    let records = said.told().flat_map(|(_, told)| told.incidents.clone());
    group::of(records.collect())
}

fn is_safe(cluster: &Cluster, agents: &[Agent], args: &SafeArgs) -> Result<Answer> {
    let mut words = vec!["safe-to-restart", "-o", "json"];
    for peer in &args.accept_missing {
        words.extend(["--accept-missing", peer.as_str()]);
    }
    let said = cluster.ask::<Nodes>(agents, &words);
    let mut nodes: Vec<Safety> = said
        .told()
        .flat_map(|(_, told)| told.nodes.clone())
        .collect();
    nodes.extend(said.silent().into_iter().map(|silent| Safety {
        node: silent.node,
        answer: Safe::Unknown,
        blockers: Vec::new(),
        unknown: vec![silent.why],
        unchecked: Vec::new(),
    }));
    nodes.sort_by(|one, other| one.node.cmp(&other.node));
    terminal::print(&safe::text(&nodes, args.output)?)?;
    Ok(safe::answer(&nodes))
}

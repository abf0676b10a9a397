//! The command line: what can be asked, and what the exit code means.
//!
//! 0 done, 1 failed, 2 bad usage or configuration, 3 the answer is no, 4 the answer is unknown.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    check,
    config::{Config, DEFAULT_SOCKET, Settings, Span},
    kubectl, replay, run, show, terminal,
};

/// Passive observer of BGP sessions: which session fell, why, and for how long.
#[derive(Debug, Parser)]
#[command(name = "bgp-observer", version, about, after_help = EXIT_CODES)]
struct Cli {
    /// Unix socket of the agent [default: /run/bgp-observer/api.sock]
    #[arg(long, global = true, env = "BGP_OBSERVER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, \
                          3 the answer is no, 4 the answer is unknown.\nAll times are UTC.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Run(Box<RunArgs>),
    /// Show the peers of the observed nodes
    Status(StatusArgs),
    /// Show one peer in full: both OPENs, timers, messages, prefixes, its last flaps
    Peer(PeerArgs),
    /// Show what changed
    Events(EventsArgs),
    /// Show each loss of a session with its cause and evidence
    Flaps(FlapsArgs),
    /// Show the routes of BIRD and Felix: what is announced against what the kernel has
    Routes(show::routes::RoutesArgs),
    /// Show the way of a packet: route, next hop, neighbour, and whose session it hangs on; exits 3
    /// when it does not arrive
    Path(show::path::PathArgs),
    /// Show the incidents: what fell, what it cost, for how long
    Incidents(IncidentsArgs),
    /// Tell one incident from its beginning
    Incident(IncidentArgs),
    /// Say whether a node's BGP daemon may be restarted now: exits 0 if it is safe, 3 if not, 4 when
    /// that is not known; names what speaks against it
    SafeToRestart(SafeArgs),
    /// Show the changes that follow from a recorded events file or an incident's bundle (exits 3 if
    /// the incident is not as recorded), or the BGP conversations in a capture file (pcap or pcapng,
    /// also gzipped); needs no agent and no root
    Replay(ReplayArgs),
    /// Say which probes and sources can run here, why not, and what is lost without them; exits 3
    /// when something cannot run that nothing stands in for, 1 when nothing can be observed at all
    Check(Box<CheckArgs>),
    /// Manage the known peers
    #[command(subcommand)]
    Peers(PeersCommand),
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Print the configuration that follows from file, environment and flags, and end
    #[arg(long)]
    pub print_config: bool,

    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Flags that configure the agent.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file (TOML); its keys are the names of these flags with _ for -
    #[arg(long, env = "BGP_OBSERVER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Everything that the file can say, too.
    #[command(flatten)]
    pub settings: Settings,
}

impl ConfigArgs {
    /// What follows from defaults, file, environment and flags.
    pub fn resolve(&self) -> Result<Config> {
        let file = match &self.config {
            Some(path) => Settings::from_file(path)?,
            None => Settings::default(),
        };
        Config::from_settings(self.settings.clone().over(file))
    }
}

/// Flags of `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Only peers that are down
    #[arg(long)]
    pub down: bool,
    /// Show it again and again until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Only peers of this observed node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Exit with 3 when a known peer is down, 4 when nobody knows
    #[arg(long)]
    pub exit_code: bool,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: StatusFormat,
}

/// Forms of `status`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum StatusFormat {
    /// A table for people.
    Table,
    /// The same with more columns.
    Wide,
    /// What the API says.
    Json,
}

/// Forms of everything else.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; names equal the API's.
    Json,
}

/// Flags of `events`.
#[derive(Args, Clone, Debug)]
pub struct EventsArgs {
    /// Go on with each new change until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only changes after this number [default: all that the agent remembers]
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["from", "until", "peer"])]
    pub since: Option<u64>,
    /// From the store, earlier runs included: not before this, like 1h (ago) or
    /// 2026-01-31T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "follow")]
    pub from: Option<jiff::Timestamp>,
    /// From the store: not after this
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "follow")]
    pub until: Option<jiff::Timestamp>,
    /// From the store: only of this peer, an address or a node's name
    #[arg(long, value_name = "PEER", conflicts_with = "follow")]
    pub peer: Option<String>,
    /// Form of the output; json is one object per line
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Flags of `peer`.
#[derive(Args, Clone, Debug)]
pub struct PeerArgs {
    /// The peer: its address or its node's name
    #[arg(value_name = "PEER")]
    pub peer: String,
    /// Only as a peer of this observed node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Flags of `flaps`.
#[derive(Args, Clone, Debug)]
pub struct FlapsArgs {
    /// Only this peer: its address or its node's name
    #[arg(value_name = "PEER")]
    pub peer: Option<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Flags of `incidents`.
#[derive(Args, Clone, Debug)]
pub struct IncidentsArgs {
    /// Only those that were opened in this last time, like 1h or 7d
    #[arg(long, value_name = "SPAN")]
    pub since: Option<Span>,
    /// Only of this peer: its address or its node's name
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Only with this verdict
    #[arg(long, value_name = "VERDICT", value_parser = VERDICTS)]
    pub verdict: Option<String>,
    /// Only those that are not over
    #[arg(long)]
    pub open: bool,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

const VERDICTS: [&str; 7] = [
    "graceful",
    "micro_gap",
    "routes_lost",
    "reachability_lost",
    "blackholed",
    "no_impact",
    "decommissioned",
];

/// Flags of `incident`.
#[derive(Args, Clone, Debug)]
pub struct IncidentArgs {
    /// Its id, as `incidents` shows it, or `last`
    #[arg(value_name = "ID")]
    pub id: String,
    /// Write this to it first
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Write all that bears on it to this file, for `replay` elsewhere: the events, the BGP messages
    /// as pcap, the record
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Without the names of an inventory and without notes; addresses stay
    #[arg(long, requires = "bundle")]
    pub redact: bool,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Flags of `safe-to-restart`.
#[derive(Args, Clone, Debug)]
pub struct SafeArgs {
    /// Ask again until it is safe
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this long, like 5m
    #[arg(long, value_name = "SPAN", requires = "wait")]
    pub timeout: Option<Span>,
    /// This peer (address or node's name) may be down; may be given again
    #[arg(long, value_name = "PEER")]
    pub accept_missing: Vec<String>,
    /// Only this observed node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Flags of `replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// Events file as `run --record` writes it, a bundle of `incident --bundle`, or a capture file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Another TCP port that means BGP in a capture file, besides 179; may be given again
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,
    /// Write the events that follow from a capture file to this one, for `replay`
    #[arg(long, value_name = "OUT")]
    pub record: Option<PathBuf>,
    /// Form of the output; json is one change per line of an events file, and one object for a
    /// capture file
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// The configuration that `run` would have.
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// Forget a peer that is gone for good, so that it no longer counts as down
    Forget(ForgetArgs),
}

/// Flags of `peers forget`.
#[derive(Args, Clone, Debug)]
pub struct ForgetArgs {
    /// The peer: its address or its node's name
    #[arg(value_name = "PEER")]
    pub peer: String,
    /// Only as a peer of this observed node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
}

/// What a command that did its work has to say by its exit code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Done, or yes.
    Done,
    /// Nothing could be done at all.
    Failed,
    /// No.
    No,
    /// Nobody knows.
    Unknown,
}

impl Answer {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::No => 3,
            Self::Unknown => 4,
        }
    }
}

/// The caller asked for something that makes no sense: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadUsage(pub String);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let (name, done) = if kubectl::is_plugin(std::env::args_os().next().as_deref()) {
        ("kubectl bgp-observer", kubectl::run())
    } else {
        ("bgp-observer", execute(&mut Cli::parse()))
    };
    match done {
        Ok(answer) => ExitCode::from(answer.code()),
        Err(error) if terminal::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("{name}: {error:#}"));
            let bad_usage = error.chain().any(<dyn std::error::Error>::is::<BadUsage>);
            ExitCode::from(if bad_usage { 2 } else { 1 })
        }
    }
}

fn execute(cli: &mut Cli) -> Result<Answer> {
    let socket = cli.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
    match &mut cli.command {
        Command::Run(args) => {
            args.config.settings.socket.clone_from(&cli.socket);
            run::run(args)
        }
        Command::Check(args) => {
            args.config.settings.socket.clone_from(&cli.socket);
            check::check(args)
        }
        Command::Status(args) => show::status::show(&socket, args),
        Command::Peer(args) => show::peer::show(&socket, args),
        Command::Events(args) => show::events::show(&socket, args),
        Command::Flaps(args) => show::flaps::show(&socket, args),
        Command::Routes(args) => show::routes::show(&socket, args),
        Command::Path(args) => show::path::show(&socket, args),
        Command::Incidents(args) => show::incidents::list(&socket, args),
        Command::Incident(args) => show::incidents::one(&socket, args),
        Command::SafeToRestart(args) => show::safe::show(&socket, args),
        Command::Replay(args) => replay::replay(args),
        Command::Peers(PeersCommand::Forget(args)) => show::forget::forget(&socket, args),
    }
}

/// A moment as people write it: how long ago, or a time with its offset.
pub fn moment(text: &str) -> Result<jiff::Timestamp, String> {
    if let Ok(Span(ago)) = text.parse() {
        return Ok(jiff::Timestamp::now() - ago);
    }
    text.parse().map_err(|_| {
        format!("'{text}' is no time; write it like 1h (ago), 7d or 2026-01-31T10:00:00Z")
    })
}

/// `text` as an address, with or without the `%interface` of a link-local one.
pub fn peer_address(text: &str) -> Option<IpAddr> {
    let bare = text.split_once('%').map_or(text, |(address, _)| address);
    bare.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

//! The agent under test: started over a lab's nodes, asked through its own commands.

use std::{
    env,
    fmt::Write as _,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::Sender,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};
use observer_core::{
    change::ChangeRecord,
    incident::Incident,
    peer::{Flap, PeerView},
};
use serde::Deserialize;

use crate::{
    agents::{Agents, Events},
    http,
    lab::{Lab, Node},
    metrics::Scrape,
    netns,
    process::Process,
    rights::Overlay,
    speaker::{ASN, Relation},
    wait,
};

/// The program: `$BGP_OBSERVER_BIN`, else the one built beside the running program.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os("BGP_OBSERVER_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "BGP_OBSERVER_BIN={}: no such file",
            path.display()
        );
        return Ok(path);
    }
    let own = env::current_exe().context("cannot tell where this program is")?;
    let folders = own.ancestors().skip(1).take(3);
    folders
        .flat_map(|folder| {
            [
                folder.to_owned(),
                folder.join("release"),
                folder.join("debug"),
            ]
        })
        .map(|folder| folder.join("bgp-observer"))
        .find(|candidate| candidate.is_file())
        .context("no agent: `cargo build -p observer`, or set BGP_OBSERVER_BIN")
}

/// An address on loopback whose port nobody has at the moment.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Nanoseconds since boot: the agent's clock.
pub fn boot_nanos() -> Result<i128> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()))
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Deserialize)]
struct Flaps {
    flaps: Vec<Flap>,
}

/// How to start it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Write every event to this file.
    pub record: Option<PathBuf>,
    /// Tell it who ought to be there.
    pub inventory: bool,
    /// Read Kubernetes' API as this kubeconfig says.
    pub kubeconfig: Option<String>,
    /// Serve metrics here; else on a free port.
    pub metrics: Option<SocketAddr>,
    /// Observe only this node, with a socket and a state directory for it alone: a lab with an agent per
    /// node, as a cluster has.
    pub node: Option<String>,
    /// Run in that node's own namespace, with no more rights than the pods of this overlay have.
    pub overlay: Option<Overlay>,
    /// Further arguments.
    pub more: Vec<String>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    program: PathBuf,
    socket: PathBuf,
    metrics: SocketAddr,
    /// Where that address is, if not here.
    namespace: Option<String>,
}

impl Agent {
    /// Starts one over all nodes of `lab` and waits until it is ready. Agents of one lab share the
    /// state directory, so the next remembers what the last knew.
    pub fn start(lab: &Lab, options: &Options) -> Result<Self> {
        let program = program()?;
        let mut folder = lab.estate().folder().to_owned();
        let mut name = "agent".to_owned();
        if let Some(node) = &options.node {
            name = format!("agent-of-{node}");
            folder = folder.join(&name);
            std::fs::create_dir_all(&folder)?;
        }
        let socket = folder.join("api.sock");
        let is_observed =
            |node: &&Node| options.node.as_ref().is_none_or(|only| node.name == *only);
        let own = match options.overlay {
            None => None,
            Some(overlay) => {
                let named = lab.nodes().iter().find(is_observed);
                let named = named.filter(|_| options.node.is_some());
                Some((
                    overlay,
                    named.context("the pods of an overlay are one node's")?,
                ))
            }
        };
        let namespace = own.map(|(_, node)| node.namespace.clone());
        for attempt in 1.. {
            // Free now; somebody else may take it before the agent does.
            let metrics = match options.metrics {
                Some(address) => address,
                None if namespace.is_some() => SocketAddr::from((Ipv4Addr::LOCALHOST, 9742)),
                None => free_address()?,
            };
            let mut command = if let Some((overlay, node)) = own {
                let mut command = overlay.start(&program)?;
                command.args(["run", "--node", &node.name]);
                command
            } else {
                let mut command = Command::new(&program);
                command.arg("run");
                for node in lab.nodes().iter().filter(is_observed) {
                    command
                        .arg("--netns")
                        .arg(format!("{}={}", node.namespace, node.name));
                }
                command
            };
            command
                .arg("--state-dir")
                .arg(folder.join("state"))
                .arg("--socket")
                .arg(&socket)
                .args([
                    "--metrics-listen",
                    &metrics.to_string(),
                    "--api-listen",
                    "off",
                ]);
            if let Some(record) = &options.record {
                command.arg("--record").arg(record);
            }
            if options.inventory {
                let path = folder.join("inventory.toml");
                std::fs::write(&path, inventory(lab))?;
                command.arg("--inventory").arg(path);
            }
            if let Some(kubeconfig) = &options.kubeconfig {
                let path = folder.join("kubeconfig");
                std::fs::write(&path, kubeconfig)?;
                command.env("KUBECONFIG", path);
                command.args(["--kubernetes", "on"]);
            }
            command.args(&options.more);
            let inside = namespace.as_deref();
            let process = Process::start(lab.estate(), &name, inside, &mut command, None)?;
            let agent = Self {
                process,
                program: program.clone(),
                socket: socket.clone(),
                metrics,
                namespace: namespace.clone(),
            };
            match agent.await_ready() {
                Ok(()) => return Ok(agent),
                Err(error) if attempt < 3 && format!("{error:#}").contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("the agent found no free port")
    }

    fn await_ready(&self) -> Result<()> {
        let limit = Duration::from_secs(20);
        wait::until("agent ready", limit, Duration::from_millis(10), || {
            // An agent that ended will not become ready: said at once, not at the deadline.
            if let Err(ended) = self.process.must_run() {
                return Ok(Err(ended));
            }
            self.get("/readyz").map(|_| Ok(()))
        })?
    }

    /// What its metrics listener answers to `path`.
    pub fn get(&self, path: &str) -> Result<String> {
        match &self.namespace {
            None => http::get(self.metrics, path),
            Some(name) => netns::inside(name, || http::get(self.metrics, path))?,
        }
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it serves metrics.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Its unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its incidents, oldest first.
    pub fn incidents(&self) -> Result<Vec<Incident>> {
        #[derive(Deserialize)]
        struct Incidents {
            incidents: Vec<Incident>,
        }
        let text = self.ask(&["incidents", "-o", "json"])?;
        let mut incidents = serde_json::from_str::<Incidents>(&text)?.incidents;
        incidents.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(incidents)
    }

    /// Waits until there are incidents and all of them are over; gives them.
    pub fn await_incidents_over(&self, limit: Duration) -> Result<Vec<Incident>> {
        wait::until("incidents over", limit, Duration::from_millis(250), || {
            let incidents = self.incidents()?;
            let open = incidents
                .iter()
                .filter(|incident| incident.closed_at.is_none())
                .count();
            ensure!(
                open == 0 && !incidents.is_empty(),
                "{open} of {} are open",
                incidents.len()
            );
            Ok(incidents)
        })
    }

    /// A command of it that talks to this agent.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg("--socket")
            .arg(&self.socket)
            .env_remove("BGP_OBSERVER_SOCKET");
        command
    }

    /// What a command of it prints; fails when it fails.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            bail!(
                "bgp-observer {}: {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `status -o json`.
    pub fn peers(&self) -> Result<Vec<PeerView>> {
        let answer: Peers = serde_json::from_str(&self.ask(&["status", "-o", "json"])?)?;
        Ok(answer.peers)
    }

    /// `flaps -o json`.
    pub fn flaps(&self) -> Result<Vec<Flap>> {
        let answer: Flaps = serde_json::from_str(&self.ask(&["flaps", "-o", "json"])?)?;
        Ok(answer.flaps)
    }

    /// Scrapes it.
    pub fn scrape(&self) -> Result<Scrape> {
        self.get("/metrics")?.parse()
    }

    /// `events --follow -o json`: what it remembers, then what happens.
    pub fn follow(&self, lab: &Lab) -> Result<Events> {
        Agents::one(self).follow(lab)
    }

    /// The same into `sender`, as long as the process that it gives runs.
    pub(crate) fn follow_into(&self, lab: &Lab, sender: Sender<Result<Told>>) -> Result<Process> {
        let mut command = self.command(&["events", "--follow", "-o", "json"]);
        let process = Process::start(
            lab.estate(),
            "events",
            None,
            &mut command,
            Some(Stdio::piped()),
        )?;
        let stdout = process.take_stdout().context("no output of events")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let told = line.map_err(Into::into).and_then(|line| {
                    let record = serde_json::from_str(&line)
                        .with_context(|| format!("not a change: {line}"))?;
                    Ok(Told {
                        at: boot_nanos()?,
                        record,
                    })
                });
                if sender.send(told).is_err() {
                    break;
                }
            }
        });
        Ok(process)
    }

    /// Waits until it shows `sessions` peers and every one Established.
    pub fn await_all_up(&self, sessions: usize, limit: Duration) -> Result<Vec<PeerView>> {
        wait::soon("agent shows every session Established", limit, || {
            let peers = self.peers()?;
            ensure!(
                peers.len() == sessions,
                "{} peers of {sessions}",
                peers.len()
            );
            match peers.iter().find(|peer| !peer.up) {
                Some(peer) => bail!("{} → {}: {:?}", peer.node, peer.peer, peer.state),
                None => Ok(peers),
            }
        })
    }

    /// Ends it as an operator would.
    pub fn stop(self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(Duration::from_secs(10))?;
        ensure!(
            status.success(),
            "agent: {status}: {}",
            self.process.last_words()
        );
        Ok(())
    }

    /// Ends it as the OOM killer would.
    pub fn kill(self) {
        self.process.kill();
    }

    /// Bytes of memory that it has resident (`VmRSS`).
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(path)?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }
}

/// A change, and when it reached us.
#[derive(Clone, Debug)]
pub struct Told {
    /// Nanoseconds since boot.
    pub at: i128,
    /// The change.
    pub record: ChangeRecord,
}

fn inventory(lab: &Lab) -> String {
    let mut text = String::new();
    for node in lab.nodes() {
        for peer in lab.neighbors(node) {
            let named = lab.nodes().iter();
            let named = named.filter(|other| other.address == peer.address);
            let kind = match peer.relation {
                Relation::Mesh => "node-to-node mesh",
                Relation::Client | Relation::Reflector => "node specific",
            };
            for Node { name, .. } in named {
                let _ = writeln!(
                    text,
                    "[[peer]]\nnode = \"{}\"\naddress = \"{}\"\nname = \"{name}\"\n\
                     type = \"{kind}\"\nasn = {ASN}",
                    node.name, peer.address
                );
            }
        }
    }
    text
}

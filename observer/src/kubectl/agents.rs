//! The agents of a cluster: which there are, and asking all of them at once.

use std::{
    ffi::OsString,
    io::Read,
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cli::Answer,
    config::Span,
    terminal::{self, plain},
};

/// Agents asked at the same time: each is a `kubectl` of its own, with a connection through the API
/// server.
const AT_ONCE: usize = 16;
/// How often it is looked whether one has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// The container of the manifests.
const CONTAINER: &str = "agent";

/// How the cluster is reached. What kubectl has flags for is handed on to it.
#[derive(Args, Debug)]
pub struct Cluster {
    /// As for kubectl
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// As for kubectl
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Where the agents are
    #[arg(
        short,
        long,
        global = true,
        value_name = "NAMESPACE",
        default_value = "bgp-observer"
    )]
    namespace: String,
    /// Which pods are agents
    #[arg(
        short = 'l',
        long,
        global = true,
        value_name = "LABELS",
        default_value = "app.kubernetes.io/name=bgp-observer"
    )]
    selector: String,
    /// How long an agent has for its answer
    #[arg(long, global = true, value_name = "SPAN", default_value = "20s")]
    timeout: Span,
    /// The program that reaches the cluster
    #[arg(
        long,
        global = true,
        env = "KUBECTL",
        value_name = "PROGRAM",
        default_value = "kubectl"
    )]
    kubectl: OsString,
}

/// One agent's pod.
#[derive(Debug)]
pub struct Agent {
    pub node: String,
    pod: String,
    /// Its pod's phase; only one that is `Running` can be asked.
    phase: String,
}

/// What `kubectl get` prints: of kind List, not PodList as the API server says.
#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

/// An agent that did not answer.
#[derive(Debug, Serialize)]
pub struct Silent {
    pub node: String,
    pub pod: String,
    pub why: String,
}

/// When a question was asked and its answer was there, by this machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct When {
    asked: jiff::Timestamp,
    answered: jiff::Timestamp,
}

/// What a node's clock shows beyond this machine's, seconds, and how far off that may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    pub ahead: f64,
    pub give_or_take: f64,
}

impl When {
    /// Of a node whose clock showed `now` at some moment between question and answer.
    pub fn clock(self, now: jiff::Timestamp) -> Clock {
        let least = now.duration_since(self.answered).as_secs_f64();
        let most = now.duration_since(self.asked).as_secs_f64();
        Clock {
            ahead: f64::midpoint(least, most),
            give_or_take: (most - least) / 2.0,
        }
    }
}

type Told<T> = (When, Result<T, String>);

/// What all agents said, or why they did not, in the order of their nodes.
pub struct Said<'a, T>(Vec<(&'a Agent, Told<T>)>);

impl<T> Said<'_, T> {
    /// Answers.
    pub fn told(&self) -> impl Iterator<Item = (&Agent, &T)> {
        self.told_when().map(|(agent, _, told)| (agent, told))
    }

    /// The same, with their moments.
    pub fn told_when(&self) -> impl Iterator<Item = (&Agent, When, &T)> {
        self.0
            .iter()
            .filter_map(|(agent, (when, told))| Some((*agent, *when, told.as_ref().ok()?)))
    }

    /// Who did not answer.
    pub fn silent(&self) -> Vec<Silent> {
        self.0
            .iter()
            .filter_map(|(agent, (_, told))| {
                Some(Silent {
                    node: agent.node.clone(),
                    pod: agent.pod.clone(),
                    why: told.as_ref().err()?.clone(),
                })
            })
            .collect()
    }

    /// Names those that did not answer, on standard error. Says whether there are any.
    pub fn complain(&self) -> bool {
        let silent = self.silent();
        for Silent { node, pod, why } in &silent {
            terminal::complain(&format!("no answer from {node} (pod {pod}): {why}"));
        }
        !silent.is_empty()
    }

    /// Prints `text` and who is missing from it.
    pub fn end(&self, text: &str) -> Result<Answer> {
        terminal::print(text)?;
        Ok(if self.complain() {
            Answer::Unknown
        } else {
            Answer::Done
        })
    }
}

impl Cluster {
    /// The agents' pods, by node.
    pub fn agents(&self) -> Result<Vec<Agent>> {
        let mut list = self.command("get");
        list.args(["pods", "-o", "json", "-l", &self.selector]);
        let told = run(list, self.timeout.0).and_then(|told| told.parse::<Pods>());
        let pods = told
            .map_err(anyhow::Error::msg)
            .context("cannot list the agents' pods")?;
        let mut agents: Vec<Agent> = pods.items.into_iter().filter_map(agent).collect();
        if agents.is_empty() {
            bail!(
                "namespace {} has no pod with {}: is the DaemonSet installed elsewhere (--namespace, \
                 --selector)?",
                self.namespace,
                self.selector
            );
        }
        agents.sort_by(|one, other| (&one.node, &one.pod).cmp(&(&other.node, &other.pod)));
        Ok(agents)
    }

    /// Runs the agents' own command line with `words` in each of their pods.
    pub fn ask<'a, T>(&self, agents: &'a [Agent], words: &[&str]) -> Said<'a, T>
    where
        T: DeserializeOwned + Send,
    {
        let waiting = Mutex::new(agents.iter().enumerate());
        let answers = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(agents.len()) {
                scope.spawn(|| {
                    loop {
                        // Not in the loop's own head, which would keep the lock while the agent is asked.
                        let next = locked(&waiting).next();
                        let Some((number, agent)) = next else {
                            return;
                        };
                        let told = self.ask_one(agent, words);
                        locked(&answers).push((number, (agent, told)));
                    }
                });
            }
        });
        let mut answers = std::mem::take(&mut *locked(&answers));
        answers.sort_by_key(|(number, _)| *number);
        Said(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    fn ask_one<T: DeserializeOwned>(&self, agent: &Agent, words: &[&str]) -> Told<T> {
        let asked = jiff::Timestamp::now();
        let told = if agent.phase == "Running" {
            let mut exec = self.command("exec");
            exec.args([agent.pod.as_str(), "-c", CONTAINER, "--", "bgp-observer"]);
            exec.args(words);
            run(exec, self.timeout.0)
        } else {
            Err(format!("its pod is {}", plain(&agent.phase)))
        };
        let answered = jiff::Timestamp::now();
        // The exit code may be the answer's: what counts is whether there is one.
        let told = told.and_then(|told| told.parse());
        (When { asked, answered }, told)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg(verb).args(["--namespace", &self.namespace]);
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            command.args(["--kubeconfig", kubeconfig]);
        }
        command
    }
}

fn agent(pod: Pod) -> Option<Agent> {
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    // A pod that ended is a past one of a DaemonSet, which makes another in its place.
    let phase = status.phase.unwrap_or_else(|| "Unknown".to_owned());
    (phase != "Succeeded").then(|| Agent {
        node: spec.node_name.unwrap_or_else(|| "no node yet".to_owned()),
        pod: pod.metadata.name.unwrap_or_default(),
        phase,
    })
}

/// What a program left behind.
struct Output {
    out: Vec<u8>,
    error: Vec<u8>,
}

impl Output {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        if self.out.is_empty() {
            return Err(self.complaint());
        }
        serde_json::from_slice(&self.out).map_err(|error| {
            format!("its answer makes no sense, is it of another version? {error}")
        })
    }

    /// The last thing that was said on standard error.
    fn complaint(&self) -> String {
        let error = String::from_utf8_lossy(&self.error);
        let mut lines = error.lines().map(str::trim).filter(|line| {
            // kubectl's word for the exit code of what it ran, which said why before.
            !line.is_empty() && !line.starts_with("command terminated with exit code")
        });
        lines.next_back().unwrap_or("it said nothing").to_owned()
    }
}

/// Runs to its end, or ends it.
fn run(mut command: Command, limit: Duration) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let (out, error) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let out = scope.spawn(|| all(out));
        let error = scope.spawn(|| all(error));
        let ended = await_end(&mut child, limit);
        let output = Output {
            out: out.join().unwrap_or_default(),
            error: error.join().unwrap_or_default(),
        };
        ended.map(|()| output)
    })
}

fn await_end(child: &mut Child, limit: Duration) -> Result<(), String> {
    let until = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return Ok(()),
            Ok(None) if Instant::now() < until => thread::sleep(PAUSE),
            Ok(None) => {
                // One that ended meanwhile needs no killing.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "no answer within {}",
                    terminal::span(limit.as_secs_f64())
                ));
            }
            Err(error) => return Err(format!("cannot wait for it: {error}")),
        }
    }
}

fn all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is judged like any other answer.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// A lock that a thread which panicked held is as good as any: each push is whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! `kubectl bgp-observer` over ten nodes, each with an agent of its own. No kubelet runs here: a script
//! stands in for kubectl, and what `exec` runs in a pod it runs beside the pod's agent.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use observer_tests::{
    agent::{Agent, Options, program},
    gate,
    lab::{Lab, Plan},
    story::CONVERGES,
    wait,
};
use serde_json::{Value, json};

const NODES: u8 = 10;
const SOON: Duration = Duration::from_mins(1);
/// A node whose pod does not run.
const PENDING: &str = "n11";
/// The node whose agent is killed.
const DEAD: &str = "n4";
/// The node whose BIRD is restarted.
const RESTARTED: &str = "n2";

/// The plugin as kubectl would start it, with the stand-in for kubectl.
struct Plugin {
    program: PathBuf,
    kubectl: PathBuf,
}

struct Answer {
    code: Option<i32>,
    out: String,
    error: String,
}

impl Plugin {
    fn install(folder: &Path, lab: &Lab) -> Result<Self> {
        let plugin = Self {
            program: folder.join("kubectl-bgp_observer"),
            kubectl: folder.join("kubectl"),
        };
        symlink(program()?, &plugin.program)?;
        let pod = |node: &str, phase: &str| {
            json!({
                "metadata": { "name": format!("bgp-observer-{node}") },
                "spec": { "nodeName": node, "containers": [] },
                "status": { "phase": phase },
            })
        };
        let mut pods: Vec<Value> = { lab.nodes().iter() }
            .map(|node| pod(&node.name, "Running"))
            .collect();
        pods.push(pod(PENDING, "Pending"));
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods });
        fs::write(folder.join("pods.json"), list.to_string())?;
        let script = format!(
            "#!/bin/sh\n\
             verb=$1; shift 3\n\
             case $verb in\n\
             get) exec cat {folder}/pods.json ;;\n\
             exec) node=${{1#bgp-observer-}}; shift 5\n\
             exec {program} \"$@\" --socket {folder}/agent-of-$node/api.sock ;;\n\
             esac\n",
            folder = folder.display(),
            program = program()?.display(),
        );
        fs::write(&plugin.kubectl, script)?;
        fs::set_permissions(&plugin.kubectl, fs::Permissions::from_mode(0o755))?;
        Ok(plugin)
    }

    fn ask(&self, words: &[&str]) -> Result<Answer> {
        let mut command = Command::new(&self.program);
        command.env("KUBECTL", &self.kubectl).args(words);
        let output = command.output().context("cannot start the plugin")?;
        Ok(Answer {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            error: String::from_utf8(output.stderr)?,
        })
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let answer = self.ask(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&answer.out)
            .with_context(|| format!("{words:?}: {} {}", answer.out, answer.error))
    }
}

fn len(of: &Value) -> usize {
    of.as_array().map_or(0, Vec::len)
}

fn names(of: &Value) -> Vec<&str> {
    let named = of.as_array().into_iter().flatten();
    named.filter_map(|one| one["node"].as_str()).collect()
}

#[test]
fn one_restart_is_one_line_with_all_its_witnesses_and_a_dead_agent_is_named() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::up(Plan::of(NODES))?;
    let plugin = Plugin::install(lab.estate().folder(), &lab)?;
    let mut agents = Vec::new();
    for node in lab.nodes() {
        let options = Options {
            node: Some(node.name.clone()),
            ..Options::default()
        };
        agents.push((node.name.as_str(), Agent::start(&lab, &options)?));
    }
    let sessions = lab.sessions();
    wait::soon("all peers of all agents are up", SOON, || {
        let told = plugin.json(&["status"])?;
        let up = { told["peers"].as_array().into_iter().flatten() }
            .filter(|peer| peer["up"] == json!(true));
        let up = up.count();
        ensure!(up == sessions, "{up} of {sessions}");
        ensure!(names(&told["unanswered"]) == [PENDING], "{told}");
        anyhow::Ok(())
    })?;

    let (_, dead) = agents.remove(3);
    dead.process().signal(Signal::SIGKILL)?;
    let restarted = lab.node(2)?;
    ensure!(restarted.name == RESTARTED, "{restarted:?}");
    lab.end(restarted, Signal::SIGTERM)?;
    wait::soon("everybody who lives has a record of it", SOON, || {
        let told = plugin.json(&["incidents", "--open"])?;
        ensure!(len(&told["groups"]) == 1, "{told}");
        ensure!(len(&told["groups"][0]["witnesses"]) == 8, "{told}");
        anyhow::Ok(())
    })?;
    lab.start(restarted)?;
    lab.await_established(CONVERGES)?;
    wait::soon("it is over for everybody", SOON, || {
        let told = plugin.json(&["incidents", "--open"])?;
        ensure!(len(&told["groups"]) == 0, "{told}");
        anyhow::Ok(())
    })?;

    let told = plugin.json(&["incidents"])?;
    ensure!(len(&told["groups"]) == 1, "{told}");
    let group = &told["groups"][0];
    ensure!(group["speaker"]["node"] == json!(RESTARTED), "{group}");
    ensure!(
        names(&group["witnesses"]).len() == 8 && !names(&group["witnesses"]).contains(&DEAD),
        "{group}"
    );
    ensure!(names(&told["unanswered"]) == [PENDING, DEAD], "{told}");

    let lines = plugin.ask(&["incidents"])?;
    ensure!(lines.code == Some(4), "{:?}: {}", lines.code, lines.error);
    ensure!(lines.out.contains("9 nodes"), "{}", lines.out);
    ensure!(
        lines
            .error
            .contains("no answer from n4 (pod bgp-observer-n4): ")
            && lines
                .error
                .contains("no answer from n11 (pod bgp-observer-n11): its pod is Pending"),
        "{}",
        lines.error
    );
    let story = plugin.ask(&["incident", "last"])?.out;
    for node in ["n1", RESTARTED, "n10"] {
        let of_node = story
            .lines()
            .filter(|line| line.contains(&format!("| {node} ")));
        ensure!(of_node.count() >= 3, "too little of {node}: {story}");
    }
    ensure!(!story.contains("this node, "), "{story}");

    let safe = plugin.ask(&["safe-to-restart"])?;
    ensure!(
        safe.code == Some(4) && safe.out.contains("n4: unknown"),
        "{:?} {}",
        safe.code,
        safe.out
    );
    Ok(())
}

#[test]
fn what_cannot_be_asked_is_an_error_that_names_the_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let plugin = Plugin {
        program: folder.path().join("kubectl-bgp_observer"),
        kubectl: folder.path().join("kubectl"),
    };
    symlink(program()?, &plugin.program)?;
    let none = plugin.ask(&["status"])?;
    ensure!(
        none.code == Some(1) && none.error.contains("cannot run"),
        "{}",
        none.error
    );

    let says = |script: &str| -> Result<Answer> {
        fs::write(&plugin.kubectl, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&plugin.kubectl, fs::Permissions::from_mode(0o755))?;
        plugin.ask(&["--timeout", "1s", "status"])
    };
    let empty = says("echo '{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[]}'")?;
    ensure!(
        empty.code == Some(1) && empty.error.contains("--namespace, --selector"),
        "{}",
        empty.error
    );
    let forbidden = says("echo 'Error from server (Forbidden): pods is forbidden' >&2; exit 1")?;
    ensure!(
        forbidden.code == Some(1) && forbidden.error.contains("pods is forbidden"),
        "{}",
        forbidden.error
    );
    let hangs = says("exec sleep 600")?;
    ensure!(
        hangs.code == Some(1) && hangs.error.contains("no answer within 1.0 s"),
        "{}",
        hangs.error
    );
    Ok(())
}

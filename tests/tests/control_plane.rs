//! A real control plane of Kubernetes: what `deploy/` applies to it, what the agent's account may do and
//! does, and an inventory of a thousand nodes that follows it.

#[path = "control_plane/cluster.rs"]
mod cluster;
#[path = "control_plane/events.rs"]
mod events;
#[path = "control_plane/servers.rs"]
mod servers;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::Client;
use nix::sys::signal::Signal;
use observer_core::event::cluster::ClusterKind;
use observer_tests::{
    agent::{Agent, Options},
    gate,
    lab::{Lab, Plan},
    process,
    story::CONVERGES,
    wait,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::servers::{Servers, verbs};

const NODES: usize = 1_000;
const PODS_PER_NODE: u8 = 20;
const ACCOUNT: &str = "system:serviceaccount:bgp-observer:bgp-observer";
/// How long all this machine's processes together may take for something.
const PATIENCE: Duration = Duration::from_mins(3);

#[test]
#[ignore = "minutes, and a control plane that `cargo xtask setup --long` builds"]
fn manifests_rights_and_inventory_hold_on_a_real_control_plane() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    servers::must_be_there()?;
    let mut servers = Servers::start()?;
    let told = tell(&mut servers);
    told.with_context(|| servers.last_words())
}

/// The whole story, from an empty cluster on.
fn tell(servers: &mut Servers) -> Result<()> {
    let runtime = Runtime::new()?;
    let client = runtime.block_on(async {
        let client = servers.client().await?;
        cluster::define_foreign_kinds(&client).await?;
        anyhow::Ok(client)
    })?;
    let lab = Lab::build(Plan::default())?;
    runtime.block_on(add_lab(&client, &lab))?;
    manifests_apply(servers, &lab)?;
    rights_are_what_is_written(servers)?;
    servers.kill_controllers();
    let others: Vec<String> = (lab.nodes().len()..NODES)
        .map(|number| format!("worker-{number}"))
        .collect();
    let begun = Instant::now();
    runtime.block_on(async {
        cluster::fill_with_nodes(&client, lab.nodes().len(), NODES).await?;
        cluster::fill_with_pods(&client, &lab, &others, PODS_PER_NODE).await
    })?;
    let pods = NODES * usize::from(PODS_PER_NODE);
    say(&format!(
        "{NODES} nodes and {pods} pods made in {:.0?}",
        begun.elapsed()
    ))?;
    inventory_follows(servers, &runtime, &client, &lab, &others)
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "control plane: {line}")?)
}

async fn add_lab(client: &Client, lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        cluster::add_node(client, &node.name, &node.address.to_string()).await?;
        cluster::add_block(client, &node.name, &node.block).await?;
    }
    Ok(())
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Everything in `deploy/` is valid to the API server, and of what is installed the DaemonSet
/// controller makes a pod for each node.
fn manifests_apply(servers: &Servers, lab: &Lab) -> Result<()> {
    let installed = fs::read_to_string(deploy().join("install.yaml"))?;
    let installed = servers.file("install.yaml", &known_to(servers, &installed)?)?;
    // The namespace first: what is tried below lies in it.
    for _ in 0..2 {
        servers.kubectl(&["apply", "--server-side", "-f", &installed])?;
    }
    for overlay in overlays()? {
        let rendered = kustomize(&overlay)?;
        let file = servers.file("overlay.yaml", &known_to(servers, &rendered)?)?;
        let said = servers
            .kubectl(&["apply", "--server-side", "--dry-run=server", "-f", &file])
            .with_context(|| overlay.display().to_string())?;
        say(&format!(
            "{}: {} objects are valid",
            overlay.display(),
            said.lines().count()
        ))?;
    }
    wait::soon("a pod of the DaemonSet on each node", PATIENCE, || {
        let pods = servers.kubectl(&["-n", "bgp-observer", "get", "pods", "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let pods = pods.pointer("/items").and_then(Value::as_array);
        let pods = pods.context("no list")?;
        let on: BTreeSet<&str> = pods
            .iter()
            .filter_map(|pod| pod.pointer("/spec/nodeName")?.as_str())
            .collect();
        let wanted: BTreeSet<&str> = lab.nodes().iter().map(|node| node.name.as_str()).collect();
        ensure!(on == wanted && pods.len() == wanted.len(), "pods on {on:?}");
        for (field, value) in [
            ("hostNetwork", json!(true)),
            ("priority", json!(900_000_000)),
            ("serviceAccountName", json!("bgp-observer")),
        ] {
            let has = |pod: &Value| pod.pointer(&format!("/spec/{field}")) == Some(&value);
            ensure!(pods.iter().all(has), "{field} is not {value}");
        }
        Ok(())
    })?;
    say("the DaemonSet has a pod on each node")
}

/// A manifest without what the server has not heard of yet, which it refuses. The schemas of current
/// versions are held to the whole by `cargo xtask deploy`.
fn known_to(servers: &Servers, manifest: &str) -> Result<String> {
    /// Of Kubernetes 1.30; before, it was an annotation.
    const APP_ARMOR: &str = "appArmorProfile";
    if servers
        .kubectl(&["get", "--raw", "/openapi/v2"])?
        .contains(APP_ARMOR)
    {
        return Ok(manifest.to_owned());
    }
    let mut kept = String::new();
    let mut within: Option<usize> = None;
    for line in manifest.lines() {
        let depth = line.len() - line.trim_start().len();
        within = within.filter(|at| depth > *at);
        if line.trim() == format!("{APP_ARMOR}:") {
            within = Some(depth);
        }
        if within.is_none() {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

/// The base and every overlay.
fn overlays() -> Result<Vec<PathBuf>> {
    let folder = deploy().join("kubernetes");
    let mut all = vec![folder.join("base")];
    for entry in fs::read_dir(folder.join("overlays"))? {
        all.push(entry?.path());
    }
    all.sort();
    Ok(all)
}

fn kustomize(folder: &Path) -> Result<String> {
    let output = Command::new(servers::kubectl())
        .arg("kustomize")
        .arg(folder)
        .output()?;
    ensure!(
        output.status.success(),
        "{} does not render",
        folder.display()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// What the account may do beyond what any account may, asked of the server that judges: exactly what
/// security.md says.
fn rights_are_what_is_written(servers: &Servers) -> Result<()> {
    let written: BTreeSet<String> = readable()
        .map(|(resource, group)| format!("{resource}{group} [] [] [list watch]"))
        .collect();
    ensure!(
        beyond_any(servers)? == written,
        "{:?}",
        beyond_any(servers)?
    );
    say(&format!("the account may: {written:?}, and nothing else"))?;
    for question in [
        ["get", "secrets"],
        ["list", "pods"],
        ["create", "events"],
        ["patch", "nodes"],
        ["get", "nodes/proxy"],
        ["create", "pods/exec"],
    ] {
        let [verb, what] = question;
        let asked = servers.kubectl(&["auth", "can-i", verb, what, "-A", "--as", ACCOUNT]);
        ensure!(asked.is_err(), "it may {verb} {what}");
    }
    Ok(())
}

/// Kinds that the base may read, with the ends of their names.
fn readable() -> impl Iterator<Item = (&'static str, &'static str)> {
    ClusterKind::ALL.into_iter().map(|kind| {
        let group = match kind {
            ClusterKind::Nodes => "",
            ClusterKind::BgpConfigurations
            | ClusterKind::BgpPeers
            | ClusterKind::IpPools
            | ClusterKind::Blocks => ".crd.projectcalico.org",
        };
        (kind.name(), group)
    })
}

fn beyond_any(servers: &Servers) -> Result<BTreeSet<String>> {
    let rights = |account: &str| -> Result<BTreeSet<String>> {
        let list = [
            "auth",
            "can-i",
            "--list",
            "-n",
            "bgp-observer",
            "--as",
            account,
        ];
        let list = servers.kubectl(&list)?;
        let words = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        Ok(words.collect())
    };
    let any = rights("system:serviceaccount:bgp-observer:default")?;
    Ok(rights(ACCOUNT)?.difference(&any).cloned().collect())
}

/// The agent as the DaemonSet runs it on n1, with the account's token.
fn start_agent(servers: &Servers, lab: &Lab) -> Result<Agent> {
    let create = [
        "-n",
        "bgp-observer",
        "create",
        "token",
        "bgp-observer",
        "--duration=1h",
    ];
    let token = servers.kubectl(&create)?;
    let options = Options {
        kubeconfig: Some(servers.kubeconfig(token.trim())),
        node: Some("n1".to_owned()),
        more: ["--kubernetes-pods", "on", "--kubernetes-events", "on"]
            .map(str::to_owned)
            .into(),
        ..Options::default()
    };
    Agent::start(lab, &options)
}

fn inventory_follows(
    servers: &mut Servers,
    runtime: &Runtime,
    client: &Client,
    lab: &Lab,
    others: &[String],
) -> Result<()> {
    // As `overlays/pods` allows it.
    let pods = kustomize(&deploy().join("kubernetes/overlays/pods"))?;
    let pods = servers.file("pods.yaml", &known_to(servers, &pods)?)?;
    servers.kubectl(&["apply", "--server-side", "-f", &pods])?;
    let more = beyond_any(servers)?.contains("pods [] [] [list]");
    ensure!(more, "overlays/pods lets it list no pods");
    events::grant(servers)?;
    let begun = Instant::now();
    let agent = start_agent(servers, lab)?;
    await_peers(&agent, NODES - 1)?;
    say(&format!(
        "the agent knows all nodes after {:.1?}",
        begun.elapsed()
    ))?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    await_live(&agent, true)?;
    say(&weight(&agent)?)?;

    let begun = Instant::now();
    runtime.block_on(cluster::add_node(client, "late", "10.3.0.1"))?;
    await_peers(&agent, NODES)?;
    say(&format!(
        "a new node is a peer after {:.1?}",
        begun.elapsed()
    ))?;
    servers.kubectl(&["delete", "node", "late"])?;
    await_peers(&agent, NODES - 1)?;

    let before = process::cpu(agent.process().pid())?;
    runtime.block_on(cluster::touch_nodes(client, others))?;
    runtime.block_on(cluster::add_node(client, "last", "10.3.0.2"))?;
    await_peers(&agent, NODES)?;
    let spent = process::cpu(agent.process().pid())?.saturating_sub(before);
    say(&format!(
        "{} news of nodes cost {spent:.1?} of CPU",
        others.len()
    ))?;

    survives_a_restart(servers, runtime, client, &agent)?;
    pods_are_named(servers, lab, &agent)?;
    events::are_written(servers, lab, &agent)?;
    requests_are_few(servers)?;
    say(&weight(&agent)?)?;
    agent.stop()
}

fn await_peers(agent: &Agent, count: usize) -> Result<()> {
    wait::soon("the peers that ought to be", PATIENCE, || {
        let known = agent.peers()?.len();
        ensure!(known == count, "{known} of {count}");
        Ok(())
    })
}

/// Whether the API server has just confirmed what is known of every kind, or of none.
fn await_live(agent: &Agent, live: bool) -> Result<()> {
    wait::soon("the inventory's age", PATIENCE, || {
        let scrape = agent.scrape()?;
        for kind in ClusterKind::ALL {
            let labels = [("resource", kind.name())];
            let age = scrape.value("bgp_observer_inventory_age_seconds", &labels);
            let age = age.with_context(|| format!("{} has no age", kind.name()))?;
            ensure!((age == 0.0) == live, "{} is {age} s old", kind.name());
        }
        Ok(())
    })
}

/// What it weighs now and weighed at most.
fn weight(agent: &Agent) -> Result<String> {
    let pid = agent.process().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let lines = status
        .lines()
        .filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"));
    let words: Vec<String> = lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let cpu = process::cpu(pid)?;
    Ok(format!(
        "the agent: {}, {cpu:.1?} of CPU so far",
        words.join(", ")
    ))
}

fn survives_a_restart(
    servers: &mut Servers,
    runtime: &Runtime,
    client: &Client,
    agent: &Agent,
) -> Result<()> {
    servers.kill_api();
    await_live(agent, false)?;
    ensure!(agent.peers()?.len() == NODES, "what was known is forgotten");
    servers.start_api()?;
    let begun = Instant::now();
    runtime.block_on(cluster::add_node(client, "after", "10.3.0.3"))?;
    await_peers(agent, NODES + 1)?;
    await_live(agent, true)?;
    say(&format!(
        "it follows a restarted API server after {:.1?}",
        begun.elapsed()
    ))
}

fn pods_are_named(servers: &Servers, lab: &Lab, agent: &Agent) -> Result<()> {
    let asked = servers.asked()?;
    ensure!(
        asked.iter().all(|asked| asked.resource != "pods"),
        "pods were asked for before"
    );
    let begun = Instant::now();
    lab.end(lab.node(2)?, Signal::SIGTERM)?;
    let pods = wait::soon("the pods behind the lost routes", PATIENCE, || {
        let incident = agent.incidents()?.pop().context("no incident")?;
        let pods = incident.pods.context("no pods")?;
        ensure!(pods.count > 0 && pods.missing.is_none(), "{pods:?}");
        Ok(pods)
    })?;
    ensure!(pods.count == u64::from(PODS_PER_NODE), "{pods:?}");
    ensure!(pods.listed.iter().all(|pod| pod.node == "n2"), "{pods:?}");
    say(&format!(
        "an incident names {} pods after {:.1?}",
        pods.count,
        begun.elapsed()
    ))
}

/// Nothing was asked for that is not granted, and what was is little. A server that comes up refuses
/// what it grants a moment later: that counts as asked.
fn requests_are_few(servers: &Servers) -> Result<()> {
    let asked = servers.asked()?;
    let mut granted: BTreeSet<(String, String)> = readable()
        .flat_map(|(resource, _)| ["list", "watch"].map(|verb| (resource.into(), verb.into())))
        .collect();
    granted.insert(("pods".into(), "list".into()));
    granted.insert(("events".into(), "create".into()));
    ensure!(verbs(&asked).is_subset(&granted), "{:?}", verbs(&asked));
    let pods = asked.iter().filter(|asked| asked.resource == "pods");
    for request in pods {
        ensure!(
            request.uri.contains("fieldSelector=spec.nodeName"),
            "{request:?}"
        );
    }
    for kind in ClusterKind::ALL {
        let of = |verb: &str| {
            let whole = asked.iter().filter(|asked| asked.complete);
            let count = whole.filter(|asked| asked.verb == verb && asked.resource == kind.name());
            count.count()
        };
        let (lists, watches) = (of("list"), of("watch"));
        // One that runs is written down when it ends.
        let told = format!("{lists} lists, {watches} watches that ended, one that runs");
        say(&format!("{}: {told}", kind.name()))?;
    }
    Ok(())
}

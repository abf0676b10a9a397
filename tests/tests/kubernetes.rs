//! A lab whose nodes are a cluster's: what its API says joined with what the wire shows.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_core::{event::PeerType, incident::Incident};
use observer_tests::{
    agent::{Agent, Options},
    gate,
    kube_api::KubeApi,
    lab::{Lab, Plan},
    story::CONVERGES,
    wait,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// An API that knows the nodes of a lab with their blocks, and one more that never connects.
fn cluster(lab: &Lab) -> Result<KubeApi> {
    let api = KubeApi::start()?;
    let put = |name: &str, address: &str| {
        let address = format!("{address}/24");
        let annotations = json!({ "projectcalico.org/IPv4Address": address });
        api.put(
            "nodes",
            name,
            json!({ "metadata": { "annotations": annotations, "uid": format!("uid-of-{name}") } }),
        );
    };
    for node in lab.nodes() {
        put(&node.name, &node.address.to_string());
        let spec = json!({ "cidr": node.block, "node": node.name, "state": "confirmed" });
        api.put("blockaffinities", &node.name, json!({ "spec": spec }));
    }
    put("absent", "10.0.0.99");
    for node in lab.nodes() {
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "shop", "uid": "",
            "controller": true,
        }]);
        api.put(
            "pods",
            &format!("shop-of-{}", node.name),
            json!({
                "metadata": { "namespace": "default", "ownerReferences": owner },
                "spec": { "nodeName": node.name, "containers": [] },
                "status": { "podIPs": [{ "ip": node.pod.to_string() }] },
            }),
        );
    }
    Ok(api)
}

fn start(plan: Plan, more: &[&str]) -> Result<(Lab, Agent, KubeApi)> {
    let lab = Lab::build(plan)?;
    let api = cluster(&lab)?;
    let options = Options {
        kubeconfig: Some(api.kubeconfig()),
        more: more.iter().map(ToString::to_string).collect(),
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    Ok((lab, agent, api))
}

#[test]
fn peers_have_the_cluster_s_names_and_types_and_one_that_never_connected_is_missed() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent, api) = start(Plan::default(), &[])?;
    wait::soon("names, types and the absent", SOON, || {
        for peer in agent.peers()? {
            ensure!(peer.peer_type == Some(PeerType::Mesh), "{peer:?}");
            ensure!(peer.asn.is_some(), "{peer:?}");
            let named = peer.peer_node.as_deref().context("no name")?;
            ensure!(peer.up == (named != "absent"), "{peer:?}");
        }
        let absent = agent.peers()?.into_iter().filter(|peer| !peer.up).count();
        ensure!(absent == lab.nodes().len(), "{absent} are missed");
        Ok(())
    })?;
    let table = agent.ask(&["status", "--node", "n1", "-o", "wide"])?;
    ensure!(table.contains("node-to-node mesh"), "{table}");
    ensure!(table.contains("absent"), "{table}");

    // What the API server does not say any more still holds.
    api.down(true);
    wait::soon("the age is told", SOON, || {
        let scrape = agent.scrape()?;
        for resource in ["nodes", "blockaffinities"] {
            let labels = [("resource", resource)];
            let age = scrape.value("bgp_observer_inventory_age_seconds", &labels);
            ensure!(age.is_some_and(|age| age > 0.0), "{resource}: {age:?}");
        }
        Ok(())
    })?;
    ensure!(agent.peers()?.len() == 3 * lab.nodes().len());
    api.delete("nodes", "absent");
    api.down(false);
    wait::soon(
        "a node that left is not missed",
        Duration::from_mins(1),
        || {
            let down = agent.peers()?.into_iter().filter(|peer| !peer.up).count();
            ensure!(down == 0, "{down} are missed");
            Ok(())
        },
    )?;
    agent.stop()
}

#[test]
fn an_incident_names_the_node_and_the_pods_behind_the_lost_routes() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent, api) = start(Plan::default(), &["--kubernetes-pods", "on"])?;
    let ended = add_speaker(&api, &lab, 2)?;
    wait::soon("the blocks are known", SOON, || {
        let named = agent.peers()?.iter().all(|peer| peer.peer_type.is_some());
        ensure!(named, "no types yet");
        Ok(())
    })?;
    let before = asked_for_pods(&api).len();
    ensure!(before == 0, "pods were asked for without an incident");
    let victim = lab.node(2)?;
    lab.end(victim, Signal::SIGTERM)?;
    let incident = wait::soon("n1 names the pods", SOON, || {
        let mut all = agent.incidents()?;
        all.retain(|incident| incident.node == "n1");
        let incident = all.pop().context("no incident")?;
        let pods = incident.pods.as_ref().context("no pods yet")?;
        ensure!(pods.count == 1, "{pods:?}");
        Ok(incident)
    })?;
    ensure!(
        incident.subject.name.as_deref() == Some("n2"),
        "{incident:?}"
    );
    let lost = incident.prefixes.listed.first().context("no prefix")?;
    ensure!(lost.node.as_deref() == Some("n2"), "{lost:?}");
    let pods = incident.pods.context("no pods")?;
    ensure!(pods.missing.is_none(), "{pods:?}");
    ensure!(
        pods.workloads.contains_key("default/StatefulSet/shop"),
        "{pods:?}"
    );
    let pod = pods.listed.first().context("no pod")?;
    ensure!(
        pod.pod == "default/shop-of-n2" && pod.node == "n2",
        "{pod:?}"
    );
    ensure!(pod.addresses == [IpAddr::from(victim.pod)], "{pod:?}");
    let asked = asked_for_pods(&api);
    ensure!(
        asked.iter().all(|line| line.contains("spec.nodeName")),
        "{asked:?}"
    );
    wait::soon("the story says how n2 fares", SOON, || {
        let told = agent.ask(&["incident", &incident.id])?;
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            "default/shop-of-n2",
            "n2 is NotReady (KubeletNotReady)",
            ", cordoned; calico-system/calico-node-n2 restarted 3 times",
            "container of calico-system/calico-node-n2 ended: OOMKilled (exit code 137)",
        ] {
            ensure!(told.contains(words), "no {words} in {told}");
        }
        Ok(())
    })?;
    let incident = agent
        .incidents()?
        .into_iter()
        .find(|one| one.id == incident.id);
    let told = incident
        .and_then(|one| one.circumstances)
        .context("not told")?;
    let end = told.speakers.first().and_then(|pod| pod.last_end.clone());
    ensure!(end.is_some_and(|end| end.at == Some(ended)), "{told:?}");
    agent.stop()
}

/// Makes a node's calico-node pod, which was restarted lately, and cordons the node. Gives when its
/// container ended.
fn add_speaker(api: &KubeApi, lab: &Lab, number: usize) -> Result<jiff::Timestamp> {
    let node = lab.node(number)?;
    let ended = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?;
    let address = format!("{}/24", node.address);
    api.put(
        "nodes",
        &node.name,
        json!({
            "metadata": { "annotations": { "projectcalico.org/IPv4Address": address } },
            "spec": { "unschedulable": true },
            "status": { "conditions": [{
                "type": "Ready", "status": "False", "reason": "KubeletNotReady",
                "lastTransitionTime": ended.to_string(),
            }] },
        }),
    );
    let end = json!({ "reason": "OOMKilled", "exitCode": 137, "finishedAt": ended.to_string() });
    api.put(
        "pods",
        &format!("calico-node-{}", node.name),
        json!({
            "metadata": { "namespace": "calico-system", "labels": { "k8s-app": "calico-node" } },
            "spec": { "nodeName": node.name, "hostNetwork": true, "containers": [] },
            "status": { "containerStatuses": [{
                "name": "calico-node", "image": "", "imageID": "", "ready": true,
                "restartCount": 3, "lastState": { "terminated": end },
                "state": { "running": { "startedAt": ended.to_string() } },
            }] },
        }),
    );
    Ok(ended)
}

#[test]
fn the_subject_s_agent_alone_writes_events_of_its_node_once_the_api_takes_them() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent, api) = start(Plan::default(), &["--kubernetes-events", "on"])?;
    ensure!(
        api.created("events").is_empty(),
        "Events without an incident"
    );
    // An API server that forbids it holds nothing up, and has it later.
    api.refuse("events", Some(403));
    let victim = lab.node(2)?;
    lab.end(victim, Signal::SIGTERM)?;
    wait::soon("the refusal is told", SOON, || {
        let probe = [("probe", "node_events")];
        let running = agent.scrape()?.value("bgp_observer_probe_attached", &probe);
        ensure!(running == Some(0.0), "{running:?}");
        Ok(())
    })?;
    let told = |over: bool| -> Result<String> {
        let of_it = |one: &&Incident| one.node == "n2" && one.closed_at.is_some() == over;
        let all = agent.incidents()?;
        let incident = all.iter().find(of_it).context("no incident of n2")?;
        Ok(incident.id.clone())
    };
    let id = wait::soon("n2's incident", SOON, || told(false))?;
    api.refuse("events", None);
    let begun = wait::soon("an Event", SOON, || {
        api.created("events").pop().context("no Event yet")
    })?;
    let text =
        |event: &Value, at: &str| event.pointer(at).and_then(Value::as_str).map(str::to_owned);
    for (at, value) in [
        ("/reason", "BgpSpeakerGone"),
        ("/type", "Warning"),
        ("/metadata/namespace", "default"),
        ("/involvedObject/kind", "Node"),
        ("/involvedObject/name", "n2"),
        ("/involvedObject/uid", "uid-of-n2"),
        ("/source/component", "bgp-observer"),
        ("/source/host", "n2"),
    ] {
        ensure!(
            text(&begun, at).as_deref() == Some(value),
            "{at} of {begun}"
        );
    }
    // With it API servers have stricter rules, of which those for nodes differ from version to version.
    ensure!(begun.get("eventTime").is_none(), "{begun}");
    let note = text(&begun, "/message").context("no text")?;
    ensure!(note.contains(&id) && note.contains("SIGTERM"), "{note}");

    lab.start(victim)?;
    lab.await_established(CONVERGES)?;
    let ended = wait::soon("its end", Duration::from_mins(1), || {
        ensure!(told(true)? == id, "another");
        let all = api.created("events");
        ensure!(all.len() == 2, "{all:?}");
        all.into_iter().next_back().context("none")
    })?;
    ensure!(
        text(&ended, "/reason").as_deref() == Some("BgpRecovered"),
        "{ended}"
    );
    ensure!(
        text(&ended, "/type").as_deref() == Some("Normal"),
        "{ended}"
    );
    // Its peers have incidents, too, of n2: they wrote none.
    ensure!(
        agent.incidents()?.len() == lab.nodes().len(),
        "{:?}",
        agent.incidents()?
    );
    let count = |result| {
        let labels = [("result", result)];
        let total = agent
            .scrape()?
            .value("bgp_observer_kubernetes_events_total", &labels);
        total.with_context(|| format!("nothing counted as {result}"))
    };
    let told = [count("written")?, count("failed")?, count("dropped")?];
    ensure!(
        told.map(|count| count.to_string()) == ["2", "0", "0"],
        "{told:?}"
    );
    agent.stop()
}

fn asked_for_pods(api: &KubeApi) -> Vec<String> {
    let requests = api.requests().into_iter();
    requests.filter(|line| line.contains("/pods")).collect()
}

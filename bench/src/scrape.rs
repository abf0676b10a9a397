//! What a scrape costs: how long the state machine does nothing else, by Established sessions; and the
//! page of a running agent, its time, size and memory, by known peers. The latter needs root.

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use observer_tests::{
    agent::{Agent, Options},
    gate, http,
    lab::{Lab, Plan},
    wait,
};

use crate::{
    measure::{Figure, float, growth},
    mesh::Mesh,
};

const SESSIONS: [u32; 3] = [10, 100, 1_000];
const KNOWN: [u32; 3] = [3, 100, 1_000];
const SOON: Duration = Duration::from_secs(30);

pub fn measure(turns: usize) -> Result<Vec<Figure>> {
    let mut figures = stall(turns)?;
    if gate::open()? {
        figures.extend(pages(turns)?);
    }
    Ok(figures)
}

/// All that the agent's keeper takes from the state machine for one scrape.
fn stall(turns: usize) -> Result<Vec<Figure>> {
    let meshes: Vec<Mesh> = SESSIONS.into_iter().map(Mesh::new).collect::<Result<_>>()?;
    let mut millis = vec![Vec::new(); meshes.len()];
    for _ in 0..turns {
        for (mesh, millis) in meshes.iter().zip(&mut millis) {
            let (begun, now, observer) = (Instant::now(), mesh.now(), &mesh.observer);
            black_box((
                observer.peers(now),
                observer.totals(),
                observer.forwarding(now),
                observer.open_incidents(),
                observer.safety(now),
                observer.topology(),
            ));
            millis.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    let what = "what a scrape asks of the state machine";
    Ok(growth(what, &SESSIONS, "sessions", "ms", millis, |cost| {
        cost
    }))
}

/// A running agent that knows so many peers, all of them down: none has fewer series.
fn pages(turns: usize) -> Result<Vec<Figure>> {
    let lab = Lab::build(Plan::of(2))?;
    let mut millis = Vec::new();
    let mut more = Vec::new();
    for known in KNOWN {
        let agent = knowing(&lab, known)?;
        let mut taken = Vec::new();
        let mut octets = 0;
        for _ in 0..turns {
            let begun = Instant::now();
            octets = http::get(agent.metrics_address(), "/metrics")?.len();
            taken.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        millis.push(taken);
        let who = format!("{known} peers");
        let kib = float(u64::try_from(octets)?) / 1024.0;
        more.push(Figure::one("/metrics, not compressed", &who, "KiB", kib));
        let mebibytes = float(agent.resident_bytes()?) / f64::from(1 << 20);
        more.push(Figure::one(
            "the agent, so many peers down",
            &who,
            "MiB resident",
            mebibytes,
        ));
        agent.stop()?;
        fs::remove_dir_all(lab.estate().folder().join("state"))?;
    }
    let mut figures = growth(
        "/metrics, from GET to its end",
        &KNOWN,
        "peers",
        "ms",
        millis,
        |cost| cost,
    );
    more.sort_by(|one, other| one.unit.cmp(&other.unit));
    figures.extend(more);
    Ok(figures)
}

fn knowing(lab: &Lab, peers: u32) -> Result<Agent> {
    let mut inventory = String::new();
    for number in 0..peers {
        let address = Ipv4Addr::from_bits(0x0a01_0000 + number);
        let _ = writeln!(
            inventory,
            "[[peer]]\nnode = \"n1\"\naddress = \"{address}\"\nname = \"worker-{number}\"\n\
             type = \"node-to-node mesh\"\nasn = 64512"
        );
    }
    let path = lab.estate().folder().join("peers.toml");
    fs::write(&path, inventory)?;
    let path = path.to_string_lossy().into_owned();
    let options = Options {
        more: ["--inventory", &path, "--peer-metrics", "full"]
            .map(str::to_owned)
            .into(),
        ..Options::default()
    };
    let agent = Agent::start(lab, &options)?;
    wait::soon("every peer is known", SOON, || {
        let down = agent
            .scrape()?
            .sum("calico_bgp_peers_state", &[("state", "down")]);
        ensure!((down - f64::from(peers)).abs() < 0.5, "{down} of {peers}");
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(agent)
}

//! A thousand peers lost at once: how much is sent because of that, counted where it arrives and not by
//! who sends it, and what that costs the agent.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::resource::{Resource, setrlimit};
use observer_tests::{
    agent::{Agent, Options},
    crowd::{self, greeting, keepalive},
    gate,
    lab::{Lab, Node, Plan},
    netns, wait,
};

const PEERS: u16 = 1_000;
/// What the agent's configuration allows.
const PER_SECOND: usize = 200;
/// How long echoes are counted after the loss.
const WATCHED: Duration = Duration::from_secs(12);
/// A stall of the machine bunches what the agent had sent in time: as much is taken off each second.
const STALL: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_mins(2);
const MIB: u64 = 1 << 20;

/// Peer `number`, and the pod behind it.
fn peer(number: u16) -> (Ipv4Addr, Ipv4Addr) {
    let [high, low] = number.to_be_bytes();
    (
        Ipv4Addr::new(10, 1, high, low),
        Ipv4Addr::new(10, 245, high, low),
    )
}

/// Both ends of all sessions: this process speaks for the node and for its peers.
struct Sessions {
    near: Vec<TcpStream>,
    far: Vec<TcpStream>,
}

impl Sessions {
    fn establish(node: &Node) -> Result<Self> {
        let everyone = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 179));
        let listener = netns::inside(&node.pod_namespace, || TcpListener::bind(everyone))??;
        let accept = thread::spawn(move || -> io::Result<Vec<TcpStream>> {
            (0..PEERS)
                .map(|_| {
                    let (mut stream, _) = listener.accept()?;
                    let SocketAddr::V4(own) = stream.local_addr()? else {
                        return Err(io::ErrorKind::InvalidInput.into());
                    };
                    stream.write_all(&greeting(*own.ip()))?;
                    stream.read_exact(&mut [0; 48])?;
                    Ok(stream)
                })
                .collect()
        });
        let dial = || -> io::Result<Vec<TcpStream>> {
            (0..PEERS)
                .map(|number| {
                    let to = SocketAddr::from((peer(number).0, 179));
                    let mut stream = TcpStream::connect_timeout(&to, SOON)?;
                    stream.write_all(&greeting(node.address))?;
                    stream.read_exact(&mut [0; 48])?;
                    Ok(stream)
                })
                .collect()
        };
        let near = netns::inside(&node.namespace, dial)??;
        let far = accept.join().map_err(|_| anyhow!("it panicked"))??;
        Ok(Self { near, far })
    }

    /// Both ends of each say that they live: what began before the agent knew of it is read from then on.
    fn keep_alive(&mut self) -> io::Result<()> {
        let mut all = self.near.iter_mut().chain(&mut self.far);
        all.try_for_each(|stream| stream.write_all(&keepalive()))
    }
}

/// Names every peer and the pod behind it, so that each may be probed.
fn inventory(node: &Node) -> String {
    let mut text = String::new();
    for (number, (address, pod)) in (0..PEERS).map(|number| (number, peer(number))) {
        let _ = writeln!(
            text,
            "[[peer]]\nnode = \"{}\"\naddress = \"{address}\"\nname = \"p{number}\"\n\
             targets = [\"{pod}\"]",
            node.name
        );
    }
    text
}

/// How many echoes arrived by when.
fn count(lab: &Lab, node: &Node, length: Duration) -> Result<Vec<(Instant, usize)>> {
    let mut counts = Vec::new();
    let until = Instant::now() + length;
    while Instant::now() < until {
        counts.push((Instant::now(), lab.echoes(node)?));
        thread::sleep(Duration::from_millis(20));
    }
    Ok(counts)
}

/// The most that arrived within a second, wherever it begins.
fn densest(counts: &[(Instant, usize)]) -> usize {
    let within = |from: Instant| {
        let near = counts.iter().filter(move |(at, _)| {
            *at >= from && at.duration_since(from) <= Duration::from_secs(1).saturating_sub(STALL)
        });
        near.map(|(_, count)| *count).max().unwrap_or_default()
    };
    let spans = counts.iter().map(|(from, count)| within(*from) - count);
    spans.max().unwrap_or_default()
}

/// Seconds of CPU that the agent has used (proc(5): utime and stime, in hundredths).
fn cpu_seconds(agent: &Agent) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.process().pid()))?;
    let (_, fields) = stat.rsplit_once(") ").context("no process name")?;
    let mut times = fields.split(' ').skip(11);
    let mut next = || -> Result<f64> { Ok(times.next().context("too short")?.parse()?) };
    Ok((next()? + next()?) / 100.0)
}

#[test]
fn a_thousand_peers_lost_at_once_cost_no_more_echoes_than_are_allowed() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    // Both ends are this process's.
    setrlimit(Resource::RLIMIT_NOFILE, 16_384, 16_384)?;
    let lab = Lab::build(Plan::of(2))?;
    let node = lab.node(1)?;
    // Everything behind the node's pod answers: a thousand peers, and as many pods.
    crowd::settle(node, &["10.1.0.0/16", "10.245.0.0/16"])?;
    let file = lab.estate().folder().join("thousand.toml");
    fs::write(&file, inventory(node))?;
    let options = Options {
        more: vec!["--inventory".to_owned(), file.display().to_string()],
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    let mut sessions = Sessions::establish(node)?;
    wait::soon("every session is up", SOON, || {
        sessions.keep_alive()?;
        agent.await_all_up(PEERS.into(), Duration::from_secs(5))
    })?;
    let (before, memory) = (lab.echoes(node)?, agent.resident_bytes()?);
    let (cpu, begun) = (cpu_seconds(&agent)?, Instant::now());
    // The peers' ends: a FIN from each.
    drop(sessions.far);
    let counts = count(&lab, node, WATCHED)?;
    let spent = cpu_seconds(&agent)? - cpu;
    let most = agent.resident_bytes()?;
    let (in_all, densest) = (lab.echoes(node)? - before, densest(&counts));
    writeln!(
        io::stdout(),
        "{PEERS} peers lost at once: {in_all} echoes arrived in {:.1?}, {densest} within a second at most \
         ({PER_SECOND} allowed); resident {} MiB before, {} after; {spent:.2} s of CPU",
        begun.elapsed(),
        memory / MIB,
        most / MIB,
    )?;
    ensure!(densest <= PER_SECOND, "{densest} echoes within a second");
    ensure!(in_all > 0, "nothing was probed");
    ensure!(
        most.saturating_sub(memory) < 64 * MIB,
        "{memory} octets became {most}"
    );
    let share = spent / WATCHED.as_secs_f64();
    ensure!(share < 0.5, "{share} of a CPU");
    let incidents = wait::soon("they are one incident", SOON, || {
        let incidents = agent.incidents()?;
        ensure!(!incidents.is_empty(), "none yet");
        Ok(incidents)
    })?;
    ensure!(incidents.len() == 1, "{} incidents", incidents.len());
    drop(sessions.near);
    Ok(())
}

//! How soon a lost session shows: in the agent's stream of changes, its metrics and as an incident, beside a
//! poll of BIRD every second and `prometheus-bird-exporter` scraped every five. A loss begins just before
//! this program, which speaks for the peers, ends the session: nobody's word but its own. A poll that saw
//! only the session before and after has missed it. Needs root.

use std::{
    cmp,
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use observer_core::change::Change;
use observer_tests::{
    agent::{Agent, Options, Told, boot_nanos, free_address},
    agents::Events,
    birdc, crowd, gate, http,
    lab::{Lab, Plan},
    metrics::Scrape,
    process::Process,
    programs, wait,
};

use crate::{
    flapping::{Flap, flap, peer},
    measure::Figure,
};

/// Who flaps, and how often each: 1,000 in all, of which ten are slower than the 99 % that are told of.
const PEERS: u32 = 50;
const FLAPS: usize = 20;
/// And afterwards, while somebody asks for metrics without a pause, which holds up all else: 200 in all.
const SCRAPED: usize = 4;
const SOON: Duration = Duration::from_secs(20);
/// What is said last may be under way for so long.
const QUIET: Duration = Duration::from_secs(2);

/// A loss, in nanoseconds since boot.
struct Loss {
    peer: Ipv4Addr,
    from: i128,
    /// What the kernel said, and when that and the rest were told.
    kernel: i128,
    told: i128,
    incident: Option<i128>,
    /// The session was up again.
    until: i128,
}

/// When somebody looked, and which peers' sessions were up then.
type Looks = Vec<(i128, BTreeSet<Ipv4Addr>)>;

pub fn measure() -> Result<Vec<Figure>> {
    if !gate::open()? {
        return Ok(Vec::new());
    }
    let lab = Lab::build(Plan::of(2))?;
    hurry(&lab)?;
    let n1 = lab.node(1)?;
    let peers: Vec<Ipv4Addr> = (0..PEERS).map(peer).collect();
    crowd::settle(n1, &["10.1.0.0/24"])?;
    crowd::dial(&lab, n1, &peers)?;
    let agent = Agent::start(&lab, &Options::default())?;
    let events = agent.follow(&lab)?;
    lab.start_all()?;
    let control = lab.control(n1);
    wait::soon("BIRD answers", SOON, || birdc::sessions(&control).map(drop))?;
    let exporter = Exporter::start(&lab)?;
    let over = AtomicBool::new(false);
    let by_bird = || -> Result<BTreeSet<Ipv4Addr>> {
        let sessions = birdc::sessions(&control)?;
        let is_up = |peer: &&Ipv4Addr| {
            let info = sessions.get(&crowd::protocol(**peer));
            info.is_some_and(|info| info == "Established")
        };
        Ok(peers.iter().filter(is_up).copied().collect())
    };
    let (scraped, first) = (Mutex::new(Vec::new()), AtomicU32::new(0));
    let watch = |flap: &Flap| -> Result<()> {
        match flap.number.cmp(&(FLAPS - 1)) {
            cmp::Ordering::Less => {}
            cmp::Ordering::Equal => {
                first.fetch_add(1, Ordering::Relaxed);
                wait::soon("the others' flaps", SOON, || {
                    let done = first.load(Ordering::Relaxed);
                    ensure!(done == PEERS, "{done} of {PEERS}");
                    Ok::<_, anyhow::Error>(())
                })?;
            }
            cmp::Ordering::Greater => {
                let after = scrape_until_down(&agent, flap.peer)? - flap.from;
                let mut scraped = scraped.lock().unwrap_or_else(PoisonError::into_inner);
                scraped.push(milliseconds(after));
            }
        }
        Ok(())
    };
    let (flaps, bird, looks) = thread::scope(|scope| {
        let bird = scope.spawn(|| look(Duration::from_secs(1), &over, &by_bird));
        let looks = scope.spawn(|| look(Duration::from_secs(5), &over, &|| exporter.up(&peers)));
        let flaps = flap(n1, PEERS, FLAPS + SCRAPED, &watch);
        over.store(true, Ordering::Relaxed);
        (flaps, bird.join(), looks.join())
    });
    let panicked = "a poll panicked";
    let (bird, looks) = (
        bird.ok().context(panicked)??,
        looks.ok().context(panicked)??,
    );
    let (flaps, standing) = flaps?;
    let told = drain(&events)?;
    drop(standing);
    let losses = { flaps.iter().filter(|flap| flap.number < FLAPS) }
        .map(|flap| loss(flap, &told))
        .collect::<Result<Vec<_>>>()?;
    let mut figures = figures(&losses, &bird, &looks)?;
    let scraped = scraped.into_inner().unwrap_or_else(PoisonError::into_inner);
    figures.push(Figure::of(
        &format!(
            "{} losses of a session, metrics asked for all the time",
            scraped.len()
        ),
        "agent, /metrics",
        "ms until seen",
        scraped,
    ));
    Ok(figures)
}

fn figures(losses: &[Loss], bird: &Looks, exporter: &Looks) -> Result<Vec<Figure>> {
    let what = format!("{} losses of a session", losses.len());
    let mut figures = Vec::new();
    let mut tell = |who: &str, later: &dyn Fn(&Loss) -> Option<i128>| -> Result<()> {
        let after = |loss: &Loss| later(loss).map(|at| milliseconds(at - loss.from));
        let values: Vec<f64> = losses.iter().filter_map(after).collect();
        let missed = f64::from(u32::try_from(losses.len() - values.len())?);
        let most = ninety_nine(values.clone());
        figures.push(Figure::of(&what, who, "ms until seen", values));
        figures.push(Figure::one(&what, who, "ms until 99 % of those are", most));
        figures.push(Figure::one(&what, who, "not seen", missed));
        Ok(())
    };
    tell("agent, stream of changes", &|loss| Some(loss.told))?;
    tell("birdc every 1 s", &|loss| seen(loss, bird))?;
    tell("prometheus-bird-exporter every 5 s", &|loss| {
        seen(loss, exporter)
    })?;
    tell("agent, incident with its cause", &|loss| loss.incident)?;
    tell("kernel, by its own stamp", &|loss| Some(loss.kernel))?;
    let order = ["ms until seen", "ms until 99 % of those are", "not seen"];
    figures.sort_by_key(|figure| order.iter().position(|unit| *unit == figure.unit));
    Ok(figures)
}

/// What no more than one of a hundred exceed.
fn ninety_nine(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * 99).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "minutes at most")]
fn milliseconds(nanos: i128) -> f64 {
    nanos as f64 / 1e6
}

/// BIRDs that come back at once, however often.
fn hurry(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let path = node.speaker.config_path(lab.estate().folder(), &node.name);
        let mut text = fs::read_to_string(&path)?;
        for (wait, short) in [
            ("error wait time 5,30;", "error wait time 1,1;"),
            ("connect delay time 2;", "connect delay time 1;"),
        ] {
            ensure!(text.contains(wait), "no `{wait}` in {}", path.display());
            text = text.replace(wait, short);
        }
        fs::write(&path, text)?;
    }
    Ok(())
}

/// When `/metrics`, asked again and again, shows that the session with `peer` is down.
fn scrape_until_down(agent: &Agent, peer: Ipv4Addr) -> Result<i128> {
    let peer = peer.to_string();
    wait::until("/metrics shows it", SOON, Duration::ZERO, || {
        let labels = [("node", "n1"), ("peer", &peer), ("state", "down")];
        let down = agent.scrape()?.sum("calico_bgp_peers_state", &labels);
        ensure!(down > 0.5, "{down}");
        boot_nanos()
    })
}

/// What was told of n1.
fn drain(events: &Events) -> Result<Vec<Told>> {
    let mut all = Vec::new();
    while let Some(told) = events.next(QUIET)? {
        if told.record.node == "n1" {
            all.push(told);
        }
    }
    Ok(all)
}

fn loss(flap: &Flap, told: &[Told]) -> Result<Loss> {
    let name = flap.peer.to_string();
    let mut later = told.iter().filter(|told| told.at >= flap.from);
    let is_down =
        |told: &&Told| matches!(&told.record.change, Change::SessionDown { peer } if *peer == name);
    let is_up = |told: &&Told| matches!(&told.record.change, Change::SessionUp { peer, .. } if *peer == name);
    let concerns = |told: &&Told| {
        let Change::IncidentOpened { incident } = &told.record.change else {
            return false;
        };
        incident.sessions.iter().any(|one| one.peer == name)
    };
    let nobody = || format!("nobody was told that {name} fell and came back");
    let down = later.find(is_down).with_context(nobody)?;
    let until = later.clone().find(is_up).with_context(nobody)?.record.at;
    let until = i128::from(until.nanos());
    let incident = later.find(concerns).map(|told| told.at);
    Ok(Loss {
        peer: flap.peer,
        from: flap.from,
        kernel: down.record.at.nanos().into(),
        told: down.at,
        incident: incident.filter(|at| *at < until),
        until,
    })
}

/// Looks at once and then every so often.
fn look(
    every: Duration,
    over: &AtomicBool,
    up: &dyn Fn() -> Result<BTreeSet<Ipv4Addr>>,
) -> Result<Looks> {
    let begun = Instant::now();
    let (mut looks, mut due) = (Looks::new(), Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let up = up()?;
        looks.push((boot_nanos()?, up));
        due += every;
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok(looks)
}

/// When somebody who looks saw this loss.
fn seen(loss: &Loss, looks: &Looks) -> Option<i128> {
    let mut during = looks
        .iter()
        .filter(|(at, _)| (loss.from..loss.until).contains(at));
    let down = during.find(|(_, up)| !up.contains(&loss.peer));
    down.map(|(at, _)| *at)
}

/// The exporter of n1's BIRD.
struct Exporter {
    _process: Process,
    address: std::net::SocketAddr,
}

impl Exporter {
    fn start(lab: &Lab) -> Result<Self> {
        let name = "prometheus-bird-exporter";
        let address = free_address()?;
        let mut command = programs::find(name, name)?.command();
        command
            .arg("-bird.socket")
            .arg(lab.control(lab.node(1)?))
            .args([
                "-bird.ipv6=false",
                "-web.listen-address",
                &address.to_string(),
            ]);
        let process = Process::start(lab.estate(), name, None, &mut command, None)?;
        let exporter = Self {
            _process: process,
            address,
        };
        wait::soon("the exporter answers", SOON, || {
            exporter.up(&[peer(0)]).map(drop)
        })?;
        Ok(exporter)
    }

    fn up(&self, peers: &[Ipv4Addr]) -> Result<BTreeSet<Ipv4Addr>> {
        let scrape: Scrape = http::get(self.address, "/metrics")?.parse()?;
        let is_up = |peer: &&Ipv4Addr| {
            scrape.sum("bird_protocol_up", &[("name", &crowd::protocol(**peer))]) > 0.5
        };
        Ok(peers.iter().filter(is_up).copied().collect())
    }
}

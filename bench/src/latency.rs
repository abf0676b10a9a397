//! How soon a lost session shows: in the agent's stream of changes and its metrics, beside a poll of
//! BIRD every second and `prometheus-bird-exporter` scraped every five. The loss is when the kernel
//! says it was; a poll that saw only the session before and after has missed it. Needs root.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use observer_core::change::Change;
use observer_tests::{
    agent::{Agent, Options, Told, boot_nanos, free_address},
    agents::Events,
    birdc, gate, http,
    lab::{Lab, Plan},
    metrics::Scrape,
    process::Process,
    programs,
    story::CONVERGES,
    wait,
};

use crate::measure::Figure;

const N2: &str = "10.0.0.2";
/// n1's protocol towards n2, and n2's towards n1.
const OURS: &str = "Mesh_10_0_0_2";
const THEIRS: &str = "Mesh_10_0_0_1";
const SOON: Duration = Duration::from_secs(20);
/// How long a session stays away at least, in turn: shorter than, near and longer than the polls' pauses.
const AWAY: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// A loss of n1's session, in nanoseconds since boot.
struct Loss {
    from: i128,
    until: i128,
    told: i128,
    scraped: i128,
}

/// When somebody looked, and whether the session was up then.
type Looks = Vec<(i128, bool)>;

pub fn measure(rounds: usize) -> Result<Vec<Figure>> {
    if !gate::open()? {
        return Ok(Vec::new());
    }
    let lab = Lab::build(Plan::of(2))?;
    hurry(&lab)?;
    let agent = Agent::start(&lab, &Options::default())?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    agent.await_all_up(lab.sessions(), CONVERGES)?;
    let events = agent.follow(&lab)?;
    let n1 = lab.node(1)?;
    let exporter = Exporter::start(&lab)?;
    let over = AtomicBool::new(false);
    let look_at_bird = || {
        let sessions = birdc::sessions(&lab.control(n1))?;
        Ok(sessions.get(OURS).is_some_and(|info| info == "Established"))
    };
    let (losses, by_bird, by_exporter) = thread::scope(|scope| {
        let bird = scope.spawn(|| look(Duration::from_secs(1), &over, &look_at_bird));
        let looks = scope.spawn(|| look(Duration::from_secs(5), &over, &|| exporter.up()));
        let losses = lose(&lab, &agent, &events, rounds);
        over.store(true, Ordering::Relaxed);
        (losses, bird.join(), looks.join())
    });
    let losses = losses?;
    let panicked = "a poll panicked";
    let by_bird = by_bird.ok().context(panicked)??;
    let by_exporter = by_exporter.ok().context(panicked)??;
    let millis = |later: &dyn Fn(&Loss) -> Option<i128>| -> Vec<f64> {
        let after = |loss: &Loss| later(loss).map(|at| milliseconds(at - loss.from));
        losses.iter().filter_map(after).collect()
    };
    let what = format!("{} losses of a session", losses.len());
    let mut figures = Vec::new();
    for (who, values) in [
        ("agent, stream of changes", millis(&|loss| Some(loss.told))),
        (
            "agent, /metrics asked again and again",
            millis(&|loss| Some(loss.scraped)),
        ),
        ("birdc every 1 s", millis(&|loss| seen(loss, &by_bird))),
        (
            "prometheus-bird-exporter every 5 s",
            millis(&|loss| seen(loss, &by_exporter)),
        ),
    ] {
        let missed = f64::from(u32::try_from(losses.len() - values.len())?);
        figures.push(Figure::of(&what, who, "ms until seen", values));
        figures.push(Figure::one(&what, who, "not seen", missed));
    }
    figures.sort_by(|one, other| one.unit.cmp(&other.unit));
    Ok(figures)
}

#[expect(clippy::cast_precision_loss, reason = "minutes at most")]
fn milliseconds(nanos: i128) -> f64 {
    nanos as f64 / 1e6
}

/// BIRDs that come back at once, however often.
fn hurry(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let path = node.speaker.config_path(lab.estate().folder(), &node.name);
        let text = fs::read_to_string(&path)?;
        let waits = "error wait time 5,30;";
        ensure!(text.contains(waits), "no waits in {}", path.display());
        let text = text.replace(waits, "error wait time 1,1;");
        fs::write(
            &path,
            text.replace("connect delay time 2;", "connect delay time 1;"),
        )?;
    }
    Ok(())
}

/// n2 takes its session down and up again.
fn lose(lab: &Lab, agent: &Agent, events: &Events, rounds: usize) -> Result<Vec<Loss>> {
    let n2 = lab.node(2)?;
    let mut losses = Vec::new();
    for away in AWAY.iter().cycle().take(rounds) {
        let begun = Instant::now();
        lab.birdc(n2, &format!("disable {THEIRS}"))?;
        let scraped = wait::until("/metrics shows it", SOON, Duration::ZERO, || {
            let labels = [("node", "n1"), ("peer", N2), ("state", "down")];
            let down = agent.scrape()?.sum("calico_bgp_peers_state", &labels);
            ensure!(down > 0.5, "{down}");
            boot_nanos()
        })?;
        let lost = next(
            events,
            |change| matches!(change, Change::SessionDown { peer } if peer == N2),
        )?;
        thread::sleep(away.saturating_sub(begun.elapsed()));
        lab.birdc(n2, &format!("enable {THEIRS}"))?;
        let back = next(
            events,
            |change| matches!(change, Change::SessionUp { peer, .. } if peer == N2),
        )?;
        losses.push(Loss {
            from: lost.record.at.nanos().into(),
            until: back.record.at.nanos().into(),
            told: lost.at,
            scraped,
        });
    }
    Ok(losses)
}

/// The next change of n1 that is one of `these`.
fn next(events: &Events, these: impl Fn(&Change) -> bool) -> Result<Told> {
    let begun = Instant::now();
    while let Some(told) = events.next(SOON.saturating_sub(begun.elapsed()))? {
        if told.record.node == "n1" && these(&told.record.change) {
            return Ok(told);
        }
    }
    anyhow::bail!("no such change within {SOON:?}")
}

/// Looks at once and then every so often.
fn look(every: Duration, over: &AtomicBool, up: &dyn Fn() -> Result<bool>) -> Result<Looks> {
    let begun = Instant::now();
    let (mut looks, mut due) = (Looks::new(), Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let is_up = up()?;
        looks.push((boot_nanos()?, is_up));
        due += every;
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok(looks)
}

/// When somebody who looks saw this loss.
fn seen(loss: &Loss, looks: &Looks) -> Option<i128> {
    let during = looks
        .iter()
        .filter(|(at, _)| (loss.from..loss.until).contains(at));
    during.filter(|(_, up)| !up).map(|(at, _)| *at).next()
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
        wait::soon("the exporter shows the session", SOON, || {
            ensure!(exporter.up()?, "down");
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(exporter)
    }

    fn up(&self) -> Result<bool> {
        let scrape: Scrape = http::get(self.address, "/metrics")?.parse()?;
        Ok(scrape.sum("bird_protocol_up", &[("name", OURS)]) > 0.5)
    }
}

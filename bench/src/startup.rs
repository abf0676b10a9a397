//! From exec to the first answer: the agent's first metrics beside BIRD's first word on its control
//! socket; and how large the programs are, without what only a debugger reads. Needs root.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use observer_tests::{
    agent::{self, Agent, Options},
    gate,
    lab::{Lab, Plan},
    programs, wait,
};

use crate::measure::{Figure, float};

const SOON: Duration = Duration::from_secs(20);

pub fn measure(turns: usize) -> Result<Vec<Figure>> {
    if !gate::open()? {
        return Ok(Vec::new());
    }
    let lab = Lab::build(Plan::of(2))?;
    let (mut agents, mut birds) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        agents.push(first_metrics(&lab)?);
        birds.push(first_word(&lab)?);
    }
    let what = "exec to the first answer";
    let mut figures = vec![
        Figure::of(what, "agent, metrics", "ms", agents),
        Figure::of(what, "BIRD, control socket", "ms", birds),
    ];
    for (who, path) in [
        ("agent", agent::program()?),
        ("BIRD", programs::find("bird", "bird")?.path().to_owned()),
        (
            "gobgpd",
            programs::find("gobgpd", "gobgpd")?.path().to_owned(),
        ),
    ] {
        let mebibytes = float(loaded(&path)?) / f64::from(1 << 20);
        figures.push(Figure::one(
            "program as it is loaded",
            who,
            "MiB",
            mebibytes,
        ));
    }
    Ok(figures)
}

fn first_metrics(lab: &Lab) -> Result<f64> {
    let agent = Agent::start(lab, &Options::default())?;
    agent.scrape()?;
    let taken = agent.process().started().elapsed();
    agent.stop()?;
    Ok(taken.as_secs_f64() * 1e3)
}

fn first_word(lab: &Lab) -> Result<f64> {
    let node = lab.node(1)?;
    let begun = std::time::Instant::now();
    lab.start(node)?;
    wait::until("BIRD answers", SOON, Duration::from_millis(1), || {
        lab.birdc(node, "show status").map(drop)
    })?;
    let taken = begun.elapsed();
    lab.end(node, Signal::SIGTERM)?;
    Ok(taken.as_secs_f64() * 1e3)
}

/// Octets of an ELF file's loadable segments: the sum of `p_filesz` of all that are `PT_LOAD` (elf(5),
/// 64 bits, little-endian).
fn loaded(path: &Path) -> Result<u64> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let number = |at: usize, length: usize| {
        let octets = file
            .get(at..at + length)
            .context("an ELF file that is cut short")?;
        let number = octets
            .iter()
            .rev()
            .fold(0, |number, octet| number << 8 | u64::from(*octet));
        Ok::<_, anyhow::Error>(number)
    };
    let table = usize::try_from(number(32, 8)?)?;
    let (size, count) = (
        usize::try_from(number(54, 2)?)?,
        usize::try_from(number(56, 2)?)?,
    );
    let mut sum = 0;
    for index in 0..count {
        let header = table + index * size;
        if number(header, 4)? == 1 {
            sum += number(header + 32, 8)?;
        }
    }
    Ok(sum)
}

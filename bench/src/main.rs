//! `cargo xtask bench`: figures of this program beside those of others, measured in the same run.
//!
//! The contestants of one comparison take turns, so that whatever else the machine does meets all of
//! them; a figure is the median of its turns, with the least and the most beside it. What ratio one
//! has to the first is worth more than the figure itself, which is the machine's.
#![expect(
    clippy::print_stdout,
    reason = "a terminal tool: what it prints is its result"
)]

mod bystander;
mod capture;
mod check;
mod core;
mod decode;
mod drops;
mod flapping;
mod latency;
mod measure;
mod memory;
mod mesh;
mod page;
mod parsers;
mod recorded;
mod replay;
mod routes;
mod scrape;
mod soak;
mod startup;
mod transfer;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use measure::Figure;

const ROUTES: u32 = 500_000;
const TURNS: usize = 5;

/// Measures this program beside others.
#[derive(Parser)]
struct Args {
    /// Only these of: bystander, capture, core, decode, drops, latency, memory, replay, scrape, startup,
    /// transfer; and `probes`, which needs a kernel whose functions can be traced.
    names: Vec<String>,
    /// Routes in the table that is read.
    #[arg(long, default_value_t = ROUTES)]
    routes: u32,
    /// Turns of each contestant.
    #[arg(long, default_value_t = TURNS)]
    turns: usize,
    /// Also write the figures here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also put the figures into this page, in place of those that are there.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Fail when a figure breaks the bounds that hold on every machine.
    #[arg(long)]
    check: bool,
    /// No figures: a mesh that flaps for so many minutes, and whether the agent grows.
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "120")]
    soak: Option<u64>,
    /// What of `memory` this process is to measure, and nothing else.
    #[arg(long, hide = true)]
    alone: Option<String>,
}

impl Args {
    /// What has the same figures measured again.
    fn command(&self) -> String {
        let mut words = vec!["cargo xtask bench".to_owned()];
        words.extend(self.names.iter().cloned());
        if self.routes != ROUTES {
            words.push(format!("--routes {}", self.routes));
        }
        if self.turns != TURNS {
            words.push(format!("--turns {}", self.turns));
        }
        words.join(" ")
    }
}

type Bench = fn(&Args) -> Result<Vec<Figure>>;

/// What differs by a few percent, or from time to time, takes more turns.
const ROUNDS: usize = 3;
/// Transfers take a lab each.
const TRANSFERS: usize = 3;

/// Not run unless it is named.
const NAMED: &str = "probes";

const BENCHES: [(&str, Bench); 12] = [
    ("capture", |args| capture::measure(args.routes, args.turns)),
    (NAMED, |args| capture::probes(args.routes, args.turns)),
    ("decode", |args| decode::measure(args.routes, args.turns)),
    ("memory", |_| memory::measure()),
    ("core", |args| core::measure(args.turns)),
    ("replay", |args| replay::measure(args.routes, args.turns)),
    ("transfer", |args| {
        transfer::measure(args.routes, args.turns.min(TRANSFERS))
    }),
    ("scrape", |args| scrape::measure(args.turns)),
    ("startup", |args| startup::measure(args.turns)),
    ("latency", |_| latency::measure()),
    ("drops", |args| drops::measure(args.turns)),
    ("bystander", |args| bystander::measure(args.turns * ROUNDS)),
];

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(subject) = &args.alone {
        println!("{}", serde_json::to_string(&memory::alone(subject)?)?);
        return Ok(());
    }
    if let Some(minutes) = args.soak {
        return soak::soak(minutes);
    }
    let known = |name: &String| BENCHES.iter().any(|(known, _)| known == name);
    if let Some(unknown) = args.names.iter().find(|name| !known(name)) {
        bail!("there is no benchmark `{unknown}`");
    }
    let mut report = page::Report {
        machine: page::machine(),
        command: args.command(),
        benches: Vec::new(),
    };
    println!("{}", report.machine);
    let mut objections = Vec::new();
    for (name, bench) in BENCHES {
        let all = args.names.is_empty() && name != NAMED;
        if all || args.names.iter().any(|wanted| wanted == name) {
            let begun = Instant::now();
            let mut figures = bench(&args).with_context(|| format!("benchmark {name}"))?;
            measure::compare(&mut figures);
            print!("{}", page::table(name, &figures));
            println!("  took {:.0?}", begun.elapsed());
            objections.extend(check::objections(name, &figures));
            report.benches.push((name.to_owned(), figures));
        }
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.page {
        let old = fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
        let new = page::put(&old, &page::markdown(&report))
            .with_context(|| format!("no marks for the figures in {}", path.display()))?;
        fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.check && !objections.is_empty() {
        bail!("out of bounds:\n{}", objections.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_what_measures_its_figures_again() {
        for (given, told) in [
            ("bench", "cargo xtask bench"),
            (
                "bench core decode --turns 3 --check --page x.md --routes 1000",
                "cargo xtask bench core decode --routes 1000 --turns 3",
            ),
        ] {
            let args = Args::try_parse_from(given.split(' ')).unwrap();
            assert_eq!(args.command(), told);
        }
    }
}

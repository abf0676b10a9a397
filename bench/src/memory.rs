//! What routes and sessions cost in memory: resident octets of the whole state machine before and after,
//! each number of them measured in a process of its own; and by what power of that number they grow.

use std::{env, process::Command};

use crate::{
    measure::{Figure, exponent, float, kept, number, resident},
    mesh::Mesh,
    routes::table,
};
use anyhow::{Context as _, Result, bail, ensure};

/// Octets of a segment.
const SEGMENT: usize = 1448;

/// What can be measured: its name for [`alone`], in words, and how many of them.
struct Subject {
    name: &'static str,
    words: &'static str,
    sizes: &'static [u32],
}

const SUBJECTS: [Subject; 3] = [
    Subject {
        name: "Adj-RIB-In",
        words: "routes of one peer, IPv4, ADD-PATH",
        sizes: &[10_000, 100_000, 1_000_000],
    },
    Subject {
        name: "FIB mirror",
        words: "routes of the kernel, IPv4, 64 next hops",
        sizes: &[10_000, 100_000, 1_000_000],
    },
    Subject {
        name: "peer",
        words: "Established sessions without routes",
        sizes: &[100, 1_000, 5_000],
    },
];

pub fn measure() -> Result<Vec<Figure>> {
    let own = env::current_exe().context("cannot find this program")?;
    let mut figures = Vec::new();
    for subject in SUBJECTS {
        let mut grown = Vec::new();
        for size in subject.sizes {
            let output = Command::new(&own)
                .args(["--alone", &format!("{}={size}", subject.name)])
                .output()
                .with_context(|| format!("cannot run {}", own.display()))?;
            ensure!(
                output.status.success(),
                "{}: {}",
                subject.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
            let octets: u64 = serde_json::from_slice(&output.stdout)?;
            let what = format!("{} {}", number(f64::from(*size)), subject.words);
            let each = float(octets) / f64::from(*size);
            figures.push(Figure::one(&what, "ours", "octets each", each));
            grown.push(float(octets));
        }
        let what = format!("{}: memory grows by the power of", subject.words);
        let exponent = exponent(subject.sizes, grown);
        figures.push(Figure::one(&what, "their number", "exponent", exponent));
    }
    Ok(figures)
}

/// Octets of so many of one subject, in a process that has done nothing else.
pub fn alone(subject: &str) -> Result<u64> {
    let (name, size) = subject.split_once('=').context("no size")?;
    let size = size.parse()?;
    match name {
        "Adj-RIB-In" => rib(size),
        "FIB mirror" => fib(size),
        "peer" => peers(size),
        _ => bail!("nobody knows what `{subject}` is"),
    }
}

fn rib(routes: u32) -> Result<u64> {
    // BIRD offers ADD-PATH, and so does every Calico node.
    let table = table(routes, true);
    let mut mesh = Mesh::new(1)?;
    let before = resident()?;
    for segment in table.bytes.chunks(SEGMENT) {
        mesh.say(0, false, segment);
    }
    let grown = kept()?.saturating_sub(before);
    let count = mesh.prefixes();
    ensure!(count == table.routes, "{count} of {routes} routes");
    Ok(grown)
}

fn fib(routes: u32) -> Result<u64> {
    let mut mesh = Mesh::new(1)?;
    let before = resident()?;
    mesh.dump(routes, 64);
    let grown = kept()?.saturating_sub(before);
    let count = mesh.mirrored();
    ensure!(count == u64::from(routes), "{count} of {routes} routes");
    Ok(grown)
}

fn peers(sessions: u32) -> Result<u64> {
    let before = resident()?;
    // Established, or it would have failed.
    let mesh = Mesh::new(sessions)?;
    let grown = kept()?.saturating_sub(before);
    drop(mesh);
    Ok(grown)
}

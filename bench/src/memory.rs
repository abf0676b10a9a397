//! What a route costs in memory: resident octets of the whole state machine before and after, each
//! measured in a process of its own.

use std::{env, process::Command};

use crate::{
    measure::{Figure, float, resident},
    mesh::Mesh,
    routes::table,
};
use anyhow::{Context as _, Result, bail, ensure};

const ROUTES: u32 = 1_000_000;
/// Octets of a segment.
const SEGMENT: usize = 1448;
/// What can be measured.
const SUBJECTS: [&str; 3] = ["Adj-RIB-In", "FIB mirror", "peer"];
const PEERS: u32 = 1_000;

pub fn measure() -> Result<Vec<Figure>> {
    let own = env::current_exe().context("cannot find this program")?;
    let mut figures = Vec::new();
    for subject in SUBJECTS {
        let output = Command::new(&own)
            .args(["--alone", subject])
            .output()
            .with_context(|| format!("cannot run {}", own.display()))?;
        ensure!(
            output.status.success(),
            "{subject}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        figures.extend(serde_json::from_slice::<Vec<Figure>>(&output.stdout)?);
    }
    Ok(figures)
}

/// One subject, in a process that has done nothing else.
pub fn alone(subject: &str) -> Result<Vec<Figure>> {
    match subject {
        "Adj-RIB-In" => rib(),
        "FIB mirror" => fib(),
        "peer" => peers(),
        _ => bail!("nobody knows what `{subject}` is"),
    }
}

fn rib() -> Result<Vec<Figure>> {
    // BIRD offers ADD-PATH, and so does every Calico node.
    let table = table(ROUTES, true);
    let mut mesh = Mesh::new(1)?;
    let before = resident()?;
    for segment in table.bytes.chunks(SEGMENT) {
        mesh.say(0, false, segment);
    }
    let grown = resident()?.saturating_sub(before);
    ensure!(
        mesh.prefixes() == table.routes,
        "{} routes",
        mesh.prefixes()
    );
    Ok(vec![per(
        "routes of one peer, IPv4, ADD-PATH",
        table.routes,
        grown,
    )])
}

fn fib() -> Result<Vec<Figure>> {
    let mut mesh = Mesh::new(1)?;
    let before = resident()?;
    mesh.dump(ROUTES, 64);
    let grown = resident()?.saturating_sub(before);
    let count = mesh.mirrored();
    ensure!(count == u64::from(ROUTES), "{count} routes");
    Ok(vec![per(
        "routes of the kernel, IPv4, 64 next hops",
        count,
        grown,
    )])
}

fn peers() -> Result<Vec<Figure>> {
    let before = resident()?;
    let mesh = Mesh::new(PEERS)?;
    let grown = resident()?.saturating_sub(before);
    let count = u64::try_from(mesh.len())?;
    Ok(vec![per(
        "Established sessions without routes",
        count,
        grown,
    )])
}

fn per(what: &str, count: u64, grown: u64) -> Figure {
    let what = format!("{} {what}", crate::measure::number(float(count)));
    Figure::one(&what, "ours", "octets each", float(grown) / float(count))
}

//! thin
use observer_tests::lab::{Lab, Plan};
use std::{
    io::Write,
    time::{Duration, Instant},
};
fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let speaker = match std::env::args().nth(1).as_deref() {
        Some("bird2") => observer_tests::speaker::Speaker::Bird2,
        Some("frr") => observer_tests::speaker::Speaker::Frr,
        Some("gobgp") => observer_tests::speaker::Speaker::Gobgp,
        _ => observer_tests::speaker::Speaker::Bird,
    };
    let t = Instant::now();
    let lab = Lab::up(Plan::default().speaker(speaker))?;
    writeln!(out, "up {:?}", t.elapsed())?;
    lab.await_established(Duration::from_secs(30))?;
    writeln!(out, "established {:?}", t.elapsed())?;
    for node in lab.nodes() {
        if node.speaker.is_bird() {
            for l in lab.birdc(node, "show protocols")? {
                writeln!(out, "{}: {l}", node.name)?;
            }
        }
    }
    drop(lab);
    writeln!(out, "gone {:?}", t.elapsed())?;
    Ok(())
}

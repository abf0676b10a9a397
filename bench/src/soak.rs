//! Hours of a mesh of twenty nodes in which something breaks all the time: what the agent has must not grow.

use std::time::Duration;

use anyhow::Result;
use observer_tests::{
    gate,
    soak::{Sample, Soak},
};

/// How often it is told how things are.
const TELL: Duration = Duration::from_mins(5);
/// What is meant to be remembered, the last ten minutes and ten thousand changes, is full before the first
/// quarter of two hours is over. In a shorter run it may still fill up.
const FILLING: u64 = 4 << 20;

pub fn soak(minutes: u64) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let soak = Soak::of_twenty(Duration::from_mins(minutes));
    let mut next = Duration::ZERO;
    let mut tell = |sample: &Sample, breaks| {
        if sample.after >= next {
            next = sample.after + TELL;
            println!(
                "after {:>6.0?}: {breaks} breaks, {} KiB resident, {} descriptors, {} threads",
                sample.after,
                sample.resident >> 10,
                sample.descriptors,
                sample.threads
            );
        }
    };
    let soaked = soak.run(&mut tell)?;
    println!("{soaked}");
    soaked.is_flat(FILLING)
}

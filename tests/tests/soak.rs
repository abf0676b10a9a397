//! What breaks and mends again and again leaves nothing behind in the agent: `cargo xtask bench --soak`
//! does the same for hours.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Result;
use observer_tests::{gate, soak::Soak};

/// The recorder of the last ten minutes and the changes that are remembered fill up for longer than this
/// test has.
const FILLING: u64 = 16 << 20;
/// It runs beside the other tests: they are to have most of the processors.
const EVERY: Duration = Duration::from_secs(10);

#[test]
fn a_flapping_mesh_leaves_nothing_behind() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let soak = Soak {
        every: EVERY,
        ..Soak::of_twenty(Duration::from_mins(10))
    };
    let soaked = soak.run(&mut |_, _| {})?;
    writeln!(io::stdout(), "{soaked}")?;
    soaked.is_flat(FILLING)
}

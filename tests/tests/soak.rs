//! What breaks and mends again and again leaves nothing behind in the agent: `cargo xtask bench --soak`
//! does the same for hours.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Result;
use observer_tests::{gate, soak::Soak};

/// The recorder of the last ten minutes and the changes that are remembered fill up for longer than these
/// tests have.
const FILLING: u64 = 16 << 20;

fn stays_flat(soak: Soak, filling: u64) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let soaked = soak.run(&mut |_, _| {})?;
    writeln!(io::stdout(), "{soaked}")?;
    soaked.is_flat(filling)
}

#[test]
fn a_flapping_mesh_leaves_nothing_behind() -> Result<()> {
    let soak = Soak {
        nodes: 5,
        length: Duration::from_secs(100),
        every: Duration::from_secs(2),
    };
    stays_flat(soak, FILLING)
}

#[test]
#[ignore = "takes ten minutes"]
fn a_flapping_mesh_of_twenty_nodes_leaves_nothing_behind_for_ten_minutes() -> Result<()> {
    stays_flat(Soak::of_twenty(Duration::from_mins(10)), FILLING)
}

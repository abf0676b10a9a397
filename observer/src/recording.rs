//! `replay --record`: writes the events that follow from a capture to an events file.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};
use observer_core::{config::CoreConfig, record::Entry};

use crate::{capture, recorder};

/// Writes the events file `to`, which must not be there yet; gives how many events it has.
pub fn record(path: &Path, ports: &[u16], to: &Path) -> Result<u64> {
    let file = File::create_new(to)
        .with_context(|| format!("--record: cannot create {}", to.display()))?;
    let unwritable = || format!("--record: cannot write {}", to.display());
    let mut file = BufWriter::new(file);
    line(&mut file, &recorder::header(&CoreConfig::default())).with_context(unwritable)?;
    let (mut count, mut failed) = (0, None);
    capture::events(|| File::open(path), ports, &mut |now, event| {
        if failed.is_none() {
            failed = line(&mut file, &Entry { now, event }).err();
            count += 1;
        }
    })
    .with_context(|| format!("cannot read capture {}", path.display()))?;
    if let Some(error) = failed {
        return Err(error).with_context(unwritable);
    }
    file.flush().with_context(unwritable)?;
    Ok(count)
}

fn line(file: &mut impl Write, value: &impl serde::Serialize) -> Result<()> {
    serde_json::to_writer(&mut *file, value)?;
    file.write_all(b"\n")?;
    Ok(())
}

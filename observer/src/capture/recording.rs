//! `replay --record`: writes the events that follow from a capture to an events file.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};
use observer_core::{config::CoreConfig, event::Event, record::Entry, time::Timestamp};

use super::{
    CaptureError, Dissected, TcpPacket, dissect,
    events::{Events, Pairs},
    read_packets,
};
use crate::recorder;

/// Hands `sink` each call that the core would have had, in order.
pub fn events(
    path: &Path,
    ports: &[u16],
    sink: &mut dyn FnMut(Timestamp, Event),
) -> Result<(), CaptureError> {
    let mut pairs = Pairs::default();
    segments(path, ports, &mut |_, packet| pairs.note(packet))?;
    let mut events = Events::new(pairs);
    let mut out = Vec::new();
    segments(path, ports, &mut |at, packet| {
        events.take(at, packet, &mut out);
        out.drain(..).for_each(|(now, event)| sink(now, event));
    })?;
    events.finish(&mut out);
    out.drain(..).for_each(|(now, event)| sink(now, event));
    Ok(())
}

/// The BGP segments of a capture; what cannot be read further on ends it.
fn segments(
    path: &Path,
    ports: &[u16],
    sink: &mut dyn FnMut(Timestamp, &TcpPacket<'_>),
) -> Result<(), CaptureError> {
    let file = File::open(path).map_err(|source| CaptureError::Read { offset: 0, source })?;
    read_packets(file, &mut |packet| {
        if let Dissected::Tcp(tcp) = dissect(packet.link, packet.data, packet.cut)
            && (ports.contains(&tcp.from.port()) || ports.contains(&tcp.to.port()))
        {
            sink(Timestamp::from_nanos(packet.unix_nanos), &tcp);
        }
    })?;
    Ok(())
}

/// Writes the events file `to`, which must not be there yet; gives how many events it has.
pub fn record(path: &Path, ports: &[u16], to: &Path) -> Result<u64> {
    let file = File::create_new(to)
        .with_context(|| format!("--record: cannot create {}", to.display()))?;
    let unwritable = || format!("--record: cannot write {}", to.display());
    let mut file = BufWriter::new(file);
    line(&mut file, &recorder::header(&CoreConfig::default())).with_context(unwritable)?;
    let (mut count, mut failed) = (0, None);
    events(path, ports, &mut |now, event| {
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

//! Capture files (pcap, pcapng) read as BGP conversations: `replay FILE`, no root, no kernel.
//!
//! A capture has no local end, so bytes count as soon as they are in order. It does *not* follow
//! sessions across connections: that is the core's.

mod connections;
mod events;
mod file;
mod packet;
mod story;
mod summary;
mod told;

use std::{fs::File, io::Read, path::Path};

use observer_core::{
    conversation::{Direction, Observation},
    time::Timestamp,
};

use connections::Connections;
pub use file::{CaptureError, FileEnd, FileKind, Packet, read_packets};
pub use packet::{Dissected, TcpPacket, dissect};
pub use story::Story;
pub use summary::{
    ConnectionSummary, Counts, DirectionSummary, NotificationSummary, OpenSummary, Summary, Totals,
};
pub use told::events;

/// BGP's port.
pub const BGP_PORT: u16 = 179;

/// What was read of a capture.
#[derive(Debug, Default)]
pub struct Reading {
    /// In numbers.
    pub summary: Summary,
    /// In words.
    pub story: Story,
    /// Why the reading stopped before the file's end.
    pub damage: Option<CaptureError>,
}

/// What a file seems to be, by its first bytes.
pub fn kind_of(path: &Path) -> Result<FileKind, CaptureError> {
    let unreadable = |source| CaptureError::Read { offset: 0, source };
    let mut first = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(4).read_to_end(&mut first).map_err(unreadable)?;
    Ok(FileKind::of(&first))
}

/// Reads a capture file and sums it up.
pub fn summarise(path: &Path, ports: &[u16]) -> Result<Summary, CaptureError> {
    read(path, ports).map(|reading| reading.summary)
}

/// Reads a capture file. A connection is BGP when one of its ports is among `ports`.
pub fn read(path: &Path, ports: &[u16]) -> Result<Reading, CaptureError> {
    let file = File::open(path).map_err(|source| CaptureError::Read { offset: 0, source })?;
    read_from(file, ports, &mut |_, _| {})
}

/// Reads a capture from anywhere and shows every observation with its connection's number.
pub fn read_from(
    input: impl Read,
    ports: &[u16],
    watch: &mut dyn FnMut(usize, &Observation<'_>),
) -> Result<Reading, CaptureError> {
    let mut connections = Connections::default();
    let mut story = Story::default();
    let mut totals = Totals::default();
    let mut tell = |connection, observation: Observation<'_>| {
        story.note(connection, &observation);
        watch(connection, &observation);
    };
    let end = read_packets(input, &mut |packet| {
        totals.packets += 1;
        match dissect(packet.link, packet.data, packet.cut) {
            Dissected::Tcp(tcp) => {
                if ports.contains(&tcp.from.port()) || ports.contains(&tcp.to.port()) {
                    totals.segments += 1;
                    totals.truncated += u64::from(tcp.segment.missing != 0);
                    let at = Timestamp::from_nanos(packet.unix_nanos);
                    connections.take(at, &tcp, &mut tell);
                }
            }
            Dissected::Fragment => totals.fragments += 1,
            Dissected::Unreadable => totals.unreadable += 1,
            Dissected::UnknownLink => totals.unknown_link += 1,
            Dissected::Other => {}
        }
    })?;
    connections.finish(&mut tell);
    totals.cut_short = end.cut_short;
    totals.damaged = end.damage.is_some();
    totals.left_out = connections.left_out;
    let mut summary = Summary::default();
    for connection in &connections.all {
        let direction =
            |direction| DirectionSummary::from(connection.conversation.counters(direction));
        let connection = ConnectionSummary {
            a: connection.a,
            b: connection.b,
            a_to_b: direction(Direction::AToB),
            b_to_a: direction(Direction::BToA),
        };
        totals.add(&connection.a_to_b);
        totals.add(&connection.b_to_a);
        summary.connections.push(connection);
    }
    summary.totals = totals;
    Ok(Reading {
        summary,
        story,
        damage: end.damage,
    })
}

#[cfg(test)]
mod tests;

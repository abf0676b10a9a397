//! The events that follow from a capture, as the core would have been told them.

use std::io::{self, Read};

use observer_core::{event::Event, time::Timestamp};

use super::{
    CaptureError, Dissected, TcpPacket, dissect,
    events::{Events, Pairs},
    read_packets,
};

/// Hands `sink` each call that the core would have had, in order. The capture is opened twice: who
/// speaks BGP with whom must be known before its first segment is told.
pub fn events<R: Read>(
    open: impl Fn() -> io::Result<R>,
    ports: &[u16],
    sink: &mut dyn FnMut(Timestamp, Event),
) -> Result<(), CaptureError> {
    let mut pairs = Pairs::default();
    segments(&open, ports, &mut |_, packet| pairs.note(packet))?;
    let mut events = Events::new(pairs);
    let mut out = Vec::new();
    segments(&open, ports, &mut |at, packet| {
        events.take(at, packet, &mut out);
        out.drain(..).for_each(|(now, event)| sink(now, event));
    })?;
    events.finish(&mut out);
    out.drain(..).for_each(|(now, event)| sink(now, event));
    Ok(())
}

/// The BGP segments of a capture; what cannot be read further on ends it.
fn segments<R: Read>(
    open: &impl Fn() -> io::Result<R>,
    ports: &[u16],
    sink: &mut dyn FnMut(Timestamp, &TcpPacket<'_>),
) -> Result<(), CaptureError> {
    let capture = open().map_err(|source| CaptureError::Read { offset: 0, source })?;
    read_packets(capture, &mut |packet| {
        if let Dissected::Tcp(tcp) = dissect(packet.link, packet.data, packet.cut)
            && (ports.contains(&tcp.from.port()) || ports.contains(&tcp.to.port()))
        {
            sink(Timestamp::from_nanos(packet.unix_nanos), &tcp);
        }
    })?;
    Ok(())
}

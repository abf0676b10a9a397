//! One direction of a TCP connection, put back in order from the segments that were seen.
//!
//! Sequence numbers become 64-bit positions that never wrap. Bytes in order are handed on from the
//! segment they came in; only what is early, or not yet acknowledged, is copied and held, within a
//! bound. The first copy of a byte wins. A hole becomes a gap when the receiver acknowledged it (it
//! took what we missed), when the hold is full, or at the end.
//!
//! It does *not* know what the bytes mean, who may be believed, or time.

mod hold;

use hold::{Hold, Piece as Held};

/// Segments that begin further than this beyond what is expected are not of this stream: the
/// largest window that Linux offers by default (`tcp_rmem`) is 6 MiB.
const WINDOW: u64 = 16 << 20;
/// How far before the first segment seen an earlier one of a reordered capture may lie.
const REORDERED: u64 = 1 << 20;

/// Segments among which a capture may have lost the order.
const CONFUSED: u32 = 3;

/// What TCP says in one packet, as far as one direction's stream cares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, where the flag is set. It speaks of the other direction.
    pub ack: Option<u32>,
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// What was captured of the payload.
    pub payload: &'a [u8],
    /// Octets of payload beyond those, cut off by the capture.
    pub missing: u32,
}

/// When bytes are handed on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Release {
    /// As soon as they are in order: what the local side sends, and captures.
    #[default]
    Immediately,
    /// Once the receiver acknowledged them: what a peer sends counts when the local kernel took it.
    Acknowledged,
}

/// Bounds and belief of a stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamConfig {
    /// When bytes are handed on.
    pub release: Release,
    /// Octets held back at most, bookkeeping included.
    pub capacity: usize,
    /// Segments that may still fill a hole which the receiver already acknowledged: captures can
    /// reorder the two directions, a kernel's own tap cannot.
    pub patience: u32,
    /// Whether a stream entered midway hands nothing on before its owner says so with
    /// [`Stream::give_up`]: of a capture the first segment need not be the earliest.
    pub settle: bool,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            release: Release::Immediately,
            capacity: 256 << 10,
            patience: CONFUSED,
            settle: false,
        }
    }
}

/// What comes out of a stream, in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Piece<'a> {
    /// The next bytes.
    Data(&'a [u8]),
    /// This many bytes were never seen.
    Gap(u64),
    /// The sender closed its side here.
    End,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// It brought something new, or nothing was in it.
    New,
    /// Everything in it was seen before: a retransmission or a keepalive probe.
    Old,
    /// It is not of this stream: forged, or of another connection.
    OutOfWindow,
    /// It was refused because too much is held already.
    Overflow,
}

/// What a stream went through.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StreamCounters {
    /// Octets handed on.
    pub bytes: u64,
    /// Holes given up.
    pub gaps: u64,
    /// Octets in them.
    pub gap_bytes: u64,
    /// Segments that brought nothing new.
    pub retransmitted: u64,
    /// Segments that came early.
    pub early: u64,
    /// Segments whose bytes differ from those first seen there.
    pub conflicts: u64,
    /// Segments not of this stream.
    pub out_of_window: u64,
    /// Segments refused because the hold was full.
    pub overflows: u64,
    /// Octets never acknowledged and so never handed on.
    pub unacknowledged: u64,
}

/// One direction of a connection.
#[derive(Clone, Debug)]
pub struct Stream {
    config: StreamConfig,
    counters: StreamCounters,
    /// Position of the next byte to hand on; none until the first byte or SYN was seen.
    next: Option<u64>,
    hold: Hold,
    /// One past the last byte that the receiver acknowledged.
    acked: Option<u64>,
    /// Where the sender's FIN stands.
    fin: Option<u64>,
    ended: bool,
    /// Segments taken since the hole in front was acknowledged.
    waited: u32,
    /// Where a segment out of the window would go on, while nothing contradicts it.
    stray: Option<u64>,
    /// The sender's next number by all its segments, bare ACKs included.
    reach: Option<u64>,
    /// Entered midway, and still waiting for segments from before.
    settling: bool,
}

impl Stream {
    /// Nothing seen yet.
    pub const fn new(config: StreamConfig) -> Self {
        Self {
            config,
            counters: StreamCounters {
                bytes: 0,
                gaps: 0,
                gap_bytes: 0,
                retransmitted: 0,
                early: 0,
                conflicts: 0,
                out_of_window: 0,
                overflows: 0,
                unacknowledged: 0,
            },
            next: None,
            hold: Hold::new(),
            acked: None,
            fin: None,
            ended: false,
            waited: 0,
            stray: None,
            reach: None,
            settling: false,
        }
    }

    /// What it went through so far.
    pub const fn counters(&self) -> &StreamCounters {
        &self.counters
    }

    /// Octets held, bookkeeping included; never above the configured capacity.
    pub const fn held(&self) -> usize {
        self.hold.size()
    }

    /// Whether a beginning was seen: a SYN, or the first bytes.
    pub const fn is_started(&self) -> bool {
        self.next.is_some()
    }

    /// Whether a RST with this sequence number would be believed by a receiver. RFC 5961 §3.2 takes
    /// only the next expected number: at a kernel's own tap that is one of those that were seen; a
    /// capture may be behind, and is allowed the window.
    pub fn expects(&self, seq: u32) -> bool {
        self.next.is_none_or(|next| {
            let position = unwrap(next, seq);
            let last = match self.config.release {
                Release::Immediately => self.horizon(next),
                Release::Acknowledged => self.hold.end().unwrap_or(next),
            };
            position + 1 >= next && position <= last
        })
    }

    /// A segment turned out not to be of this stream.
    pub const fn disown(&mut self) {
        self.counters.out_of_window += 1;
    }

    /// Whether this stream's sender, whose every segment is seen before its answer, has sent what
    /// `ack` acknowledges: a receiver refuses a segment that acknowledges more (RFC 9293 §3.10.7.4).
    pub fn has_sent(&self, ack: u32) -> bool {
        self.reach.is_none_or(|reach| unwrap(reach, ack) <= reach)
    }

    /// Whether its bytes count only once acknowledged.
    pub fn awaits_acknowledgement(&self) -> bool {
        self.config.release == Release::Acknowledged
    }

    /// Whether a SYN with this number can be the beginning of what was seen.
    pub fn can_begin(&self, seq: u32) -> bool {
        self.next
            .is_none_or(|next| self.settling && precedes(next, unwrap(next, seq.wrapping_add(1))))
    }

    /// Whether something is held only because a segment that is late may still come.
    pub fn is_waiting(&self) -> bool {
        self.settling || self.confirmed_hole().is_some()
    }

    /// Whether that took as many segments as a capture usually confuses.
    pub const fn waited_enough(&self) -> bool {
        self.settling || self.waited >= CONFUSED
    }

    /// Stops waiting: what comes late now is a retransmission.
    pub fn give_up(&mut self, out: &mut dyn FnMut(Piece<'_>)) {
        if self.settling {
            self.settling = false;
        } else if let Some(end) = self.confirmed_hole() {
            self.waited = 0;
            self.skip_to(end, out);
        }
        self.settle(false, out);
    }

    /// Takes a segment of this direction and hands on what is in order.
    pub fn push(&mut self, segment: &Segment<'_>, out: &mut dyn FnMut(Piece<'_>)) -> Taken {
        let seq = segment.seq.wrapping_add(u32::from(segment.syn));
        let length = to_u64(segment.payload.len());
        let total = length + u64::from(segment.missing);
        let next = match self.next {
            Some(next) => next,
            // A bare ACK does not start a stream: a keepalive probe lies one below the next byte.
            None if total == 0 && !segment.syn && !segment.fin => return Taken::New,
            None => {
                let first = (1 << 32) + u64::from(seq);
                self.next = Some(first);
                self.settling = self.config.settle && !segment.syn;
                first
            }
        };
        let position = unwrap(next, seq);
        let next = if self.settling && (total != 0 || segment.syn) && precedes(next, position) {
            self.next = Some(position);
            self.settling = !segment.syn;
            position
        } else {
            next
        };
        let end = position + total;
        let reach = end + u64::from(segment.fin);
        self.reach = Some(self.reach.map_or(reach, |before| before.max(reach)));
        if position > self.horizon(next) && !self.follow(position, end) {
            self.counters.out_of_window += 1;
            return Taken::OutOfWindow;
        }
        if position + WINDOW < next {
            self.counters.out_of_window += 1;
            return Taken::OutOfWindow;
        }
        // One that was never reached is overruled: a FIN ahead of its bytes may be forged.
        if segment.fin && !self.ended && end >= next {
            self.fin = Some(end);
        }
        let taken = if total == 0 {
            Taken::New
        } else if end <= next {
            self.counters.retransmitted += 1;
            Taken::Old
        } else {
            self.take(next, position, segment, out)
        };
        self.settle(true, out);
        taken
    }

    /// The other direction acknowledged everything below `ack`.
    pub fn acknowledge(&mut self, ack: u32, out: &mut dyn FnMut(Piece<'_>)) {
        let Some(next) = self.next else { return };
        let position = unwrap(next, ack);
        if position > self.horizon(next).max(self.hold.end().unwrap_or(0)) {
            return;
        }
        if self.acked.is_none_or(|acked| acked < position) {
            self.acked = Some(position);
            self.settle(false, out);
        }
    }

    /// Nothing more will come: hands on what is held, holes as gaps. What was to be acknowledged
    /// and never was is dropped and counted.
    pub fn finish(&mut self, out: &mut dyn FnMut(Piece<'_>)) {
        self.settling = false;
        while let Some(next) = self.next {
            self.drain(out);
            match self.hold.start() {
                Some(start) if start > next && start < self.limit() => self.skip_to(start, out),
                _ => break,
            }
        }
        self.counters.unacknowledged += self.hold.clear();
        if let (Some(next), Some(target)) = (self.next, self.acked_data())
            && target > next
        {
            self.skip_to(target, out);
        }
        self.end(out);
    }

    fn take(
        &mut self,
        next: u64,
        position: u64,
        segment: &Segment<'_>,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> Taken {
        let (position, payload) = if position < next {
            let seen = usize::try_from(next - position).unwrap_or(usize::MAX);
            (next, segment.payload.get(seen..).unwrap_or(&[]))
        } else {
            (position, segment.payload)
        };
        let mut rest = (position, payload);
        if position == next && self.hold.is_empty() {
            let free = usize::try_from(self.limit().saturating_sub(next)).unwrap_or(usize::MAX);
            let (now, later) = payload.split_at_checked(free).unwrap_or((payload, &[]));
            self.hand_on(now, out);
            rest = (position + to_u64(now.len()), later);
        } else if position > next {
            self.counters.early += 1;
        }
        let lost = position + to_u64(payload.len());
        self.keep(rest.0, rest.1, lost, segment.missing, out)
    }

    /// Holds what cannot be handed on yet, if there is room.
    fn keep(
        &mut self,
        position: u64,
        bytes: &[u8],
        lost_at: u64,
        missing: u32,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> Taken {
        if bytes.is_empty() && missing == 0 {
            return Taken::New;
        }
        let room = Hold::cost(bytes.len()) + Hold::cost(0);
        while self.hold.size() + room > self.config.capacity {
            if self.settling {
                self.settling = false;
                self.drain(out);
                continue;
            }
            // The hole in front is what everything waits for: give it up.
            match (self.next, self.hold.start()) {
                (Some(next), Some(start)) if start > next && start < self.limit() => {
                    self.skip_to(start, out);
                    self.drain(out);
                }
                _ => {
                    self.counters.overflows += 1;
                    return Taken::Overflow;
                }
            }
        }
        let next = self.next.unwrap_or(position);
        let behind = usize::try_from(next.saturating_sub(position)).unwrap_or(usize::MAX);
        let bytes = bytes.get(behind..).unwrap_or(&[]);
        if self
            .hold
            .insert(position.max(next), bytes, self.config.capacity)
        {
            self.counters.conflicts += 1;
        }
        if missing != 0 {
            self.hold.insert_lost(
                lost_at.max(next),
                lost_at + u64::from(missing),
                self.config.capacity,
            );
        }
        Taken::New
    }

    /// Hands on what became deliverable, and gives up holes that will not be filled.
    fn settle(&mut self, segment: bool, out: &mut dyn FnMut(Piece<'_>)) {
        loop {
            self.drain(out);
            let Some(hole) = self.confirmed_hole() else {
                self.waited = 0;
                break;
            };
            if self.waited < self.config.patience {
                self.waited += u32::from(segment);
                break;
            }
            self.waited = 0;
            self.skip_to(hole, out);
        }
        if self.next.is_some() && self.next == self.fin && !self.settling {
            self.end(out);
        }
    }

    /// The end of a hole in front that the receiver says it is none: what it acknowledged was not
    /// seen.
    fn confirmed_hole(&self) -> Option<u64> {
        if self.settling {
            return None;
        }
        let (next, acked) = (self.next?, self.acked_data()?);
        let start = self.hold.start();
        let hole = start.unwrap_or(u64::MAX).min(acked);
        // Behind the last byte held, one octet acknowledged beyond is a FIN not seen.
        let confirmed = start.is_some_and(|start| start <= acked)
            || self.config.patience == 0 && hole > next + 1;
        (hole > next && confirmed).then_some(hole)
    }

    /// Hands on held bytes as far as they are in order and released.
    fn drain(&mut self, out: &mut dyn FnMut(Piece<'_>)) {
        let limit = self.limit();
        while let Some(next) = self.next {
            match self.hold.take(next, limit) {
                Some(Held::Bytes(bytes)) => self.hand_on(&bytes, out),
                Some(Held::Lost(length)) => self.skip_to(next + length, out),
                None => return,
            }
        }
    }

    fn hand_on(&mut self, bytes: &[u8], out: &mut dyn FnMut(Piece<'_>)) {
        if bytes.is_empty() {
            return;
        }
        let length = to_u64(bytes.len());
        self.next = self.next.map(|next| next + length);
        self.counters.bytes += length;
        out(Piece::Data(bytes));
    }

    fn skip_to(&mut self, position: u64, out: &mut dyn FnMut(Piece<'_>)) {
        let length = position.saturating_sub(self.next.unwrap_or(position));
        if length == 0 {
            return;
        }
        self.next = Some(position);
        self.counters.gaps += 1;
        self.counters.gap_bytes += length;
        out(Piece::Gap(length));
    }

    fn end(&mut self, out: &mut dyn FnMut(Piece<'_>)) {
        if self.fin.is_some() && self.next >= self.fin && !self.ended {
            self.ended = true;
            out(Piece::End);
        }
    }

    /// Up to where bytes may be handed on.
    fn limit(&self) -> u64 {
        if self.settling {
            return 0;
        }
        match self.config.release {
            Release::Immediately => u64::MAX,
            Release::Acknowledged => self.acked.unwrap_or(0),
        }
    }

    /// One past the last *byte* acknowledged: a FIN takes a number and is none, and what lies one
    /// beyond all that was seen is a FIN that was not.
    fn acked_data(&self) -> Option<u64> {
        let acked = self.acked?;
        match (self.fin, self.next) {
            (Some(fin), _) => Some(acked.min(fin)),
            (None, Some(next)) if acked == self.hold.end().unwrap_or(next) + 1 => Some(acked - 1),
            (None, _) => Some(acked),
        }
    }

    /// Positions that a segment of this stream may begin at.
    fn horizon(&self, next: u64) -> u64 {
        self.acked.unwrap_or(0).max(next) + WINDOW
    }

    /// A segment beyond the window is believed when another one led up to it and nobody
    /// acknowledges anything that says otherwise: the capture lost more than a window.
    fn follow(&mut self, position: u64, end: u64) -> bool {
        let follows = self.stray == Some(position) && self.config.release == Release::Immediately;
        self.stray = Some(end);
        follows
    }
}

/// Whether a position lies before the first one seen, or is it, and near enough to be of the same
/// stream.
const fn precedes(first: u64, position: u64) -> bool {
    position <= first && first - position <= REORDERED
}

/// The position with this sequence number that is nearest to `near`.
fn unwrap(near: u64, seq: u32) -> u64 {
    let low = u32::try_from(near & u64::from(u32::MAX)).unwrap_or(0);
    let distance = i64::from(seq.wrapping_sub(low).cast_signed());
    near.saturating_add_signed(distance)
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

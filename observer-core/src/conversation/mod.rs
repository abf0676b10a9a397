//! One TCP connection as a BGP conversation: both directions' streams, the messages in them, and
//! what the two OPENs agreed on.
//!
//! Segments go in, [`Observation`]s come out at once, in the order of the bytes. What is malformed
//! is an observation like any other; nothing fails. It does *not* know the session that the
//! connection carries, nor whether the kernel closed it: state belongs to a session, bytes to a
//! connection (DOMAIN §4).

mod counters;
mod framer;
#[doc(hidden)]
pub mod fuzz;
mod negotiation;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    bgp::{
        DecodeError, Message, MessageKind, NotificationFacts, OpenFacts, RouteRefresh, UpdateFacts,
    },
    stream::{Piece, Segment, Stream, StreamConfig, StreamCounters, Taken},
    time::Timestamp,
};
pub use counters::DirectionCounters;
use framer::{Framed, Framer};
pub use negotiation::Inference;
use negotiation::{Opens, Reading};

/// Who sent something. `a` and `b` are the owner's choice: local and remote end at a tap, first and
/// second seen in a capture.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From `a` to `b`.
    AToB,
    /// From `b` to `a`.
    BToA,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::AToB => Self::BToA,
            Self::BToA => Self::AToB,
        }
    }
}

/// Something seen on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Time of the segment that completed it.
    pub at: Timestamp,
    /// Who sent it.
    pub direction: Direction,
    /// What.
    pub seen: Seen<'a>,
}

/// What can be seen.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// TCP begins.
    Syn,
    /// An OPEN.
    Open(&'a OpenFacts),
    /// An UPDATE; the flag says that ADD-PATH or AS width had to be inferred.
    Update(&'a UpdateFacts<'a>, bool),
    /// A NOTIFICATION.
    Notification(&'a NotificationFacts),
    /// A KEEPALIVE.
    Keepalive,
    /// A ROUTE-REFRESH.
    RouteRefresh(&'a RouteRefresh<'a>),
    /// A message of no known type.
    Unknown(u8),
    /// Something wrong; of which message, unless no message could be told.
    Malformed(Option<MessageKind>, DecodeError),
    /// So many octets were never seen.
    Gap(u64),
    /// So many octets were passed over to find the next message.
    Resync(u64),
    /// The sender closed its side (FIN, all bytes before it seen).
    Closed,
    /// A RST with a number that a receiver would believe.
    Reset,
}

/// Bounds and belief of the two streams.
#[derive(Clone, Copy, Debug)]
pub struct ConversationConfig {
    /// Of what `a` sends.
    pub a_to_b: StreamConfig,
    /// Of what `b` sends.
    pub b_to_a: StreamConfig,
    /// How long bytes wait for others that are late, besides what [`StreamConfig`] says.
    pub patience: Duration,
}

impl Default for ConversationConfig {
    fn default() -> Self {
        Self {
            a_to_b: StreamConfig::default(),
            b_to_a: StreamConfig::default(),
            patience: Duration::from_secs(1),
        }
    }
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Conversation {
    a: Half,
    b: Half,
    patience: Duration,
}

/// What one end sends.
#[derive(Clone, Debug)]
struct Half {
    stream: Stream,
    reader: Reader,
    /// Since when bytes wait for others that are late.
    waits_since: Option<Timestamp>,
}

/// Reads the bytes of one direction.
#[derive(Clone, Debug, Default)]
struct Reader {
    framer: Framer,
    counters: DirectionCounters,
}

/// Where observations go.
type Sink<'a> = &'a mut dyn FnMut(Observation<'_>);

impl Half {
    fn new(config: StreamConfig) -> Self {
        Self {
            stream: Stream::new(config),
            reader: Reader::default(),
            waits_since: None,
        }
    }

    /// Notes whether bytes wait, after a segment at this time.
    fn look(&mut self, at: Timestamp) {
        self.waits_since = match self.waits_since {
            _ if !self.stream.is_waiting() => None,
            None => Some(at),
            since => since,
        };
    }
}

impl Conversation {
    /// Nothing seen yet.
    pub fn new(config: ConversationConfig) -> Self {
        Self {
            a: Half::new(config.a_to_b),
            b: Half::new(config.b_to_a),
            patience: config.patience,
        }
    }

    /// Takes a segment sent in `direction` and tells what it completes in either direction.
    pub fn segment(
        &mut self,
        at: Timestamp,
        direction: Direction,
        segment: &Segment<'_>,
        sink: Sink<'_>,
    ) -> Taken {
        if self.is_unacceptable(direction, segment) {
            self.halves(direction).0.stream.disown();
            return Taken::OutOfWindow;
        }
        self.lose_patience(at, sink);
        if let Some(ack) = segment.ack {
            let back = direction.reversed();
            self.read(at, back, sink, |stream, out| {
                stream.acknowledge(ack, out);
            });
        }
        let taken = self.take(at, direction, segment, sink);
        self.a.look(at);
        self.b.look(at);
        taken
    }

    fn take(
        &mut self,
        at: Timestamp,
        direction: Direction,
        segment: &Segment<'_>,
        sink: Sink<'_>,
    ) -> Taken {
        let half = self.half_mut(direction);
        let mut told = Told {
            at,
            direction,
            sink,
        };
        if segment.syn && !half.stream.is_started() {
            told.tell(Seen::Syn);
        } else if !segment.syn && !half.stream.is_started() {
            half.reader.framer.enter_midway();
        }
        if segment.rst && !half.stream.expects(segment.seq) {
            half.stream.disown();
            return Taken::OutOfWindow;
        }
        if segment.rst {
            told.tell(Seen::Reset);
            // RFC 9293 §3.5.3: text in a RST is a diagnosis, not data.
            return Taken::New;
        }
        self.read(at, direction, sink, |stream, out| stream.push(segment, out))
    }

    /// Gives up what has been waiting for too long: the messages behind it are of the time when it
    /// began to wait.
    fn lose_patience(&mut self, now: Timestamp, sink: Sink<'_>) {
        for direction in [Direction::AToB, Direction::BToA] {
            if let Some(since) = self.half(direction).waits_since
                && now.since(since) > self.patience
                && self.half(direction).stream.waited_enough()
            {
                self.read(since, direction, sink, Stream::give_up);
                self.half_mut(direction).look(now);
            }
        }
    }

    /// Does something to a direction's stream and reads what comes out of it.
    fn read<T>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        sink: Sink<'_>,
        act: impl FnOnce(&mut Stream, &mut dyn FnMut(Piece<'_>)) -> T,
    ) -> T {
        let (sender, receiver) = self.halves(direction);
        let Half { stream, reader, .. } = sender;
        let open = receiver.reader.counters.opens.last();
        let mut told = Told {
            at,
            direction,
            sink,
        };
        act(stream, &mut |piece| reader.take(piece, open, &mut told))
    }

    /// Whether the receiver, whose own segments are all seen, refuses a segment that was sent in
    /// `direction`: it acknowledges what was never sent. Nobody forges that by accident.
    fn is_unacceptable(&self, direction: Direction, segment: &Segment<'_>) -> bool {
        let (sent, answered) = (self.half(direction), self.half(direction.reversed()));
        let acknowledges = segment.ack.filter(|_| !segment.rst);
        sent.stream.awaits_acknowledgement()
            && !answered.stream.awaits_acknowledgement()
            && acknowledges.is_some_and(|ack| !answered.stream.has_sent(ack))
    }

    /// The connection is over: what is held comes out, or is dropped where it never was
    /// acknowledged.
    pub fn finish(&mut self, at: Timestamp, sink: Sink<'_>) {
        for direction in [Direction::AToB, Direction::BToA] {
            let at = self.half_mut(direction).waits_since.take().unwrap_or(at);
            self.read(at, direction, sink, Stream::finish);
            let Reader { framer, counters } = &mut self.half_mut(direction).reader;
            counters.unfinished += u64::from(framer.is_within_message());
        }
    }

    /// Whether a SYN with this number can be the beginning of what was seen in a direction.
    pub fn can_begin(&self, direction: Direction, seq: u32) -> bool {
        self.half(direction).stream.can_begin(seq)
    }

    /// Whether a SYN or bytes were seen in a direction.
    pub fn spoke(&self, direction: Direction) -> bool {
        self.half(direction).stream.is_started()
    }

    /// What was counted in a direction.
    pub fn counters(&self, direction: Direction) -> &DirectionCounters {
        &self.half(direction).reader.counters
    }

    /// What TCP went through in a direction.
    pub fn stream_counters(&self, direction: Direction) -> &StreamCounters {
        self.half(direction).stream.counters()
    }

    /// The OPEN sent in a direction, once seen.
    pub fn open(&self, direction: Direction) -> Option<&OpenFacts> {
        self.counters(direction).opens.last()
    }

    /// Seconds of hold time both agreed on: the lesser (RFC 4271 §4.2); none until both OPENs were
    /// seen.
    pub fn hold_secs(&self) -> Option<u16> {
        let (a, b) = (self.open(Direction::AToB)?, self.open(Direction::BToA)?);
        Some(a.hold_secs.min(b.hold_secs))
    }

    /// Octets held for this connection: what its owner adds up for a bound over all.
    pub fn held(&self) -> usize {
        [&self.a, &self.b]
            .into_iter()
            .map(|half| half.stream.held() + half.reader.framer.pending())
            .sum()
    }

    /// Octets of what `direction` sent that wait for others or for their acknowledgement.
    pub const fn waiting(&self, direction: Direction) -> usize {
        self.half(direction).stream.held()
    }

    const fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::AToB => &self.a,
            Direction::BToA => &self.b,
        }
    }

    const fn half_mut(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::AToB => &mut self.a,
            Direction::BToA => &mut self.b,
        }
    }

    /// Sender and receiver.
    const fn halves(&mut self, direction: Direction) -> (&mut Half, &mut Half) {
        match direction {
            Direction::AToB => (&mut self.a, &mut self.b),
            Direction::BToA => (&mut self.b, &mut self.a),
        }
    }
}

/// A sink that knows when and who.
struct Told<'a> {
    at: Timestamp,
    direction: Direction,
    sink: Sink<'a>,
}

impl Told<'_> {
    fn tell(&mut self, seen: Seen<'_>) {
        (self.sink)(Observation {
            at: self.at,
            direction: self.direction,
            seen,
        });
    }
}

impl Reader {
    fn take(&mut self, piece: Piece<'_>, receiver: Option<&OpenFacts>, told: &mut Told<'_>) {
        let Self { framer, counters } = self;
        match piece {
            Piece::Data(bytes) => {
                let opens = Opens {
                    sender: counters.opens.last(),
                    receiver,
                };
                let longest = opens.longest_message();
                framer.push(bytes, longest, &mut |framed| {
                    frame(counters, framed, receiver, told);
                });
            }
            Piece::Gap(length) => {
                counters.gaps += 1;
                counters.gap_bytes += length;
                framer.interrupt();
                told.tell(Seen::Gap(length));
            }
            Piece::End => told.tell(Seen::Closed),
        }
    }
}

/// Counts and tells one thing that the framer found.
fn frame(
    counters: &mut DirectionCounters,
    framed: Framed<'_>,
    receiver: Option<&OpenFacts>,
    told: &mut Told<'_>,
) {
    let (header, body) = match framed {
        Framed::Message(header, body) => (header, body),
        Framed::Broken(error) => {
            counters.error(error);
            return told.tell(Seen::Malformed(None, error));
        }
        Framed::Skipped(length) => {
            counters.resyncs += 1;
            counters.skipped_bytes += length;
            return told.tell(Seen::Resync(length));
        }
    };
    counters.messages.count(header.kind);
    let message = match Message::decode_body(header, body) {
        Ok(message) => message,
        Err(error) => {
            counters.error(error);
            if let MessageKind::Unknown(kind) = header.kind {
                told.tell(Seen::Unknown(kind));
            }
            return told.tell(Seen::Malformed(Some(header.kind), error));
        }
    };
    let wrong = |counters: &mut DirectionCounters, told: &mut Told<'_>, error| {
        counters.error(error);
        told.tell(Seen::Malformed(Some(header.kind), error));
    };
    match message {
        Message::Keepalive => told.tell(Seen::Keepalive),
        Message::RouteRefresh(refresh) => told.tell(Seen::RouteRefresh(&refresh)),
        Message::Open(open) => {
            let facts = OpenFacts::read(&open, |error| wrong(counters, told, error));
            counters.open(&facts);
            told.tell(Seen::Open(&facts));
        }
        Message::Notification(notification) => {
            let facts =
                NotificationFacts::read(&notification, |error| wrong(counters, told, error));
            counters.notification(&facts);
            told.tell(Seen::Notification(&facts));
        }
        Message::Update(update) => {
            let mut inference = std::mem::take(&mut counters.inference);
            let opens = Opens {
                sender: counters.opens.last(),
                receiver,
            };
            let mut reading = Reading {
                opens,
                inference: &mut inference,
                inferred: false,
            };
            let mut errors = Vec::new();
            let facts = update.read(&mut reading, &mut |error| errors.push(error));
            let inferred = reading.inferred;
            counters.inference = inference;
            for error in errors {
                wrong(counters, told, error);
            }
            counters.update(&facts, inferred);
            told.tell(Seen::Update(&facts, inferred));
        }
    }
}

#[cfg(test)]
mod tests;

//! What a fuzzer or a test with random bytes drives: a whole conversation, with what must hold
//! whatever the bytes are.

use super::{Conversation, ConversationConfig, Direction};
use crate::{
    stream::{Release, Segment, StreamConfig},
    time::Timestamp,
};

/// Octets held per direction in these runs: small, so that the bound is met often.
const CAPACITY: usize = 4096;

/// `bytes` as they are sent after a SYN, in pieces; the first octet says how large those are.
pub fn messages(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    let mut run = Run::new(Release::Immediately, false);
    run.push(
        Direction::AToB,
        &Segment {
            seq: u32::MAX,
            syn: true,
            ..Segment::default()
        },
    );
    let mut seq = 0_u32;
    for payload in bytes.chunks(usize::from(*size) * 16 + 1) {
        // Every other octet length goes the other way, so that both sides' OPENs can be met.
        let direction = if payload.first() == Some(&0xfe) {
            Direction::BToA
        } else {
            Direction::AToB
        };
        run.push(
            direction,
            &Segment {
                seq,
                payload,
                ..Segment::default()
            },
        );
        seq = seq.wrapping_add(u32::try_from(payload.len()).unwrap_or(0));
    }
    run.finish();
}

/// `bytes` as a script: eight octets tell of a segment, and its payload follows.
pub fn segments(bytes: &[u8]) {
    let release = match bytes.first() {
        Some(first) if first & 1 == 1 => Release::Acknowledged,
        _ => Release::Immediately,
    };
    let settle = bytes.first().is_some_and(|first| first & 2 != 0);
    let mut run = Run::new(release, settle);
    let mut rest = bytes.get(1..).unwrap_or(&[]);
    while let Some((&[flags, s2, s1, s0, a1, a0, length, missing], after)) =
        rest.split_first_chunk()
    {
        let length = usize::from(length).min(after.len());
        let (payload, next) = after.split_at_checked(length).unwrap_or((after, &[]));
        rest = next;
        let seq = u32::from_be_bytes([flags & 0x80, s2, s1, s0]);
        let segment = Segment {
            seq,
            ack: (flags & 1 != 0).then_some(u32::from_be_bytes([0, 0, a1, a0])),
            syn: flags & 2 != 0,
            fin: flags & 4 != 0,
            rst: flags & 8 != 0,
            payload,
            missing: u32::from(missing) * u32::from(flags & 16 != 0),
        };
        let direction = if flags & 32 == 0 {
            Direction::AToB
        } else {
            Direction::BToA
        };
        run.push(direction, &segment);
    }
    run.finish();
}

/// A conversation and what it handed on.
struct Run {
    conversation: Conversation,
    seen: u64,
    sent: u64,
}

impl Run {
    fn new(release: Release, settle: bool) -> Self {
        let stream = StreamConfig {
            release,
            capacity: CAPACITY,
            patience: 1,
            settle,
        };
        let config = ConversationConfig {
            a_to_b: stream,
            b_to_a: stream,
            ..ConversationConfig::default()
        };
        Self {
            conversation: Conversation::new(config),
            seen: 0,
            sent: 0,
        }
    }

    fn push(&mut self, direction: Direction, segment: &Segment<'_>) {
        let Self {
            conversation,
            seen,
            sent,
        } = self;
        *sent += u64::try_from(segment.payload.len()).unwrap_or(0) + 1;
        let at = Timestamp::from_nanos(*sent << 20);
        conversation.segment(at, direction, segment, &mut |_| {
            *seen += 1;
        });
        let most = 2 * (CAPACITY + usize::from(u16::MAX));
        assert!(conversation.held() <= most, "held {}", conversation.held());
    }

    fn finish(mut self) {
        let Self {
            conversation, seen, ..
        } = &mut self;
        conversation.finish(Timestamp::default(), &mut |_| *seen += 1);
        let messages = conversation.counters(Direction::AToB).messages.total()
            + conversation.counters(Direction::BToA).messages.total();
        assert!(
            messages * 19 <= self.sent,
            "{messages} messages in {} octets",
            self.sent
        );
    }
}

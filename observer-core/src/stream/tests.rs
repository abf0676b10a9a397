use proptest::prelude::*;

use super::*;

/// Everything that comes out: bytes, gaps and ends in words.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    gaps: Vec<u64>,
    ends: usize,
}

impl Out {
    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Data(bytes) => self.bytes.extend(bytes),
            Piece::Gap(length) => self.gaps.push(length),
            Piece::End => self.ends += 1,
        }
    }
}

fn data(seq: u32, payload: &[u8]) -> Segment<'_> {
    Segment {
        seq,
        payload,
        ..Segment::default()
    }
}

fn syn(seq: u32) -> Segment<'static> {
    Segment {
        seq,
        syn: true,
        ..Segment::default()
    }
}

fn fin(seq: u32) -> Segment<'static> {
    Segment {
        seq,
        fin: true,
        ..Segment::default()
    }
}

/// Pushes segments into a stream of this kind, without finishing.
fn run(config: StreamConfig, segments: &[Segment<'_>]) -> (Stream, Out) {
    let mut stream = Stream::new(config);
    let mut out = Out::default();
    for segment in segments {
        stream.push(segment, &mut |piece| out.take(piece));
    }
    (stream, out)
}

#[test]
fn in_order_bytes_pass_and_a_fin_ends() {
    let (stream, out) = run(
        StreamConfig::default(),
        &[syn(9), data(10, b"abc"), data(13, b"de"), fin(15)],
    );
    assert_eq!(out.bytes, b"abcde");
    assert_eq!((out.gaps.len(), out.ends, stream.held()), (0, 1, 0));
}

#[test]
fn sequence_numbers_wrap() {
    let (_, out) = run(
        StreamConfig::default(),
        &[
            syn(u32::MAX - 3),
            data(u32::MAX - 2, b"abc"),
            data(3, b"gh"),
            data(0, b"def"),
        ],
    );
    assert_eq!(out.bytes, b"abcdefgh");
    assert!(out.gaps.is_empty());
}

#[test]
fn early_segments_wait_and_old_ones_are_counted() {
    let (stream, out) = run(
        StreamConfig::default(),
        &[
            data(0, b"ab"),
            data(4, b"ef"),
            data(0, b"ab"),
            data(2, b"cd"),
            data(5, b"fg"),
        ],
    );
    assert_eq!(out.bytes, b"abcdefg");
    assert_eq!(stream.counters().retransmitted, 1);
    assert_eq!(stream.counters().early, 1);
}

#[test]
fn a_keepalive_probe_is_harmless() {
    let probe = Segment {
        seq: 4,
        ..Segment::default()
    };
    let (_, out) = run(
        StreamConfig::default(),
        &[probe, data(5, b"a"), data(5, b"x"), probe, data(6, b"b")],
    );
    assert_eq!(out.bytes, b"ab");
    assert!(out.gaps.is_empty());
}

#[test]
fn the_first_copy_wins_and_a_conflict_is_counted() {
    let (stream, out) = run(
        StreamConfig::default(),
        &[
            data(0, b"a"),
            data(2, b"cd"),
            data(1, b"bXde"),
            data(5, b"f"),
        ],
    );
    assert_eq!(out.bytes, b"abcdef");
    assert_eq!(stream.counters().conflicts, 1);
}

#[test]
fn a_hole_that_the_receiver_acknowledged_is_a_gap() {
    let mut stream = Stream::new(StreamConfig {
        patience: 0,
        ..StreamConfig::default()
    });
    let mut out = Out::default();
    stream.push(&data(0, b"ab"), &mut |piece| out.take(piece));
    stream.push(&data(10, b"xy"), &mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"ab");
    stream.acknowledge(12, &mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"abxy");
    assert_eq!(out.gaps, [8]);
}

#[test]
fn a_capture_waits_a_few_segments_before_it_gives_a_hole_up() {
    let mut stream = Stream::new(StreamConfig::default());
    let mut out = Out::default();
    stream.push(&data(0, b"ab"), &mut |piece| out.take(piece));
    stream.push(&data(4, b"ef"), &mut |piece| out.take(piece));
    stream.acknowledge(6, &mut |piece| out.take(piece));
    stream.push(&data(2, b"cd"), &mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"abcdef");
    stream.push(&data(8, b"ij"), &mut |piece| out.take(piece));
    stream.acknowledge(10, &mut |piece| out.take(piece));
    for seq in [10, 12, 14] {
        stream.push(&data(seq, b"--"), &mut |piece| out.take(piece));
    }
    stream.push(&data(16, b"--"), &mut |piece| out.take(piece));
    assert_eq!(out.gaps, [2]);
}

#[test]
fn without_acknowledgements_a_hole_lasts_until_the_end_or_the_bound() {
    let (mut stream, mut out) = run(StreamConfig::default(), &[data(0, b"ab"), data(9, b"xy")]);
    assert_eq!(out.bytes, b"ab");
    stream.finish(&mut |piece| out.take(piece));
    assert_eq!(
        (out.bytes.as_slice(), out.gaps.as_slice()),
        (&b"abxy"[..], &[7][..])
    );

    let config = StreamConfig {
        capacity: 300,
        ..StreamConfig::default()
    };
    let (stream, out) = run(
        config,
        &[data(0, b"ab"), data(9, &[1; 100]), data(200, &[2; 100])],
    );
    assert_eq!(out.gaps, [7]);
    assert!(stream.held() <= 300);
}

#[test]
fn what_the_capture_cut_off_is_a_gap_at_once() {
    let cut = Segment {
        seq: 0,
        payload: b"ab",
        missing: 5,
        ..Segment::default()
    };
    let (_, out) = run(StreamConfig::default(), &[cut, data(7, b"hi")]);
    assert_eq!(
        (out.bytes.as_slice(), out.gaps.as_slice()),
        (&b"abhi"[..], &[5][..])
    );
}

#[test]
fn unacknowledged_bytes_do_not_count() {
    let config = StreamConfig {
        release: Release::Acknowledged,
        patience: 0,
        ..Default::default()
    };
    let mut stream = Stream::new(config);
    let mut out = Out::default();
    stream.push(&syn(9), &mut |piece| out.take(piece));
    stream.push(&data(10, b"abcdef"), &mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"");
    stream.acknowledge(13, &mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"abc");
    stream.push(&data(16, b"gh"), &mut |piece| out.take(piece));
    stream.acknowledge(17, &mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"abcdefg");
    stream.finish(&mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"abcdefg");
    assert_eq!(stream.counters().unacknowledged, 1);
    assert!(out.gaps.is_empty());
}

#[test]
fn the_kernel_took_what_we_never_saw() {
    let config = StreamConfig {
        release: Release::Acknowledged,
        patience: 0,
        ..Default::default()
    };
    let mut stream = Stream::new(config);
    let mut out = Out::default();
    stream.push(&syn(9), &mut |piece| out.take(piece));
    stream.acknowledge(30, &mut |piece| out.take(piece));
    assert_eq!(out.gaps, [20]);
    stream.push(&data(30, b"a"), &mut |piece| out.take(piece));
    stream.push(&fin(31), &mut |piece| out.take(piece));
    stream.acknowledge(32, &mut |piece| out.take(piece));
    assert_eq!(
        (out.bytes.as_slice(), out.ends, out.gaps.len()),
        (&b"a"[..], 1, 1)
    );
}

#[test]
fn the_acknowledgement_of_an_unseen_fin_is_no_gap() {
    let config = StreamConfig {
        patience: 0,
        ..StreamConfig::default()
    };
    let (mut stream, mut out) = run(config, &[data(0, b"ab")]);
    stream.acknowledge(3, &mut |piece| out.take(piece));
    stream.finish(&mut |piece| out.take(piece));
    assert!(out.gaps.is_empty());
}

#[test]
fn segments_out_of_the_window_change_nothing_but_a_counter() {
    let (stream, out) = run(
        StreamConfig::default(),
        &[
            data(0, b"ab"),
            data(1 << 30, b"evil"),
            data(0xf000_0000, b"evil"),
            data(2, b"cd"),
        ],
    );
    assert_eq!(out.bytes, b"abcd");
    assert_eq!(stream.counters().out_of_window, 2);
    assert!(stream.expects(4) && !stream.expects(1 << 30));
}

#[test]
fn a_capture_that_lost_more_than_a_window_goes_on() {
    let far = 1 << 28;
    let (mut stream, mut out) = run(
        StreamConfig::default(),
        &[data(0, b"ab"), data(far, b"xx"), data(far + 2, b"yz")],
    );
    stream.finish(&mut |piece| out.take(piece));
    assert_eq!(out.bytes, b"abyz");
    assert_eq!(out.gaps, [u64::from(far)]);
}

#[test]
fn a_full_hold_refuses_what_is_not_acknowledged() {
    let config = StreamConfig {
        release: Release::Acknowledged,
        patience: 0,
        capacity: 1000,
        settle: false,
    };
    let mut stream = Stream::new(config);
    let mut out = Out::default();
    stream.push(&syn(0), &mut |piece| out.take(piece));
    assert_eq!(
        stream.push(&data(1, &[1; 800]), &mut |piece| out.take(piece)),
        Taken::New
    );
    assert_eq!(
        stream.push(&data(801, &[2; 800]), &mut |piece| out.take(piece)),
        Taken::Overflow
    );
    stream.acknowledge(1601, &mut |piece| out.take(piece));
    assert_eq!((out.bytes.len(), out.gaps.as_slice()), (800, &[800][..]));
}

#[test]
fn a_capture_entered_midway_waits_for_what_came_before() {
    let config = StreamConfig {
        settle: true,
        ..StreamConfig::default()
    };
    let (mut stream, mut out) = run(config, &[data(6, b"gh"), data(2, b"cd"), data(4, b"ef")]);
    assert_eq!(
        (out.bytes.as_slice(), stream.is_waiting()),
        (&b""[..], true)
    );
    assert!(stream.can_begin(1) && stream.can_begin(u32::MAX) && !stream.can_begin(2));
    assert!(!stream.can_begin(1 << 30));
    stream.give_up(&mut |piece| out.take(piece));
    assert_eq!(
        (out.bytes.as_slice(), stream.is_waiting()),
        (&b"cdefgh"[..], false)
    );
    stream.push(&data(0, b"ab"), &mut |piece| out.take(piece));
    assert_eq!(stream.counters().retransmitted, 1);
    // A SYN is where it began, so nobody waits any longer.
    let (stream, out) = run(config, &[data(6, b"gh"), syn(5), data(8, b"ij")]);
    assert_eq!(
        (out.bytes.as_slice(), stream.is_waiting()),
        (&b"ghij"[..], false)
    );
}

/// A way to cut `length` bytes into segments, shuffle them and repeat some.
fn cuts(length: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    let pieces = proptest::collection::vec(1..40_usize, 1..40).prop_map(move |sizes| {
        let mut pieces = Vec::new();
        let mut at = 0;
        for size in sizes.into_iter().cycle() {
            if at == length {
                break;
            }
            let end = (at + size).min(length);
            pieces.push((at, end));
            at = end;
        }
        pieces
    });
    let again = proptest::collection::vec((0..length, 1..60_usize), 0..20);
    (pieces, again)
        .prop_map(move |(mut pieces, again)| {
            pieces.extend(
                again
                    .into_iter()
                    .map(|(at, size)| (at, (at + size).min(length))),
            );
            pieces
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn any_order_and_overlap_gives_the_bytes_sent(
        start in any::<u32>(),
        cuts in cuts(400),
        bytes in proptest::collection::vec(any::<u8>(), 400),
        acknowledged in any::<bool>(),
    ) {
        let release = if acknowledged { Release::Acknowledged } else { Release::Immediately };
        let mut stream = Stream::new(StreamConfig { release, ..StreamConfig::default() });
        let mut out = Out::default();
        stream.push(&syn(start.wrapping_sub(1)), &mut |piece| out.take(piece));
        for (at, end) in cuts {
            let seq = start.wrapping_add(u32::try_from(at).unwrap());
            stream.push(&data(seq, &bytes[at..end]), &mut |piece| out.take(piece));
        }
        stream.acknowledge(start.wrapping_add(400), &mut |piece| out.take(piece));
        stream.finish(&mut |piece| out.take(piece));
        prop_assert_eq!(out.bytes, bytes);
        prop_assert_eq!(out.gaps, Vec::<u64>::new());
        prop_assert_eq!(stream.counters().conflicts, 0);
    }

    #[test]
    fn hostile_segments_stay_within_the_bound(
        segments in proptest::collection::vec(
            (any::<u16>(), 0..300_usize, any::<u8>(), 0..200_u32, any::<(bool, bool)>()), 0..200),
        acknowledged in any::<bool>(),
        settle in any::<bool>(),
    ) {
        let release = if acknowledged { Release::Acknowledged } else { Release::Immediately };
        let config = StreamConfig { release, capacity: 4096, patience: 2, settle };
        let mut stream = Stream::new(config);
        let mut handed = 0;
        for (seq, length, fill, missing, (fin, ack)) in segments {
            let payload = vec![fill; length];
            let segment =
                Segment { seq: u32::from(seq), fin, missing, payload: &payload, ..Default::default() };
            let mut count = |piece: Piece<'_>| if let Piece::Data(bytes) = piece {
                handed += bytes.len();
            };
            stream.push(&segment, &mut count);
            if ack {
                stream.acknowledge(u32::from(seq), &mut count);
            }
            prop_assert!(stream.held() <= 4096);
        }
        prop_assert_eq!(stream.counters().bytes, handed as u64);
    }
}

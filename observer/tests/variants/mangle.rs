//! What networks and captures do to segments without changing what was said, and what takes some of
//! it away.

use std::collections::BTreeMap;

use crate::bgp::Said;
use crate::trace::{Seg, Talk, Trace};

/// Numbers that look random and are the same in every run (xorshift).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end
    }
}

fn added(seq: u32, octets: usize) -> u32 {
    seq.wrapping_add(u32::try_from(octets).unwrap())
}

/// Whether every copy of an octet is the same.
pub fn is_consistent(trace: &Trace) -> bool {
    let mut octets = BTreeMap::new();
    trace.iter().all(|seg| {
        seg.payload.iter().enumerate().all(|(at, octet)| {
            let place = (seg.from, added(seg.seq, at));
            *octets.entry(place).or_insert(*octet) == *octet
        })
    })
}

/// Each segment up to `window` places later than it was.
pub fn shuffled(trace: &Trace, window: usize, dice: &mut Dice) -> Trace {
    let mut keyed: Vec<(usize, Seg)> = trace
        .iter()
        .cloned()
        .enumerate()
        .map(|(at, seg)| (at + dice.below(window), seg))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, seg)| seg).collect()
}

/// Each segment again some places later, as retransmissions and as captures of two interfaces.
pub fn repeated(trace: &Trace, dice: &mut Dice) -> Trace {
    let copies = trace
        .iter()
        .cloned()
        .enumerate()
        .map(|(at, seg)| (2 * at + 1 + dice.below(24), seg));
    let mut keyed: Vec<(usize, Seg)> = trace
        .iter()
        .cloned()
        .enumerate()
        .map(|(at, seg)| (2 * at, seg))
        .collect();
    keyed.extend(copies);
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, seg)| seg).collect()
}

/// Payload in segments of at most `size` octets.
pub fn cut(trace: &Trace, size: usize) -> Trace {
    let mut out = Trace::new();
    for seg in trace {
        if seg.payload.len() <= size || seg.rst {
            out.push(seg.clone());
            continue;
        }
        let count = seg.payload.len().div_ceil(size);
        for (number, part) in seg.payload.chunks(size).enumerate() {
            let last = number + 1 == count;
            out.push(Seg {
                seq: added(seg.seq, number * size),
                payload: part.to_vec(),
                fin: seg.fin && last,
                missing: if last { seg.missing } else { 0 },
                ..seg.clone()
            });
        }
    }
    out
}

/// Segments that follow one another as one, as GRO and TSO show them.
pub fn joined(trace: &Trace) -> Trace {
    let mut out = Trace::new();
    for seg in trace {
        // An acknowledgement between the two does not keep the kernel from joining them.
        let before = out
            .iter_mut()
            .rev()
            .take(2)
            .find(|before| before.from == seg.from);
        if let Some(before) = before
            && !(seg.syn || seg.rst || before.syn || before.fin || before.rst)
            && before.missing == 0
            && !before.payload.is_empty()
            && !seg.payload.is_empty()
            && added(before.seq, before.payload.len()) == seg.seq
            && before.payload.len() + seg.payload.len() < 60_000
        {
            before.payload.extend(&seg.payload);
            before.fin = seg.fin;
            before.missing = seg.missing;
        } else {
            out.push(seg.clone());
        }
    }
    out
}

/// Each segment begins with some octets of the one before it.
pub fn overlapping(trace: &Trace, dice: &mut Dice) -> Trace {
    let mut out = Trace::new();
    for seg in trace {
        let mut seg = seg.clone();
        let before = trace.iter().find(|before| {
            before.from == seg.from
                && before.missing == 0
                && !before.payload.is_empty()
                && added(before.seq, before.payload.len()) == seg.seq
        });
        if let Some(before) = before.filter(|_| !seg.payload.is_empty()) {
            let at = dice.below(before.payload.len());
            seg.payload = [&before.payload[at..], &seg.payload].concat();
            seg.seq = added(before.seq, at);
        }
        out.push(seg);
    }
    out
}

/// Keepalive probes with an octet of garbage before, and window probes with one octet of data.
pub fn probed(trace: &Trace) -> Trace {
    let mut out = Trace::new();
    for (at, seg) in trace.iter().enumerate() {
        let mut before = trace[..at].iter().filter(|before| before.from == seg.from);
        // Nobody probes behind his own FIN.
        let closed = before.clone().any(|before| before.fin);
        let started = !closed && before.any(|before| before.syn || !before.payload.is_empty());
        if started && !seg.syn && !seg.rst {
            out.push(Seg {
                seq: seg.seq.wrapping_sub(1),
                payload: vec![0x55],
                fin: false,
                missing: 0,
                ..seg.clone()
            });
        }
        if started && seg.payload.len() > 1 && !seg.syn && !seg.rst {
            let payload = seg.payload[..1].to_vec();
            out.push(Seg {
                payload,
                fin: false,
                missing: 0,
                ..seg.clone()
            });
        }
        out.push(seg.clone());
    }
    out
}

/// What is left of a talk when these segments of it are not captured: per side the messages that
/// lost no octet, and the holes.
pub fn left(talk: &Talk, lost: &[usize]) -> [(Said, u64); 2] {
    let end_of = |seg: &Seg| added(seg.seq, seg.payload.len());
    [0, 1].map(|side| {
        let from = talk.seg(side).from;
        let lost: Vec<&Seg> = lost
            .iter()
            .map(|at| &talk.trace[*at])
            .filter(|seg| seg.from == from && !seg.payload.is_empty())
            .collect();
        let mut said = Said::default();
        for (speaker, seq, message) in &talk.messages {
            let whole = lost.iter().all(|seg| {
                let begins = seg.seq.wrapping_sub(*seq).cast_signed();
                let ends = end_of(seg).wrapping_sub(*seq).cast_signed();
                ends <= 0 || begins >= i32::try_from(message.bytes.len()).unwrap()
            });
            if *speaker == side && whole {
                said.add(&message.said);
            }
        }
        let holes = lost
            .iter()
            .filter(|seg| !lost.iter().any(|before| end_of(before) == seg.seq));
        (said, u64::try_from(holes.count()).unwrap())
    })
}

//! Bytes of a stream that cannot be handed on yet, by position, without overlaps.

use std::collections::BTreeMap;

/// What a held run costs besides its bytes: its place in the map and its allocation.
const OVERHEAD: usize = 64;

/// A run of positions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    /// Its bytes.
    Bytes(Box<[u8]>),
    /// This many bytes that the capture cut off.
    Lost(u64),
}

/// Runs by their first position; no two overlap, so the first copy of a byte stays.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    runs: BTreeMap<u64, Piece>,
    size: usize,
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => super::to_u64(bytes.len()),
            Self::Lost(length) => *length,
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Bytes(bytes) => Hold::cost(bytes.len()),
            Self::Lost(_) => Hold::cost(0),
        }
    }
}

impl Hold {
    pub(super) const fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
            size: 0,
        }
    }

    /// What a run of this many bytes costs.
    pub(super) const fn cost(length: usize) -> usize {
        length + OVERHEAD
    }

    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Position of the first byte held.
    pub(super) fn start(&self) -> Option<u64> {
        self.runs.first_key_value().map(|(position, _)| *position)
    }

    /// One past the last byte held.
    pub(super) fn end(&self) -> Option<u64> {
        self.runs
            .last_key_value()
            .map(|(position, piece)| position + piece.len())
    }

    /// Adds the bytes that are not there yet, as long as everything costs no more than `capacity`;
    /// true when one that is there differs.
    pub(super) fn insert(&mut self, position: u64, bytes: &[u8], capacity: usize) -> bool {
        let end = position + super::to_u64(bytes.len());
        let within = |from: u64, to: u64| {
            let from = usize::try_from(from - position).ok()?;
            let to = usize::try_from(to - position).ok()?;
            bytes.get(from..to)
        };
        let mut conflict = false;
        let mut at = position;
        while at < end {
            let covering = self.runs.range(..=at).next_back();
            if let Some((start, piece)) = covering
                && start + piece.len() > at
            {
                let until = (start + piece.len()).min(end);
                if let Piece::Bytes(held) = piece {
                    let skip = usize::try_from(at - start).unwrap_or(usize::MAX);
                    let held = held.get(skip..).unwrap_or(&[]);
                    let new = within(at, until).unwrap_or(&[]);
                    conflict |= !held.starts_with(new);
                }
                at = until;
                continue;
            }
            let until = self
                .runs
                .range(at..end)
                .next()
                .map_or(end, |(start, _)| *start);
            let Some(new) = within(at, until) else { break };
            if self.size + Self::cost(new.len()) > capacity {
                break;
            }
            self.put(at, Piece::Bytes(new.into()));
            at = until;
        }
        conflict
    }

    /// Marks positions that nobody will bring, as far as nothing is held there and `capacity` goes.
    pub(super) fn insert_lost(&mut self, position: u64, end: u64, capacity: usize) {
        let mut at = position;
        while at < end {
            let covering = self.runs.range(..=at).next_back();
            if let Some((start, piece)) = covering
                && start + piece.len() > at
            {
                at = start + piece.len();
                continue;
            }
            let until = self
                .runs
                .range(at..end)
                .next()
                .map_or(end, |(start, _)| *start);
            if self.size + Self::cost(0) > capacity {
                break;
            }
            self.put(at, Piece::Lost(until - at));
            at = until;
        }
    }

    /// The run at `position`, cut at `limit`.
    pub(super) fn take(&mut self, position: u64, limit: u64) -> Option<Piece> {
        if position >= limit || self.start() != Some(position) {
            return None;
        }
        let (_, piece) = self.runs.pop_first()?;
        self.size = self.size.saturating_sub(piece.cost());
        let free = limit - position;
        if piece.len() <= free {
            return Some(piece);
        }
        let (now, later) = match piece {
            Piece::Lost(length) => (Piece::Lost(free), Piece::Lost(length - free)),
            Piece::Bytes(bytes) => {
                let free = usize::try_from(free).unwrap_or(usize::MAX);
                let (now, later) = bytes.split_at_checked(free)?;
                (Piece::Bytes(now.into()), Piece::Bytes(later.into()))
            }
        };
        self.put(limit, later);
        Some(now)
    }

    /// Drops everything, and tells how many bytes that were.
    pub(super) fn clear(&mut self) -> u64 {
        let dropped = self.runs.values().map(Piece::len).sum();
        self.runs.clear();
        self.size = 0;
        dropped
    }

    fn put(&mut self, position: u64, piece: Piece) {
        self.size += piece.cost();
        self.runs.insert(position, piece);
    }
}

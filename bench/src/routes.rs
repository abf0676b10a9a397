//! A table as a peer sends it: UPDATEs in the shape that routing table dumps have, made up so that
//! every run reads the same.

/// UPDATEs one after the other.
#[derive(Debug, Default)]
pub struct Table {
    pub bytes: Vec<u8>,
    /// How many messages.
    pub count: u64,
    /// How many routes are in them.
    pub routes: u64,
}

impl Table {
    /// Its messages, one by one.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let mut bytes = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let length = bytes.get(16..18)?.first_chunk()?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (message, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            Some(message)
        })
    }
}

/// Where the addresses of no single host begin (RFC 5771 §1), as the first three octets: there are no routes to
/// there, and some parsers say so.
const MULTICAST: u32 = 0xe0_0000;

/// The first three octets of an address for each number below that, all different: spread over the address
/// space, as allocations are.
pub const fn spread(number: u32) -> u32 {
    let mut spread = number;
    loop {
        // One to one on 24 bits, and so is what of it is below the bound when it is gone through until there.
        spread = spread.wrapping_mul(0x9e_3779) & 0xff_ffff;
        if spread < MULTICAST {
            return spread;
        }
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 33).unwrap_or(0) % end
    }
}

fn attribute(to: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    to.extend([flags, code, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
    to.extend(value);
}

/// A table of different /24s, with path identifiers where asked: paths of two to six ASes, up to
/// eight communities, MED now and then, one to sixteen routes that share their attributes.
pub fn table(routes: u32, add_path: bool) -> Table {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut table = Table::default();
    let mut next = 0;
    while next < routes {
        let count = (1 + dice.below(4) * dice.below(6)).min(routes - next);
        let mut path = vec![2, u8::try_from(2 + dice.below(5)).unwrap_or(2)];
        for _ in 0..path.get(1).copied().unwrap_or(0) {
            path.extend((64_000 + dice.below(200_000)).to_be_bytes());
        }
        let mut attributes = Vec::new();
        attribute(&mut attributes, 0x40, 1, &[0]);
        attribute(&mut attributes, 0x40, 2, &path);
        attribute(&mut attributes, 0x40, 3, &[10, 0, 0, 3]);
        if dice.below(4) == 0 {
            attribute(&mut attributes, 0x80, 4, &dice.below(500).to_be_bytes());
        }
        attribute(&mut attributes, 0x40, 5, &[0, 0, 0, 100]);
        let communities: Vec<u8> = (0..dice.below(9))
            .flat_map(|_| dice.below(u32::MAX).to_be_bytes())
            .collect();
        if !communities.is_empty() {
            attribute(&mut attributes, 0xc0, 8, &communities);
        }
        let mut body = vec![0, 0];
        body.extend(u16::try_from(attributes.len()).unwrap_or(0).to_be_bytes());
        body.extend(attributes);
        for number in next..next + count {
            if add_path {
                body.extend([0, 0, 0, 1]);
            }
            let [_, a, b, c] = spread(number).to_be_bytes();
            body.extend([24, a, b, c]);
        }
        next += count;
        table.bytes.extend([0xff; 16]);
        table
            .bytes
            .extend(u16::try_from(19 + body.len()).unwrap_or(0).to_be_bytes());
        table.bytes.push(2);
        table.bytes.extend(body);
        table.count += 1;
        table.routes += u64::from(count);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_routes_are_the_same_and_none_is_multicast() {
        let all: BTreeSet<u32> = (0..100_000).map(spread).collect();
        assert_eq!(all.len(), 100_000);
        assert!(all.iter().all(|octets| *octets < MULTICAST));
    }
}

//! Adj-RIB-In (RFC 4271 §3.2): which prefixes a peer has announced and not withdrawn, and which of
//! them are stale (RFC 4724 §4.2); Adj-RIB-Out: which this node has announced to it. Their attributes
//! are not kept.
//!
//! Measured with a million routes (`tests_size.rs`), an IPv4 route costs 24 octets when they come in
//! random order and 34 in ascending order (half-filled B-tree nodes), an IPv6 route 42 and 53. Routes
//! beyond a bound are refused and counted as lost, and the view says fewer than there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    bgp::{Family, NlriEntry, Prefix, UpdateFacts},
    event::SocketId,
};

/// Routes remembered per peer beyond the end of its session: above what a cluster announces.
const MAX_FORMER: usize = 65_536;
/// Routes kept per peer: above a full table with two paths for many prefixes.
const MAX_ROUTES: usize = 2_000_000;

/// Address, path identifier, length.
type Key4 = (u32, u32, u8);
type Key6 = ([u32; 4], u32, u8);

/// The routes of one family; true is stale.
#[derive(Debug, Default)]
struct Table {
    v4: BTreeMap<Key4, bool>,
    v6: BTreeMap<Key6, bool>,
    stale: usize,
}

/// What one side announced to the other.
#[derive(Debug, Default)]
pub(crate) struct Rib {
    tables: BTreeMap<Family, Table>,
    /// What was announced when the last session ended, until the next one begins: the kernel's routes
    /// follow later, and through a reflector their next hops do not name who announced them.
    former: BTreeMap<Family, Table>,
    /// The connection whose UPDATEs count.
    pub owner: Option<SocketId>,
    /// Of what the owner announced something may have been missed.
    pub partial: bool,
    /// Families whose End-of-RIB came since the owner began.
    pub complete: BTreeSet<Family>,
    /// Entries announced.
    pub announcements: u64,
    /// Entries withdrawn.
    pub withdrawals: u64,
    /// Entries announced again without being withdrawn before.
    pub replacements: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Added {
    New,
    Again { stale: bool },
}

impl Table {
    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn has(&self, entry: &NlriEntry) -> bool {
        match key(entry) {
            (Some(key), _) => self.v4.contains_key(&key),
            (None, key) => self.v6.contains_key(&key),
        }
    }

    fn add(&mut self, entry: &NlriEntry) -> Added {
        let before = match key(entry) {
            (Some(key), _) => self.v4.insert(key, false),
            (None, key) => self.v6.insert(key, false),
        };
        match before {
            None => Added::New,
            Some(stale) => {
                self.stale -= usize::from(stale);
                Added::Again { stale }
            }
        }
    }

    fn remove(&mut self, entry: &NlriEntry) {
        let before = match key(entry) {
            (Some(key), _) => self.v4.remove(&key),
            (None, key) => self.v6.remove(&key),
        };
        self.stale -= usize::from(before == Some(true));
    }

    fn mark(&mut self) {
        self.v4.values_mut().for_each(|stale| *stale = true);
        self.v6.values_mut().for_each(|stale| *stale = true);
        self.stale = self.len();
    }

    fn sweep(&mut self) -> usize {
        let swept = std::mem::take(&mut self.stale);
        if swept != 0 {
            self.v4.retain(|_, stale| !*stale);
            self.v6.retain(|_, stale| !*stale);
        }
        swept
    }
}

/// By which an entry is found: the first for IPv4, else the second.
fn key(entry: &NlriEntry) -> (Option<Key4>, Key6) {
    let (path, length) = (entry.path_id.unwrap_or(0), entry.prefix.length);
    match entry.prefix.address {
        IpAddr::V4(address) => (Some((address.to_bits(), path, length)), ([0; 4], 0, 0)),
        IpAddr::V6(address) => (None, (words(address), path, length)),
    }
}

/// An IPv6 address as an ordered map compares it: whole, its alignment would cost more.
pub(crate) fn words(address: Ipv6Addr) -> [u32; 4] {
    let bits = address.to_bits();
    let word = |shift: u32| u32::try_from(bits >> shift & 0xffff_ffff).unwrap_or(0);
    [word(96), word(64), word(32), word(0)]
}

fn has_prefix(tables: &BTreeMap<Family, Table>, prefix: Prefix) -> bool {
    let unicast = if prefix.address.is_ipv4() {
        Family::IPV4_UNICAST
    } else {
        Family::IPV6_UNICAST
    };
    let Some(table) = tables.get(&unicast) else {
        return false;
    };
    let length = prefix.length;
    match prefix.address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            let mut paths = table.v4.range((bits, 0, 0)..=(bits, u32::MAX, u8::MAX));
            paths.any(|((_, _, of), _)| *of == length)
        }
        IpAddr::V6(v6) => {
            let words = words(v6);
            let mut paths = table.v6.range((words, 0, 0)..=(words, u32::MAX, u8::MAX));
            paths.any(|((_, _, of), _)| *of == length)
        }
    }
}

impl Rib {
    /// Routes of all families.
    pub fn len(&self) -> usize {
        self.tables.values().map(Table::len).sum()
    }

    /// Whether some path of `prefix` is announced, stale or not.
    pub fn has_prefix(&self, prefix: Prefix) -> bool {
        has_prefix(&self.tables, prefix)
    }

    /// Whether some path of `prefix` was announced when the last session ended, and no other began.
    pub fn had_prefix(&self, prefix: Prefix) -> bool {
        has_prefix(&self.former, prefix)
    }

    /// The prefixes announced, of IPv4 and IPv6 unicast; with ADD-PATH some come more than once.
    pub fn unicast(&self) -> impl Iterator<Item = Prefix> {
        let v4 = self.tables.get(&Family::IPV4_UNICAST).into_iter();
        let v4 = v4.flat_map(|table| table.v4.keys());
        let v6 = self.tables.get(&Family::IPV6_UNICAST).into_iter();
        let v6 = v6.flat_map(|table| table.v6.keys());
        v4.map(|&(address, _, length)| Prefix {
            address: Ipv4Addr::from_bits(address).into(),
            length,
        })
        .chain(v6.map(|&([a, b, c, d], _, length)| {
            let [a, b, c, d] = [a, b, c, d].map(u128::from);
            Prefix {
                address: Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | d).into(),
                length,
            }
        }))
    }

    /// The session rides on `owner` now. What is stale waits for End-of-RIB.
    pub fn begin(&mut self, owner: SocketId) {
        self.owner = Some(owner);
        self.former.clear();
        self.partial = false;
        self.complete.clear();
    }

    /// Whether UPDATEs on `id` count. Where there is no owner it becomes one; `telling` is whether all
    /// of it is read.
    pub fn is_for(&mut self, id: SocketId, telling: bool) -> bool {
        if self.owner.is_none() {
            self.begin(id);
        }
        let is = self.owner == Some(id);
        self.partial |= is && !telling;
        is
    }

    /// Takes in an UPDATE; `room` is how many new routes there may be. Hands `learned` what it
    /// announces (true) and withdraws. Gives how many were refused.
    pub fn update(
        &mut self,
        facts: &UpdateFacts<'_>,
        room: usize,
        learned: &mut dyn FnMut(Prefix, bool),
    ) -> u64 {
        let mut room = room.min(MAX_ROUTES.saturating_sub(self.len()));
        let mut refused = 0;
        for (nlri, announced) in facts.fields() {
            let family = nlri.family();
            // RFC 7606 §2: what is announced by an UPDATE treated as withdrawal is withdrawn.
            let announced = announced && !facts.withdraws_all();
            if family.prefix_bits().is_none() {
                continue;
            }
            let table = self.tables.entry(family).or_default();
            for entry in nlri.flatten() {
                learned(entry.prefix, announced);
                if !announced {
                    self.withdrawals += 1;
                    table.remove(&entry);
                    continue;
                }
                self.announcements += 1;
                if room == 0 && !table.has(&entry) {
                    refused += 1;
                    continue;
                }
                match table.add(&entry) {
                    Added::New => room = room.saturating_sub(1),
                    Added::Again { stale: false } => self.replacements += 1,
                    // RFC 4724 §4.2: a stale route that is announced again is fresh, not replaced.
                    Added::Again { stale: true } => {}
                }
            }
        }
        refused
    }

    /// The session is gone: routes of `families` are stale, the others go.
    pub fn mark_stale(&mut self, families: &BTreeSet<Family>) {
        self.tables.retain(|family, _| families.contains(family));
        self.tables.values_mut().for_each(Table::mark);
    }

    /// Stale routes of a family go; gives how many.
    pub fn sweep(&mut self, family: Family) -> usize {
        self.tables.get_mut(&family).map_or(0, Table::sweep)
    }

    /// Stale routes of every family go; gives how many.
    pub fn sweep_all(&mut self) -> usize {
        let stale: usize = self.tables.values().map(|table| table.stale).sum();
        if stale > 0 && stale == self.len() {
            self.end();
            return stale;
        }
        self.tables.values_mut().map(Table::sweep).sum()
    }

    /// Every route goes.
    pub fn clear(&mut self) {
        self.end();
        self.partial = false;
        self.complete.clear();
    }

    fn end(&mut self) {
        let few = (1..=MAX_FORMER).contains(&self.len());
        let tables = std::mem::take(&mut self.tables);
        if few {
            self.former = tables;
        }
    }

    /// Some prefixes, at most `count` of each address family.
    pub fn sample(&self, count: usize) -> Vec<Prefix> {
        let v4 = |table: &Table| {
            let of = |(bits, _, length): &Key4| Prefix {
                address: IpAddr::V4((*bits).into()),
                length: *length,
            };
            table.v4.keys().map(of).take(count).collect::<Vec<_>>()
        };
        let v6 = |table: &Table| {
            let of = |(words, _, length): &Key6| Prefix {
                address: IpAddr::V6(
                    words
                        .iter()
                        .fold(0, |bits, word| bits << 32 | u128::from(*word))
                        .into(),
                ),
                length: *length,
            };
            table.v6.keys().map(of).take(count).collect::<Vec<_>>()
        };
        let unicast = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];
        let tables = unicast.iter().filter_map(|family| self.tables.get(family));
        let mut sample: Vec<Prefix> = tables
            .flat_map(|table| v4(table).into_iter().chain(v6(table)))
            .collect();
        sample.dedup();
        sample
    }

    /// Routes by family.
    pub fn prefixes(&self) -> BTreeMap<Family, u64> {
        self.count(Table::len)
    }

    /// Stale routes by family.
    pub fn stale(&self) -> BTreeMap<Family, u64> {
        self.count(|table| table.stale)
    }

    fn count(&self, of: impl Fn(&Table) -> usize) -> BTreeMap<Family, u64> {
        self.tables
            .iter()
            .map(|(family, table)| (*family, u64::try_from(of(table)).unwrap_or(u64::MAX)))
            .collect()
    }
}

#[cfg(test)]
impl Rib {
    /// One announced entry, as [`Rib::update`] takes it in.
    pub fn learn(&mut self, family: Family, entry: &NlriEntry) {
        self.tables.entry(family).or_default().add(entry);
    }

    /// One withdrawn entry, likewise.
    pub fn unlearn(&mut self, family: Family, entry: &NlriEntry) {
        self.tables.entry(family).or_default().remove(entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u32, path: u32) -> NlriEntry {
        let address = if number.is_multiple_of(2) {
            IpAddr::V4((number << 8).into())
        } else {
            IpAddr::V6((u128::from(number) << 64).into())
        };
        let prefix = Prefix {
            address,
            length: 24,
        };
        NlriEntry {
            prefix,
            path_id: Some(path),
            stray_bits: false,
        }
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_plain_set(steps in prop::collection::vec((0_u8..10, 0_u32..12, 0_u32..3), 0..200)) {
            let mut table = Table::default();
            let mut model: BTreeMap<(u32, u32), bool> = BTreeMap::new();
            for (step, number, path) in steps {
                match step {
                    0..=5 => {
                        let before = model.insert((number, path), false);
                        let expected = before.map_or(Added::New, |stale| Added::Again { stale });
                        prop_assert_eq!(table.add(&entry(number, path)), expected);
                    }
                    6 | 7 => {
                        model.remove(&(number, path));
                        table.remove(&entry(number, path));
                    }
                    8 => {
                        table.mark();
                        for stale in model.values_mut() {
                            *stale = true;
                        }
                    }
                    _ => {
                        let stale = model.values().filter(|stale| **stale).count();
                        prop_assert_eq!(table.sweep(), stale);
                        model.retain(|_, stale| !*stale);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                let stale = model.values().filter(|stale| **stale).count();
                prop_assert_eq!(table.stale, stale);
            }
        }
    }
}

//! Nexthop objects (`ip nexthop`): what the hops of a route are that names only its object, as all do
//! with `net.ipv4.nexthop_compat_mode=0`.

use std::{collections::BTreeMap, net::IpAddr};

use observer_core::event::forwarding::{NextHop, Route};

/// Header of the message (`struct nhmsg`) and its attributes (linux/nexthop.h, Linux 5.3).
const HEADER: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const RTNH_F_DEAD: u32 = 1;
/// Members of a group and objects that are kept.
const MAX_OBJECTS: usize = 65_536;

/// What an object is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Object {
    /// One hop; without interface and gateway it is one that drops packets.
    One(NextHop),
    /// Others by number, with their weights.
    Group(Vec<(u32, u16)>),
}

/// The number and the object that a message tells of, given what follows its `nlmsghdr`.
pub fn object(message: &[u8]) -> Option<(u32, Object)> {
    let (header, mut rest) = message.split_at_checked(HEADER)?;
    let flags = number(header.get(4..8)?)?;
    let mut hop = NextHop {
        weight: 1,
        dead: flags & RTNH_F_DEAD != 0,
        ..NextHop::default()
    };
    let (mut id, mut group) = (None, None);
    while let Some((header, _)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = *header;
        let length = usize::from(u16::from_ne_bytes([a, b])).max(4);
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([c, d]) {
            NHA_ID => id = number(value),
            NHA_GROUP => group = Some(value.chunks_exact(8).filter_map(member).collect()),
            NHA_OIF => hop.interface = number(value)?,
            NHA_GATEWAY => hop.gateway = address(value),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((id?, group.map_or(Object::One(hop), Object::Group)))
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// `struct nexthop_grp`: the weight is told less one.
fn member(entry: &[u8]) -> Option<(u32, u16)> {
    let id = number(entry.get(..4)?)?;
    Some((id, u16::from(*entry.get(4)?) + 1))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(value).ok().map(Into::into)
}

/// All objects of a namespace.
#[derive(Debug, Default)]
pub struct NextHops(BTreeMap<u32, Object>);

impl NextHops {
    /// `id` is `object` now, or gone.
    pub fn set(&mut self, id: u32, object: Option<Object>) {
        match object {
            None => drop(self.0.remove(&id)),
            Some(object) if self.0.len() < MAX_OBJECTS || self.0.contains_key(&id) => {
                self.0.insert(id, object);
            }
            Some(_) => {}
        }
    }

    /// Gives `route` the hops that the kernel left out.
    pub fn resolve(&self, route: &mut Route) {
        let Some(id) = route.object.filter(|_| route.next_hops.is_empty()) else {
            return;
        };
        if route.kind.drops() {
            return;
        }
        match self.0.get(&id) {
            Some(Object::One(hop)) => route.next_hops.push(*hop),
            Some(Object::Group(members)) => {
                let hops = members.iter().filter_map(|(id, weight)| {
                    // The kernel does not let groups be members.
                    let Object::One(hop) = self.0.get(id)? else {
                        return None;
                    };
                    Some(NextHop {
                        weight: *weight,
                        ..*hop
                    })
                });
                route.next_hops.extend(hops);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use observer_core::{
        bgp::Prefix,
        event::forwarding::{Protocol, RouteKind, TABLE_MAIN},
    };

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        [vec![2, 0, 0, 0, 0, 0, 0, 0], attributes.concat()].concat()
    }

    fn id(number: u32) -> Vec<u8> {
        attribute(NHA_ID, &number.to_ne_bytes())
    }

    fn one(number: u32, gateway: [u8; 4]) -> Vec<u8> {
        let oif = attribute(NHA_OIF, &3_u32.to_ne_bytes());
        message(&[id(number), oif, attribute(NHA_GATEWAY, &gateway)])
    }

    #[test]
    fn a_route_that_names_an_object_gets_its_hops() {
        let mut known = NextHops::default();
        for told in [one(7, [10, 0, 0, 2]), one(8, [10, 0, 0, 3])] {
            let (id, object) = object(&told).unwrap();
            known.set(id, Some(object));
        }
        let members = [[7, 0, 0, 0, 0, 0, 0, 0], [8, 0, 0, 0, 2, 0, 0, 0]].concat();
        let (group, members) = object(&message(&[id(9), attribute(NHA_GROUP, &members)])).unwrap();
        known.set(group, Some(members));
        let hops = |known: &NextHops, object| {
            let mut route = Route {
                prefix: Prefix {
                    address: [10, 1, 0, 0].into(),
                    length: 26,
                },
                table: TABLE_MAIN,
                tos: 0,
                metric: 0,
                kind: RouteKind::Unicast,
                protocol: Protocol::BIRD,
                object: Some(object),
                next_hops: Vec::new(),
            };
            known.resolve(&mut route);
            let hops = route.next_hops.iter();
            let words = hops.map(|hop| format!("{}*{}", hop.gateway.unwrap(), hop.weight));
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(hops(&known, 7), "10.0.0.2*1");
        assert_eq!(hops(&known, 9), "10.0.0.2*1 10.0.0.3*3");
        assert_eq!(hops(&known, 10), "");
        known.set(7, None);
        assert_eq!(hops(&known, 9), "10.0.0.3*3");
    }

    #[test]
    fn no_cut_message_panics() {
        let whole = one(7, [10, 0, 0, 2]);
        for end in 0..whole.len() {
            let _ = object(&whole[..end]);
        }
        assert_eq!(object(&message(&[])), None);
    }
}

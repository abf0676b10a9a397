//! BGP messages as RFC 4271 and its companions lay them out, and what a talk of them amounts to.

use std::collections::BTreeMap;

/// What both sides of a talk can.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    pub four_octets: bool,
    pub add_path: bool,
    pub extended: bool,
}

/// What one side said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Said {
    pub open: u64,
    pub update: u64,
    pub notification: u64,
    pub keepalive: u64,
    pub route_refresh: u64,
    pub announced: BTreeMap<String, u64>,
    pub withdrawn: BTreeMap<String, u64>,
    pub end_of_rib: Vec<String>,
}

/// A message and what it adds.
#[derive(Clone, Debug)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub said: Said,
}

impl Said {
    pub fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.update += other.update;
        self.notification += other.notification;
        self.keepalive += other.keepalive;
        self.route_refresh += other.route_refresh;
        for (sum, more) in [
            (&mut self.announced, &other.announced),
            (&mut self.withdrawn, &other.withdrawn),
        ] {
            for (family, count) in more {
                *sum.entry(family.clone()).or_default() += count;
            }
        }
        self.end_of_rib.extend(other.end_of_rib.iter().cloned());
    }
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

pub fn open(asn: u32, able: Abilities) -> Message {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0];
    if able.four_octets {
        capabilities.extend([65, 4]);
        capabilities.extend(asn.to_be_bytes());
    }
    if able.add_path {
        capabilities.extend([69, 8, 0, 1, 1, 3, 0, 2, 1, 3]);
    }
    if able.extended {
        capabilities.extend([6, 0]);
    }
    let length = u8::try_from(capabilities.len()).unwrap();
    let mut body = vec![4];
    body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend([0, 240, 10, 0, 0, 1, length + 2, 2, length]);
    body.extend(capabilities);
    Message {
        bytes: framed(1, &body),
        said: Said {
            open: 1,
            ..Said::default()
        },
    }
}

pub fn keepalive() -> Message {
    Message {
        bytes: framed(4, &[]),
        said: Said {
            keepalive: 1,
            ..Said::default()
        },
    }
}

pub fn route_refresh() -> Message {
    Message {
        bytes: framed(5, &[0, 1, 0, 1]),
        said: Said {
            route_refresh: 1,
            ..Said::default()
        },
    }
}

/// Cease, administratively shut down, with RFC 9003's text.
pub fn shutdown(text: &str) -> Message {
    let mut body = vec![6, 2, u8::try_from(text.len()).unwrap()];
    body.extend(text.as_bytes());
    Message {
        bytes: framed(3, &body),
        said: Said {
            notification: 1,
            ..Said::default()
        },
    }
}

/// An UPDATE of these fields.
fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8], said: Said) -> Message {
    let length = |field: &[u8]| u16::try_from(field.len()).unwrap().to_be_bytes();
    let mut body = length(withdrawn).to_vec();
    body.extend(withdrawn);
    body.extend(length(attributes));
    body.extend(attributes);
    body.extend(nlri);
    Message {
        bytes: framed(2, &body),
        said: Said { update: 1, ..said },
    }
}

fn attribute(code: u8, value: &[u8]) -> Vec<u8> {
    // Optional, or well-known and transitive; the length in two octets.
    let flags = if code >= 14 { 0x90 } else { 0x50 };
    let mut attribute = vec![flags, code];
    attribute.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    attribute.extend(value);
    attribute
}

fn path(able: Abilities) -> Vec<u8> {
    let mut value = vec![2, 2];
    for asn in [64512_u32, 64999] {
        let octets = asn.to_be_bytes();
        value.extend(if able.four_octets {
            &octets[..]
        } else {
            &octets[2..]
        });
    }
    let next_hop = attribute(3, &[10, 0, 0, 1]);
    [attribute(1, &[0]), attribute(2, &value), next_hop].concat()
}

/// `count` different prefixes from `first` on, /24 or /64.
fn prefixes(v6: bool, first: u32, count: u32, able: Abilities) -> Vec<u8> {
    let mut field = Vec::new();
    for number in first..first + count {
        if able.add_path {
            field.extend((number % 7 + 1).to_be_bytes());
        }
        let [_, a, b, c] = number.to_be_bytes();
        if v6 {
            field.extend([64, 0x20, 1, 0xd, 0xb8, a, b, c, 0]);
        } else {
            field.extend([24, 10 + a, b, c]);
        }
    }
    field
}

fn counted(family: &str, count: u32) -> BTreeMap<String, u64> {
    BTreeMap::from([(family.to_owned(), u64::from(count))])
}

pub fn announce(first: u32, count: u32, able: Abilities) -> Message {
    let said = Said {
        announced: counted("ipv4-unicast", count),
        ..Said::default()
    };
    update(&[], &path(able), &prefixes(false, first, count, able), said)
}

pub fn withdraw(first: u32, count: u32, able: Abilities) -> Message {
    let said = Said {
        withdrawn: counted("ipv4-unicast", count),
        ..Said::default()
    };
    update(&prefixes(false, first, count, able), &[], &[], said)
}

pub fn announce_v6(first: u32, count: u32, able: Abilities) -> Message {
    let mut reach = vec![0, 2, 1, 16, 0x20, 1, 0xd, 0xb8];
    reach.extend([0; 12]);
    reach.push(0);
    reach.extend(prefixes(true, first, count, able));
    let said = Said {
        announced: counted("ipv6-unicast", count),
        ..Said::default()
    };
    let attributes = [path(able), attribute(14, &reach)].concat();
    update(&[], &attributes, &[], said)
}

pub fn withdraw_v6(first: u32, count: u32, able: Abilities) -> Message {
    let unreach = [&[0, 2, 1][..], &prefixes(true, first, count, able)].concat();
    let said = Said {
        withdrawn: counted("ipv6-unicast", count),
        ..Said::default()
    };
    update(&[], &attribute(15, &unreach), &[], said)
}

pub fn end_of_rib(v6: bool) -> Message {
    let (attributes, family) = if v6 {
        (attribute(15, &[0, 2, 1]), "ipv6-unicast")
    } else {
        (Vec::new(), "ipv4-unicast")
    };
    let said = Said {
        end_of_rib: vec![family.to_owned()],
        ..Said::default()
    };
    update(&[], &attributes, &[], said)
}

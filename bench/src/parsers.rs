//! BGP parsers, each asked for the same of every UPDATE: all of its IPv4 prefixes, and of the path
//! attributes what identifies a route's way.

use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Result, anyhow};
use bgpkit_parser::{
    models::{AsnLength, AttributeValue, BgpMessage},
    parser::bgp::messages::parse_bgp_message,
};
use netgauze_bgp_pkt::{
    BgpMessage as NetgauzeMessage,
    path_attribute::{AsPath as NetgauzePath, PathAttributeValue},
    wire::deserializer::BgpParsingContext,
};
use netgauze_parse_utils::{reader::SliceReader, traits::ParseFromWithOneInput as _};
use observer_core::bgp::{AsWidth, Message, UpdateFacts};
use routecore::bgp::{
    aspath::{AsPath, Hop},
    message::{SessionConfig, UpdateMessage},
    nlri::afisafi::{Ipv4UnicastNlri, IsPrefix as _},
    path_attributes::WireformatPathAttribute,
};

use crate::routes::Table;

/// What was read, in sums that are the same whoever reads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Digest {
    pub routes: u64,
    addresses: u64,
    hops: u64,
    origins: u64,
    communities: u64,
    meds: u64,
}

impl Digest {
    fn route(&mut self, address: Ipv4Addr) {
        self.routes += 1;
        self.addresses += u64::from(address.to_bits());
    }

    fn path(&mut self, hops: usize, origin: Option<u32>) {
        self.hops += count(hops);
        self.origins += u64::from(origin.unwrap_or(0));
    }

    /// Takes in what our own reader made of an UPDATE.
    pub fn take(&mut self, facts: &UpdateFacts<'_>) {
        for (nlri, announced) in facts.fields() {
            if announced {
                for route in nlri.flatten() {
                    if let IpAddr::V4(address) = route.prefix.address {
                        self.route(address);
                    }
                }
            }
        }
        if let Some(path) = facts.as_path {
            self.path(path.length(), path.origin_as());
        }
        self.communities += count(facts.communities.len() / 4);
        self.meds += u64::from(facts.med.unwrap_or(0));
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Not every parser's error is a `std::error::Error`.
fn refused(error: impl Debug) -> anyhow::Error {
    anyhow!("a message is refused: {error:?}")
}

pub fn ours(table: &Table) -> Result<Digest> {
    let mut digest = Digest::default();
    for message in table.messages() {
        let decoded = Message::decode(message).map_err(refused)?;
        if let Message::Update(update) = decoded {
            digest.take(&update.read(&mut (AsWidth::Four, false), &mut |_| {}));
        }
    }
    Ok(digest)
}

pub fn bgpkit(table: &Table) -> Result<Digest> {
    let mut digest = Digest::default();
    for message in table.messages() {
        let mut bytes = message.to_vec().into();
        let BgpMessage::Update(update) = parse_bgp_message(&mut bytes, false, &AsnLength::Bits32)?
        else {
            continue;
        };
        for announced in &update.announced_prefixes {
            if let IpAddr::V4(address) = announced.prefix.addr() {
                digest.route(address);
            }
        }
        for attribute in &update.attributes {
            if let AttributeValue::AsPath(path) = attribute {
                let origin = path.get_origin_opt().map(|origin| origin.to_u32());
                digest.path(path.route_len(), origin);
            } else if let AttributeValue::Communities(communities) = attribute {
                digest.communities += count(communities.len());
            } else if let AttributeValue::MultiExitDiscriminator(med) = attribute {
                digest.meds += u64::from(*med);
            }
        }
    }
    Ok(digest)
}

pub fn netgauze(table: &Table) -> Result<Digest> {
    let mut digest = Digest::default();
    let mut context = BgpParsingContext::default();
    for message in table.messages() {
        let parsed = NetgauzeMessage::parse(&mut SliceReader::new(message), &mut context)
            .map_err(refused)?;
        let NetgauzeMessage::Update(update) = parsed else {
            continue;
        };
        for announced in update.nlri() {
            digest.route(announced.network().address().addr());
        }
        for attribute in update.path_attributes() {
            let value = attribute.value();
            if let PathAttributeValue::AsPath(NetgauzePath::As4PathSegments(path)) = value {
                let hops = path.iter().map(|segment| segment.as_numbers().len()).sum();
                let last = path.last().and_then(|segment| segment.as_numbers().last());
                digest.path(hops, last.copied());
            } else if let PathAttributeValue::Communities(communities) = value {
                digest.communities += count(communities.communities().len());
            } else if let PathAttributeValue::MultiExitDiscriminator(med) = value {
                digest.meds += u64::from(med.metric());
            }
        }
    }
    Ok(digest)
}

pub fn routecore(table: &Table) -> Result<Digest> {
    let mut digest = Digest::default();
    let session = SessionConfig::modern();
    for message in table.messages() {
        let update = UpdateMessage::from_octets(message, &session).map_err(refused)?;
        let announced = update.typed_announcements::<_, Ipv4UnicastNlri>();
        for announced in announced.map_err(refused)?.into_iter().flatten() {
            if let IpAddr::V4(address) = announced.map_err(refused)?.prefix().addr() {
                digest.route(address);
            }
        }
        for attribute in update.path_attributes().map_err(refused)? {
            let attribute = attribute.map_err(refused)?;
            if let WireformatPathAttribute::AsPath(path) = attribute {
                let wide = path.pdu_parse_info().four_octet_enabled();
                let mut parser = path.value_into_parser();
                let octets = parser.parse_octets(parser.remaining());
                let path = AsPath::new(octets.map_err(refused)?, wide).map_err(refused)?;
                let origin = path.origin();
                let origin = origin.and_then(|hop| match hop {
                    Hop::Asn(origin) => Some(origin.into_u32()),
                    Hop::Segment(_) => None,
                });
                digest.path(path.hops().count(), origin);
            } else if let WireformatPathAttribute::StandardCommunities(communities) = attribute {
                digest.communities += count(communities.value_into_parser().remaining() / 4);
            } else if let WireformatPathAttribute::MultiExitDisc(med) = attribute {
                let med = med.value_into_parser().parse_u32_be();
                digest.meds += u64::from(med.map_err(refused)?);
            }
        }
    }
    Ok(digest)
}

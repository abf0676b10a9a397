//! UPDATE (RFC 4271 §4.3) with the multiprotocol attributes (RFC 4760), End-of-RIB (RFC 4724 §2) and
//! the judgement of RFC 7606.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    AsPath, AsWidth, Attribute, Attributes, DecodeError, DecodeErrorKind, Family, HEADER_LENGTH,
    Nlri, Origin, Severity, cursor::Cursor, iana::attribute as code,
};

/// NLRI fields kept per UPDATE. RFC 7606 §3 g allows four; some real senders repeat `MP_REACH_NLRI`.
const MAX_FIELDS: usize = 8;

/// An UPDATE, cut into its three fields.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    withdrawn: Cursor<'a>,
    attributes: Cursor<'a>,
    nlri: Cursor<'a>,
}

/// What the session around an UPDATE has negotiated, asked field by field so that whoever has to
/// infer it sees the bytes.
pub trait UpdateContext {
    /// Whether entries of this field begin with a path identifier (RFC 7911).
    fn has_path_ids(&mut self, family: Family, field: &[u8]) -> bool;

    /// Octets per AS number in this `AS_PATH` (RFC 6793).
    fn as_width(&mut self, as_path: &[u8]) -> AsWidth;
}

/// What was negotiated is known and the same for all families.
impl UpdateContext for (AsWidth, bool) {
    fn has_path_ids(&mut self, _: Family, _: &[u8]) -> bool {
        self.1
    }

    fn as_width(&mut self, _: &[u8]) -> AsWidth {
        self.0
    }
}

/// Entries of one family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FamilyCount {
    /// The family.
    pub family: Family,
    /// Announced rather than withdrawn.
    pub announced: bool,
    /// How many.
    pub count: u32,
}

/// One NLRI field of an UPDATE.
#[derive(Clone, Debug)]
struct Field<'a> {
    nlri: Nlri<'a>,
    announced: bool,
    count: u32,
}

/// What an UPDATE says, borrowing from it.
#[derive(Clone, Debug, Default)]
pub struct UpdateFacts<'a> {
    fields: [Option<Field<'a>>; MAX_FIELDS],
    /// The family whose initial routes are complete (RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// The worst that RFC 7606 has a receiver do; none when all is well.
    pub severity: Option<Severity>,
    /// Things wrong.
    pub errors: u32,
    /// ORIGIN.
    pub origin: Option<Origin>,
    /// `AS_PATH`, where it is valid.
    pub as_path: Option<AsPath<'a>>,
    /// `AS4_PATH`, where it is valid.
    pub as4_path: Option<AsPath<'a>>,
    /// `NEXT_HOP`, or the global next hop of `MP_REACH_NLRI`.
    pub next_hop: Option<IpAddr>,
    /// The link-local next hop beside it (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    /// `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// `LOCAL_PREF`.
    pub local_pref: Option<u32>,
    /// `ORIGINATOR_ID`: whose route it is behind a route reflector (RFC 4456).
    pub originator: Option<Ipv4Addr>,
    /// `CLUSTER_LIST`, raw.
    pub cluster_list: &'a [u8],
    /// COMMUNITIES, raw.
    pub communities: &'a [u8],
    /// EXTENDED COMMUNITIES, raw.
    pub extended_communities: &'a [u8],
    /// `LARGE_COMMUNITY`, raw.
    pub large_communities: &'a [u8],
}

impl<'a> Update<'a> {
    /// Reads what follows the header: the two lengths and the fields they delimit.
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body, HEADER_LENGTH);
        let overrun = |kind, cursor: &Cursor<'_>| DecodeError::at(kind, cursor.offset());
        let mut field = |kind| {
            let length = cursor.u16().ok_or_else(|| overrun(kind, &cursor))?;
            cursor
                .sub(usize::from(length))
                .ok_or_else(|| overrun(kind, &cursor))
        };
        let withdrawn = field(DecodeErrorKind::WithdrawnLength)?;
        let attributes = field(DecodeErrorKind::AttributesLength)?;
        Ok(Self {
            withdrawn,
            attributes,
            nlri: cursor,
        })
    }

    /// The path attributes, unjudged.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.attributes)
    }

    /// Reads everything that can be read, judges it by RFC 7606, and reports each thing wrong.
    pub fn read(
        &self,
        context: &mut dyn UpdateContext,
        report: &mut dyn FnMut(DecodeError),
    ) -> UpdateFacts<'a> {
        let mut reading = Reading {
            facts: UpdateFacts::default(),
            seen: [0; 4],
            context,
            report,
        };
        reading.field(Family::IPV4_UNICAST, false, self.withdrawn);
        let mut attributes = 0_u32;
        for attribute in self.attributes() {
            match attribute {
                Ok(attribute) => {
                    attributes += 1;
                    reading.attribute(attribute);
                }
                // RFC 7606 §4: the NLRI can still be told from the attributes.
                Err(error) => reading.fault(error, Severity::TreatAsWithdraw),
            }
        }
        reading.field(Family::IPV4_UNICAST, true, self.nlri);
        reading.mandatory(!self.nlri.is_empty(), self.attributes.offset());
        let mut facts = reading.facts;
        let bare = self.withdrawn.is_empty() && self.nlri.is_empty();
        if bare && self.attributes.is_empty() {
            facts.end_of_rib = Some(Family::IPV4_UNICAST);
        } else if !bare || attributes != 1 || facts.errors != 0 {
            facts.end_of_rib = None;
        }
        facts
    }
}

impl<'a> UpdateFacts<'a> {
    /// Entries per family, announced and withdrawn apart; a family may come more than once.
    pub fn counts(&self) -> impl Iterator<Item = FamilyCount> {
        self.fields.iter().flatten().map(|field| FamilyCount {
            family: field.nlri.family(),
            announced: field.announced,
            count: field.count,
        })
    }

    /// The NLRI fields in the order sent, each with whether it announces.
    pub fn fields(&self) -> impl Iterator<Item = (Nlri<'a>, bool)> {
        self.fields
            .iter()
            .flatten()
            .map(|field| (field.nlri.clone(), field.announced))
    }

    /// Whether a receiver keeps none of the announced routes (RFC 7606 §2).
    pub fn withdraws_all(&self) -> bool {
        self.severity >= Some(Severity::TreatAsWithdraw)
    }
}

/// An UPDATE while it is read.
struct Reading<'a, 'c> {
    facts: UpdateFacts<'a>,
    /// One bit per attribute code.
    seen: [u64; 4],
    context: &'c mut dyn UpdateContext,
    report: &'c mut dyn FnMut(DecodeError),
}

impl<'a> Reading<'a, '_> {
    fn fault(&mut self, error: DecodeError, severity: Severity) {
        self.facts.errors = self.facts.errors.saturating_add(1);
        self.facts.severity = self.facts.severity.max(Some(severity));
        (self.report)(error);
    }

    fn field(&mut self, family: Family, announced: bool, cursor: Cursor<'a>) {
        if cursor.is_empty() {
            return;
        }
        let add_path = self.context.has_path_ids(family, cursor.rest());
        let nlri = Nlri::new(family, add_path, cursor.rest(), cursor.offset());
        let (count, error) = nlri.clone().count();
        if let Some(error) = error {
            self.fault(error, Severity::SessionReset);
        }
        if let Some(free) = self.facts.fields.iter_mut().find(|field| field.is_none()) {
            *free = Some(Field {
                nlri,
                announced,
                count,
            });
        }
    }

    /// Whether the attribute code was seen before; from now on it was.
    fn seen(&mut self, attribute: u8) -> bool {
        let bit = 1 << (attribute & 63);
        let Some(word) = self.seen.get_mut(usize::from(attribute >> 6)) else {
            return false;
        };
        let before = *word & bit != 0;
        *word |= bit;
        before
    }

    fn has(&self, attribute: u8) -> bool {
        let word = self
            .seen
            .get(usize::from(attribute >> 6))
            .copied()
            .unwrap_or(0);
        word & 1 << (attribute & 63) != 0
    }

    fn attribute(&mut self, attribute: Attribute<'a>) {
        let multiprotocol = matches!(attribute.code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
        if self.seen(attribute.code) {
            let error = DecodeErrorKind::AttributeRepeated(attribute.code);
            let error = DecodeError::at(error, attribute.offset);
            if !multiprotocol {
                // RFC 7606 §3 g: all but the first are discarded.
                return self.fault(error, Severity::AttributeDiscard);
            }
            self.fault(error, Severity::SessionReset);
        }
        let width = match attribute.code {
            code::AS_PATH => self.context.as_width(attribute.value),
            code::AGGREGATOR => self.context.as_width(&[]),
            _ => AsWidth::Four,
        };
        if let Some((kind, severity)) = attribute.fault(width) {
            self.fault(DecodeError::at(kind, attribute.offset), severity);
            if !multiprotocol {
                return;
            }
        }
        self.take(attribute, width);
    }

    /// Keeps what an attribute says.
    fn take(&mut self, attribute: Attribute<'a>, width: AsWidth) {
        let value = attribute.value;
        let number = || {
            value
                .first_chunk()
                .map(|octets| u32::from_be_bytes(*octets))
        };
        let address = || number().map(Ipv4Addr::from_bits);
        let facts = &mut self.facts;
        match attribute.code {
            code::ORIGIN => facts.origin = Origin::read(value),
            code::AS_PATH => facts.as_path = Some(AsPath::new(value, width)),
            code::AS4_PATH => facts.as4_path = Some(AsPath::new(value, AsWidth::Four)),
            code::NEXT_HOP => facts.next_hop = address().map(IpAddr::V4),
            code::MULTI_EXIT_DISC => facts.med = number(),
            code::LOCAL_PREF => facts.local_pref = number(),
            code::ORIGINATOR_ID => facts.originator = address(),
            code::CLUSTER_LIST => facts.cluster_list = value,
            code::COMMUNITIES => facts.communities = value,
            code::EXTENDED_COMMUNITIES => facts.extended_communities = value,
            code::LARGE_COMMUNITY => facts.large_communities = value,
            code::MP_REACH_NLRI => self.reach(Cursor::new(value, attribute.offset)),
            code::MP_UNREACH_NLRI => self.unreach(Cursor::new(value, attribute.offset)),
            _ => {}
        }
    }

    /// RFC 4760 §3: AFI, SAFI, next hop, a reserved octet, NLRI.
    fn reach(&mut self, mut cursor: Cursor<'a>) {
        let at = cursor.offset();
        let mut fixed = || {
            let family = Family::new(cursor.u16()?, cursor.u8()?);
            let length = cursor.u8()?;
            let next_hop = cursor.take(usize::from(length))?;
            cursor.u8()?;
            Some((family, next_hop))
        };
        let Some((family, next_hop)) = fixed() else {
            let kind = DecodeErrorKind::AttributeLength(code::MP_REACH_NLRI);
            return self.fault(DecodeError::at(kind, at), Severity::SessionReset);
        };
        if let Some((global, link_local)) = multiprotocol_next_hop(family, next_hop) {
            self.facts.next_hop = global.or(self.facts.next_hop);
            self.facts.link_local = link_local.or(self.facts.link_local);
        } else {
            let error = DecodeError::at(DecodeErrorKind::NextHopLength, at + 3);
            self.fault(error, Severity::SessionReset);
        }
        self.field(family, true, cursor);
    }

    /// RFC 4760 §4: AFI, SAFI, withdrawn routes.
    fn unreach(&mut self, mut cursor: Cursor<'a>) {
        let at = cursor.offset();
        let mut fixed = || Some(Family::new(cursor.u16()?, cursor.u8()?));
        let Some(family) = fixed() else {
            let kind = DecodeErrorKind::AttributeLength(code::MP_UNREACH_NLRI);
            return self.fault(DecodeError::at(kind, at), Severity::SessionReset);
        };
        if cursor.is_empty() {
            self.facts.end_of_rib = Some(family);
        }
        self.field(family, false, cursor);
    }

    /// RFC 7606 §3 d: routes are announced, and what must come with them did not.
    fn mandatory(&mut self, plain: bool, at: usize) {
        if !plain && !self.has(code::MP_REACH_NLRI) {
            return;
        }
        for attribute in [code::ORIGIN, code::AS_PATH, code::NEXT_HOP] {
            let needed = plain || attribute != code::NEXT_HOP;
            if needed && !self.has(attribute) {
                let kind = DecodeErrorKind::AttributeMissing(attribute);
                self.fault(DecodeError::at(kind, at), Severity::TreatAsWithdraw);
            }
        }
    }
}

/// Next hops that the families read here can have (RFC 4760 §3, RFC 2545 §3, RFC 8950 §3); those of
/// other families are left alone. None: a length that cannot be.
fn multiprotocol_next_hop(
    family: Family,
    bytes: &[u8],
) -> Option<(Option<IpAddr>, Option<Ipv6Addr>)> {
    if family.prefix_bits().is_none() {
        return Some((None, None));
    }
    let v6 = |octets: &[u8]| {
        octets
            .first_chunk::<16>()
            .map(|octets| Ipv6Addr::from(*octets))
    };
    match bytes.len() {
        4 if family == Family::IPV4_UNICAST => {
            let octets = bytes.first_chunk::<4>()?;
            Some((Some(IpAddr::from(*octets)), None))
        }
        16 => Some((v6(bytes).map(IpAddr::V6), None)),
        32 => {
            let (global, link_local) = bytes.split_at_checked(16)?;
            Some((v6(global).map(IpAddr::V6), v6(link_local)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::Message;

    fn message(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
        let mut body = u16::try_from(withdrawn.len())
            .unwrap()
            .to_be_bytes()
            .to_vec();
        body.extend(withdrawn);
        body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        body.extend(attributes);
        body.extend(nlri);
        let mut message = vec![0xff; 16];
        message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
        message.push(2);
        message.extend(body);
        message
    }

    fn read(message: &[u8], add_path: bool) -> (UpdateFacts<'_>, Vec<DecodeErrorKind>) {
        let Message::Update(update) = Message::decode(message).unwrap() else {
            panic!("not an UPDATE");
        };
        let mut errors = Vec::new();
        let facts = update.read(&mut (AsWidth::Two, add_path), &mut |error| {
            errors.push(error.kind);
        });
        (facts, errors)
    }

    fn counts(facts: &UpdateFacts<'_>) -> Vec<(String, bool, u32)> {
        facts
            .counts()
            .map(|c| (c.family.to_string(), c.announced, c.count))
            .collect()
    }

    const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
    const AS_PATH: [u8; 9] = [0x40, 2, 6, 2, 2, 0, 1, 0, 2];
    const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 10, 0, 0, 1];

    #[test]
    fn plain_ipv4() {
        let attributes = [
            &ORIGIN[..],
            &AS_PATH,
            &NEXT_HOP,
            &[0x80, 9, 4, 9, 9, 9, 9],
            &[0x80, 10, 4, 8, 8, 8, 8],
            &[0x40, 5, 4, 0, 0, 0, 100],
        ]
        .concat();
        let message = message(&[8, 11], &attributes, &[26, 10, 1, 1, 64, 8, 10]);
        let (facts, errors) = read(&message, false);
        assert_eq!(errors, []);
        assert_eq!(
            counts(&facts),
            [
                ("ipv4-unicast".into(), false, 1),
                ("ipv4-unicast".into(), true, 2)
            ]
        );
        assert_eq!(facts.origin, Some(Origin::Igp));
        assert_eq!(facts.as_path.unwrap().length(), 2);
        assert_eq!(facts.next_hop, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(facts.originator, Some("9.9.9.9".parse().unwrap()));
        assert_eq!(facts.cluster_list, [8, 8, 8, 8]);
        assert_eq!(facts.local_pref, Some(100));
        assert_eq!((facts.severity, facts.end_of_rib), (None, None));
    }

    #[test]
    fn multiprotocol_with_link_local_next_hop() {
        let mut reach = vec![0, 2, 1, 32];
        reach.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        reach.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        reach.extend([0, 64, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 0]);
        let mut attributes = [&ORIGIN[..], &AS_PATH].concat();
        attributes.extend([0x90, 14, 0, u8::try_from(reach.len()).unwrap()]);
        attributes.extend(reach);
        attributes.extend([0x80, 15, 4, 0, 2, 1, 0]);
        let message = message(&[], &attributes, &[]);
        let (facts, errors) = read(&message, false);
        assert_eq!(errors, []);
        assert_eq!(
            counts(&facts),
            [
                ("ipv6-unicast".into(), true, 1),
                ("ipv6-unicast".into(), false, 1)
            ]
        );
        assert_eq!(facts.next_hop, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(facts.link_local, Some("fe80::1".parse().unwrap()));
    }

    #[test]
    fn end_of_rib_of_every_family() {
        let end = |attributes: &[u8]| read(&message(&[], attributes, &[]), false).0.end_of_rib;
        assert_eq!(end(&[]), Some(Family::IPV4_UNICAST));
        assert_eq!(end(&[0x80, 15, 3, 0, 2, 1]), Some(Family::IPV6_UNICAST));
        assert_eq!(end(&[0x80, 15, 3, 0, 1, 128]), Some(Family::new(1, 128)));
        assert_eq!(end(&[0x80, 15, 5, 0, 2, 1, 8, 0x20]), None);
        assert_eq!(end(&[&[0x80, 15, 3, 0, 2, 1][..], &ORIGIN].concat()), None);
        assert_eq!(end(&ORIGIN), None);
    }

    #[test]
    fn rfc_7606_classes() {
        let judge = |attributes: &[u8], nlri: &[u8]| {
            let message = message(&[], attributes, nlri);
            let (facts, errors) = read(&message, false);
            (facts.severity, errors)
        };
        let good = [&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat();
        assert_eq!(judge(&good, &[8, 10]), (None, vec![]));
        let twice = [&good[..], &ORIGIN].concat();
        assert_eq!(
            judge(&twice, &[8, 10]),
            (
                Some(Severity::AttributeDiscard),
                vec![DecodeErrorKind::AttributeRepeated(1)]
            )
        );
        assert_eq!(
            judge(&ORIGIN, &[8, 10]),
            (
                Some(Severity::TreatAsWithdraw),
                vec![
                    DecodeErrorKind::AttributeMissing(2),
                    DecodeErrorKind::AttributeMissing(3)
                ]
            )
        );
        let overrun = [&good[..], &[0xc0, 8, 200, 1]].concat();
        assert_eq!(
            judge(&overrun, &[8, 10]),
            (
                Some(Severity::TreatAsWithdraw),
                vec![DecodeErrorKind::AttributeTruncated(8)]
            )
        );
        assert_eq!(
            judge(&good, &[8, 10, 33, 1]),
            (
                Some(Severity::SessionReset),
                vec![DecodeErrorKind::PrefixLength]
            )
        );
        let hop = [&good[..], &[0x80, 14, 7, 0, 2, 1, 2, 1, 1, 0]].concat();
        assert_eq!(
            judge(&hop, &[]),
            (
                Some(Severity::SessionReset),
                vec![DecodeErrorKind::NextHopLength]
            )
        );
    }

    #[test]
    fn fields_that_overrun_the_message() {
        let mut message = message(&[], &[], &[]);
        message[20] = 9;
        assert_eq!(
            Message::decode(&message).unwrap_err().kind,
            DecodeErrorKind::WithdrawnLength
        );
        message[20] = 0;
        message[22] = 1;
        assert_eq!(
            Message::decode(&message).unwrap_err().kind,
            DecodeErrorKind::AttributesLength
        );
        message.truncate(21);
        message[17] = 21;
        assert_eq!(
            Message::decode(&message).unwrap_err().kind,
            DecodeErrorKind::AttributesLength
        );
    }
}

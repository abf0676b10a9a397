//! OPEN (RFC 4271 §4.2) with its capabilities (RFC 5492) and extended optional parameters
//! (RFC 9072).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{
    AddPathMode, Capability, DecodeError, DecodeErrorKind, Family, HEADER_LENGTH, LongLived,
    capability::{family_entries, long_lived_entries},
    cursor::Cursor,
    iana,
};

/// The optional parameter that carries capabilities.
const PARAMETER_CAPABILITIES: u8 = 2;
/// RFC 9072 §2: length and type that announce the extended form.
const PARAMETER_EXTENDED: u8 = 255;
/// Capabilities listed per OPEN; what a hostile peer sends beyond them is not kept.
const MAX_CAPABILITIES: usize = 256;

/// An OPEN, borrowing its optional parameters.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a> {
    /// Protocol version; 4.
    pub version: u8,
    /// The field "My Autonomous System": 23456 (`AS_TRANS`) when the number needs four octets
    /// (RFC 6793 §9).
    pub my_as: u16,
    /// Proposed hold time in seconds.
    pub hold_secs: u16,
    /// BGP identifier.
    pub bgp_id: Ipv4Addr,
    parameters: Cursor<'a>,
    extended: bool,
}

impl<'a> Open<'a> {
    /// Reads what follows the header.
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body, HEADER_LENGTH);
        let mut fixed = || {
            Some((
                cursor.u8()?,
                cursor.u16()?,
                cursor.u16()?,
                cursor.u32()?,
                cursor.u8()?,
            ))
        };
        let Some((version, my_as, hold_secs, bgp_id, length)) = fixed() else {
            return Err(DecodeError::at(
                DecodeErrorKind::OpenTruncated,
                cursor.offset(),
            ));
        };
        let overrun = DecodeError::at(DecodeErrorKind::OptionalParameter, 28);
        // RFC 9072 §2: a type of 255 in the first parameter means the extended form, whatever the
        // one-octet length says; 0 is the only length that it may not follow.
        let extended = length != 0 && cursor.rest().first() == Some(&PARAMETER_EXTENDED);
        let parameters = if extended {
            cursor.u8();
            let length = cursor.u16().ok_or(overrun)?;
            cursor.sub(usize::from(length)).ok_or(overrun)?
        } else {
            cursor.sub(usize::from(length)).ok_or(overrun)?
        };
        Ok(Self {
            version,
            my_as,
            hold_secs,
            bgp_id: bgp_id.into(),
            parameters,
            extended,
        })
    }

    /// Every capability in the order sent, repeated ones included, with its code.
    pub fn capabilities(&self) -> Capabilities<'a> {
        Capabilities {
            parameters: self.parameters,
            extended: self.extended,
            current: Cursor::new(&[], 0),
        }
    }

    /// What is wrong with the fixed part (RFC 4271 §6.2, RFC 6286).
    pub fn faults(&self) -> impl Iterator<Item = DecodeError> + use<> {
        let version = (self.version != 4).then_some((DecodeErrorKind::OpenVersion, 19));
        let hold = matches!(self.hold_secs, 1 | 2).then_some((DecodeErrorKind::HoldTime, 22));
        let id = self
            .bgp_id
            .is_unspecified()
            .then_some((DecodeErrorKind::BgpIdentifier, 24));
        [version, hold, id]
            .into_iter()
            .flatten()
            .map(|(kind, at)| DecodeError::at(kind, at))
    }
}

/// Iterates over an OPEN's capabilities. After an error nothing more comes, except that one
/// capability of a wrong length does not hide the others.
#[derive(Clone, Debug)]
pub struct Capabilities<'a> {
    parameters: Cursor<'a>,
    extended: bool,
    current: Cursor<'a>,
}

impl<'a> Capabilities<'a> {
    fn stop(
        &mut self,
        kind: DecodeErrorKind,
        at: usize,
    ) -> (u8, Result<Capability<'a>, DecodeError>) {
        self.parameters = Cursor::new(&[], at);
        self.current = Cursor::new(&[], at);
        (0, Err(DecodeError::at(kind, at)))
    }
}

impl<'a> Iterator for Capabilities<'a> {
    type Item = (u8, Result<Capability<'a>, DecodeError>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.current.is_empty() {
            if self.parameters.is_empty() {
                return None;
            }
            let at = self.parameters.offset();
            let mut parameter = || {
                let kind = self.parameters.u8()?;
                let length = if self.extended {
                    self.parameters.u16()?
                } else {
                    u16::from(self.parameters.u8()?)
                };
                Some((kind, self.parameters.sub(usize::from(length))?))
            };
            match parameter() {
                Some((PARAMETER_CAPABILITIES, value)) => self.current = value,
                Some(_) => {}
                None => return Some(self.stop(DecodeErrorKind::OptionalParameter, at)),
            }
        }
        let at = self.current.offset();
        let mut header = || {
            let code = self.current.u8()?;
            let length = self.current.u8()?;
            Some((code, self.current.sub(usize::from(length))?))
        };
        match header() {
            Some((code, value)) => {
                Some((code, Capability::decode(code, value.rest(), value.offset())))
            }
            None => Some(self.stop(DecodeErrorKind::CapabilityTruncated, at)),
        }
    }
}

/// A family and what its sender offers for it (RFC 7911).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AddPathFamily {
    /// The family.
    pub family: Family,
    /// The offer.
    pub mode: AddPathMode,
}

/// A family of the graceful restart capability.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RestartFamily {
    /// The family.
    pub family: Family,
    /// F bit: the sender kept its forwarding state over the restart.
    pub forwarding: bool,
}

/// What an OPEN says, owned and bounded: kept with the connection and shown side by side with the
/// other's.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OpenFacts {
    /// The field "My Autonomous System" as sent.
    pub my_as: u16,
    /// The number of the four-octet AS capability.
    pub four_octet_as: Option<u32>,
    /// Proposed hold time in seconds.
    pub hold_secs: u16,
    /// BGP identifier.
    pub bgp_id: Option<Ipv4Addr>,
    /// Codes in the order sent, repeated ones included.
    pub capabilities: Vec<u8>,
    /// Multiprotocol families.
    pub families: Vec<Family>,
    /// Route refresh, either form.
    pub route_refresh: bool,
    /// RFC 7313.
    pub enhanced_refresh: bool,
    /// RFC 8654.
    pub extended_message: bool,
    /// RFC 9234.
    pub role: Option<u8>,
    /// RFC 8950: families whose next hop may be IPv6.
    pub extended_next_hop: Vec<Family>,
    /// RFC 7911.
    pub add_path: Vec<AddPathFamily>,
    /// RFC 4724: present when the capability is.
    pub restart: Option<RestartFacts>,
    /// RFC 9494.
    pub long_lived: Vec<LongLived>,
    /// Host name, where sent; whatever is not UTF-8 is replaced.
    pub host: Option<String>,
    /// Domain name likewise.
    pub domain: Option<String>,
}

/// The graceful restart capability, owned.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RestartFacts {
    /// R bit.
    pub restarted: bool,
    /// N bit (RFC 8538).
    pub notification: bool,
    /// Seconds.
    pub restart_secs: u16,
    /// Its families; none means helper only.
    pub families: Vec<RestartFamily>,
}

impl OpenFacts {
    /// Takes everything that can be read, and reports the rest.
    pub fn read(open: &Open<'_>, mut report: impl FnMut(DecodeError)) -> Self {
        open.faults().for_each(&mut report);
        let mut facts = Self {
            my_as: open.my_as,
            hold_secs: open.hold_secs,
            bgp_id: Some(open.bgp_id),
            ..Self::default()
        };
        for (code, capability) in open.capabilities().take(MAX_CAPABILITIES) {
            match capability {
                Ok(capability) => {
                    facts.capabilities.push(code);
                    facts.add(code, capability);
                }
                Err(error) => {
                    if matches!(error.kind, DecodeErrorKind::CapabilityLength(_)) {
                        facts.capabilities.push(code);
                    }
                    report(error);
                }
            }
        }
        facts
    }

    /// The sender's AS number, wherever it stands.
    pub fn asn(&self) -> u32 {
        self.four_octet_as.unwrap_or(u32::from(self.my_as))
    }

    /// Whether this capability code was sent.
    pub fn has(&self, code: u8) -> bool {
        self.capabilities.contains(&code)
    }

    /// What the sender offers for a family (RFC 7911).
    pub fn add_path_mode(&self, family: Family) -> Option<AddPathMode> {
        // RFC 7911 §4: when a family occurs more than once, the first counts.
        self.add_path
            .iter()
            .find(|entry| entry.family == family)
            .map(|entry| entry.mode)
    }

    /// Whether the sender speaks this family: IPv4 unicast without the multiprotocol capability, too
    /// (RFC 4760 §8).
    pub fn speaks(&self, family: Family) -> bool {
        self.families.contains(&family)
            || (family == Family::IPV4_UNICAST && self.families.is_empty())
    }

    fn add(&mut self, code: u8, capability: Capability<'_>) {
        match capability {
            Capability::Multiprotocol(family) => self.families.push(family),
            Capability::RouteRefresh => self.route_refresh = true,
            Capability::ExtendedNextHop(entries) => {
                self.extended_next_hop
                    .extend(entries.chunks_exact(6).filter_map(|entry| match *entry {
                        [high, low, _, safi, _, _] => {
                            Some(Family::new(u16::from_be_bytes([high, low]), safi))
                        }
                        _ => None,
                    }));
            }
            Capability::ExtendedMessage => self.extended_message = true,
            Capability::Role(role) => self.role = Some(role),
            Capability::GracefulRestart(restart) => {
                // RFC 4724 §3: of several instances the last counts.
                self.restart = Some(RestartFacts {
                    restarted: restart.restarted,
                    notification: restart.notification,
                    restart_secs: restart.restart_secs,
                    families: family_entries(restart.families)
                        .map(|(family, flags)| RestartFamily {
                            family,
                            forwarding: flags & 0x80 != 0,
                        })
                        .collect(),
                });
            }
            Capability::FourOctetAs(asn) => self.four_octet_as = Some(asn),
            Capability::AddPath(entries) => {
                self.add_path
                    .extend(family_entries(entries).filter_map(|(family, mode)| {
                        Some(AddPathFamily {
                            family,
                            mode: AddPathMode::from_number(mode)?,
                        })
                    }));
            }
            Capability::EnhancedRouteRefresh => self.enhanced_refresh = true,
            Capability::LongLivedGracefulRestart(entries) => {
                self.long_lived.extend(long_lived_entries(entries));
            }
            Capability::Fqdn { host, domain } => {
                self.host = Some(String::from_utf8_lossy(host).into_owned());
                self.domain = Some(String::from_utf8_lossy(domain).into_owned());
            }
            Capability::Other { .. } => {
                // 128 is Cisco's route refresh of before RFC 2918.
                self.route_refresh |= code == 128;
            }
        }
    }

    /// Names of the capabilities sent, each once, in the order sent.
    pub fn capability_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (index, code) in self.capabilities.iter().enumerate() {
            if !self
                .capabilities
                .iter()
                .take(index)
                .any(|earlier| earlier == code)
            {
                names.push(match iana::capability::name(*code) {
                    Some(name) => name.to_owned(),
                    None => format!("capability {code}"),
                });
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::Message;

    /// An OPEN of AS 65001, hold 240, id 10.0.0.1, with these octets as its optional parameters.
    fn open(length: u8, parameters: &[u8]) -> Vec<u8> {
        let mut message = vec![0xff; 16];
        let total = u16::try_from(29 + parameters.len()).unwrap();
        message.extend(total.to_be_bytes());
        message.extend([1, 4, 0xfd, 0xe9, 0, 240, 10, 0, 0, 1, length]);
        message.extend(parameters);
        message
    }

    fn facts(message: &[u8]) -> (OpenFacts, Vec<DecodeErrorKind>) {
        let Message::Open(open) = Message::decode(message).unwrap() else {
            panic!("not an OPEN");
        };
        let mut errors = Vec::new();
        let facts = OpenFacts::read(&open, |error| errors.push(error.kind));
        (facts, errors)
    }

    /// One parameter per capability, as BIRD 1 groups them and as others split them.
    fn one_parameter(capabilities: &[(u8, &[u8])]) -> Vec<u8> {
        let mut list = Vec::new();
        for (code, value) in capabilities {
            list.extend([*code, u8::try_from(value.len()).unwrap()]);
            list.extend(*value);
        }
        let mut parameters = vec![2, u8::try_from(list.len()).unwrap()];
        parameters.extend(list);
        parameters
    }

    #[test]
    fn every_capability_of_the_field_is_read() {
        let parameters = one_parameter(&[
            (1, &[0, 1, 0, 1]),
            (2, &[]),
            (5, &[0, 1, 0, 1, 0, 2]),
            (6, &[]),
            (9, &[3]),
            (64, &[0xc0, 120, 0, 1, 1, 0x80, 0, 2, 1, 0]),
            (65, &[0, 1, 0, 0]),
            (69, &[0, 1, 1, 3, 0, 2, 1, 1, 0, 2, 2, 9]),
            (70, &[]),
            (71, &[0, 1, 1, 0x80, 0, 1, 0]),
            (73, &[2, b'n', b'1', 3, b'l', b'a', b'b']),
            (200, &[1, 2, 3]),
        ]);
        let message = open(u8::try_from(parameters.len()).unwrap(), &parameters);
        let (facts, errors) = facts(&message);
        assert_eq!(errors, []);
        assert_eq!(facts.asn(), 65536);
        assert_eq!(facts.my_as, 65001);
        assert_eq!(facts.hold_secs, 240);
        assert_eq!(
            facts.capabilities,
            [1, 2, 5, 6, 9, 64, 65, 69, 70, 71, 73, 200]
        );
        assert_eq!(facts.families, [Family::IPV4_UNICAST]);
        assert!(facts.route_refresh && facts.enhanced_refresh && facts.extended_message);
        assert_eq!(facts.role, Some(3));
        assert_eq!(facts.extended_next_hop, [Family::IPV4_UNICAST]);
        let restart = facts.restart.clone().unwrap();
        assert!(restart.restarted && restart.notification);
        assert_eq!(restart.restart_secs, 120);
        assert_eq!(
            restart.families,
            [
                RestartFamily {
                    family: Family::IPV4_UNICAST,
                    forwarding: true
                },
                RestartFamily {
                    family: Family::IPV6_UNICAST,
                    forwarding: false
                },
            ]
        );
        assert_eq!(
            facts.add_path_mode(Family::IPV4_UNICAST),
            Some(AddPathMode::Both)
        );
        assert_eq!(
            facts.add_path_mode(Family::IPV6_UNICAST),
            Some(AddPathMode::Receive)
        );
        assert_eq!(
            facts.add_path_mode(Family::new(2, 2)),
            None,
            "mode 9 is ignored"
        );
        assert_eq!(
            facts.long_lived,
            [LongLived {
                family: Family::IPV4_UNICAST,
                forwarding: true,
                stale_secs: 256
            }]
        );
        assert_eq!(facts.host.as_deref(), Some("n1"));
        assert_eq!(facts.domain.as_deref(), Some("lab"));
        assert_eq!(facts.capability_names().last().unwrap(), "capability 200");
    }

    #[test]
    fn extended_optional_parameters_of_rfc_9072() {
        let mut parameters = vec![255, 0, 0];
        let mut list = Vec::new();
        for _ in 0..100 {
            list.extend([1, 4, 0, 1, 0, 1]);
        }
        parameters.push(2);
        parameters.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        parameters.extend(list);
        let length = u16::try_from(parameters.len() - 3).unwrap().to_be_bytes();
        parameters[1..3].copy_from_slice(&length);
        for announced in [255, 7] {
            let (facts, errors) = facts(&open(announced, &parameters));
            assert_eq!(errors, []);
            assert_eq!(facts.families.len(), 100);
        }
    }

    #[test]
    fn what_is_broken_does_not_hide_what_is_not() {
        let parameters = one_parameter(&[(1, &[0, 1, 0]), (2, &[]), (65, &[0, 0, 0, 7])]);
        let message = open(u8::try_from(parameters.len()).unwrap(), &parameters);
        let (facts, errors) = facts(&message);
        assert_eq!(errors, [DecodeErrorKind::CapabilityLength(1)]);
        assert_eq!(facts.asn(), 7);
        assert_eq!(facts.capabilities, [1, 2, 65]);
    }

    #[test]
    fn overruns_end_the_list() {
        let (read, errors) = facts(&open(4, &[2, 2, 65, 4]));
        assert_eq!(errors, [DecodeErrorKind::CapabilityTruncated]);
        assert!(read.capabilities.is_empty());
        let (_, errors) = facts(&open(3, &[2, 9, 65]));
        assert_eq!(errors, [DecodeErrorKind::OptionalParameter]);
        let error = Message::decode(&open(9, &[2, 2, 2, 0])).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::OptionalParameter);
        let mut short = open(0, &[]);
        short.pop();
        short[17] = 28;
        assert_eq!(
            Message::decode(&short).unwrap_err().kind,
            DecodeErrorKind::OpenTruncated
        );
    }

    #[test]
    fn impossible_fields_are_facts() {
        let mut message = open(0, &[]);
        message[19] = 3;
        message[22..24].copy_from_slice(&[0, 2]);
        message[24..28].fill(0);
        let (_, errors) = facts(&message);
        assert_eq!(
            errors,
            [
                DecodeErrorKind::OpenVersion,
                DecodeErrorKind::HoldTime,
                DecodeErrorKind::BgpIdentifier
            ]
        );
    }
}

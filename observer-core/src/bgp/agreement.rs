//! What two OPENs come to, capability by capability (RFC 5492): what each side offers, whether that
//! makes the session use it, and who lacks it otherwise.

use std::{collections::BTreeSet, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::{AddPathMode, Family, OpenFacts, iana};
use iana::capability as code;

/// One capability, or one family of a capability that has families, as both OPENs have it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CapabilityView {
    /// Its code.
    pub code: u8,
    /// The registry's name, with the family where it has one.
    pub name: String,
    /// What this node offers: its parameters, or `yes`; none when it does not.
    pub sent: Option<String>,
    /// What the peer offers likewise.
    pub received: Option<String>,
    /// The session uses it. Both OPENs have to be known for that.
    pub negotiated: bool,
    /// Which side it is missing on, when the other has it; none when an OPEN is not known.
    pub lacking: Option<Lacking>,
}

/// A side without a capability that the other has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lacking {
    /// This node.
    ThisNode,
    /// The peer.
    Peer,
}

/// Both OPENs' capabilities side by side, by code and family. Nothing while neither was seen.
pub fn capabilities(ours: Option<&OpenFacts>, theirs: Option<&OpenFacts>) -> Vec<CapabilityView> {
    let opens = || ours.into_iter().chain(theirs);
    let codes: BTreeSet<u8> = opens()
        .flat_map(|open| open.capabilities.iter().copied())
        .map(canonical)
        .collect();
    let mut rows = Vec::new();
    for code in codes {
        let families: BTreeSet<Family> = opens().flat_map(|open| families(open, code)).collect();
        if families.is_empty() {
            rows.push(row(code, None, ours, theirs));
        }
        for family in families {
            rows.push(row(code, Some(family), ours, theirs));
        }
    }
    rows
}

/// The code under which a capability is shown: route refresh has two (RFC 2918 and before).
const fn canonical(code: u8) -> u8 {
    match code {
        128 => code::ROUTE_REFRESH,
        code => code,
    }
}

/// Families by which a capability is told apart. Graceful restart is not: its time is of all.
fn families(open: &OpenFacts, code: u8) -> Vec<Family> {
    match code {
        code::MULTIPROTOCOL => open.families.clone(),
        code::EXTENDED_NEXT_HOP => open.extended_next_hop.clone(),
        code::ADD_PATH => open.add_path.iter().map(|entry| entry.family).collect(),
        code::LONG_LIVED_GRACEFUL_RESTART => {
            open.long_lived.iter().map(|entry| entry.family).collect()
        }
        _ => Vec::new(),
    }
}

fn row(
    code: u8,
    family: Option<Family>,
    ours: Option<&OpenFacts>,
    theirs: Option<&OpenFacts>,
) -> CapabilityView {
    let offer = |open: Option<&OpenFacts>| open.and_then(|open| offer(open, code, family));
    let (sent, received) = (offer(ours), offer(theirs));
    let both = sent.is_some() && received.is_some();
    let negotiated = both
        && match (code, family, ours, theirs) {
            (code::ADD_PATH, Some(family), Some(ours), Some(theirs)) => {
                passes(ours, theirs, family) || passes(theirs, ours, family)
            }
            _ => true,
        };
    let lacking = match (ours, theirs, &sent, &received) {
        (Some(_), Some(_), None, Some(_)) => Some(Lacking::ThisNode),
        (Some(_), Some(_), Some(_), None) => Some(Lacking::Peer),
        _ => None,
    };
    let mut name = code::name(code).map_or_else(|| format!("Capability {code}"), str::to_owned);
    if let Some(family) = family {
        // Writing to a String does not fail.
        let _ = write!(name, " {family}");
    }
    CapabilityView {
        code,
        name,
        sent,
        received,
        negotiated,
        lacking,
    }
}

/// Whether several paths go from one to the other (RFC 7911 §4).
fn passes(from: &OpenFacts, to: &OpenFacts, family: Family) -> bool {
    from.add_path_mode(family).is_some_and(AddPathMode::sends)
        && to.add_path_mode(family).is_some_and(AddPathMode::receives)
}

/// What an OPEN offers of a capability, in words.
fn offer(open: &OpenFacts, code: u8, family: Option<Family>) -> Option<String> {
    let yes = "yes".to_owned();
    match (code, family) {
        (code::MULTIPROTOCOL, Some(family)) => open.families.contains(&family).then_some(yes),
        (code::EXTENDED_NEXT_HOP, Some(family)) => {
            open.extended_next_hop.contains(&family).then_some(yes)
        }
        (code::ADD_PATH, Some(family)) => open.add_path_mode(family).map(|mode| {
            let mode = match mode {
                AddPathMode::Receive => "receive",
                AddPathMode::Send => "send",
                AddPathMode::Both => "send, receive",
            };
            mode.to_owned()
        }),
        (code::LONG_LIVED_GRACEFUL_RESTART, Some(family)) => {
            let mut entries = open.long_lived.iter();
            let entry = entries.find(|entry| entry.family == family)?;
            Some(format!("{} s", entry.stale_secs))
        }
        (code::GRACEFUL_RESTART, _) => open.restart.as_ref().map(|restart| {
            let mut words = format!("{} s", restart.restart_secs);
            let flags = [
                (restart.restarted, ", restarted"),
                (restart.notification, ", NOTIFICATIONs too"),
                (restart.families.is_empty(), ", helper only"),
            ];
            for (_, flag) in flags.iter().filter(|(set, _)| *set) {
                words.push_str(flag);
            }
            for kept in &restart.families {
                let forwarding = if kept.forwarding { " forwarding" } else { "" };
                // Writing to a String does not fail.
                let _ = write!(words, ", {}{forwarding}", kept.family);
            }
            words
        }),
        (code::FOUR_OCTET_AS, _) => open.four_octet_as.map(|asn| asn.to_string()),
        (code::ROLE, _) => open.role.map(|role| match role {
            0 => "provider".to_owned(),
            1 => "route server".to_owned(),
            2 => "route server's client".to_owned(),
            3 => "customer".to_owned(),
            4 => "peer".to_owned(),
            other => other.to_string(),
        }),
        (code::ROUTE_REFRESH, _) => open.route_refresh.then_some(yes),
        (code::FQDN, _) => open.host.clone(),
        (code, _) => open.has(code).then_some(yes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::{AddPathFamily, RestartFacts, RestartFamily};

    const V4: Family = Family::IPV4_UNICAST;

    fn calico(mode: AddPathMode) -> OpenFacts {
        OpenFacts {
            capabilities: vec![1, 2, 64, 65, 69],
            families: vec![V4],
            route_refresh: true,
            four_octet_as: Some(64_512),
            add_path: vec![AddPathFamily { family: V4, mode }],
            restart: Some(RestartFacts {
                restart_secs: 120,
                restarted: true,
                families: vec![RestartFamily {
                    family: V4,
                    forwarding: true,
                }],
                ..RestartFacts::default()
            }),
            ..OpenFacts::default()
        }
    }

    /// Name, ours, theirs, used, who lacks it.
    fn lines(ours: Option<&OpenFacts>, theirs: Option<&OpenFacts>) -> Vec<String> {
        capabilities(ours, theirs)
            .into_iter()
            .map(|row| {
                format!(
                    "{} | {} | {} | {} | {:?}",
                    row.name,
                    row.sent.as_deref().unwrap_or("-"),
                    row.received.as_deref().unwrap_or("-"),
                    row.negotiated,
                    row.lacking
                )
            })
            .collect()
    }

    #[test]
    fn two_opens_stand_side_by_side() {
        let mut theirs = calico(AddPathMode::Receive);
        theirs.capabilities = vec![1, 128, 65, 69, 200];
        theirs.families.push(Family::IPV6_UNICAST);
        theirs.restart = None;
        assert_eq!(
            lines(Some(&calico(AddPathMode::Both)), Some(&theirs)),
            [
                "Multiprotocol Extensions ipv4-unicast | yes | yes | true | None",
                "Multiprotocol Extensions ipv6-unicast | - | yes | false | Some(ThisNode)",
                "Route Refresh | yes | yes | true | None",
                "Graceful Restart | 120 s, restarted, ipv4-unicast forwarding | - | false | Some(Peer)",
                "4-octet AS Number | 64512 | 64512 | true | None",
                "ADD-PATH ipv4-unicast | send, receive | receive | true | None",
                "Capability 200 | - | yes | false | Some(ThisNode)",
            ]
        );
    }

    #[test]
    fn two_that_only_send_paths_do_not_agree_and_neither_lacks_it() {
        let open = calico(AddPathMode::Send);
        let rows = lines(Some(&open), Some(&open));
        let found = "ADD-PATH ipv4-unicast | send | send | false | None";
        assert!(rows.contains(&found.to_owned()), "{rows:?}");
    }

    #[test]
    fn an_open_that_was_not_seen_lacks_nothing() {
        let rows = capabilities(Some(&calico(AddPathMode::Both)), None);
        assert_eq!(rows.len(), 5);
        assert!(
            rows.iter()
                .all(|row| row.lacking.is_none() && !row.negotiated)
        );
        assert_eq!(capabilities(None, None), []);
    }
}

//! What a capture holds, as `replay FILE -o json` prints it.

use std::{collections::BTreeMap, net::SocketAddr};

use observer_core::{
    bgp::{Family, NotificationFacts, OpenFacts},
    conversation::{DirectionCounters, Inference},
    message_counts::MessageCounts,
};
use serde::Serialize;

/// A capture in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Its TCP connections with a BGP port, in the order in which they begin.
    pub connections: Vec<ConnectionSummary>,
    /// Everything added up.
    pub totals: Totals,
}

/// One TCP connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionSummary {
    /// Who sent the first packet seen.
    pub a: SocketAddr,
    /// The other end.
    pub b: SocketAddr,
    /// What `a` sent.
    pub a_to_b: DirectionSummary,
    /// What `b` sent.
    pub b_to_a: DirectionSummary,
}

/// One direction of a connection.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DirectionSummary {
    /// Messages and entries.
    #[serde(flatten)]
    pub counts: Counts,
    /// Families whose End-of-RIB was sent, in order.
    pub end_of_rib: Vec<Family>,
    /// NOTIFICATIONs.
    pub notifications: Vec<NotificationSummary>,
    /// OPENs.
    pub opens: Vec<OpenSummary>,
    /// What had to be inferred because OPENs were not captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inferred: Option<Inference>,
}

/// Numbers that can be added up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Messages by type.
    #[serde(flatten)]
    pub messages: MessageCounts,
    /// NLRI entries announced.
    pub announced: BTreeMap<Family, u64>,
    /// NLRI entries withdrawn.
    pub withdrawn: BTreeMap<Family, u64>,
    /// Things malformed.
    pub decode_errors: u64,
    /// UPDATEs of which RFC 7606 has a receiver keep nothing.
    pub treat_as_withdraw: u64,
    /// Holes in the stream.
    pub gaps: u64,
    /// Times the next message had to be searched for.
    pub resyncs: u64,
}

/// One NOTIFICATION.
#[derive(Clone, Debug, Serialize)]
pub struct NotificationSummary {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Shutdown communication; none when there is none.
    pub text: Option<String>,
    /// The same in words, safe to print.
    pub meaning: String,
}

/// One OPEN.
#[derive(Clone, Debug, Serialize)]
pub struct OpenSummary {
    /// The field "My Autonomous System" as sent: 23456 stands for a number of four octets.
    pub asn: u16,
    /// The AS number of the four-octet capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub four_octet_asn: Option<u32>,
    /// Proposed hold time in seconds.
    pub hold_time: u16,
    /// BGP identifier.
    pub bgp_id: String,
    /// Capability codes in the order sent.
    pub capabilities: Vec<u8>,
}

/// The whole capture.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Messages and entries of all connections.
    #[serde(flatten)]
    pub counts: Counts,
    /// Families' End-of-RIBs.
    pub end_of_rib: u64,
    /// Packets in the file.
    pub packets: u64,
    /// Of them, TCP segments with a BGP port.
    pub segments: u64,
    /// Fragments of IP packets, which are not put together.
    pub fragments: u64,
    /// Segments that the capture cut short.
    pub truncated: u64,
    /// Packets whose headers could not be read.
    pub unreadable: u64,
    /// Packets of link layers not known here.
    pub unknown_link: u64,
    /// Segments of connections beyond what is kept.
    pub left_out: u64,
    /// The file ends within a record.
    pub cut_short: bool,
    /// A record makes no sense, and the reading stopped there.
    pub damaged: bool,
}

impl From<&DirectionCounters> for DirectionSummary {
    fn from(counters: &DirectionCounters) -> Self {
        let inference = &counters.inference;
        Self {
            counts: Counts {
                messages: counters.messages,
                announced: counters.announced.clone(),
                withdrawn: counters.withdrawn.clone(),
                decode_errors: counters.decode_errors,
                treat_as_withdraw: counters.malformed.treat_as_withdraw
                    + counters.malformed.session_reset,
                gaps: counters.gaps,
                resyncs: counters.resyncs,
            },
            end_of_rib: counters.end_of_rib.clone(),
            notifications: counters
                .notifications
                .iter()
                .map(NotificationSummary::from)
                .collect(),
            opens: counters.opens.iter().map(OpenSummary::from).collect(),
            inferred: (inference.updates != 0).then(|| inference.clone()),
        }
    }
}

impl From<&NotificationFacts> for NotificationSummary {
    fn from(facts: &NotificationFacts) -> Self {
        Self {
            code: facts.code,
            subcode: facts.subcode,
            text: facts.text.clone(),
            meaning: facts.to_string(),
        }
    }
}

impl From<&OpenFacts> for OpenSummary {
    fn from(facts: &OpenFacts) -> Self {
        Self {
            asn: facts.my_as,
            four_octet_asn: facts.four_octet_as,
            hold_time: facts.hold_secs,
            bgp_id: facts.bgp_id.map(|id| id.to_string()).unwrap_or_default(),
            capabilities: facts.capabilities.clone(),
        }
    }
}

impl Totals {
    /// Adds one direction.
    pub(super) fn add(&mut self, direction: &DirectionSummary) {
        let (sum, counts) = (&mut self.counts, &direction.counts);
        sum.messages.add(&counts.messages);
        for (total, count) in [
            (&mut sum.decode_errors, counts.decode_errors),
            (&mut sum.treat_as_withdraw, counts.treat_as_withdraw),
            (&mut sum.gaps, counts.gaps),
            (&mut sum.resyncs, counts.resyncs),
        ] {
            *total += count;
        }
        for (totals, counts) in [
            (&mut sum.announced, &counts.announced),
            (&mut sum.withdrawn, &counts.withdrawn),
        ] {
            for (family, count) in counts {
                *totals.entry(*family).or_default() += count;
            }
        }
        self.end_of_rib += u64::try_from(direction.end_of_rib.len()).unwrap_or(u64::MAX);
    }
}

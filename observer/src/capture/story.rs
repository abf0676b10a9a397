//! A capture told to a person: per connection what was said, when and by whom, in few lines.

use std::fmt::Write;

use observer_core::{
    bgp::{DecodeError, MessageKind, RefreshKind},
    conversation::{Direction, Observation, Seen},
    time::{Timestamp, WallOffset},
};

use super::summary::{DirectionSummary, Summary};

/// Lines kept of one connection, and of all.
const MAX_LINES: usize = 200;
const MAX_ALL_LINES: usize = 20_000;

/// One line, or several of the same kind in a row.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Line {
    at: Timestamp,
    until: Timestamp,
    direction: Direction,
    what: What,
    times: u64,
}

/// What a line is about; lines that are equal in this are told as one.
#[derive(Clone, Debug, Eq, PartialEq)]
enum What {
    Keepalives,
    Updates { announced: u64, withdrawn: u64 },
    Words(String),
}

impl What {
    fn of(seen: &Seen<'_>) -> Self {
        if let Seen::Keepalive = seen {
            return Self::Keepalives;
        }
        if let Seen::Update(facts, _) = seen
            && facts.end_of_rib.is_none()
            && facts.errors == 0
        {
            let sum = |announced| {
                let entries = facts
                    .counts()
                    .filter(move |entry| entry.announced == announced);
                entries.map(|entry| u64::from(entry.count)).sum()
            };
            return Self::Updates {
                announced: sum(true),
                withdrawn: sum(false),
            };
        }
        Self::Words(words(seen))
    }
}

/// The lines of every connection, bounded.
#[derive(Debug, Default)]
pub struct Story {
    connections: Vec<Vec<Line>>,
    lines: usize,
    left_out: u64,
}

impl Story {
    /// Notes what was seen on a connection.
    pub(super) fn note(&mut self, connection: usize, observation: &Observation<'_>) {
        let what = What::of(&observation.seen);
        if self.connections.len() <= connection {
            self.connections.resize_with(connection + 1, Vec::new);
        }
        let Some(lines) = self.connections.get_mut(connection) else {
            return;
        };
        let (at, direction) = (observation.at, observation.direction);
        if let Some(last) = lines.last_mut().filter(|last| last.direction == direction)
            && last.join(at, &what)
        {
            return;
        }
        if lines.len() >= MAX_LINES || self.lines >= MAX_ALL_LINES {
            self.left_out += 1;
            return;
        }
        self.lines += 1;
        lines.push(Line {
            at,
            until: at,
            direction,
            what,
            times: 1,
        });
    }

    /// The whole story, with the summary's numbers.
    pub fn render(&self, summary: &Summary) -> String {
        let mut text = String::new();
        for (index, connection) in summary.connections.iter().enumerate() {
            let (a, b) = (connection.a, connection.b);
            let _ = writeln!(text, "{a} – {b}");
            for (from, to, direction) in [(a, b, &connection.a_to_b), (b, a, &connection.b_to_a)] {
                let _ = writeln!(text, "  {from} → {to}: {}", numbers(direction));
            }
            let lines = self.connections.get(index).map_or(&[][..], Vec::as_slice);
            let start = lines.first().map_or(Timestamp::default(), |line| line.at);
            for line in lines {
                let from = match line.direction {
                    Direction::AToB => a,
                    Direction::BToA => b,
                };
                let _ = writeln!(text, "  {} {from}: {}", line.time(start), line.words());
            }
            text.push('\n');
        }
        if self.left_out != 0 {
            let _ = writeln!(
                text,
                "{} more observations are counted but not told.",
                self.left_out
            );
        }
        let totals = &summary.totals;
        let _ = writeln!(
            text,
            "{} connections, {} packets, {} BGP segments, {} truncated, {} fragments",
            summary.connections.len(),
            totals.packets,
            totals.segments,
            totals.truncated,
            totals.fragments
        );
        if totals.cut_short {
            text.push_str("The file ends within a record: its writer was interrupted.\n");
        }
        if totals.damaged {
            text.push_str("The file is damaged; what follows could not be read.\n");
        }
        text
    }
}

impl Line {
    /// Takes another of the same kind in.
    fn join(&mut self, at: Timestamp, what: &What) -> bool {
        match (&mut self.what, what) {
            (What::Keepalives, What::Keepalives) => {}
            (
                What::Updates {
                    announced,
                    withdrawn,
                },
                What::Updates {
                    announced: more,
                    withdrawn: fewer,
                },
            ) => {
                *announced += more;
                *withdrawn += fewer;
            }
            (What::Words(before), What::Words(now)) if before == now => {}
            _ => return false,
        }
        self.times += 1;
        self.until = at;
        true
    }

    /// Time since the connection's first line, and in wall time where that differs from it.
    fn time(&self, start: Timestamp) -> String {
        let wall = WallOffset::default().wall(self.at);
        format!("{wall:.6} +{:.6}", self.at.since(start).as_secs_f64())
    }

    fn words(&self) -> String {
        let times = self.times;
        let during = self.until.since(self.at).as_secs_f64();
        let count = |one: &str, many: &str| {
            if times == 1 {
                one.to_owned()
            } else {
                format!("{times} {many} in {during:.3} s")
            }
        };
        match &self.what {
            What::Keepalives => count("KEEPALIVE", "KEEPALIVEs"),
            What::Updates {
                announced,
                withdrawn,
            } => {
                format!("{}: +{announced} −{withdrawn}", count("UPDATE", "UPDATEs"))
            }
            What::Words(words) if times == 1 => words.clone(),
            What::Words(words) => format!("{words} ({times} times)"),
        }
    }
}

fn words(seen: &Seen<'_>) -> String {
    match seen {
        Seen::Syn => "SYN".to_owned(),
        Seen::Open(open) => format!(
            "OPEN: AS {}, hold {} s, id {}, {}",
            open.asn(),
            open.hold_secs,
            open.bgp_id.map(|id| id.to_string()).unwrap_or_default(),
            open.capability_names().join(", ")
        ),
        Seen::Update(facts, _) => match facts.end_of_rib {
            Some(family) => format!("End-of-RIB {family}"),
            None => "malformed UPDATE".to_owned(),
        },
        Seen::Notification(notification) => format!("NOTIFICATION {notification}"),
        Seen::Keepalive => "KEEPALIVE".to_owned(),
        Seen::RouteRefresh(refresh) => {
            let what = match refresh.kind {
                RefreshKind::Request => "asked for",
                RefreshKind::Begin => "begins",
                RefreshKind::End => "ends",
                RefreshKind::Other(_) => "of an unknown kind",
            };
            format!("ROUTE-REFRESH {what} {}", refresh.family)
        }
        Seen::Unknown(kind) => format!("message of unknown type {kind}"),
        Seen::Malformed(kind, error) => malformed(*kind, *error),
        Seen::Gap(length) => format!("{length} octets were not captured"),
        Seen::Resync(length) => format!("{length} octets passed over to the next message"),
        Seen::Closed => "closed its side (FIN)".to_owned(),
        Seen::Reset => "reset the connection (RST)".to_owned(),
    }
}

fn malformed(kind: Option<MessageKind>, error: DecodeError) -> String {
    match kind {
        Some(kind) => format!("malformed {kind:?}: {error}"),
        None => format!("no message: {error}"),
    }
}

/// One direction's numbers in a line; what is zero is left out.
fn numbers(direction: &DirectionSummary) -> String {
    let counts = &direction.counts;
    let mut parts = Vec::new();
    for (count, name) in [
        (counts.messages.open, "OPEN"),
        (counts.messages.update, "UPDATE"),
        (counts.messages.notification, "NOTIFICATION"),
        (counts.messages.keepalive, "KEEPALIVE"),
        (counts.messages.route_refresh, "ROUTE-REFRESH"),
        (counts.messages.other, "unknown messages"),
        (counts.decode_errors, "decode errors"),
        (counts.gaps, "gaps"),
    ] {
        if count != 0 {
            parts.push(format!("{count} {name}"));
        }
    }
    for (sign, families) in [("+", &counts.announced), ("−", &counts.withdrawn)] {
        for (family, count) in families {
            parts.push(format!("{sign}{count} {family}"));
        }
    }
    if direction.inferred.is_some() {
        parts.push("ADD-PATH and AS width inferred".to_owned());
    }
    if parts.is_empty() {
        "no BGP".to_owned()
    } else {
        parts.join(", ")
    }
}

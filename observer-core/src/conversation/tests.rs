use super::*;
use crate::{
    bgp::{Family, Severity},
    stream::Release,
};

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// BIRD's OPEN: multiprotocol, four-octet AS, ADD-PATH both ways, extended messages where asked.
fn open(asn: u32, extended: bool) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 65, 4];
    capabilities.extend(asn.to_be_bytes());
    capabilities.extend([69, 4, 0, 1, 1, 3]);
    if extended {
        capabilities.extend([6, 0]);
    }
    let length = u8::try_from(capabilities.len()).unwrap();
    let mut body = vec![4, 0x5b, 0xa0, 0, 240, 10, 0, 0, 1, length + 2, 2, length];
    body.extend(capabilities);
    message(1, &body)
}

/// An UPDATE that announces these NLRI octets.
fn announce(nlri: &[u8]) -> Vec<u8> {
    let attributes = [
        0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 10, 0, 0, 1,
    ];
    let mut body = vec![0, 0, 0, u8::try_from(attributes.len()).unwrap()];
    body.extend(attributes);
    body.extend(nlri);
    message(2, &body)
}

/// A conversation under test, its clock and what was seen so far in words.
struct Talk {
    conversation: Conversation,
    next: [u32; 2],
    seen: Vec<String>,
}

impl Talk {
    fn new(config: ConversationConfig) -> Self {
        Self {
            conversation: Conversation::new(config),
            next: [1000, 5000],
            seen: Vec::new(),
        }
    }

    fn push(&mut self, direction: Direction, segment: &Segment<'_>) {
        let Self {
            conversation, seen, ..
        } = self;
        conversation.segment(
            Timestamp::default(),
            direction,
            segment,
            &mut |observation| {
                seen.push(words(&observation));
            },
        );
    }

    fn says(&mut self, direction: Direction, payload: &[u8]) {
        let slot = usize::from(direction == Direction::BToA);
        let segment = Segment {
            seq: self.next[slot],
            payload,
            ..Segment::default()
        };
        self.next[slot] += u32::try_from(payload.len()).unwrap();
        self.push(direction, &segment);
    }

    fn connect(&mut self) {
        self.push(
            Direction::AToB,
            &Segment {
                seq: 999,
                syn: true,
                ..Segment::default()
            },
        );
        self.push(
            Direction::BToA,
            &Segment {
                seq: 4999,
                syn: true,
                ..Segment::default()
            },
        );
        self.seen.clear();
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.seen)
    }
}

fn words(observation: &Observation<'_>) -> String {
    let from = match observation.direction {
        Direction::AToB => "a",
        Direction::BToA => "b",
    };
    let what = match observation.seen {
        Seen::Syn => "SYN".to_owned(),
        Seen::Open(open) => format!("OPEN {}", open.asn()),
        Seen::Update(facts, inferred) => {
            let routes: Vec<_> = facts
                .fields()
                .flat_map(|(nlri, announced)| {
                    nlri.flatten().map(move |entry| {
                        let sign = if announced { '+' } else { '-' };
                        match entry.path_id {
                            Some(id) => format!("{sign}{}#{id}", entry.prefix),
                            None => format!("{sign}{}", entry.prefix),
                        }
                    })
                })
                .collect();
            let mark = if inferred { " inferred" } else { "" };
            match facts.end_of_rib {
                Some(family) => format!("EoR {family}"),
                None => format!("UPDATE {}{mark}", routes.join(" ")),
            }
        }
        Seen::Notification(notification) => format!("NOTIFICATION {notification}"),
        Seen::Keepalive => "KEEPALIVE".to_owned(),
        Seen::RouteRefresh(refresh) => format!("REFRESH {}", refresh.family),
        Seen::Unknown(kind) => format!("unknown {kind}"),
        Seen::Malformed(_, error) => format!("malformed: {error}"),
        Seen::Gap(length) => format!("gap {length}"),
        Seen::Resync(length) => format!("resync {length}"),
        Seen::Closed => "FIN".to_owned(),
        Seen::Reset => "RST".to_owned(),
    };
    format!("{from} {what}")
}

const WITH_ID: [u8; 9] = [0, 0, 0, 7, 26, 10, 244, 1, 64];
const PLAIN: [u8; 5] = [26, 10, 244, 1, 64];

#[test]
fn a_session_from_its_beginning() {
    let mut talk = Talk::new(ConversationConfig::default());
    talk.connect();
    talk.says(Direction::AToB, &open(65001, false));
    talk.says(
        Direction::BToA,
        &[open(70000, false), message(4, &[])].concat(),
    );
    talk.says(
        Direction::AToB,
        &[message(4, &[]), announce(&WITH_ID)].concat(),
    );
    talk.says(Direction::BToA, &message(2, &[0; 4]));
    talk.says(Direction::BToA, &message(3, b"\x06\x02\x05maint"));
    assert_eq!(
        talk.take(),
        [
            "a OPEN 65001",
            "b OPEN 70000",
            "b KEEPALIVE",
            "a KEEPALIVE",
            "a UPDATE +10.244.1.64/26#7",
            "b EoR ipv4-unicast",
            "b NOTIFICATION Cease/Administrative Shutdown 'maint'",
        ]
    );
    let counters = talk.conversation.counters(Direction::AToB);
    assert_eq!(counters.announced[&Family::IPV4_UNICAST], 1);
    assert_eq!((counters.decode_errors, counters.inference.updates), (0, 0));
    assert_eq!(talk.conversation.hold_secs(), Some(240));
}

#[test]
fn entered_midway_everything_is_inferred_and_marked() {
    let mut talk = Talk::new(ConversationConfig::default());
    let update = announce(&WITH_ID);
    talk.says(Direction::AToB, &update[10..]);
    talk.says(Direction::AToB, &announce(&WITH_ID));
    talk.says(Direction::AToB, &announce(&PLAIN));
    assert_eq!(
        talk.take(),
        [
            format!("a resync {}", update.len() - 10).as_str(),
            "a UPDATE +10.244.1.64/26#7 inferred",
            "a UPDATE +10.244.1.64/26 inferred",
        ]
    );
    let counters = talk.conversation.counters(Direction::AToB);
    assert_eq!(
        (counters.inference.updates, counters.inference.corrections),
        (2, 1)
    );
}

#[test]
fn the_opens_overrule_what_the_bytes_look_like() {
    let mut talk = Talk::new(ConversationConfig::default());
    talk.connect();
    talk.says(Direction::AToB, &open(1, false));
    talk.says(Direction::BToA, &open(2, false));
    talk.take();
    talk.says(Direction::AToB, &announce(&PLAIN));
    assert_eq!(
        talk.take(),
        [
            "a malformed: impossible prefix length at octet 43",
            "a UPDATE "
        ],
    );
    assert_eq!(
        talk.conversation
            .counters(Direction::AToB)
            .malformed
            .session_reset,
        1
    );
}

#[test]
fn long_messages_need_a_receiver_that_can() {
    let long = message(2, &[&[0, 0, 0x13, 0x88][..], &[0; 5000]].concat());
    for (extended, expected) in [(true, 1), (false, 0)] {
        let mut talk = Talk::new(ConversationConfig::default());
        talk.connect();
        talk.says(Direction::BToA, &open(2, extended));
        talk.says(Direction::AToB, &long);
        assert_eq!(
            talk.conversation.counters(Direction::AToB).messages.update,
            expected
        );
        assert!(talk.conversation.counters(Direction::AToB).decode_errors > 0);
    }
}

#[test]
fn what_the_local_kernel_did_not_take_was_not_received() {
    let mut config = ConversationConfig::default();
    config.b_to_a = StreamConfig {
        release: Release::Acknowledged,
        patience: 0,
        ..config.b_to_a
    };
    let mut talk = Talk::new(config);
    talk.connect();
    talk.says(Direction::BToA, &message(4, &[]));
    assert_eq!(talk.take(), Vec::<String>::new());
    talk.push(
        Direction::AToB,
        &Segment {
            seq: 1000,
            ack: Some(5019),
            ..Segment::default()
        },
    );
    assert_eq!(talk.take(), ["b KEEPALIVE"]);
    talk.says(Direction::BToA, &message(3, &[4, 0]));
    talk.conversation.finish(Timestamp::default(), &mut |_| {
        panic!("nothing was acknowledged")
    });
    assert_eq!(
        talk.conversation
            .counters(Direction::BToA)
            .messages
            .notification,
        0
    );
    assert_eq!(
        talk.conversation
            .stream_counters(Direction::BToA)
            .unacknowledged,
        21
    );
}

#[test]
fn a_gap_costs_one_resync() {
    let mut talk = Talk::new(ConversationConfig::default());
    talk.connect();
    talk.says(Direction::AToB, &open(1, false));
    talk.take();
    let update = announce(&PLAIN);
    talk.says(Direction::AToB, &update[..30]);
    let cut = Segment {
        seq: talk.next[0],
        payload: &[9; 4],
        missing: 11,
        ..Segment::default()
    };
    talk.push(Direction::AToB, &cut);
    talk.next[0] += 15;
    talk.says(Direction::AToB, &[&[1, 2][..], &message(4, &[])].concat());
    assert_eq!(talk.take(), ["a gap 11", "a resync 36", "a KEEPALIVE"]);
    assert_eq!(talk.conversation.counters(Direction::AToB).decode_errors, 0);
}

#[test]
fn forged_resets_are_not_believed() {
    let mut talk = Talk::new(ConversationConfig::default());
    talk.connect();
    talk.push(
        Direction::AToB,
        &Segment {
            seq: 77 << 24,
            rst: true,
            ..Segment::default()
        },
    );
    assert_eq!(talk.take(), Vec::<String>::new());
    talk.push(
        Direction::AToB,
        &Segment {
            seq: 1000,
            rst: true,
            ..Segment::default()
        },
    );
    assert_eq!(talk.take(), ["a RST"]);
}

#[test]
fn messages_that_no_rfc_knows() {
    let mut talk = Talk::new(ConversationConfig::default());
    talk.connect();
    talk.says(
        Direction::AToB,
        &[
            message(9, &[1]),
            message(4, &[1]),
            message(5, &[0, 1, 0, 1]),
        ]
        .concat(),
    );
    assert_eq!(
        talk.take(),
        [
            "a unknown 9",
            "a malformed: unknown message type at octet 18",
            "a malformed: bad message length at octet 16",
            "a REFRESH ipv4-unicast",
        ]
    );
    let counters = talk.conversation.counters(Direction::AToB);
    assert_eq!(
        (
            counters.messages.other,
            counters.messages.keepalive,
            counters.decode_errors
        ),
        (1, 1, 2)
    );
    assert_eq!(counters.messages.total(), 3);
}

#[test]
fn treat_as_withdraw_is_counted() {
    let mut talk = Talk::new(ConversationConfig::default());
    talk.connect();
    let mut update = announce(&PLAIN);
    // An ORIGIN that does not exist.
    update[26] = 9;
    talk.says(Direction::AToB, &update);
    let counters = talk.conversation.counters(Direction::AToB);
    assert_eq!(
        (
            counters.malformed.treat_as_withdraw,
            counters.malformed.session_reset
        ),
        (1, 0)
    );
    assert!(Severity::TreatAsWithdraw > Severity::AttributeDiscard);
}

#[test]
fn what_acknowledges_more_than_was_sent_is_refused_as_the_kernel_refuses_it() {
    let mut talk = Talk::new(ConversationConfig {
        a_to_b: StreamConfig {
            patience: 0,
            ..StreamConfig::default()
        },
        b_to_a: StreamConfig {
            release: Release::Acknowledged,
            patience: 0,
            ..StreamConfig::default()
        },
        ..ConversationConfig::default()
    });
    talk.connect();
    let keepalive = message(4, &[]);
    talk.says(Direction::AToB, &keepalive);
    let from_b = |seq: u32, ack: u32, fin: bool, payload| Segment {
        seq,
        ack: Some(ack),
        fin,
        payload,
        ..Segment::default()
    };
    let notification = message(3, &[6, 2]);
    for forged in [
        from_b(5000, 1020, false, notification.as_slice()),
        from_b(5000, 1019 + (1 << 20), false, &[]),
        from_b(5000, 1020, true, &[]),
    ] {
        talk.push(Direction::BToA, &forged);
    }
    // A FIN ahead of bytes that never come says nothing of the end.
    talk.push(Direction::BToA, &from_b(5900, 1019, true, &[]));
    // The real ones, and our bare ACK that takes each.
    for seq in [5000, 5019] {
        talk.push(Direction::BToA, &from_b(seq, 1019, false, &keepalive));
        let ack = Segment {
            seq: 1019,
            ack: Some(seq + 19),
            ..Segment::default()
        };
        talk.push(Direction::AToB, &ack);
    }
    talk.says(Direction::AToB, &keepalive);
    talk.push(Direction::BToA, &from_b(5038, 1038, true, &[]));
    assert_eq!(
        talk.take(),
        [
            "a KEEPALIVE",
            "b KEEPALIVE",
            "b KEEPALIVE",
            "a KEEPALIVE",
            "b FIN"
        ]
    );
    let counters = talk.conversation.stream_counters(Direction::BToA);
    assert_eq!((counters.out_of_window, counters.conflicts), (3, 0));
}

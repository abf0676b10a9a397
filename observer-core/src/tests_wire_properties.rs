//! Whatever a tap shows, true or forged: nothing panics, memory stays bounded, outputs are the same
//! again.

use proptest::prelude::*;

use crate::{
    Observer,
    change::{Change, Output},
    config::CoreConfig,
    event::{Event, Fact, NetnsId, Socket, TcpState},
    record::Entry,
    testing::{millis, socket},
    testing_wire::{Offer, end_of_rib, keepalive, notification, open, update},
    time::{Clock, Occurred, Timestamp},
};

fn ends() -> impl Strategy<Value = Socket> {
    (1_u64..4, any::<bool>()).prop_map(|(id, dialled)| {
        let (local, remote) = if dialled {
            (40_000, 179)
        } else {
            (179, 50_000)
        };
        let peer = 2 + id % 2;
        socket(
            id,
            &format!("10.0.0.1:{local}"),
            &format!("10.0.0.{peer}:{remote}"),
        )
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let restart = Offer {
        restart: Some((2, true)),
        hold: 9,
        ..Offer::default()
    };
    prop_oneof![
        4 => prop::sample::select(vec![
            Vec::new(),
            open(restart),
            keepalive(),
            notification(6, 2, "x"),
            notification(6, 3, ""),
            notification(4, 0, ""),
            update(&[], &[24, 10, 1, 0]),
            update(&[24, 10, 1, 0], &[]),
            end_of_rib(),
        ]),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn segment() -> impl Strategy<Value = Fact> {
    let flags = prop_oneof![
        6 => Just((false, false, false)),
        2 => Just((true, false, false)),
        1 => Just((false, true, false)),
        1 => Just((false, false, true)),
    ];
    let number = || prop::sample::select(vec![0_u32, 1, 20, 45, 60, 64, 83, 200, u32::MAX]);
    (
        ends(),
        any::<bool>(),
        flags,
        number(),
        prop::option::of(number()),
        payload(),
        1_u32..3,
    )
        .prop_map(
            |(ends, sent, (syn, fin, rst), seq, ack, payload, interface)| Fact::Segment {
                netns: NetnsId(1),
                interface,
                sent,
                local: ends.local,
                remote: ends.remote,
                seq,
                ack,
                syn,
                fin,
                rst,
                payload: payload.into(),
                missing: 0,
            },
        )
}

fn socket_step() -> impl Strategy<Value = Fact> {
    use TcpState::{Close, CloseWait, Established, FinWait1, SynRecv, SynSent};
    let steps = vec![
        (Close, SynSent),
        (SynSent, Established),
        (SynRecv, Established),
        (Established, CloseWait),
        (Established, FinWait1),
        (CloseWait, Close),
    ];
    (ends(), prop::sample::select(steps)).prop_map(|(socket, (from, to))| Fact::TcpState {
        socket,
        from,
        to,
        process: None,
    })
}

fn stories() -> impl Strategy<Value = Vec<Entry>> {
    let fact = prop_oneof![8 => segment(), 3 => socket_step(), 1 => Just(Fact::Tick)];
    let pause = prop_oneof![8 => 0_u64..3, 2 => 3_u64..5_000];
    prop::collection::vec((pause, fact), 1..200).prop_map(|facts| {
        let netns = NetnsId(1);
        let node = "n1".to_owned();
        let mut now = 1_000;
        let mut told = vec![entry(now, Fact::NodeObserved { netns, node })];
        for (pause, fact) in facts {
            now += pause;
            told.push(entry(now, fact));
        }
        told
    })
}

fn entry(now: u64, fact: Fact) -> Entry {
    let at = millis(now);
    let occurred = Occurred {
        earliest: at,
        latest: at,
        clock: Clock::Packet,
    };
    Entry {
        now: at,
        event: Event { occurred, fact },
    }
}

fn run(told: &[Entry]) -> (Observer, Vec<Output>) {
    let mut observer = Observer::new(CoreConfig::default());
    let mut out = Vec::new();
    for entry in told {
        observer.apply(entry.now, &entry.event, &mut out);
        let views = observer.peers(entry.now);
        for view in &views {
            let stale: u64 = view.bgp.stale_prefixes.values().sum();
            assert!(stale <= view.bgp.prefixes.values().sum());
            assert!(view.bgp.hold_margin.is_none_or(|margin| margin <= 1.0));
        }
    }
    check_flaps(&observer, &out);
    (observer, out)
}

/// Every end is counted once, or its cause is still awaited.
fn check_flaps(observer: &Observer, out: &[Output]) {
    let count = |wanted: fn(&Change) -> bool| {
        let changes = out.iter().filter_map(|output| match output {
            Output::Change(record) => Some(&record.change),
            Output::Request(_) => None,
        });
        changes.filter(|change| wanted(change)).count()
    };
    let downs = count(|change| matches!(change, Change::SessionDown { .. }));
    let ups = count(|change| matches!(change, Change::SessionUp { .. }));
    let flaps = count(|change| matches!(change, Change::Flap { .. }));
    let started = count(|change| matches!(change, Change::GrStarted { .. }));
    let ended = count(|change| matches!(change, Change::GrEnded { .. }));
    let views = observer.peers(Timestamp::default());
    let pending = views.iter().filter(|view| view.cause_pending).count();
    assert_eq!(downs, flaps + pending);
    assert!(ups >= downs && started >= ended);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_segments_come_the_machine_goes_on_and_repeats_itself(told in stories()) {
        let (_, once) = run(&told);
        let read: Vec<Entry> = told
            .iter()
            .map(|entry| serde_json::from_str(&serde_json::to_string(entry).unwrap()).unwrap())
            .collect();
        prop_assert_eq!(&read, &told);
        let (_, again) = run(&read);
        prop_assert_eq!(once, again);
    }
}

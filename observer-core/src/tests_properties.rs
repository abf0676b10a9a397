//! What holds whatever happens, tried on random events with an advancing clock.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    Observer,
    change::{Change, Output},
    config::CoreConfig,
    event::{Event, Fact, InventoryPeer, LossStage, NetnsId, Process, Socket, SocketId, TcpState},
    peer::{PeerView, SessionState},
    record::Entry,
    replay::replay,
    testing::{millis, process, socket},
    time::{Clock, Occurred, Timestamp, WallOffset},
};

const PEERS: [&str; 3] = ["10.0.0.2", "10.0.0.3", "[fe80::2%3]"];
const STRANGERS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "[::ffff:192.0.2.3]"];

fn state() -> impl Strategy<Value = TcpState> {
    (1_u8..=12).prop_map(|number| TcpState::from_linux(number).unwrap())
}

/// States in the order in which sockets live, most of the time.
fn step() -> impl Strategy<Value = (TcpState, TcpState)> {
    use TcpState::{
        Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    };
    prop_oneof![
        8 => prop::sample::select(vec![
            (Close, SynSent),
            (SynSent, Established),
            (SynRecv, Established),
            (SynSent, Close),
            (Established, CloseWait),
            (Established, FinWait1),
            (Established, Close),
            (FinWait1, FinWait2),
            (FinWait2, Close),
            (CloseWait, LastAck),
            (LastAck, Close),
            (Close, Listen),
        ]),
        1 => (state(), state()),
    ]
}

fn known_socket() -> impl Strategy<Value = Socket> {
    let counters = (0_u64..120, 0_u64..120, 0_u32..6, 0_u8..6);
    (
        1_u64..8,
        prop::sample::select(&PEERS[..]),
        any::<bool>(),
        counters,
    )
        .prop_map(
            |(id, peer, dialled, (received, acked, total, unanswered))| {
                let own = if peer.starts_with('[') {
                    "[fe80::1%3]"
                } else {
                    "10.0.0.1"
                };
                let (local, remote) = if dialled {
                    (40_000, 179)
                } else {
                    (179, 50_000)
                };
                Socket {
                    netns: NetnsId(1),
                    bytes_received: received,
                    bytes_acked: acked,
                    total_retransmits: total,
                    unanswered_retransmits: unanswered,
                    ..socket(id, &format!("{own}:{local}"), &format!("{peer}:{remote}"))
                }
            },
        )
}

/// A stranger's socket: whatever it sends, the local speaker answers less than a session.
fn strange_socket() -> impl Strategy<Value = Socket> {
    (
        100_u64..500,
        prop::sample::select(&STRANGERS[..]),
        0_u64..10_000,
        0_u64..48,
    )
        .prop_map(|(id, peer, received, acked)| Socket {
            bytes_received: received,
            bytes_acked: acked,
            ..socket(id, "[::ffff:10.0.0.1]:179", &format!("{peer}:50000"))
        })
}

fn speaker() -> impl Strategy<Value = Process> {
    (40_u32..43).prop_map(|pid| process(pid, "bird"))
}

fn about_known_sockets() -> impl Strategy<Value = Fact> {
    let process = || prop::option::of(speaker());
    prop_oneof![
        6 => (known_socket(), step(), process()).prop_map(|(socket, (from, to), process)| {
            Fact::TcpState { socket, from, to, process }
        }),
        1 => (known_socket(), prop::sample::select(vec![103, 104, 110, 111, 113]))
            .prop_map(|(socket, errno)| Fact::TcpError { socket, errno }),
        1 => known_socket().prop_map(|socket| Fact::ResetReceived { socket }),
        1 => known_socket().prop_map(|socket| Fact::ResetSent { socket }),
        1 => known_socket().prop_map(|socket| Fact::Retransmit { socket }),
        6 => (known_socket(), info_state(), prop::option::of(0_u32..10_000), process()).prop_map(
            |(socket, state, age, process)| Fact::SocketInfo {
                socket,
                state,
                last_data_received_millis: age,
                send_queue: u32::from(socket.unanswered_retransmits),
                receive_queue: 0,
                process,
            }
        ),
        1 => (1_u64..8).prop_map(|id| Fact::SocketGone { netns: NetnsId(1), id: SocketId(id) }),
    ]
}

fn info_state() -> impl Strategy<Value = TcpState> {
    prop_oneof![3 => Just(TcpState::Established), 1 => state()]
}

fn about_strangers() -> impl Strategy<Value = Fact> {
    use TcpState::{Close, CloseWait, Established, SynRecv};
    let steps = vec![
        (SynRecv, Established),
        (Established, CloseWait),
        (Established, Close),
    ];
    prop_oneof![
        (strange_socket(), prop::sample::select(steps)).prop_map(|(socket, (from, to))| {
            Fact::TcpState {
                socket,
                from,
                to,
                process: None,
            }
        }),
        (
            strange_socket(),
            info_state().prop_filter("never dialled", |s| *s != TcpState::SynSent)
        )
            .prop_map(|(socket, state)| Fact::SocketInfo {
                socket,
                state,
                last_data_received_millis: None,
                send_queue: 0,
                receive_queue: 0,
                process: None,
            }),
        strange_socket().prop_map(|socket| Fact::Retransmit { socket }),
        strange_socket().prop_map(|socket| Fact::ResetReceived { socket }),
    ]
}

fn about_speakers() -> impl Strategy<Value = Fact> {
    let netns = NetnsId(1);
    let signal = || prop::sample::select(vec![1, 9, 15]);
    let sender = || prop::option::of(Just(process(7, "bash")));
    prop_oneof![
        (
            speaker(),
            prop::option::of(0..3),
            prop::option::of(signal())
        )
            .prop_map(move |(speaker, status, signal)| Fact::SpeakerExited {
                netns,
                speaker,
                status,
                signal
            }),
        (speaker(), signal(), sender()).prop_map(move |(speaker, signal, sender)| {
            Fact::SpeakerSignalled {
                netns,
                speaker,
                signal,
                sender,
            }
        }),
        speaker().prop_map(move |speaker| Fact::SpeakerOom { netns, speaker }),
    ]
}

fn about_everything() -> impl Strategy<Value = Fact> {
    let netns = NetnsId(1);
    let named = || prop::collection::vec(prop::sample::select(vec![2_u8, 3, 4]), 0..3);
    prop_oneof![
        Just(Fact::Tick),
        (0_u64..2_000).prop_map(move |begun| Fact::SocketsDumped {
            netns,
            begun: millis(begun)
        }),
        named().prop_map(|hosts| Fact::Inventory {
            peers: hosts.into_iter().map(inventory_peer).collect()
        }),
        Just(Fact::PeerForget {
            node: None,
            peer: "10.0.0.2".parse().unwrap()
        }),
        Just(Fact::NodeGone { netns }),
        Just(Fact::NodeObserved {
            netns,
            node: "n1".to_owned()
        }),
        (0_i64..1_000).prop_map(|nanos| Fact::WallClock {
            offset: WallOffset { nanos }
        }),
        (prop::sample::select(&LossStage::ALL[..]), 0_u64..9)
            .prop_map(|(stage, count)| Fact::Lost { stage, count }),
        (0_u64..9).prop_map(|connections| Fact::Strangers { connections }),
    ]
}

fn inventory_peer(host: u8) -> InventoryPeer {
    InventoryPeer {
        node: None,
        address: format!("10.0.0.{host}").parse().unwrap(),
        name: Some(format!("n{host}")),
        peer_type: None,
        asn: None,
        targets: Vec::new(),
    }
}

fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0_u64..30, 3 => 30_u64..2_000, 1 => 2_000_u64..200_000]
}

/// A node is observed; then anything happens. Some events come a little late, some stamps are wrong.
fn stories() -> impl Strategy<Value = Vec<Entry>> {
    let fact = prop_oneof![
        12 => about_known_sockets(),
        4 => about_strangers(),
        3 => about_speakers(),
        2 => about_everything(),
    ];
    let late = prop_oneof![8 => Just(0_u64), 2 => 0_u64..300];
    prop::collection::vec((pause(), late, any::<bool>(), fact), 1..120).prop_map(|facts| {
        let mut now = 1_000;
        let node = "n1".to_owned();
        let netns = NetnsId(1);
        let mut told = vec![entry(now, 0, true, Fact::NodeObserved { netns, node })];
        for (pause, late, exact, fact) in facts {
            now += pause;
            told.push(entry(now, late, exact, fact));
        }
        told
    })
}

fn entry(now: u64, late: u64, exact: bool, fact: Fact) -> Entry {
    let at = millis(now.saturating_sub(late));
    let occurred = Occurred {
        earliest: at,
        latest: at,
        clock: if exact { Clock::Kernel } else { Clock::Agent },
    };
    Entry {
        now: millis(now),
        event: Event { occurred, fact },
    }
}

fn tick(now: Timestamp) -> Event {
    Event {
        occurred: Occurred::noticed(now, now),
        fact: Fact::Tick,
    }
}

fn outputs(told: &[Entry]) -> Vec<Output> {
    let mut observer = Observer::new(CoreConfig::default());
    let mut out = Vec::new();
    for entry in told {
        observer.apply(entry.now, &entry.event, &mut out);
    }
    out
}

fn check_view(view: &PeerView) {
    assert_eq!(view.up, view.state == SessionState::Established, "{view:?}");
    assert_eq!(view.up, view.info.starts_with("Established"), "{view:?}");
    let carrying: Vec<_> = view
        .connections
        .iter()
        .filter(|c| c.carries_session)
        .collect();
    assert_eq!(carrying.len(), usize::from(view.up), "{view:?}");
    assert!(
        carrying
            .iter()
            .all(|carrier| carrier.tcp_state == "ESTABLISHED"),
        "{view:?}"
    );
    assert!(view.connections.len() <= 16);
    assert!(!view.cause_pending || !view.up, "{view:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_views_counters_and_changes_agree(told in stories()) {
        let mut observer = Observer::new(CoreConfig::default());
        let mut states: BTreeMap<String, SessionState> = BTreeMap::new();
        let mut ups: BTreeMap<String, bool> = BTreeMap::new();
        let (mut flaps, mut downs, mut seq) = (0, 0, 0);
        for entry in &told {
            let mut out = Vec::new();
            observer.apply(entry.now, &entry.event, &mut out);
            // A late event may bring what is due already; a tick at the same time runs it.
            observer.apply(entry.now, &tick(entry.now), &mut out);
            prop_assert!(observer.next_deadline().is_none_or(|due| due > entry.now));
            for output in out {
                let Output::Change(record) = output else { continue };
                seq += 1;
                prop_assert_eq!(record.seq, seq);
                match record.change {
                    Change::SessionState { peer, from, to } => {
                        prop_assert_eq!(states.insert(peer, to).unwrap_or_default(), from);
                        prop_assert!(from != to);
                    }
                    Change::SessionUp { peer, .. } => {
                        prop_assert!(!ups.insert(peer, true).unwrap_or_default());
                    }
                    Change::SessionDown { peer } => {
                        prop_assert!(ups.insert(peer, false).unwrap_or_default());
                        downs += 1;
                    }
                    Change::Flap { flap } => {
                        flaps += 1;
                        prop_assert_eq!(&flap.cause_text, &flap.cause.to_string());
                    }
                    Change::PeerForgotten { peer, .. } => {
                        states.remove(&peer);
                        ups.remove(&peer);
                    }
                    Change::SpeakerEnded { .. }
                    | Change::SpeakerSeen { .. }
                    | Change::PeerKnown { .. }
                    | Change::FlapAmended { .. }
                    | Change::ConnectFailed { .. }
                    | Change::Unanswered { .. }
                    | Change::GrStarted { .. }
                    | Change::GrEnded { .. }
                    | Change::HoldMarginLow { .. }
                    | Change::Routes(_)
                    | Change::ForeignDelete { .. }
                    | Change::RouteFight { .. }
                    | Change::ConcurrentRestarts { .. }
                | Change::NotProgrammed { .. }
                | Change::Programmed { .. }
                    | Change::IncidentOpened { .. }
                    | Change::IncidentUpdated { .. }
                    | Change::IncidentClosed { .. }
                    | Change::Lost { .. } => {}
                }
            }
            if matches!(entry.event.fact, Fact::NodeGone { .. }) {
                // What is restored later starts as down and Idle again.
                states.clear();
                ups.clear();
            }
            let views = observer.peers(entry.now);
            views.iter().for_each(check_view);
            let pending = views.iter().filter(|view| view.cause_pending).count();
            prop_assert_eq!(downs, flaps + pending);
            let counted = observer.totals().flaps_by_cause;
            let counted: u64 = counted.values().flat_map(BTreeMap::values).sum();
            prop_assert_eq!(counted, u64::try_from(flaps).unwrap());
            for view in &views {
                prop_assert_eq!(view.up, ups.get(&view.peer).copied().unwrap_or_default());
            }
        }
    }

    #[test]
    fn no_stranger_ever_becomes_a_peer(told in stories()) {
        let changes = replay(CoreConfig::default(), told.clone());
        prop_assert!(!serde_json::to_string(&changes).unwrap().contains("192.0.2."));
        let mut observer = Observer::new(CoreConfig::default());
        for entry in &told {
            observer.apply(entry.now, &entry.event, &mut Vec::new());
        }
        let end = told.last().unwrap().now;
        prop_assert!(observer.peers(end).iter().all(|view| !view.peer.starts_with("192")));
    }

    #[test]
    fn the_same_events_give_the_same_outputs_and_so_do_recorded_ones(told in stories()) {
        let outputs_once = outputs(&told);
        prop_assert_eq!(&outputs_once, &outputs(&told));
        let lines: Vec<String> =
            told.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
        let read: Vec<Entry> =
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        prop_assert_eq!(&read, &told);
        prop_assert_eq!(&outputs_once, &outputs(&read));
        let changes = replay(CoreConfig::default(), read);
        let text = serde_json::to_string(&changes).unwrap();
        let back: Vec<crate::change::ChangeRecord> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}

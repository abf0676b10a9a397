//! Strangers cost a counter: a flood of them evicts no evidence.

use std::net::{TcpListener, TcpStream};

use observer_core::event::{Event, Fact, LossStage, NetnsId, TcpState};

use crate::lab::{Namespace, Observed, cable, can_run};

const FLOOD: u64 = 5000;

fn strangers(events: &[Event]) -> u64 {
    let of = |event: &Event| match event.fact {
        Fact::Strangers { connections } => Some(connections),
        _ => None,
    };
    events.iter().filter_map(of).sum()
}

#[test]
fn a_flood_is_counted_exactly_and_evicts_nothing() {
    if !can_run() {
        return;
    }
    let (node, peer, flood) = (Namespace::new(), Namespace::new(), Namespace::new());
    cable((&node, "10.8.1.1/24"), (&peer, "10.8.1.2/24"));
    cable((&node, "10.8.2.1/24"), (&flood, "10.8.2.2/24"));
    let mut observed = Observed::of(&node, &["10.8.1.2"]);

    let listener = node.run(|| TcpListener::bind("0.0.0.0:179").expect("bind"));
    let connect = |from: &Namespace, to: &'static str| {
        let stream = from.run(move || TcpStream::connect(to).expect("connect"));
        let (accepted, _) = listener.accept().expect("accept");
        drop((stream, accepted));
    };
    // Nobody drains meanwhile: the strangers' ring overflows, the main one does not notice.
    connect(&peer, "10.8.1.1:179");
    flood.run(|| {
        for _ in 0..FLOOD {
            let stream = TcpStream::connect("10.8.2.1:179").expect("connect");
            let (accepted, _) = listener.accept().expect("accept");
            drop((stream, accepted));
        }
    });
    connect(&peer, "10.8.1.1:179");

    observed.wait("the flood to be counted", |events| {
        (strangers(events) >= FLOOD).then_some(())
    });
    assert_eq!(strangers(&observed.events), FLOOD);
    let ups = observed.events.iter().filter(|event| {
        matches!(&event.fact, Fact::TcpState { socket, to: TcpState::Established, .. }
            if socket.remote.ip().to_string() == "10.8.1.2")
    });
    assert_eq!(ups.count(), 2, "both of the peer's connections");
    let lost = |wanted| {
        let of = |event: &Event| match event.fact {
            Fact::Lost { stage, count } if stage == wanted => Some(count),
            _ => None,
        };
        observed.events.iter().filter_map(of).sum::<u64>()
    };
    assert!(lost(LossStage::StrangerRing) > FLOOD);
    assert_eq!(lost(LossStage::Ring), 0);
    assert_eq!(lost(LossStage::Decode), 0);
}

#[test]
fn a_peer_is_a_stranger_until_trusted_and_again_when_distrusted() {
    if !can_run() {
        return;
    }
    let (node, peer) = (Namespace::new(), Namespace::new());
    cable((&node, "10.8.1.1/24"), (&peer, "10.8.1.2/24"));
    let mut observed = Observed::of(&node, &[]);
    let listener = node.run(|| TcpListener::bind("0.0.0.0:179").expect("bind"));
    let connect = |observed: &mut Observed, expected: u64| {
        let stream = peer.run(|| TcpStream::connect("10.8.1.1:179").expect("connect"));
        drop((stream, listener.accept().expect("accept")));
        let ends = |events: &[Event]| {
            let end = |event: &&Event| {
                matches!(
                    event.fact,
                    Fact::TcpState {
                        from: TcpState::LastAck | TcpState::FinWait2,
                        ..
                    }
                )
            };
            events.iter().filter(end).count()
        };
        let before = ends(&observed.events);
        observed.wait("the connection's end", |events| {
            (ends(events) > before).then_some(())
        });
        assert_eq!(strangers(&observed.events), expected);
    };
    let address = "10.8.1.2".parse().expect("an address");
    connect(&mut observed, 1);
    observed.source.trust(NetnsId(1), address).expect("trust");
    connect(&mut observed, 1);
    observed
        .source
        .distrust(NetnsId(1), address)
        .expect("distrust");
    observed
        .source
        .distrust(NetnsId(1), address)
        .expect("twice is fine");
    connect(&mut observed, 2);
}

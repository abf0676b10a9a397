use std::io::{BufReader, Read};

use flate2::read::MultiGzDecoder;

use super::*;
use crate::replay;

async fn flight(recorder: &mut FlightRecorder) -> Flight {
    let (reply, answer) = oneshot::channel();
    recorder.ask(reply);
    answer.await.unwrap()
}

fn lines(generation: &Generation) -> Vec<String> {
    let mut text = String::new();
    let mut decoder = MultiGzDecoder::new(generation.gzipped.as_slice());
    decoder.read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn observed(netns: u32) -> Event {
    let fact = Fact::NodeObserved {
        netns: NetnsId(netns),
        node: format!("n{netns}"),
    };
    Event::noticed(at(1), fact)
}

#[tokio::test]
async fn what_was_recorded_is_an_events_file_also_after_it_was_asked_for() {
    let mut recorder = FlightRecorder::start(CoreConfig::default()).unwrap();
    for round in 1..=3 {
        recorder.record(at(round), &observed(1));
        let flight = flight(&mut recorder).await;
        let [generation] = flight.generations.as_slice() else {
            panic!("{flight:?}");
        };
        assert!(generation.first && generation.lost == 0);
        assert_eq!(lines(generation).len() as u64, 1 + round);
        let lines = BufReader::new(MultiGzDecoder::new(generation.gzipped.as_slice()));
        let read = replay::read(lines, "x".as_ref(), |_| Ok(())).unwrap();
        assert_eq!(read.events, round);
    }
}

#[tokio::test]
async fn a_later_generation_begins_with_what_stands() {
    let mut recorder = FlightRecorder::start(CoreConfig::default()).unwrap();
    let netns = NetnsId(2);
    let attached = Fact::TapAttached {
        netns,
        interface: 7,
    };
    for event in [
        observed(1),
        observed(2),
        Event::noticed(at(2), attached),
        Event::noticed(at(3), Fact::NodeGone { netns: NetnsId(1) }),
    ] {
        recorder.record(at(4), &event);
    }
    let saved = SavedNodes::from([("n2".to_owned(), Vec::new())]);
    assert!(recorder.begin(at(9), saved));
    recorder.record(at(10), &Event::noticed(at(10), Fact::Tick));
    let flight = flight(&mut recorder).await;
    let [old, new] = flight.generations.as_slice() else {
        panic!("{flight:?}");
    };
    assert!(old.first && !new.first);
    assert_eq!(new.begun, at(9));
    let facts: Vec<String> = lines(new)
        .iter()
        .skip(1)
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["fact"].to_string())
        .collect();
    assert_eq!(
        facts,
        [
            "\"peers_restored\"",
            "\"node_observed\"",
            "\"tap_attached\"",
            "\"tick\""
        ]
    );
}

#[tokio::test]
async fn it_stays_within_its_bound_whatever_it_is_told() {
    let mut recorder = FlightRecorder::start(CoreConfig::default()).unwrap();
    let mut random = 1_u64;
    for number in 0..3_500 {
        // Octets that do not compress.
        let payload: Vec<u8> = std::iter::repeat_with(|| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            random.to_be_bytes()[0]
        })
        .take(4_000)
        .collect();
        let fact = Fact::Segment {
            netns: NetnsId(1),
            interface: 1,
            sent: true,
            local: "10.0.0.1:179".parse().unwrap(),
            remote: "10.0.0.2:179".parse().unwrap(),
            seq: 0,
            ack: None,
            syn: false,
            fin: false,
            rst: false,
            payload: payload.into(),
            missing: 0,
        };
        recorder.record(at(number), &Event::noticed(at(number), fact));
        // As the core's task does after each batch; here each batch waits for the thread.
        if number % 200 == 0 {
            flight(&mut recorder).await;
        }
        if recorder.is_full() {
            recorder.begin(at(number), SavedNodes::new());
        }
    }
    let flight = flight(&mut recorder).await;
    let sizes: Vec<usize> = flight
        .generations
        .iter()
        .map(|it| it.gzipped.len())
        .collect();
    let all: usize = sizes.iter().sum();
    assert!(all > KEPT / 2 && all < 2 * KEPT, "{sizes:?}");
    assert!(sizes.len() > 2 && !flight.generations[0].first, "{sizes:?}");
}

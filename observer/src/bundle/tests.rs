use std::{fs, path::PathBuf};

use observer_core::{
    Observer,
    change::{Change, ChangeRecord, Output},
    event::{
        Fact, InventoryPeer,
        cluster::{BgpPeer, ClusterFact, ClusterNode, ClusterObject},
    },
    record::Header,
};
use tar::Archive;
use tokio::sync::oneshot;

use super::{read::Outcome, *};
use crate::{capture, flight::FlightRecorder, state_dir::SavedNodes};

/// A recording of the lab, as the core was told it.
fn recording(case: &str) -> (Header, Vec<Entry>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/replay")
        .join(case)
        .join("events.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let header = serde_json::from_str(lines.next().unwrap()).unwrap();
    let entries = lines.map(|line| serde_json::from_str(line).unwrap());
    (header, entries.collect())
}

/// What the core makes of it: the last record of each incident, in order of opening.
fn incidents(header: &Header, entries: &[Entry]) -> Vec<Incident> {
    let mut observer = Observer::new(header.config.clone());
    let mut out = Vec::new();
    let mut found: Vec<Incident> = Vec::new();
    for entry in entries {
        observer.apply(entry.now, &entry.event, &mut out);
        for output in out.drain(..) {
            let Output::Change(ChangeRecord { change, .. }) = output else {
                continue;
            };
            if let Change::IncidentOpened { incident }
            | Change::IncidentUpdated { incident }
            | Change::IncidentClosed { incident } = change
            {
                found.retain(|known| known.id != incident.id);
                found.push(*incident);
            }
        }
    }
    found
}

/// A flight recorder that was told all that.
async fn flight(header: &Header, entries: &[Entry]) -> Flight {
    let mut recorder = FlightRecorder::start(header.config.clone()).unwrap();
    for entry in entries {
        recorder.record(entry.now, &entry.event);
    }
    let (reply, answer) = oneshot::channel();
    recorder.ask(reply);
    answer.await.unwrap()
}

fn read_back(bytes: &[u8]) -> anyhow::Result<Outcome> {
    read::read(&mut Archive::new(bytes), "b".as_ref(), |_| Ok(()))
}

#[tokio::test]
async fn a_bundle_replays_to_the_record_it_holds() {
    for case in ["restart", "kill", "refuse", "reset", "firewall"] {
        let (header, entries) = recording(case);
        let found = incidents(&header, &entries);
        assert!(!found.is_empty(), "{case}");
        let flight = flight(&header, &entries).await;
        for incident in found {
            let bytes = write(&incident, &flight, false).unwrap();
            let outcome = read_back(&bytes).unwrap();
            assert!(outcome.manifest.exact && !outcome.manifest.redacted);
            assert_eq!(outcome.recorded, incident, "{case}");
            assert_eq!(outcome.replayed, Some(incident), "{case}");
            assert_eq!(outcome.summary.events, entries.len() as u64);
        }
    }
}

#[tokio::test]
async fn another_record_is_told_field_by_field() {
    let (header, entries) = recording("restart");
    let incident = incidents(&header, &entries).remove(0);
    let flight = flight(&header, &entries).await;
    let other = Incident {
        cause: "made up".to_owned(),
        note: Some("does not count".to_owned()),
        ..incident
    };
    let outcome = read_back(&write(&other, &flight, false).unwrap()).unwrap();
    let differences = read::differences(&other, &outcome.replayed.unwrap()).unwrap();
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(differences[0].starts_with("cause was \"made up\""));
}

#[tokio::test]
async fn the_capture_holds_the_conversations() {
    let (header, entries) = recording("restart");
    let incident = incidents(&header, &entries).remove(0);
    let bytes = write(&incident, &flight(&header, &entries).await, false).unwrap();
    let mut archive = Archive::new(bytes.as_slice());
    let capture = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .find(|member| member.path().unwrap().ends_with(CAPTURE))
        .unwrap();
    let reading = capture::read_from(capture, &header.config.ports, &mut |_, _| {}).unwrap();
    let totals = &reading.summary.totals;
    let segments = entries
        .iter()
        .filter(|entry| matches!(entry.event.fact, Fact::Segment { .. }))
        .count() as u64;
    assert!(segments > 50, "{segments}");
    assert_eq!(totals.packets, segments);
    assert!(reading.summary.connections.len() > 1);
}

#[tokio::test]
async fn names_and_notes_are_taken_out_and_the_verdict_stays() {
    let (header, mut entries) = recording("restart");
    let name = "very-secret-pod";
    let peer = entries.iter().find_map(|entry| {
        let Fact::Segment { remote, .. } = &entry.event.fact else {
            return None;
        };
        Some(remote.ip())
    });
    let mut first = entries[0].clone();
    first.event.fact = Fact::Inventory {
        peers: vec![InventoryPeer {
            node: None,
            address: peer.unwrap(),
            name: Some(name.to_owned()),
            peer_type: None,
            asn: None,
            targets: Vec::new(),
        }],
    };
    let mut second = entries[0].clone();
    let mut node = ClusterNode {
        name: name.to_owned(),
        ..ClusterNode::default()
    };
    node.labels.insert("host".to_owned(), name.to_owned());
    let object = |object| {
        let cluster = ClusterFact::Changed { object };
        Fact::Cluster { cluster }
    };
    second.event.fact = object(ClusterObject::Node(node));
    let mut third = entries[0].clone();
    third.event.fact = object(ClusterObject::BgpPeer(BgpPeer {
        name: format!("to-{name}"),
        node_selector: Some(format!("host == '{name}'")),
        ..BgpPeer::default()
    }));
    entries.splice(0..0, [first, second, third]);
    let found = incidents(&header, &entries);
    let flight = flight(&header, &entries).await;
    for mut incident in found {
        incident.note = Some(name.to_owned());
        let bytes = write(&incident, &flight, true).unwrap();
        let mut archive = Archive::new(bytes.as_slice());
        for member in archive.entries().unwrap() {
            let mut member = member.unwrap();
            let mut text = Vec::new();
            if member.path().unwrap().ends_with(EVENTS) {
                io::Read::read_to_end(&mut MultiGzDecoder::new(member), &mut text).unwrap();
            } else {
                io::Read::read_to_end(&mut member, &mut text).unwrap();
            }
            assert!(!String::from_utf8_lossy(&text).contains(name));
        }
        let outcome = read_back(&bytes).unwrap();
        assert!(outcome.manifest.redacted);
        assert_eq!(outcome.recorded.verdict, incident.verdict);
        assert_eq!(outcome.recorded.milestones.len(), incident.milestones.len());
        assert_eq!(outcome.replayed, Some(outcome.recorded));
    }
}

#[tokio::test]
async fn an_incident_from_before_the_recording_is_not_made_up() {
    let (header, entries) = recording("restart");
    let incident = incidents(&header, &entries).remove(0);
    let mut flight = flight(&header, &entries).await;
    let late = entries.last().unwrap().now;
    for generation in &mut flight.generations {
        generation.first = false;
        generation.begun = late;
    }
    let error = write(&incident, &flight, false).unwrap_err().to_string();
    assert!(error.contains(&incident.id), "{error}");
}

#[tokio::test]
async fn a_later_generation_still_shows_what_happened_after_it() {
    let (header, entries) = recording("kill");
    let whole = incidents(&header, &entries).remove(0);
    let mut recorder = FlightRecorder::start(header.config.clone()).unwrap();
    let half = entries
        .iter()
        .position(|entry| matches!(entry.event.fact, Fact::SocketsDumped { .. }));
    let (before, after) = entries.split_at(half.unwrap() + 1);
    for entry in before {
        recorder.record(entry.now, &entry.event);
    }
    recorder.begin(before.last().unwrap().now, SavedNodes::new());
    // What the new dump says, which the agent asks for then.
    for entry in before.iter().chain(after) {
        let again = matches!(
            entry.event.fact,
            Fact::SocketInfo { .. } | Fact::SocketsDumped { .. }
        );
        if again || entry.now > before.last().unwrap().now {
            recorder.record(entry.now, &entry.event);
        }
    }
    let (reply, answer) = oneshot::channel();
    recorder.ask(reply);
    let flight = answer.await.unwrap();
    assert_eq!(flight.generations.len(), 2);
    let outcome = read_back(&write(&whole, &flight, false).unwrap()).unwrap();
    assert!(!outcome.manifest.exact);
    let replayed = outcome.replayed.unwrap();
    assert_eq!(replayed.verdict, whole.verdict);
    assert_eq!(replayed.opened_at, whole.opened_at);
}

#[tokio::test]
async fn garbage_is_refused_and_never_believed() {
    let (header, entries) = recording("restart");
    let incident = incidents(&header, &entries).remove(0);
    let bytes = write(&incident, &flight(&header, &entries).await, false).unwrap();
    let refused = |bytes: &[u8]| format!("{:#}", read_back(bytes).unwrap_err());
    assert!(refused(b"").contains("no bundle"));
    assert!(refused(&[0xff; 4096]).contains("no bundle"));
    // Up to the last octet of the events, every cut is an error. The capture comes after them.
    for length in (0..bytes.len()).step_by(509) {
        if let Ok(outcome) = read_back(&bytes[..length]) {
            assert_eq!(
                outcome.replayed.as_ref(),
                Some(&incident),
                "{length} octets"
            );
        }
    }
    for position in (0..bytes.len()).step_by(251) {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x55;
        let _ = read_back(&damaged);
    }
    let manifest = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = read_back(&bytes).unwrap().manifest;
        change(&mut manifest);
        let mut tar = tar::Builder::new(Vec::new());
        let json = serde_json::to_vec(&manifest).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(json.len() as u64);
        tar.append_data(&mut header, MANIFEST, json.as_slice())
            .unwrap();
        refused(&tar.into_inner().unwrap())
    };
    assert!(manifest(&|it| it.version = 9).contains("version 9"));
    assert!(manifest(&|it| it.format = "zip".to_owned()).contains("'zip'"));
    assert!(manifest(&|_| {}).contains(EVENTS));
}

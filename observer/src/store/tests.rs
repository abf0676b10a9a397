use std::{
    fs,
    time::{Duration, Instant},
};

use observer_core::{change::Change, incident::record::Verdict, time::Timestamp};
use rusqlite::Connection;

use super::{
    database::{self, open},
    retention::tidy,
    rows,
    schema::make_version,
    *,
};
use crate::testing::{flap, incident, noon};

const LIMITS: Limits = Limits {
    retention: Duration::from_hours(24),
    max_size: 64 << 20,
};

fn record(seq: u64, change: Change) -> Arc<ChangeRecord> {
    Arc::new(ChangeRecord {
        seq,
        at: Timestamp::default(),
        time: jiff::Timestamp::now(),
        node: "a".to_owned(),
        change,
    })
}

fn down(peer: &str) -> Change {
    Change::SessionDown {
        peer: peer.to_owned(),
    }
}

/// Asks until `right` says so.
async fn until<T: std::fmt::Debug>(
    ask: impl AsyncFn() -> Result<T, StoreError>,
    right: impl Fn(&T) -> bool,
) -> T {
    let begun = Instant::now();
    loop {
        let answer = ask().await;
        match answer {
            Ok(answer) if right(&answer) => return answer,
            other if begun.elapsed() > Duration::from_secs(20) => panic!("still {other:?}"),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_and_newest_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writing, remembered) =
        Store::start(&dir.path().join("new"), LIMITS, Health::default()).unwrap();
    assert!(remembered.open.is_empty());
    let mut fallen = flap("a", "10.0.0.2");
    (fallen.up_at, fallen.down_seconds) = (None, None);
    store.keep(&record(1, down("10.0.0.2")));
    store.keep(&record(
        2,
        Change::Flap {
            flap: fallen.clone(),
        },
    ));
    store.keep(&record(
        3,
        Change::FlapAmended {
            flap: observer_core::peer::Flap {
                cause_text: "better known".to_owned(),
                ..fallen
            },
        },
    ));
    store.keep(&record(
        4,
        Change::SessionUp {
            peer: "10.0.0.2".to_owned(),
            inherited: false,
            establish_seconds: None,
            down_seconds: Some(3.5),
        },
    ));
    let open = incident("i1", "10.0.0.2");
    let other = Incident {
        closed_at: Some(noon()),
        ..incident("i2", "10.0.0.3")
    };
    store.keep(&record(
        5,
        Change::IncidentOpened {
            incident: Box::new(other.clone()),
        },
    ));
    store.keep(&record(
        6,
        Change::IncidentClosed {
            incident: Box::new(other),
        },
    ));
    store.keep(&record(
        7,
        Change::IncidentOpened {
            incident: Box::new(open.clone()),
        },
    ));
    writing.finish();
    assert_eq!(store.committed(), 7);

    let (store, writing, remembered) =
        Store::start(&dir.path().join("new"), LIMITS, Health::default()).unwrap();
    assert_eq!(remembered.open["a"], [open]);
    assert!(remembered.alive.is_some());
    let flaps = store
        .reader()
        .flaps(Some(vec!["10.0.0.2".to_owned()]))
        .await
        .unwrap();
    assert_eq!(flaps.len(), 1);
    assert_eq!(flaps[0].cause_text, "better known");
    assert_eq!(flaps[0].down_seconds, Some(3.5));
    assert!(flaps[0].up_at.is_some());
    assert!(
        store
            .reader()
            .flaps(Some(vec!["10.0.0.9".to_owned()]))
            .await
            .unwrap()
            .is_empty()
    );
    let changes = store
        .reader()
        .changes(ChangeQuery::default())
        .await
        .unwrap();
    let seqs: Vec<u64> = changes.iter().map(|change| change.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 7]);
    writing.finish();
}

#[tokio::test]
async fn incidents_are_found_by_peer_verdict_time_and_state_and_carry_their_notes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writing, _) = Store::start(dir.path(), LIMITS, Health::default()).unwrap();
    let open = incident("i1", "fe80::2%3");
    let closed = Incident {
        closed_at: Some(noon()),
        verdict: Verdict::RoutesLost,
        ..incident("i2", "10.0.0.3")
    };
    store.keep(&record(
        1,
        Change::IncidentOpened {
            incident: Box::new(open),
        },
    ));
    store.keep(&record(
        2,
        Change::IncidentOpened {
            incident: Box::new(closed),
        },
    ));
    let ids = async |query: IncidentQuery| {
        let found = store.reader().incidents(query).await.unwrap();
        found
            .into_iter()
            .map(|incident| incident.id)
            .collect::<Vec<_>>()
    };
    let all = async || store.reader().incidents(IncidentQuery::default()).await;
    until(all, |found| found.len() == 2).await;
    let peers = |name: &str| IncidentQuery {
        peers: Some(vec![name.to_owned()]),
        ..IncidentQuery::default()
    };
    assert_eq!(ids(peers("fe80::2")).await, ["i1"]);
    assert_eq!(ids(peers("10.0.0.3")).await, ["i2"]);
    assert!(ids(peers("10.0.0.4")).await.is_empty());
    let query = IncidentQuery {
        open: Some(true),
        ..IncidentQuery::default()
    };
    assert_eq!(ids(query).await, ["i1"]);
    let query = IncidentQuery {
        open: Some(false),
        ..IncidentQuery::default()
    };
    assert_eq!(ids(query).await, ["i2"]);
    let query = IncidentQuery {
        verdict: Some("routes_lost".to_owned()),
        ..IncidentQuery::default()
    };
    assert_eq!(ids(query).await, ["i2"]);
    let later = noon() + Duration::from_secs(1);
    let query = IncidentQuery {
        since: Some(later),
        ..IncidentQuery::default()
    };
    assert_eq!(ids(query).await, ["i1"]);

    assert!(
        store
            .note("i2".to_owned(), "maintenance".to_owned())
            .await
            .unwrap()
    );
    assert!(
        store
            .note("i2".to_owned(), "of the ToR".to_owned())
            .await
            .unwrap()
    );
    assert!(
        !store
            .note("none".to_owned(), "lost".to_owned())
            .await
            .unwrap()
    );
    let query = IncidentQuery {
        id: Some("i2".to_owned()),
        ..IncidentQuery::default()
    };
    let found = store.reader().incidents(query).await.unwrap();
    assert_eq!(found[0].note.as_deref(), Some("maintenance\nof the ToR"));
    writing.finish();
}

#[tokio::test]
async fn a_file_that_makes_no_sense_is_set_aside_and_a_new_one_is_begun() {
    let of_another = |path: &Path| {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch("CREATE TABLE t (c); PRAGMA user_version = 1")
            .unwrap();
    };
    let newer = |path: &Path| {
        let connection = open(path).unwrap();
        connection
            .execute_batch("PRAGMA user_version = 99")
            .unwrap();
    };
    let garbage = |path: &Path| fs::write(path, vec![b'x'; 9000]).unwrap();
    let holed = |path: &Path| {
        let mut connection = open(path).unwrap();
        let transaction = connection.transaction().unwrap();
        for _ in 0..2_000 {
            transaction
                .execute(
                    "INSERT INTO changes (run, seq, time, node, peer, kind, record)
                          VALUES (1, 1, 1, 'a', 'b', 'c', '{}')",
                    [],
                )
                .unwrap();
        }
        transaction.commit().unwrap();
        drop(connection);
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 8192 * 4096;
        bytes[middle..middle + 4096].fill(0xee);
        fs::write(path, bytes).unwrap();
    };
    let breakages: [&dyn Fn(&Path); 4] = [&of_another, &newer, &garbage, &holed];
    for breakage in breakages {
        let dir = tempfile::tempdir().unwrap();
        let path = database::path_in(dir.path());
        breakage(&path);
        let broken = fs::read(&path).unwrap();
        let health = Health::default();
        let (store, writing, _) = Store::start(dir.path(), LIMITS, health.clone()).unwrap();
        store.keep(&record(1, down("10.0.0.2")));
        let all = async || store.reader().changes(ChangeQuery::default()).await;
        until(all, |changes| changes.len() == 1).await;
        writing.finish();
        let names = names(dir.path());
        let aside = names.iter().find(|name| name.contains("corrupt")).unwrap();
        assert!(aside.starts_with("store.db.corrupt-"), "{names:?}");
        assert_eq!(
            fs::read(dir.path().join(aside)).unwrap().len(),
            broken.len()
        );
        assert!(health.sources().iter().all(|source| source.running));
    }
}

#[tokio::test]
async fn a_file_of_the_first_version_is_taken_over_with_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = database::path_in(dir.path());
    let mut connection = Connection::open(&path).unwrap();
    make_version(&mut connection, 1);
    let old = record(5, down("10.0.0.2"));
    connection
        .execute(
            "INSERT INTO changes (run, seq, time, node, peer, kind, record)
             VALUES (1, 5, ?1, 'a', '10.0.0.2', 'session_down', ?2)",
            (
                old.time.as_microsecond(),
                serde_json::to_string(&*old).unwrap(),
            ),
        )
        .unwrap();
    drop(connection);
    let (store, writing, _) = Store::start(dir.path(), LIMITS, Health::default()).unwrap();
    let opened = Change::IncidentOpened {
        incident: Box::new(incident("i1", "10.0.0.2")),
    };
    store.keep(&record(1, opened));
    writing.finish();
    let changes = store
        .reader()
        .changes(ChangeQuery::default())
        .await
        .unwrap();
    assert_eq!(changes[0], *old);
    assert_eq!(
        store
            .reader()
            .incidents(IncidentQuery::default())
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(
        names(dir.path())
            .iter()
            .all(|name| !name.contains("corrupt"))
    );
}

/// A store with `count` changes, one a second up to now.
fn filled(path: &Path, count: i64, record: &str) -> Connection {
    let connection = open(path).unwrap();
    connection
        .execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO changes (run, seq, time, node, peer, kind, record)
             SELECT 1, i, ?2 - (?1 - i) * 1000000, 'a', '10.0.' || (i % 100) || '.1',
                    'session_down', ?3 FROM n",
            (count, noon().as_microsecond(), record),
        )
        .unwrap();
    connection
}

fn count(connection: &Connection, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    connection.query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn the_old_is_deleted_and_open_incidents_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = filled(&database::path_in(dir.path()), 12_000, "{}");
    let mut batch = backlog::Batch::default();
    let old = noon() - Duration::from_hours(2);
    for (id, closed_at) in [("open", None), ("closed", Some(old)), ("new", Some(noon()))] {
        let incident = Incident {
            opened_at: old,
            closed_at,
            ..incident(id, "10.0.0.2")
        };
        let change = Change::IncidentUpdated {
            incident: Box::new(incident),
        };
        batch.incidents.insert(id.to_owned(), record(1, change));
    }
    rows::write(&mut connection, 1, &batch).unwrap();
    let limits = Limits {
        retention: Duration::from_hours(1),
        ..LIMITS
    };
    while tidy(&mut connection, limits, noon()).unwrap() {}
    assert_eq!(count(&connection, "changes"), 3_601);
    assert_eq!(count(&connection, "incidents"), 2);
    assert_eq!(count(&connection, "incident_peers"), 2);
}

#[test]
fn a_file_that_is_too_big_loses_its_oldest_and_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let path = database::path_in(dir.path());
    let mut connection = filled(&path, 40_000, &"x".repeat(200));
    let mut batch = backlog::Batch::default();
    let change = Change::Flap {
        flap: flap("a", "10.0.0.2"),
    };
    batch.changes.push(record(1, change));
    rows::write(&mut connection, 1, &batch).unwrap();
    connection
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let before = fs::metadata(&path).unwrap().len();
    let limits = Limits {
        max_size: 4 << 20,
        retention: Duration::from_hours(9000),
    };
    while tidy(&mut connection, limits, noon()).unwrap() {}
    for _ in 0..100 {
        tidy(&mut connection, limits, noon()).unwrap();
    }
    connection
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let after = fs::metadata(&path).unwrap().len();
    assert!(before > 10 << 20 && after <= 4 << 20, "{before} to {after}");
    let oldest: i64 = connection
        .query_row(
            "SELECT min(seq) FROM changes WHERE kind = 'session_down'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(oldest > 20_000 && oldest < 40_000, "{oldest}");
    assert_eq!(count(&connection, "flaps"), 1, "flaps go last");
}

#[tokio::test]
#[ignore = "a million rows take a while to make"]
async fn a_million_changes_are_asked_in_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = database::path_in(dir.path());
    let sample = serde_json::to_string(&*record(1, down("10.0.0.2"))).unwrap();
    drop(filled(&path, 1_000_000, &sample));
    let limits = Limits {
        max_size: 1 << 30,
        retention: Duration::from_hours(9000),
    };
    let (store, writing, _) = Store::start(dir.path(), limits, Health::default()).unwrap();
    let queries = [
        ("the latest 10,000", ChangeQuery::default(), 10_000),
        (
            "an hour",
            ChangeQuery {
                from: Some(noon() - Duration::from_hours(100)),
                until: Some(noon() - Duration::from_secs(99 * 3600 + 1)),
                ..ChangeQuery::default()
            },
            3_600,
        ),
        (
            "one peer",
            ChangeQuery {
                peers: Some(vec!["10.0.7.1".to_owned()]),
                ..ChangeQuery::default()
            },
            10_000,
        ),
    ];
    for (what, query, expected) in queries {
        let begun = Instant::now();
        let found = store.reader().changes(query).await.unwrap().len();
        let took = begun.elapsed();
        println!("{what}: {found} of 1,000,000 in {took:?}");
        assert_eq!(found, expected, "{what}");
        assert!(took < Duration::from_secs(1), "{what}: {took:?}");
    }
    writing.finish();
}

//! The store against what happens to real disks and processes: its writer killed at any moment, no
//! space, no permission to write.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, and prints why it was skipped"
)]

use std::{
    env, fs,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Write},
    iter,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use observer::{
    health::Health,
    store::{ChangeQuery, Limits, Store},
};
use observer_core::{
    change::{Change, ChangeRecord},
    time::Timestamp,
};
use rusqlite::Connection;
use serde_json::json;

/// With this set, the test `storm` is the writer that is to be killed.
const STORE: &str = "BGP_OBSERVER_TEST_STORE";
const LIMITS: Limits = Limits {
    retention: Duration::from_hours(24),
    max_size: 1 << 30,
};
const PATIENCE: Duration = Duration::from_secs(30);

/// A flap and an incident, of which the storm consists.
static SAMPLES: LazyLock<[Change; 2]> = LazyLock::new(|| {
    let at = "2026-01-02T03:04:05Z";
    let flap = json!({
        "change": "flap",
        "flap": {
            "node": "a", "peer": "10.0.0.2", "number": 0, "down_at": at, "up_at": null,
            "down_seconds": null, "up_before_seconds": null, "cause": { "kind": "fin_received" },
            "cause_text": "a storm", "evidence": ["FIN"],
        },
    });
    let incident = json!({
        "change": "incident_opened",
        "incident": {
            "id": "", "node": "a", "opened_at": at, "updated_at": at, "closed_at": null,
            "group_keys": [], "verdict": "no_impact", "proof": "inferred", "cause": "a storm",
            "note": null, "subject": { "kind": "peer", "identity": "10.0.0.2", "name": null },
        },
    });
    [flap, incident].map(|sample| serde_json::from_value(sample).expect("a change"))
});

/// Change number `seq` of a flap storm: flaps, and now and then an incident.
fn change(seq: u64) -> Arc<ChangeRecord> {
    let later = Duration::from_micros(seq);
    let [flap, incident] = &*SAMPLES;
    let sample = if seq.is_multiple_of(50) {
        incident
    } else {
        flap
    };
    let mut change = sample.clone();
    if let Change::Flap { flap } = &mut change {
        flap.peer = format!("10.0.{}.2", seq % 100);
        flap.number = seq;
        flap.down_at += later;
    }
    if let Change::IncidentOpened { incident } = &mut change {
        incident.id = format!("i{seq}");
        incident.opened_at += later;
    }
    Arc::new(ChangeRecord {
        seq,
        at: Timestamp::default(),
        time: jiff::Timestamp::now(),
        node: "a".to_owned(),
        change,
    })
}

/// The writer: a storm as fast as the disk takes it, with a line for each number that is kept.
#[test]
#[ignore = "is started, and killed, by another test"]
fn storm() {
    let Some(dir) = env::var_os(STORE) else {
        return;
    };
    let (store, _writing, _) =
        Store::start(Path::new(&dir), LIMITS, Health::default()).expect("a store");
    let mut out = io::stdout();
    let (mut seq, mut told) = (0, 0);
    loop {
        while seq < store.committed() + 5_000 {
            seq += 1;
            store.keep(&change(seq));
        }
        assert_eq!(store.take_lost(), 0);
        let committed = store.committed();
        if committed > told {
            told = committed;
            writeln!(out, "kept {told}").expect("the parent reads");
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Lets a writer run for a while after its first word, kills it, and gives what it said last.
fn storm_until_killed(dir: &Path, life: Duration) -> u64 {
    let mut writer = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "storm", "--ignored", "--nocapture"])
        .env(STORE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a writer");
    let lines = BufReader::new(writer.stdout.take().expect("its output")).lines();
    let kept = lines.map_while(Result::ok).filter_map(|line| {
        let number = line.rsplit_once("kept ")?.1;
        number.parse::<u64>().ok()
    });
    let mut kept = kept.peekable();
    assert!(kept.peek().is_some(), "the writer wrote nothing");
    let death = Instant::now() + life;
    let mut last = 0;
    for number in kept.by_ref() {
        last = number;
        if Instant::now() >= death {
            break;
        }
    }
    writer.kill().expect("to kill it");
    // What it said before it died counts.
    last = kept.last().unwrap_or(last);
    writer.wait().expect("to reap it");
    last
}

/// Everything up to `kept` of the latest run is there, once, and the file is whole.
fn verify(dir: &Path, kept: u64) {
    let connection = Connection::open(dir.join("store.db")).expect("the file");
    let count = |sql: &str| -> u64 {
        connection
            .query_row(sql, [kept.cast_signed()], |row| row.get::<_, i64>(0))
            .expect("an answer")
            .cast_unsigned()
    };
    let changes = "SELECT count(DISTINCT seq) FROM changes
                   WHERE run = (SELECT max(run) FROM changes) AND seq <= ?1";
    assert_eq!(count(changes), kept);
    let incidents = "SELECT count(*) FROM incidents WHERE CAST(substr(id, 2) AS INTEGER) <= ?1";
    assert!(count(incidents) >= kept / 50, "an incident is lost");
    let flaps = "SELECT count(*) FROM flaps WHERE json_extract(record, '$.number') <= ?1";
    assert!(count(flaps) >= kept - kept / 50, "a flap is lost");
}

/// Kills writers of one directory, one after the other; how much each of them had kept.
fn killed_again_and_again(rounds: u32) -> Vec<u64> {
    let dir = tempfile::tempdir().expect("a directory");
    let kill = |round| {
        let life = Duration::from_micros(RandomState::new().hash_one(round) % 60_000);
        let last = storm_until_killed(dir.path(), life);
        verify(dir.path(), last);
        last
    };
    let kept = (0..rounds).map(kill).collect();
    let names: Vec<_> = fs::read_dir(dir.path()).expect("the directory").collect();
    assert!(names.len() <= 3, "nothing was set aside: {names:?}");
    kept
}

/// Writers of several directories live side by side: most of a life is waiting.
#[test]
fn a_writer_killed_200_times_in_a_storm_lost_nothing_that_it_called_kept() {
    const DIRECTORIES: usize = 20;
    const ROUNDS: u32 = 10;
    const SIDE_BY_SIDE: usize = 4;
    let next = AtomicUsize::new(0);
    let work = || {
        let mine = iter::from_fn(|| {
            (next.fetch_add(1, Ordering::Relaxed) < DIRECTORIES)
                .then(|| killed_again_and_again(ROUNDS))
        });
        mine.flatten().collect::<Vec<u64>>()
    };
    let kept = thread::scope(|scope| {
        let workers = [(); SIDE_BY_SIDE].map(|()| scope.spawn(work));
        let kept = workers.map(|worker| worker.join().expect("a writer's lives"));
        kept.concat()
    });
    assert_eq!(kept.len(), 200);
    let (all, fewest) = (kept.iter().sum::<u64>(), kept.iter().min());
    let _ = writeln!(
        io::stderr(),
        "{} kills, {all} changes were kept, all are there; fewest in a life {fewest:?}",
        kept.len()
    );
}

/// Whether this process may mount. In CI it must.
fn can_mount() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let why = "tests of full disks need root: they mount a small one";
    assert!(env::var_os("CI").is_none(), "{why}");
    let _ = writeln!(io::stderr(), "skipped: {why}");
    false
}

/// Runs `test` with a filesystem of 16 MiB at the directory it is given, that only its thread and
/// those that this starts can see: it is gone with them.
fn on_a_small_disk(test: impl FnOnce(&Path) + Send + 'static) {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("to make mounts private");
        let size = Some("size=16m");
        mount(Some("small"), &path, Some("tmpfs"), MsFlags::empty(), size).expect("a small disk");
        test(&path);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn wait_until(what: &str, mut right: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !right() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn reason(health: &Health) -> Option<String> {
    let sources = health.sources();
    let store = sources.into_iter().find(|source| source.name == "store");
    store.and_then(|store| store.reason)
}

fn stored(store: &Store) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let changes = runtime.block_on(store.reader().changes(ChangeQuery::default()));
    changes.map_or(0, |changes| changes.len())
}

#[test]
fn a_full_disk_is_told_costs_a_counter_and_is_recovered_from() {
    on_a_small_disk(|dir| {
        let health = Health::default();
        let (store, writing, _) = Store::start(dir, LIMITS, health.clone()).expect("a store");
        store.keep(&change(1));
        wait_until("the first change", || store.committed() == 1);
        let filler = dir.join("filler");
        let mut file = fs::File::create(&filler).expect("a filler");
        while file.write_all(&[0; 4096]).is_ok() {}
        let mut seq = 1;
        let mut lost = 0;
        wait_until("a refusal", || {
            for _ in 0..200 {
                seq += 1;
                store.keep(&change(seq));
            }
            lost += store.take_lost();
            reason(&health).is_some()
        });
        let why = reason(&health).expect("a reason");
        assert!(why.contains("store.db") && why.contains("full"), "{why}");
        // A log of any length waits in bounded memory: the rest is counted.
        for _ in 0..10_000 {
            seq += 1;
            store.keep(&change(seq));
        }
        lost += store.take_lost();
        assert!(lost > 0, "nothing was counted as lost");
        let committed = store.committed();
        drop(file);
        fs::remove_file(&filler).expect("to make room");
        // All that waited does not fit, but it is tried.
        wait_until("recovery", || store.committed() > committed);
        drop(store);
        writing.finish();
    });
}

#[test]
fn a_directory_that_cannot_be_written_is_told_and_used_once_it_can() {
    on_a_small_disk(|dir| {
        let none = None::<&str>;
        let remount = |flags| mount(none, dir, none, MsFlags::MS_REMOUNT | flags, none);
        remount(MsFlags::MS_RDONLY).expect("to make it read-only");
        let health = Health::default();
        let (store, writing, remembered) =
            Store::start(dir, LIMITS, health.clone()).expect("a store that tries");
        assert!(remembered.open.is_empty());
        let why = reason(&health).expect("a reason");
        assert!(why.contains("store.db"), "{why}");
        store.keep(&change(1));
        remount(MsFlags::empty()).expect("to make it writable");
        wait_until("the change", || store.committed() == 1);
        assert_eq!(reason(&health), None);
        assert_eq!(stored(&store), 1);
        assert_eq!(store.take_lost(), 0);
        writing.finish();
    });
}

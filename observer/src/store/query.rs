//! Questions to the store. Each has a connection of its own that can only read, so none delays the
//! writer; and each ends, for a long look back would keep the log from being folded in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_core::{change::ChangeRecord, incident::Incident, peer::Flap};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::warn;

use super::{Remembered, database::open_to_read, rows::searched};

/// Questions answered at once.
const AT_ONCE: usize = 4;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 100_000;
/// Records in one answer, unless asked for fewer.
pub const PAGE: u32 = 10_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

/// Which incidents.
#[derive(Clone, Debug, Default)]
pub struct IncidentQuery {
    /// Only one.
    pub id: Option<String>,
    /// Not those closed before this.
    pub since: Option<jiff::Timestamp>,
    /// Only those that touch one of these peers: addresses, BGP identifiers or names.
    pub peers: Option<Vec<String>>,
    /// Only of this verdict.
    pub verdict: Option<String>,
    /// Only open ones, or only closed ones.
    pub open: Option<bool>,
    /// At most so many, the latest.
    pub limit: Option<u32>,
}

/// Which changes.
#[derive(Clone, Debug, Default)]
pub struct ChangeQuery {
    /// Not before this.
    pub from: Option<jiff::Timestamp>,
    /// Not after this.
    pub until: Option<jiff::Timestamp>,
    /// Only of these peers.
    pub peers: Option<Vec<String>>,
    /// At most so many, the latest.
    pub limit: Option<u32>,
}

/// Reads the store; a copy is the same.
#[derive(Clone, Debug)]
pub struct Reader {
    path: Arc<Path>,
    permits: Arc<Semaphore>,
}

impl Reader {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Incidents as last written, the latest first.
    pub async fn incidents(&self, query: IncidentQuery) -> Result<Vec<Incident>, StoreError> {
        self.ask(move |connection| incidents(connection, &query))
            .await
    }

    /// Flaps of these peers, or all, the oldest first.
    pub async fn flaps(&self, peers: Option<Vec<String>>) -> Result<Vec<Flap>, StoreError> {
        self.ask(move |connection| flaps(connection, peers.as_deref()))
            .await
    }

    /// Changes, the oldest first.
    pub async fn changes(&self, query: ChangeQuery) -> Result<Vec<ChangeRecord>, StoreError> {
        self.ask(move |connection| changes(connection, &query))
            .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Stopping)?;
        let path = Arc::clone(&self.path);
        let answer = spawn_blocking(move || {
            let _permit = permit;
            let mut connection = open_to_read(&path)?;
            let begun = Instant::now();
            connection.progress_handler(STEPS, Some(move || begun.elapsed() > PATIENCE))?;
            question(&connection)
        });
        answer
            .await
            .map_err(|_| StoreError::Stopping)?
            .map_err(|source| StoreError::Sqlite {
                path: self.path.to_path_buf(),
                source,
            })
    }
}

/// Peers as SQL takes a list: a JSON array of strings.
fn listed(peers: Option<&[String]>) -> Option<String> {
    let peers: Option<Vec<String>> =
        peers.map(|peers| peers.iter().map(|it| searched(it)).collect());
    peers.map(|peers| serde_json::json!(peers).to_string())
}

/// A record that another version wrote may not be understood: it is left out, and told.
fn understood<T: DeserializeOwned>(text: &str) -> Option<T> {
    match serde_json::from_str(text) {
        Ok(record) => Some(record),
        Err(error) => {
            warn!("a stored record is left out: {error}");
            None
        }
    }
}

fn micros(time: Option<jiff::Timestamp>, default: i64) -> i64 {
    time.map_or(default, jiff::Timestamp::as_microsecond)
}

fn time(micros: i64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(micros).ok()
}

fn text(row: &Row<'_>) -> rusqlite::Result<String> {
    row.get(0)
}

fn incidents(connection: &Connection, query: &IncidentQuery) -> rusqlite::Result<Vec<Incident>> {
    let mut statement = connection.prepare(
        "SELECT record FROM incidents
         WHERE (?1 IS NULL OR id = ?1)
           AND (closed IS NULL OR closed >= ?2)
           AND (?3 IS NULL OR verdict = ?3)
           AND (?4 IS NULL OR (closed IS NULL) = ?4)
           AND (?5 IS NULL OR id IN (SELECT incident FROM incident_peers
                                     WHERE peer IN (SELECT value FROM json_each(?5))))
         ORDER BY opened DESC LIMIT ?6",
    )?;
    let rows = statement.query_map(
        params![
            query.id,
            micros(query.since, i64::MIN),
            query.verdict,
            query.open,
            listed(query.peers.as_deref()),
            query.limit.unwrap_or(PAGE).min(PAGE),
        ],
        text,
    )?;
    let mut incidents = Vec::new();
    for record in rows {
        if let Some(mut incident) = understood::<Incident>(&record?) {
            let notes = notes(connection, &incident.id)?;
            if !notes.is_empty() {
                incident.note = Some(notes.join("\n"));
            }
            incidents.push(incident);
        }
    }
    Ok(incidents)
}

fn notes(connection: &Connection, incident: &str) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached("SELECT note FROM notes WHERE incident = ?1 ORDER BY id")?
        .query_map([incident], text)?
        .collect()
}

fn flaps(connection: &Connection, peers: Option<&[String]>) -> rusqlite::Result<Vec<Flap>> {
    let one_peer = "SELECT record, up, down_seconds FROM flaps
                    WHERE peer IN (SELECT value FROM json_each(?1)) ORDER BY down DESC LIMIT ?2";
    let every_peer = "SELECT record, up, down_seconds FROM flaps
                      WHERE ?1 IS NULL ORDER BY down DESC LIMIT ?2";
    let sql = if peers.is_some() {
        one_peer
    } else {
        every_peer
    };
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(params![listed(peers), PAGE], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, Option<i64>>(1)?,
            row.get::<_, Option<f64>>(2)?,
        ))
    })?;
    let mut flaps = Vec::new();
    for row in rows {
        let (record, up, down_seconds) = row?;
        if let Some(mut flap) = understood::<Flap>(&record) {
            flap.up_at = flap.up_at.or_else(|| up.and_then(time));
            flap.down_seconds = flap.down_seconds.or(down_seconds);
            flaps.push(flap);
        }
    }
    flaps.reverse();
    Ok(flaps)
}

fn changes(connection: &Connection, query: &ChangeQuery) -> rusqlite::Result<Vec<ChangeRecord>> {
    let one_peer = "SELECT record FROM changes
                    WHERE time BETWEEN ?1 AND ?2
                      AND peer IN (SELECT value FROM json_each(?3))
                    ORDER BY time DESC, id DESC LIMIT ?4";
    let every_peer = "SELECT record FROM changes
                      WHERE time BETWEEN ?1 AND ?2 AND ?3 IS NULL
                      ORDER BY time DESC, id DESC LIMIT ?4";
    let sql = if query.peers.is_some() {
        one_peer
    } else {
        every_peer
    };
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(
        params![
            micros(query.from, i64::MIN),
            micros(query.until, i64::MAX),
            listed(query.peers.as_deref()),
            query.limit.unwrap_or(PAGE).min(PAGE),
        ],
        text,
    )?;
    let mut changes = Vec::new();
    for record in rows {
        changes.extend(understood::<ChangeRecord>(&record?));
    }
    changes.reverse();
    Ok(changes)
}

/// What an agent that starts has to know.
pub fn remembered(connection: &Connection) -> rusqlite::Result<Remembered> {
    let open = IncidentQuery {
        open: Some(true),
        ..IncidentQuery::default()
    };
    let mut by_node: BTreeMap<String, Vec<Incident>> = BTreeMap::new();
    for incident in incidents(connection, &open)?.into_iter().rev() {
        let node = incident.node.clone();
        by_node.entry(node).or_default().push(incident);
    }
    let alive: Option<i64> = connection
        .query_row("SELECT time FROM alive", [], |row| row.get(0))
        .optional()?;
    Ok(Remembered {
        open: by_node,
        alive: alive.and_then(time),
    })
}

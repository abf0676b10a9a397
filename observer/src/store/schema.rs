//! The tables, and the steps from one version of them to the next. `docs/store.md` explains them.

use rusqlite::{Connection, Transaction};

/// Marks the file as ours (`PRAGMA application_id`): "BGPo".
const APPLICATION: i32 = 0x4247_506f;

/// Step `n` makes version `n + 1` (`PRAGMA user_version`) out of version `n`. A step that was
/// released is never changed: files out there went through it.
const STEPS: [&str; 2] = [
    "CREATE TABLE changes (
         id INTEGER PRIMARY KEY,
         run INTEGER NOT NULL,
         seq INTEGER NOT NULL,
         time INTEGER NOT NULL,
         node TEXT NOT NULL,
         peer TEXT NOT NULL,
         kind TEXT NOT NULL,
         record TEXT NOT NULL
     ) STRICT;
     CREATE INDEX changes_by_time ON changes (time);
     CREATE INDEX changes_by_peer ON changes (peer, time);
     CREATE TABLE flaps (
         node TEXT NOT NULL,
         peer TEXT NOT NULL,
         down INTEGER NOT NULL,
         up INTEGER,
         down_seconds REAL,
         record TEXT NOT NULL,
         PRIMARY KEY (node, peer, down)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX flaps_by_peer ON flaps (peer, down);",
    "CREATE TABLE incidents (
         id TEXT PRIMARY KEY,
         node TEXT NOT NULL,
         subject TEXT NOT NULL,
         verdict TEXT NOT NULL,
         opened INTEGER NOT NULL,
         closed INTEGER,
         record TEXT NOT NULL
     ) STRICT;
     CREATE INDEX incidents_by_opening ON incidents (opened);
     CREATE INDEX incidents_open ON incidents (id) WHERE closed IS NULL;
     CREATE TABLE incident_peers (
         peer TEXT NOT NULL,
         incident TEXT NOT NULL,
         PRIMARY KEY (peer, incident)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX incident_peers_by_incident ON incident_peers (incident);
     CREATE TABLE notes (
         id INTEGER PRIMARY KEY,
         incident TEXT NOT NULL,
         time INTEGER NOT NULL,
         note TEXT NOT NULL
     ) STRICT;
     CREATE INDEX notes_by_incident ON notes (incident);
     CREATE TABLE alive (
         one INTEGER PRIMARY KEY CHECK (one = 1),
         time INTEGER NOT NULL
     ) STRICT;",
];

/// Why a file's tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Another program's file.
    #[error("is a database of something else")]
    Foreign,
    /// A later agent's file.
    #[error("version {0} of its tables is newer than this agent's")]
    Newer(i64),
    /// It cannot be read or written.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Brings the tables to the present version, each step whole or not at all.
pub fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let empty = version == 0 && tables == 0;
    if !empty && application != APPLICATION {
        return Err(SchemaError::Foreign);
    }
    let done = usize::try_from(version).map_err(|_| SchemaError::Foreign)?;
    let Some(todo) = STEPS.get(done..) else {
        return Err(SchemaError::Newer(version));
    };
    for (step, version) in todo.iter().zip(version + 1..) {
        let transaction = connection.transaction()?;
        advance(&transaction, step, version)?;
        transaction.commit()?;
    }
    Ok(())
}

fn advance(transaction: &Transaction<'_>, step: &str, version: i64) -> rusqlite::Result<()> {
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", version)
}

#[cfg(test)]
pub(super) fn make_version(connection: &mut Connection, version: usize) {
    for (step, version) in STEPS.iter().take(version).zip(1..) {
        let transaction = connection.transaction().unwrap();
        advance(&transaction, step, version).unwrap();
        transaction.commit().unwrap();
    }
}

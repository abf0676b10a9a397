//! The file: opened with what it needs to survive a kill, set aside when it makes no sense.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema::{SchemaError, migrate};

/// Name of the file in the state directory.
const NAME: &str = "store.db";
/// How long one waits for the other; the writer and a reader do so only while a file is begun.
const BUSY: Duration = Duration::from_secs(2);

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What is in the file is of no use: it has to be set aside.
    #[error("{0}")]
    Useless(String),
    /// It may work later: no space, no permission, no directory.
    #[error("{0}")]
    Refused(String),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        if is_corrupt(&error) {
            Self::Useless(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}

impl From<SchemaError> for OpenError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Sqlite(error) => error.into(),
            SchemaError::Foreign | SchemaError::Newer(_) => Self::Useless(error.to_string()),
        }
    }
}

/// Whether an error means that the file is broken, rather than out of reach.
pub fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Where the database of a state directory is.
pub fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// Opens the database at `path`, which need not exist, and brings its tables up to date.
pub fn open(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    // The first takes effect in a new file only, and before anything else is in it. A commit is on
    // the disk when it returns: what is told as kept survives the host, not only the agent.
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = 4194304;
         PRAGMA cache_size = -2048;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens it for reading only, beside the writer.
pub fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Looks through the whole file; why it is broken, if it is.
pub fn damage(connection: &Connection) -> Option<String> {
    let found: rusqlite::Result<String> =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match found {
        Ok(said) if said == "ok" => None,
        Ok(said) => Some(said),
        Err(error) if is_corrupt(&error) => Some(error.to_string()),
        Err(_) => None,
    }
}

/// Gives the file another name, which ends in `now` (seconds since the epoch), and its log with it.
pub fn set_aside(path: &Path, now: i64) -> io::Result<PathBuf> {
    let aside = with_suffix(path, &format!(".corrupt-{now}"));
    fs::rename(path, &aside)?;
    let log = with_suffix(path, "-wal");
    if log.exists() {
        fs::rename(&log, with_suffix(&aside, "-wal"))?;
    }
    match fs::remove_file(with_suffix(path, "-shm")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(aside),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

//! What is deleted, and when: changes and closed incidents by age; and when the file is too big the
//! oldest changes first, then closed incidents, then flaps. Open incidents stay.

use rusqlite::{Connection, params};

use super::Limits;

/// Rows deleted in one transaction: the writer must not be kept from its batches.
const CHUNK: i64 = 5_000;
/// Pages given back to the filesystem in one go.
const VACUUM: &str = "PRAGMA incremental_vacuum(1000)";

const OLD_CHANGES: &str = "DELETE FROM changes WHERE id IN
     (SELECT id FROM changes WHERE time < ?1 ORDER BY time LIMIT ?2)";
const OLD_INCIDENTS: &str = "DELETE FROM incidents WHERE id IN
     (SELECT id FROM incidents WHERE closed < ?1 ORDER BY opened LIMIT ?2)";
const OLD_FLAPS: &str = "DELETE FROM flaps WHERE (node, peer, down) IN
     (SELECT node, peer, down FROM flaps WHERE down < ?1 ORDER BY down LIMIT ?2)";

/// Deletes a chunk of what is too old or too much; whether there is more.
pub fn tidy(
    connection: &mut Connection,
    limits: Limits,
    now: jiff::Timestamp,
) -> rusqlite::Result<bool> {
    let age = i64::try_from(limits.retention.as_micros()).unwrap_or(i64::MAX);
    let before = now.as_microsecond().saturating_sub(age);
    let mut deleted = delete(connection, OLD_CHANGES, before)?;
    deleted += delete(connection, OLD_INCIDENTS, before)?;
    if deleted == 0 && used(connection)? > limits.max_size {
        for oldest in [OLD_CHANGES, OLD_INCIDENTS, OLD_FLAPS] {
            deleted = delete(connection, oldest, i64::MAX)?;
            if deleted > 0 {
                break;
            }
        }
    }
    let free: u64 = pragma(connection, "PRAGMA freelist_count")?;
    if free > 0 {
        // One row comes back per page, and each step frees one.
        let mut vacuum = connection.prepare(VACUUM)?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(deleted > 0)
}

fn delete(connection: &mut Connection, what: &str, before: i64) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let deleted = transaction.execute(what, params![before, CHUNK])?;
    if deleted > 0 && what == OLD_INCIDENTS {
        for of_incidents in ["incident_peers", "notes"] {
            transaction.execute(
                &format!(
                    "DELETE FROM {of_incidents} WHERE incident NOT IN (SELECT id FROM incidents)"
                ),
                [],
            )?;
        }
    }
    transaction.commit()?;
    Ok(deleted)
}

/// Octets in use: free pages do not count, they are reused or given back.
fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let pages: u64 = pragma(connection, "PRAGMA page_count")?;
    let free: u64 = pragma(connection, "PRAGMA freelist_count")?;
    let size: u64 = pragma(connection, "PRAGMA page_size")?;
    Ok(pages.saturating_sub(free).saturating_mul(size))
}

fn pragma(connection: &Connection, what: &str) -> rusqlite::Result<u64> {
    connection.query_row(what, [], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
}

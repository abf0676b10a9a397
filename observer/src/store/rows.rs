//! Records to rows, within one transaction per batch.

use observer_core::{
    change::{Change, ChangeRecord},
    incident::Incident,
    peer::Flap,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    Note,
    backlog::{Batch, incident_of},
};
use crate::{cli::peer_address, show::words};

/// Writes a batch, all or nothing; for each note, whether there is such an incident.
pub fn write(connection: &mut Connection, run: i64, batch: &Batch) -> rusqlite::Result<Vec<bool>> {
    let transaction = connection.transaction()?;
    for record in &batch.changes {
        insert_change(&transaction, run, record)?;
        if let Change::Flap { flap } | Change::FlapAmended { flap } = &record.change {
            keep_flap(&transaction, flap)?;
        }
        if let Change::SessionUp {
            peer, down_seconds, ..
        } = &record.change
        {
            end_flap(&transaction, record, peer, *down_seconds)?;
        }
    }
    for incident in batch
        .incidents
        .values()
        .filter_map(|record| incident_of(record))
    {
        keep_incident(&transaction, incident)?;
    }
    let mut known = Vec::with_capacity(batch.notes.len());
    for note in &batch.notes {
        known.push(keep_note(&transaction, note)?);
    }
    set_alive(&transaction, jiff::Timestamp::now().as_microsecond())?;
    transaction.commit()?;
    Ok(known)
}

/// Notes that the agent is alive at `now` if an incident is open, or `always`; whether it wrote.
pub fn beat(connection: &Connection, now: i64, always: bool) -> rusqlite::Result<bool> {
    let open: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM incidents WHERE closed IS NULL)")?
        .query_row([], |row| row.get(0))?;
    if open || always {
        set_alive(connection, now)?;
    }
    Ok(open || always)
}

fn set_alive(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO alive (one, time) VALUES (1, ?1)")?
        .execute([now])
        .map(drop)
}

/// A peer as it is searched for: without the interface of a link-local address.
pub fn searched(peer: &str) -> String {
    match peer_address(peer) {
        Some(address) => address.to_string(),
        None => peer.to_owned(),
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn insert_change(to: &Transaction<'_>, run: i64, record: &ChangeRecord) -> rusqlite::Result<()> {
    let (peer, _) = words::describe(&record.change);
    to.prepare_cached(
        "INSERT INTO changes (run, seq, time, node, peer, kind, record)
         VALUES (?1, ?2, ?3, ?4, ?5, json_extract(?6, '$.change'), ?6)",
    )?
    .execute(params![
        run,
        record.seq.cast_signed(),
        record.time.as_microsecond(),
        record.node,
        searched(peer),
        json(record)?,
    ])
    .map(drop)
}

fn keep_flap(to: &Transaction<'_>, flap: &Flap) -> rusqlite::Result<()> {
    to.prepare_cached(
        "INSERT INTO flaps (node, peer, down, up, down_seconds, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (node, peer, down) DO UPDATE SET
             up = coalesce(excluded.up, up),
             down_seconds = coalesce(excluded.down_seconds, down_seconds),
             record = excluded.record",
    )?
    .execute(params![
        flap.node,
        searched(&flap.peer),
        flap.down_at.as_microsecond(),
        flap.up_at.map(jiff::Timestamp::as_microsecond),
        flap.down_seconds,
        json(flap)?,
    ])
    .map(drop)
}

/// The session is back: that ends its latest flap. No change repeats the flap for it.
fn end_flap(
    to: &Transaction<'_>,
    record: &ChangeRecord,
    peer: &str,
    down_seconds: Option<f64>,
) -> rusqlite::Result<()> {
    to.prepare_cached(
        "UPDATE flaps SET up = ?3, down_seconds = ?4
         WHERE node = ?1 AND peer = ?2 AND up IS NULL
           AND down = (SELECT max(down) FROM flaps WHERE node = ?1 AND peer = ?2)",
    )?
    .execute(params![
        record.node,
        searched(peer),
        record.time.as_microsecond(),
        down_seconds,
    ])
    .map(drop)
}

fn keep_incident(to: &Transaction<'_>, incident: &Incident) -> rusqlite::Result<()> {
    to.prepare_cached(
        "INSERT INTO incidents (id, node, subject, verdict, opened, closed, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET
             subject = excluded.subject, verdict = excluded.verdict,
             opened = excluded.opened, closed = excluded.closed, record = excluded.record",
    )?
    .execute(params![
        incident.id,
        incident.node,
        incident.subject.identity,
        incident.verdict.name(),
        incident.opened_at.as_microsecond(),
        incident.closed_at.map(jiff::Timestamp::as_microsecond),
        json(incident)?,
    ])?;
    let mut peer =
        to.prepare_cached("INSERT OR IGNORE INTO incident_peers (peer, incident) VALUES (?1, ?2)")?;
    let subject = [
        Some(&incident.subject.identity),
        incident.subject.name.as_ref(),
    ];
    let sessions = incident.sessions.iter().map(|session| &session.peer);
    let targets = incident.targets.iter().map(|target| &target.peer);
    for name in subject.into_iter().flatten().chain(sessions).chain(targets) {
        peer.execute(params![searched(name), incident.id])?;
    }
    Ok(())
}

fn keep_note(to: &Transaction<'_>, note: &Note) -> rusqlite::Result<bool> {
    let known = to
        .query_row(
            "SELECT 1 FROM incidents WHERE id = ?1",
            [&note.incident],
            |_| Ok(()),
        )
        .optional()?;
    if known.is_some() {
        to.execute(
            "INSERT INTO notes (incident, time, note) VALUES (?1, ?2, ?3)",
            params![note.incident, note.time, note.words],
        )?;
    }
    Ok(known.is_some())
}

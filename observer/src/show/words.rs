//! Changes and times in words, as `events`, `replay` and the log show them.

pub use observer_core::words::describe;

use observer_core::change::ChangeRecord;

use crate::terminal::plain;

/// A count, marked where it is only what was seen.
pub fn at_least(count: u64, complete: bool) -> String {
    if complete {
        count.to_string()
    } else {
        format!("≥{count}")
    }
}

/// A unit variant's name as in JSON.
pub fn of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name.replace('_', " "),
        _ => String::new(),
    }
}

/// One change as a line for people, without the line's end.
pub fn line(record: &ChangeRecord) -> String {
    let (peer, what) = describe(&record.change);
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            plain(text)
        }
    };
    format!(
        "{}  {:<12}  {:<15}  {}",
        moment(record.time),
        or_dash(&record.node),
        or_dash(peer),
        plain(&what)
    )
}

/// A time to the millisecond, UTC.
pub fn moment(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// The time of day alone, to the millisecond. UTC.
pub fn clock(time: jiff::Timestamp) -> String {
    time.strftime("%H:%M:%S%.3f").to_string()
}

/// As calicoctl shows a time: the hour if it is of today, else the day. UTC.
pub fn since(time: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let day = time.strftime("%Y-%m-%d").to_string();
    if day == now.strftime("%Y-%m-%d").to_string() {
        time.strftime("%H:%M:%S").to_string()
    } else {
        day
    }
}

//! Writing to the terminal: nothing from outside moves its cursor, and a closed pipe is no error.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

/// `text` with control characters made visible; others are left alone.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_bidi_control(character) {
            // Writing to a String does not fail.
            let _ = write!(out, "{}", character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

/// Invisible characters that reorder what is shown around them (Unicode UAX #9).
const fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// Writes to standard output in full.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// `value` as one line of JSON.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    Ok(text)
}

/// Writes a line to standard error; when even that fails there is nobody to tell.
pub fn complain(line: &str) {
    let mut shown = String::new();
    for (number, part) in line.lines().enumerate() {
        if number > 0 {
            shown.push('\n');
        }
        shown.push_str(&plain(part));
    }
    shown.push('\n');
    let _ = io::stderr().lock().write_all(shown.as_bytes());
}

/// Whether the reader of our output went away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Seconds as people read them: `0.7 ms`, `7.1 s`, `4m12s`, `3h05m`, `2d04h`.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    if seconds < 0.001 {
        return format!("{:.0} µs", seconds * 1e6);
    }
    if seconds < 1.0 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = std::time::Duration::from_secs_f64(seconds.min(1e12)).as_secs();
    let (days, hours, minutes, rest) = (
        whole / 86_400,
        whole / 3_600 % 24,
        whole / 60 % 60,
        whole % 60,
    );
    if days > 0 {
        format!("{days}d{hours:02}h")
    } else if hours > 0 {
        format!("{hours}h{minutes:02}m")
    } else {
        format!("{minutes}m{rest:02}s")
    }
}

//! Writing to the terminal: nothing from outside moves its cursor, and a closed pipe is no error.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

pub use observer_core::words::span;

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

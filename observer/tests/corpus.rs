//! Every input of the fuzz targets, in each test run: what a fuzzer found once does not come back.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say at which input"
)]

use std::{fs, path::Path};

use observer::capture;
use observer_core::conversation::fuzz;

#[path = "../../fuzz/src/recording.rs"]
mod recording;

/// Feeds `target` its corpus.
fn feed(name: &str, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut inputs = 0;
    for entry in fs::read_dir(folder.join(name)).unwrap() {
        let path = entry.unwrap().path();
        // Shown only when the input fails.
        eprintln!("{}", path.display());
        target(&fs::read(&path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 5, "{inputs} inputs of {name}");
}

#[test]
fn messages_hold() {
    feed("message", fuzz::messages);
}

#[test]
fn segments_hold() {
    feed("stream", fuzz::segments);
}

#[test]
fn recordings_hold() {
    feed("events", recording::read);
}

#[test]
fn captures_hold() {
    let ports = [capture::BGP_PORT];
    feed("capture", |bytes| {
        let mut told = 0;
        let _ = capture::read_from(bytes, &ports, &mut |_, _| {});
        let _ = capture::events(|| Ok(bytes), &ports, &mut |_, _| told += 1);
        assert!(told > 0, "no event follows");
    });
}

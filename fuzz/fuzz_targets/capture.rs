#![no_main]

#[allow(
    dead_code,
    unused_imports,
    reason = "a target uses two functions of it"
)]
#[path = "../../observer/src/capture/mod.rs"]
mod capture;

// A capture file, read as `replay` reads it and as `replay --record` does.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let ports = [capture::BGP_PORT];
    let _ = capture::read_from(bytes, &ports, &mut |_, _| {});
    let _ = capture::events(|| Ok(bytes), &ports, &mut |_, _| {});
});

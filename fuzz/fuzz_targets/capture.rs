#![no_main]

#[allow(dead_code, unused_imports, reason = "a target uses one function of it")]
#[path = "../../observer/src/capture/mod.rs"]
mod capture;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = capture::read_from(bytes, &[capture::BGP_PORT], &mut |_, _| {});
});

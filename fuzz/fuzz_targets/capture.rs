#![no_main]

#[allow(dead_code, unused_imports, reason = "a target uses one function of it")]
#[path = "../../observer/src/capture/mod.rs"]
mod capture;

/// What that module asks of the agent when it writes events files, which no target does.
mod recorder {
    pub fn header(_: &observer_core::config::CoreConfig) -> observer_core::record::Header {
        unreachable!("no events file is written here")
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = capture::read_from(bytes, &[capture::BGP_PORT], &mut |_, _| {});
});

#![no_main]

// A script of segments: numbers, flags and payload lengths, then payload.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| observer_core::conversation::fuzz::segments(bytes));

#![no_main]

// The first octet says who has said what; the rest is what one side sends.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| observer_core::conversation::fuzz::messages(bytes));

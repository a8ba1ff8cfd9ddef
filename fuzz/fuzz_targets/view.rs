//! See `checks::view`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::view(data));

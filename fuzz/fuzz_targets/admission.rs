//! See `checks::admission`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::admission(data));

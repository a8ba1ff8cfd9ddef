//! See `checks::signed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::signed(data));

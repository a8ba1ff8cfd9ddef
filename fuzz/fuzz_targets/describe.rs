//! See `checks::describe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::describe(data));

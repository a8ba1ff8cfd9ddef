//! See `checks::super_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::super_packet(data));

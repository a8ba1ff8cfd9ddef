//! See `checks::ip_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::ip_packet(data));

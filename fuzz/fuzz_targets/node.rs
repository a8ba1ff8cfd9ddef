//! See `tunnel::sim::drive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tunnel::sim::drive::drive(data));

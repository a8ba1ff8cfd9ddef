//! See `checks::cni`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::cni(data));

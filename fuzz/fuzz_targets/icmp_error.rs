//! See `checks::icmp_error`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::icmp_error(data));

//! See `checks::ethernet_arp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::ethernet_arp(data));

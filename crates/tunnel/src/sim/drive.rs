//! A world that bytes drive, for the fuzzer.

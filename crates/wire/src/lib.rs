//! bytes and meaning
#![forbid(unsafe_code)]

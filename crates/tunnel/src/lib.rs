//! peers
#![forbid(unsafe_code)]

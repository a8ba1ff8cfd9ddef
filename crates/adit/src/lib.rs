//! the program
#![forbid(unsafe_code)]

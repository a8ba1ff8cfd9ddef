//! `mode = "tap"`: bridges of several hosts as one network, with the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;

mod bridges;
mod carried;
mod lan;
mod loops;
mod storms;
mod world;

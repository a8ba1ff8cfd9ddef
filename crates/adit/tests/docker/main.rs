//! Docker's own engine, one on each of two hosts that are nodes of a network: by the commands that people type.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod engine;
mod kinds;
mod place;
mod protocol;
mod refusals;
mod restarts;
mod story;

//! Containers on a node by the core that all doors share, against the real kernel: what is made for them, what is left, and what a hostile one can do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;

mod attaching;
mod hostile;
mod mtu;
mod world;

//! Commands as containers: `adit run`, `adit exec`, `adit ps`, by the real program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod ending;
mod inside;
mod network;
#[allow(dead_code, reason = "tests of networks use all of it")]
#[path = "../network/world.rs"]
mod nodes;
mod refusing;
mod terminal;
mod world;

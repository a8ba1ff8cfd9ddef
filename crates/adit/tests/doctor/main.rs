//! `adit doctor` at the sickbed: faults planted one at a time, each found by its name, mended by what the doctor says to type where that can be typed here,
//! and not found any more; and hosts that are well, on which nothing is found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod firewalls;
#[allow(dead_code, reason = "these tests use a part of it")]
#[path = "../tap/world.rs"]
mod lan;
mod nodes;
mod patient;
mod switches;
mod tunnels;
mod well;
#[allow(dead_code, reason = "these tests use a part of it")]
#[path = "../network/world.rs"]
mod world;

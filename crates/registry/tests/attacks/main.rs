//! What somebody who writes the registry, or a member, can try, and that it fails: the rules of trust by their numbers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test is to stop there")]

mod holding;
mod masses;
mod records;
mod removal;
mod transports;
#[path = "../trust_bed/mod.rs"]
mod trust_bed;
mod world;

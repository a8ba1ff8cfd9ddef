//! A world in which everything that can go wrong does, in simulated time: a few nodes, the network between them, an attacker who
//! reads and writes it, disks, clocks and people who pull plugs.
//!
//! Nothing in it is random but what follows from a seed, so that a failure replays: the same seed gives the same world, event for event
//! ([`World::trace`]). What must hold whatever happens is checked all the time, by [`check`], from outside of the code that is tested.
//!
//! | module | what |
//! |---|---|
//! | [`plan`] | who is there, and how they are configured |
//! | [`host`] | one node with its data side, which does what a worker does, by the same functions |
//! | [`people`] | what they change while nodes run |
//! | [`network`] | what becomes of a datagram |
//! | [`world`] | time, and what happens next |
//! | [`check`] | what must hold |
//! | [`chaos`] | a whole life out of a seed |
//! | [`drive`] | a world that bytes drive, for the fuzzer |
//! | [`random`] | numbers out of a seed |
//!
//! Compiled for this crate's tests, and with the feature `sim` for the fuzz targets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is what a simulation looks for"
)]

pub mod chaos;
pub mod check;
pub mod drive;
pub mod host;
pub mod network;
pub mod people;
pub mod plan;
pub mod random;
#[cfg(test)]
mod tests;
pub mod world;

pub use host::Host;
pub use people::Change;
pub use plan::{HostPlan, LinkPlan, Plan};
pub use world::World;

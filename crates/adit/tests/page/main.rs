//! The page of a daemon: what is served, to whom, and what a browser shows of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod browser;
mod http;
#[allow(dead_code, reason = "a part of it is needed here")]
#[path = "../tap/world.rs"]
mod lan;
mod limits;
mod serving;
mod visitor;
#[allow(dead_code, reason = "a part of it is needed here")]
#[path = "../network/world.rs"]
mod world;

//! The program as a CNI plugin, called as runtimes call it, on a host in a namespace. There is a node, but no daemon: its file is all that a plugin needs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;

mod chain;
#[path = "../../../../fuzz/src/cni_checks.rs"]
#[allow(unreachable_pub, reason = "it is public where fuzz targets use it")]
mod cni_checks;
mod corpus;
mod installed;
mod refusing;
mod specification;
mod stock;
mod storm;
mod world;

//! Names of nodes and containers, asked for by containers, hosts, other nodes and strangers, on hosts in namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod answers;
#[path = "../bed/mod.rs"]
mod bed;
mod corpus;
mod hostile;
#[path = "../../../../fuzz/src/names_checks.rs"]
#[allow(unreachable_pub, reason = "it is public where fuzz targets use it")]
mod names_checks;
mod outside;
mod scene;
#[allow(dead_code, reason = "a part of it is needed here")]
#[path = "../network/world.rs"]
mod world;

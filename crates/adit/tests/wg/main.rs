//! WireGuard's stock tools against `adit wireguard`, in namespaces: `wg` in all its forms, `wg-quick`, the life of a device, and
//! WireGuard's behaviours by their numbers. docs/WIREGUARD.md has the table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod behaviours;
mod life;
mod more;
mod quick;
mod scene;
mod tools;

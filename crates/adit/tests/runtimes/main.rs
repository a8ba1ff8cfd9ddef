//! Real runtimes of containers, each on hosts of its own with real nodes: what people use, by the files and commands that they use.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod containerd;
mod cri;
mod engine;
mod hosts;
mod podman;
mod power;
mod prepared;
mod stock;
mod story;

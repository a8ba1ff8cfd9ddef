//! Networks of nodes: made and joined by the verbs, on hosts in namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod clients;
mod cluster;
mod containers;
mod crowd;
mod disk;
mod etcd;
mod flannel;
mod flow;
mod hostile;
mod intruder;
mod living;
mod meeting;
mod mtu;
mod quickstart;
mod refusals;
mod shared;
mod story;
mod two;
mod world;

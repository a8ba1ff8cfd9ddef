//! What the registry promises beyond etcd's API, and where it differs from etcd on purpose.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod host;
mod keeping;
mod lines;
mod people;
mod watching;

//! Cards of virtual machines: `adit vm-tap`, by the real program, with machines that we play and with one of QEMU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod kernel;
mod lan;
#[allow(dead_code, reason = "tests of switches use all of it")]
#[path = "../tap/world.rs"]
mod lans;
mod machine;
mod node;
#[allow(dead_code, reason = "tests of networks use all of it")]
#[path = "../network/world.rs"]
mod nodes;
mod played;
mod refusing;
#[allow(dead_code, reason = "tests of commands use all of it")]
#[path = "../run/world.rs"]
mod world;

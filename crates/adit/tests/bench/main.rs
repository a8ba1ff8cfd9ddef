//! `adit bench` from the outside, on the real kernel: that it measures what it says, in a form that is documented, permits what it should, and
//! leaves nothing. How fast anything is, is never asserted.
//!
//! These tests need root, or a kernel that lets an ordinary user make a user namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
#[allow(dead_code, reason = "the tests of frames use all of it")]
#[path = "../tap/world.rs"]
mod lan;
mod nodes;
mod systems;
#[allow(dead_code, reason = "the tests of networks use all of it")]
#[path = "../network/world.rs"]
mod world;

use serde_json::Value;

/// Every key of a document is in docs/BENCH.md.
fn assert_documented(value: &Value) {
    let text = include_str!("../../../../docs/BENCH.md");
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                assert!(text.contains(&format!("`{key}`")), "{key} is not documented");
                assert_documented(value);
            }
        }
        Value::Array(items) => items.iter().for_each(assert_documented),
        _ => {}
    }
}

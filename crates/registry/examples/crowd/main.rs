//! Fills a network with nodes that exist in its registry alone, for `bench/nodes.py`:
//!
//! ```text
//! cargo run --release --example crowd -- DIRECTORY HOST:PORT COUNT
//! ```
//!
//! DIRECTORY is the authority's, HOST:PORT where its daemon lets nodes in. Prints `admitted` when all are in its books. After a line of standard input 16
//! writers put all records but the last one into the registry, which prints `published`; after another line the last one, and `published` again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a tool of measurements: it may fail"
)]

mod maker;

use std::io::BufRead;
use std::sync::Arc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, enroller, count] = arguments.as_slice() else { panic!("DIRECTORY HOST:PORT COUNT") };
    let count: usize = count.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let crowd = Arc::new(runtime.block_on(maker::Crowd::admit(directory.as_ref(), enroller, count, count.min(10))));
    println!("admitted");
    let mut lines = std::io::stdin().lock().lines();
    for (from, to) in [(0, count.saturating_sub(1)), (count.saturating_sub(1), count)] {
        if lines.next().is_none() {
            return;
        }
        runtime.block_on(crowd.publish(from, to, 16));
        println!("published");
    }
}

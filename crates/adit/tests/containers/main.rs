//! Containers on a node by the core that all doors share, against the real kernel: what is made for them, what is left, and what a hostile one can do.
#[path = "../bed/mod.rs"]
mod bed;

mod attaching;
mod hostile;
mod world;

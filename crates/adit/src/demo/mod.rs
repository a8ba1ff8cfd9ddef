//! Two hosts with containers, built in namespaces, to see a packet's way.

use crate::{Failure, Result};

/// What `adit demo` was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// One JSON document on standard output in place of the text.
    pub json: bool,
    /// Keep everything until a key is pressed, and print how to enter each container.
    pub keep: bool,
    /// Short measurements: under ten seconds in all.
    pub quick: bool,
}

/// Builds the demo, shows it, and removes it again.
///
/// # Errors
/// The step that failed, after everything was removed.
pub fn run(_options: Options) -> Result<()> {
    Err(Failure::failed("this build has no demo yet"))
}

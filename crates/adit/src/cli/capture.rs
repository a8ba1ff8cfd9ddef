//! `adit capture`: what a daemon starts to capture for traces; nobody types it.

use crate::Result;
use crate::observe::trace::helper;

const AFTER_HELP: &str = "\
Example:
  adit capture --stdin    (started by adit up)";

/// Capture the probes of traces for the daemon at the other end of standard input
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The daemon is at the other end of standard input
    #[arg(long, required = true)]
    stdin: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        debug_assert!(self.stdin, "it is required");
        helper::serve()
    }
}

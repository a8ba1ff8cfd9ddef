//! `adit capture`: what a daemon starts to capture for traces; nobody types it.

use crate::Result;
use crate::observe::trace::helper;

const AFTER_HELP: &str = "\
Example:
  adit capture    (started by adit up)";

/// Capture the probes of traces for the daemon at the other end of standard input
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {}

impl Arguments {
    #[expect(clippy::unused_self, reason = "as all verbs")]
    pub(super) fn run(self) -> Result<()> {
        helper::serve()
    }
}

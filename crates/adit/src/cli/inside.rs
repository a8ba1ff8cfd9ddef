//! `adit inside`: what `adit run` starts as the first process of a container.

use std::ffi::OsString;

use super::run::end_as;
use crate::{Result, container::run};

const AFTER_HELP: &str = "\
Example of what adit run starts, with the number of a descriptor over which it says the rest:
  adit inside 7 -- sh";

/// Be the first process of a container (nobody types this)
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The descriptor on which orders come
    descriptor: i32,

    /// The command, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        end_as(run::inside(self.descriptor, &self.command))
    }
}

//! `adit exec`

use std::ffi::OsString;

use super::{Network, run::end_as};
use crate::{Result, container::run};

const AFTER_HELP: &str = "\
Examples:
  adit exec web -- sh
  adit exec web -- ss -tln

Exit codes are those of adit run.";

/// Run one more command in a container of adit run
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The name of the container
    name: String,

    #[command(flatten)]
    network: Network,

    /// The command, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Network { device, places } = self.network;
        end_as(run::exec(&places.directories(), &device, &self.name, &self.command))
    }
}

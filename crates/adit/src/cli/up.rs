//! `adit up`

use std::path::PathBuf;

use super::Places;
use crate::{Result, config, up};

const AFTER_HELP: &str = "\
Example:
  adit up --config tunnel.toml

  with this in tunnel.toml, and addresses and names exchanged at the other end:
    [device]
    addresses = [\"10.77.0.1/24\"]

    [[peer]]
    name = \"berlin\"
    endpoint = \"192.0.2.2:7777\"
    allowed-ips = [\"10.77.0.2/32\"]
    transport = \"plain\"            # not encrypted";

/// Start a tunnel from a file and keep it up until Ctrl-C, SIGTERM or `adit down`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The configuration, in TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    #[command(flatten)]
    pub(super) places: Places,

    /// Also stop when standard input is closed, as happens when the process that started the daemon ends
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let tunnel = config::load(&self.config)?;
        let lifetime =
            if self.until_stdin_closes { up::Lifetime::UntilStdinCloses } else { up::Lifetime::UntilStopped };
        up::run(tunnel, &self.places.directories(), lifetime)
    }
}

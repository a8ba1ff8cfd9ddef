//! `adit up`

use std::path::PathBuf;

use super::Places;
use crate::{Result, config, up};

const AFTER_HELP: &str = "\
Examples:
  adit up wg0.conf                 a wg-quick file, for the device wg0
  adit up tunnel.toml

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
    /// The configuration: our TOML, or a wg-quick file as it is
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,

    /// The same
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,

    #[command(flatten)]
    pub(super) places: Places,

    /// Also stop when standard input is closed, as happens when the process that started the daemon ends
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        // One of them is there: the parser sees to it.
        let tunnel = config::load(&self.file.or(self.config).unwrap_or_default())?;
        let lifetime =
            if self.until_stdin_closes { up::Lifetime::UntilStdinCloses } else { up::Lifetime::UntilStopped };
        up::run(tunnel, &self.places.directories(), lifetime)
    }
}

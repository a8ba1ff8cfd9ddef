//! `adit reload`

use std::path::PathBuf;
use std::time::Duration;

use super::{Places, down, output};
use crate::{
    Failure, Result,
    api::{self, Request, Response},
};

/// How long a daemon may take: names of plain peers may have to be resolved first.
const PATIENCE: Duration = Duration::from_secs(60);

const AFTER_HELP: &str = "\
Examples:
  adit reload                        the only daemon there is
  adit reload --device adit0         one of several
  adit reload --config tunnel.toml   the one that was started with this file

The daemon reads the file that it was started with, and changes what is other than before; peers that stay
as they are notice nothing. If anything in it is wrong, nothing is changed. SIGHUP does the same.";

/// Let a daemon read its file again, and say what changed
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The device of the daemon
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    device: Option<String>,

    /// The configuration that the daemon was started with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    places: Places,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let directories = self.places.directories();
        let device = down::device(self.device, self.config, &directories)?;
        let path = api::control_socket(&directories.runtime, &device);
        match api::call_within(&path, Request::Reload, PATIENCE)? {
            Response::Changed { sentence } => output::print(&format!("{device}: {sentence}\n")).map(drop),
            Response::Fault { sentence } => Err(Failure::usage(sentence)),
            Response::Error { sentence } => Err(Failure::failed(sentence)),
            _ => Err(Failure::failed(format!("the daemon of {device} answered something else"))),
        }
    }
}

//! `adit secret`

use super::{Network, output};
use crate::Result;
use crate::network::admin::Authority;

const AFTER_HELP: &str = "\
Example, on the host that made the network:
  adit secret rotate

All nodes take the next secret over by themselves; the former one is good for ten minutes more.";

/// Give the network another secret
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make the next secret and hand it out
    Rotate {
        #[command(flatten)]
        network: Network,
    },
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Verb::Rotate { network } = self.verb;
        let said = Authority::open(&network.device, &network.places.directories())?.rotate()?;
        output::print(&format!("{said}\n")).map(drop)
    }
}

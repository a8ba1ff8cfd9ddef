//! `adit docker-options`

use super::{Network, output};
use crate::container::docker::DockerOptions;
use crate::container::{Node, Store};
use crate::{Failure, Result, config};

const AFTER_HELP: &str = "\
Examples:
  dockerd $(adit docker-options)                            Docker's own bridge, with this node's addresses
  adit docker-options --json                                the same as keys of /etc/docker/daemon.json
  iptables -I DOCKER-USER -i adit0 -o docker0 -j ACCEPT     so that other nodes reach its containers

All containers of this Docker are then in the network, without a network of their own. Docker gives out the
addresses of the node by itself: adit's other ways to attach containers are not to be used beside it.";

/// Print the options of dockerd that give its own bridge this node's addresses
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Print a JSON object, for /etc/docker/daemon.json
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    network: Network,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Network { device, places } = self.network;
        config::check_device(&device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
        let directories = places.directories();
        let node = Node::read(&directories, &device)?;
        let options = DockerOptions::of(&node, &Store::of(&directories, &device).read_all()?)?;
        let text = if self.json { options.to_json().to_string() } else { options.to_string() };
        output::print(&(text + "\n")).map(drop)
    }
}

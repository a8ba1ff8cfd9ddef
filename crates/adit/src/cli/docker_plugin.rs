//! `adit docker-plugin`

use std::path::PathBuf;

use super::{Network, output};
use crate::container::docker;
use crate::{Failure, Result, config};

const AFTER_HELP: &str = "\
Examples:
  adit docker-plugin                                        serve dockerd, in the foreground
  docker network create -d adit --ipam-driver adit web      then, once per host
  docker run -d --network web -p 8080:80 nginx

Containers in the network have addresses of this node's subnet, and reach those of all other nodes. While
it runs, rules with the comment adit-DEVICE stand in Docker's chain DOCKER-USER, since Docker drops what it
forwards for others; they go with it.";

/// Serve Docker: networks whose containers reach those of all nodes
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The socket that dockerd is to find; its name without its ending is that of the driver
    #[arg(long, value_name = "PATH", default_value = "/run/docker/plugins/adit.sock")]
    socket: PathBuf,

    /// Leave Docker's packet filters alone; then they drop what comes from other nodes, unless you let it through
    #[arg(long)]
    no_docker_user: bool,

    #[command(flatten)]
    network: Network,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Network { device, places } = self.network;
        config::check_device(&device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
        let settings = docker::Settings {
            directories: places.directories(),
            device,
            socket: self.socket,
            docker_user: !self.no_docker_user,
        };
        docker::serve(&settings, |sentence| output::print(&format!("docker-plugin is ready: {sentence}\n")).map(drop))
    }
}

//! `adit run`

use std::ffi::OsString;
use std::net::IpAddr;

use super::Network;
use crate::container::run::{self, FAILED, Options};
use crate::{Failure, Result};

const AFTER_HELP: &str = "\
Examples:
  adit run -- sh                                         a shell on the network
  adit run --name web --publish 8080:80 -- python3 -m http.server 80
  adit run --name db --ip 10.42.7.9 --isolated -- postgres -D /srv/db

The command has its own network, processes, host name and mounts; its files are those of the
host. It is no jail: what it does to files, it does to the host's.

The exit code is the command's; 128 and the number of a signal that ended it; 125 where adit
failed, 126 where the command cannot be run, 127 where there is none; 2 for wrong options.";

/// Run a command as a container on the network, in the foreground
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Its name, by which others find it; made up if none is given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Lead a port of this host to it, as 8080:80, 192.0.2.1:53:53/udp or 8000-8010:80-90; may be repeated
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,

    /// An address of this node that it is to have, one of each family at most
    #[arg(long = "ip", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,

    /// The host name inside, if not its name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// Keep it, and other isolated containers of this host, from each other
    #[arg(long)]
    isolated: bool,

    #[command(flatten)]
    network: Network,

    /// The command, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Network { device, places } = self.network;
        let options = Options {
            name: self.name,
            hostname: self.hostname,
            publish: self.publish,
            addresses: self.addresses,
            isolated: self.isolated,
            command: self.command,
        };
        end_as(run::run(&places.directories(), &device, &options))
    }
}

/// Ends with the exit code of a command; what failed without one has a code of its own.
pub(super) fn end_as(outcome: Result<u8>) -> Result<()> {
    match outcome {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::told(code)),
        // That of wrong usage could be the command's.
        Err(failure) if failure.exit_code() <= 2 => Err(failure.with_exit_code(FAILED)),
        Err(failure) => Err(failure),
    }
}

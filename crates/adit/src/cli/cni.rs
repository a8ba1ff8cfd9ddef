//! `adit cni`

use std::path::PathBuf;

use super::{Network, output};
use crate::container::cni::install::{self, Options, Target};
use crate::{Failure, Result};

const AFTER_HELP: &str = "\
Examples:
  adit cni install                             Podman, containerd and CRI-O find the network `adit`
  podman run --network adit IMAGE
  adit cni install --name office --device adit1
  adit cni uninstall

Runtimes run the plugin themselves; it needs a node of a network on this host (`adit up`).";

/// Give containers of Podman, containerd and CRI-O addresses: the CNI plugin
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write the network's configuration, and a link to this program as its plugin
    Install {
        #[command(flatten)]
        place: Place,
        /// Containers may speak to no other container of their host
        #[arg(long)]
        isolated: bool,
        #[command(flatten)]
        network: Network,
    },
    /// Take both away
    Uninstall {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// What the network is called
    #[arg(long, value_name = "NAME", default_value = "adit")]
    name: String,

    /// Where runtimes look for networks
    #[arg(long, value_name = "DIR", default_value = install::CONFIGURATIONS)]
    conf_dir: PathBuf,

    /// Where runtimes look for plugins
    #[arg(long, value_name = "DIR", default_value = install::PLUGINS)]
    bin_dir: PathBuf,
}

impl Place {
    fn target(self) -> Target {
        Target { configurations: self.conf_dir, plugins: self.bin_dir, name: self.name }
    }
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        match self.verb {
            Verb::Install { place, isolated, network } => {
                let device = network.device.clone();
                if !linux::netlink::is_valid_name(&device) {
                    return Err(Failure::usage(format!(
                        "--device {device:?} is no name of a device; `adit status` shows it"
                    )));
                }
                let mut directories = network.places.directories();
                for directory in [&mut directories.runtime, &mut directories.state] {
                    // Runtimes call the plugin in directories of their own.
                    *directory = std::path::absolute(&*directory).unwrap_or_else(|_| directory.clone());
                }
                let options = Options { device, directories, isolated };
                let target = place.target();
                let changed = install::install(&target, &options, &program()?)?;
                let text = format!(
                    "network {} is in {}, its plugin is {}\n",
                    target.name,
                    changed.configuration.display(),
                    changed.plugin.display()
                );
                output::print(&text).map(drop)
            }
            Verb::Uninstall { place } => {
                let target = place.target();
                let removed = install::uninstall(&target, &program()?)?;
                let removed: Vec<_> = removed.iter().map(|path| path.display().to_string()).collect();
                let text = match removed.as_slice() {
                    [] => format!(
                        "there is no network {} of this plugin in {}\n",
                        target.name,
                        target.configurations.display()
                    ),
                    removed => format!("removed {}\n", removed.join(" and ")),
                };
                output::print(&text).map(drop)
            }
        }
    }
}

/// The program that runs, by the path under which it stays when it is replaced by a newer one.
fn program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Failure::failed(format!("cannot find this program: {e}; is /proc mounted?")))
}

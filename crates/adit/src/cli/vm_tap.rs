//! `adit vm-tap`

use super::{Network, output};
use crate::Result;
use crate::container::vm::{self, Options};

const AFTER_HELP: &str = "\
Examples:
  adit vm-tap db --owner alice       the card of the virtual machine db, which alice runs
  adit vm-tap db                     the same lines again; what is gone of it is made anew
  adit vm-tap db --delete
  qemu-system-x86_64 db.img $(adit vm-tap db --json | jq -r '.qemu_arguments[]')

On a node of a network the machine is as a container: it has an address of the node, a name, and
is held to its own addresses. On a bridge of mode = \"tap\" it is one more machine of that LAN.";

/// Make the card of a virtual machine: a TAP on the bridge, and the line for QEMU
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The name of the machine, by which others find it
    name: String,

    /// Who may open the card without root's rights: a user, or his number [default: root]
    #[arg(long, value_name = "USER")]
    owner: Option<String>,

    /// Pairs of queues, for machines with several processors [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    queues: Option<u16>,

    /// Remove it, and free its address
    #[arg(long, conflicts_with_all = ["owner", "queues", "json"])]
    delete: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    network: Network,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Network { device, places } = self.network;
        let directories = places.directories();
        if self.delete {
            let said = vm::delete(&directories, &device, &self.name)?;
            return output::print(&format!("{said}\n")).map(drop);
        }
        let options = Options { name: self.name, owner: self.owner, queues: self.queues };
        let card = vm::make(&directories, &device, &options)?;
        let text = if self.json { format!("{}\n", card.json()) } else { card.text() };
        output::print(&text).map(drop)
    }
}

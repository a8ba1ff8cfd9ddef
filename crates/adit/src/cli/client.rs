//! `adit client`

use super::{Network, output};
use crate::Result;
use crate::network::admin;
use crate::observe::table::Table;

const AFTER_HELP: &str = "\
Examples:
  adit client add phone --qr                               scan it with the WireGuard app
  (umask 077 && adit client add laptop > laptop.conf)      for wg-quick
  adit client list
  adit client remove phone

A client is served by the node on which it was added, has an address of that node's subnet, and reaches the whole
network. Its key is printed once and kept nowhere else.";

/// Let phones and laptops in, with the stock WireGuard apps
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a client and print its configuration
    Add {
        /// What it is called
        name: String,
        /// Print a QR code
        #[arg(long, conflicts_with = "conf")]
        qr: bool,
        /// Print a file for wg-quick; this is what is printed unless --qr is given
        #[arg(long)]
        conf: bool,
        #[command(flatten)]
        network: Network,
    },
    /// List the clients of this node
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        network: Network,
    },
    /// Put a client out
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        network: Network,
    },
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        match self.verb {
            Verb::Add { name, qr, conf: _, network } => {
                let text = admin::add_client(&name, qr, &network.device, &network.places.directories())?;
                output::print(&text).map(drop)
            }
            Verb::List { json, network } => {
                let clients = admin::clients(&network.device, &network.places.directories())?;
                if json {
                    return output::print(&format!("{}\n", serde_json::to_string(&clients).unwrap_or_default()))
                        .map(drop);
                }
                let mut table = Table::new(&["CLIENT", "ADDRESSES", "PUBLIC KEY"]);
                for client in clients {
                    let addresses: Vec<String> = client.addresses.iter().map(|net| net.addr().to_string()).collect();
                    table.row([client.name, addresses.join(" "), client.public_key]);
                }
                output::print(&table.render(0)).map(drop)
            }
            Verb::Remove { name, network } => {
                admin::remove_client(&name, &network.device, &network.places.directories())?;
                output::print(&format!("{name} is out\n")).map(drop)
            }
        }
    }
}

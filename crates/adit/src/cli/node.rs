//! `adit node`

use super::{Network, output};
use crate::network::admin::Authority;
use crate::observe::table::Table;
use crate::{Result, api};

const AFTER_HELP: &str = "\
Examples:
  adit node list
  adit node remove paris        on the host that made the network: paris is out, everywhere at once";

/// List the nodes of the network, or put one out
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the nodes that this one knows
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        network: Network,
    },
    /// Put a node out for good, and give the others a new secret
    Remove {
        /// Its name
        name: String,
        /// Leave the network's secret as it is
        #[arg(long)]
        keep_secret: bool,
        #[command(flatten)]
        network: Network,
    },
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        match self.verb {
            Verb::List { json, network } => list(&network, json),
            Verb::Remove { name, keep_secret, network } => {
                let authority = Authority::open(&network.device, &network.places.directories())?;
                let said = authority.remove_node(&name, keep_secret)?;
                output::print(&format!("{said}\n")).map(drop)
            }
        }
    }
}

fn list(network: &Network, json: bool) -> Result<()> {
    let status = api::status(&network.places.runtime_dir, &network.device)?;
    let Some(known) = status.network else {
        return Err(crate::Failure::failed(format!(
            "{} is a tunnel from a file and no node of a network",
            network.device
        )));
    };
    if json {
        return output::print(&format!("{}\n", serde_json::to_string(&known.nodes).unwrap_or_default())).map(drop);
    }
    let list = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut table = Table::new(&["NODE", "SUBNETS", "ENDPOINTS", "TRANSPORT"]);
    table.row([format!("{} (this one)", known.node), list(&known.subnets), known.public.join(" "), "-".into()]);
    for node in known.nodes {
        let endpoints = if node.behind_nat { "behind NAT".to_owned() } else { node.endpoints.join(" ") };
        table.row([node.name, list(&node.subnets), endpoints, node.transport]);
    }
    output::print(&table.render(0)).map(drop)
}

//! `adit node`

use serde::Serialize;

use super::{Network, output};
use crate::api::status::{NetworkStatus, NodeStatus};
use crate::network::admin::Authority;
use crate::observe::table::Table;
use crate::{Result, api};

const AFTER_HELP: &str = "\
Examples:
  adit node list
  adit node list --json | jq -r '.[].name'
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
        /// Print a JSON array; docs/STATUS.md has its fields
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

/// A node as it is listed for programs.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    node: NodeStatus,
    /// Whether it is the one that was asked.
    is_this: bool,
}

/// All nodes, this one first, as in the table.
fn lines(network: NetworkStatus) -> Vec<Line> {
    let this = NodeStatus {
        name: network.node,
        serial: network.serial,
        subnets: network.subnets,
        endpoints: network.public,
        behind_nat: network.behind_nat,
        transport: if network.trust == "nothing" { "plain" } else { "sealed" }.into(),
    };
    let others = network.nodes.into_iter().map(|node| Line { node, is_this: false });
    [Line { node: this, is_this: true }].into_iter().chain(others).collect()
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
        return output::print(&format!("{}\n", serde_json::to_string(&lines(known)).unwrap_or_default())).map(drop);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::tests::node;

    #[test]
    fn programs_are_told_of_this_node_too() {
        let network = node().network.unwrap();
        let (name, others) = (network.node.clone(), network.nodes.len());
        let lines = serde_json::to_value(lines(network)).unwrap();
        assert_eq!(lines.as_array().map(Vec::len), Some(1 + others));
        assert_eq!((&lines[0]["name"], &lines[0]["is_this"]), (&name.into(), &true.into()));
        assert_eq!(lines[1]["is_this"], false);
        let documented = include_str!("../../../../docs/STATUS.md");
        assert!(lines[0].as_object().unwrap().keys().all(|key| documented.contains(&format!("`{key}`"))), "{lines}");
    }
}

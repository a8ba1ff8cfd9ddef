//! `adit ps`

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{Network, output};
use crate::Result;
use crate::container::{Node, Record, Stage, Store, collect, run};
use crate::observe::{human, table::Table};

const AFTER_HELP: &str = "\
Examples:
  adit ps
  adit ps --json | jq -r '.[] | select(.door == \"cni\") | .addresses[]'

Containers of Podman, containerd and Kubernetes come by the door cni, those of Docker by docker, those of adit run by
run. docs/CONTAINERS.md has all fields of --json.";

/// List the containers of this node
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Print a JSON array
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    network: Network,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Network { device, places } = self.network;
        run::check(&device)?;
        let directories = places.directories();
        let store = Store::of(&directories, &device);
        collect(&store, &|_| true)?;
        let mut records = store.read_all()?;
        records.retain(|record| record.stage == Stage::Made);
        if records.is_empty() {
            // Whether that is because there is no node here, or another was meant.
            Node::read(&directories, &device)?;
        }
        let text = if self.json { format!("{}\n", json(&records)) } else { text(&records, now()) };
        output::print(&text).map(drop)
    }
}

fn json(records: &[Record]) -> serde_json::Value {
    let one = |record: &Record| {
        json!({
            "name": record.title(),
            "id": record.key.container,
            "door": record.key.door.as_str(),
            "interface": record.key.interface,
            "addresses": record.addresses,
            "ports": words(record.ports.iter()),
            "isolated": record.isolated,
            "since": record.created,
        })
    };
    records.iter().map(one).collect()
}

fn text(records: &[Record], now: u64) -> String {
    let mut table = Table::new(&["NAME", "DOOR", "ADDRESS", "PORTS", "SINCE"]);
    for record in records {
        let mut ports = words(record.ports.iter()).join(" ");
        if ports.is_empty() {
            ports.push('-');
        }
        table.row([
            record.title(),
            record.key.door.as_str().into(),
            words(record.addresses.iter().map(ipnet::IpNet::addr)).join(" "),
            ports,
            format!("{} ago", human::duration(now.saturating_sub(record.created))),
        ]);
    }
    table.render(0)
}

fn words(things: impl Iterator<Item = impl ToString>) -> Vec<String> {
    things.map(|thing| thing.to_string()).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::tests::record;

    #[test]
    fn a_container_is_a_row_and_an_object() {
        let mut named = record("c1", &["10.42.7.2/24", "fd77::2/64"]);
        named.name = Some("web".into());
        let mut other = record("0123456789abcdef", &["10.42.7.3/24"]);
        other.ports.clear();
        let records = [named, other];
        assert_eq!(
            text(&records, records[0].created + 200),
            "NAME          DOOR  ADDRESS            PORTS        SINCE\n\
             web           cni   10.42.7.2 fd77::2  8080:80/tcp  3 min 20 s ago\n\
             0123456789ab  cni   10.42.7.3          -            3 min 20 s ago\n"
        );
        assert_eq!(
            json(&records)[0],
            json!({
                "name": "web", "id": "c1", "door": "cni", "interface": "eth0", "addresses": ["10.42.7.2/24", "fd77::2/64"],
                "ports": ["8080:80/tcp"], "isolated": false, "since": records[0].created,
            })
        );
    }
}

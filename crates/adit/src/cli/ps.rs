//! `adit ps`

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Network, output};
use crate::api::status::ContainerStatus;
use crate::container::{Node, Stage, Store, collect, run, vm};
use crate::observe::{containers, human, table::Table};
use crate::{Failure, Result};

const AFTER_HELP: &str = "\
Examples:
  adit ps
  adit ps --json | jq -r '.[] | select(.door == \"cni\") | .addresses[]'

Containers of Podman, containerd and Kubernetes come by the door cni, those of Docker by docker,
those of adit run by run. docs/CONTAINERS.md has all fields of --json.";

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
        let records = store.read_all()?;
        let made: Vec<_> =
            records.iter().filter(|record| record.stage == Stage::Made).map(containers::status).collect();
        if made.is_empty() && !vm::is_lan(&directories, &device) {
            // Whether that is because there is no node here, or another was meant.
            Node::read(&directories, &device)?;
        }
        let text = if self.json { json(&made)? } else { text(&made, now()) };
        output::print(&text).map(drop)
    }
}

fn json(containers: &[ContainerStatus]) -> Result<String> {
    let text = serde_json::to_string(containers).map_err(|e| Failure::failed(format!("cannot say it: {e}")))?;
    Ok(format!("{text}\n"))
}

fn text(containers: &[ContainerStatus], now: u64) -> String {
    let mut table = Table::new(&["NAME", "DOOR", "ADDRESS", "PORTS", "SINCE"]);
    for container in containers {
        let addresses: Vec<_> = container.addresses.iter().map(|net| net.addr().to_string()).collect();
        let ports = human::ports(&container.ports);
        table.row([
            container.name.clone(),
            container.door.clone(),
            addresses.join(" "),
            ports,
            format!("{} ago", human::duration(now.saturating_sub(container.since))),
        ]);
    }
    table.render(0)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::tests::record;
    use serde_json::{Value, json};

    #[test]
    fn a_container_is_a_row_and_an_object() {
        let mut named = record("c1", &["10.42.7.2/24", "fd77::2/64"]);
        named.name = Some("web".into());
        let mut other = record("0123456789abcdef", &["10.42.7.3/24"]);
        other.ports.clear();
        let since = named.created;
        let shown = [named, other].each_ref().map(containers::status);
        assert_eq!(
            text(&shown, since + 200),
            "NAME          DOOR  ADDRESS            PORTS        SINCE\n\
             web           cni   10.42.7.2 fd77::2  8080:80/tcp  3 min 20 s ago\n\
             0123456789ab  cni   10.42.7.3          -            3 min 20 s ago\n"
        );
        let objects: Value = serde_json::from_str(&json(&shown).unwrap()).unwrap();
        assert_eq!(
            objects[0],
            json!({
                "name": "web", "id": "c1", "door": "cni", "interface": "eth0", "addresses": ["10.42.7.2/24", "fd77::2/64"],
                "ports": ["8080:80/tcp"], "isolated": false, "since": since,
            })
        );
    }
}

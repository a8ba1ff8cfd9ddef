//! Containers of a node, as `adit status` shows them.

use ipnet::IpNet;

use crate::api::status::{ContainerStatus, NetworkStatus};
use crate::container::{Record, Stage, Store};

/// As many containers are named in a sentence.
const NAMED: usize = 8;

/// Adds the containers of a node to what is said of its network.
pub fn add(network: &mut NetworkStatus, store: &Store) {
    match store.read_each() {
        Ok((records, damaged)) => {
            network.problems.extend(damaged.iter().map(ToString::to_string));
            network.problems.extend(strangers(&records, &network.subnets));
            network.containers = records.iter().filter(|record| record.stage == Stage::Made).map(status).collect();
        }
        Err(fault) => network.problems.push(fault.to_string()),
    }
}

/// What is said of a container.
pub fn status(record: &Record) -> ContainerStatus {
    ContainerStatus {
        name: record.title(),
        id: record.key.container.clone(),
        door: record.key.door.as_str().to_owned(),
        interface: if record.tap.is_some() { record.host_interface.clone() } else { record.key.interface.clone() },
        addresses: record.addresses.clone(),
        ports: record.ports.iter().map(ToString::to_string).collect(),
        isolated: record.isolated,
        since: record.created,
    }
}

/// What is wrong with containers that have addresses of a subnet that the node does not hold, or not any more; nothing if there are none.
pub fn strangers(records: &[Record], subnets: &[IpNet]) -> Option<String> {
    let is_foreign = |net: &&IpNet| !subnets.iter().any(|subnet| subnet.contains(&net.addr()));
    let cut_off: Vec<(String, &IpNet)> =
        records.iter().filter_map(|record| Some((record.title(), record.addresses.iter().find(is_foreign)?))).collect();
    let (_, net) = cut_off.first()?;
    let mut named: Vec<&str> = cut_off.iter().take(NAMED).map(|(title, _)| title.as_str()).collect();
    let more = cut_off.len().saturating_sub(NAMED).to_string() + " more";
    if cut_off.len() > NAMED {
        named.push(&more);
    }
    let verb = if cut_off.len() == 1 { "has an address" } else { "have addresses" };
    Some(format!(
        "{} {verb} of {}, which this node does not hold, and nobody reaches them there: start them anew, and they get others",
        named.join(", "),
        net.trunc()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::tests::record;

    #[test]
    fn who_has_an_address_of_another_subnet_is_named() {
        let subnets = ["10.42.7.0/24".parse().unwrap(), "fd77::/64".parse().unwrap()];
        let own = record("c1", &["10.42.7.2/24", "fd77::2/64"]);
        assert_eq!(strangers(std::slice::from_ref(&own), &subnets), None);
        let mut former = record("0123456789abcdef", &["10.42.6.2/24"]);
        let said = strangers(&[own.clone(), former.clone()], &subnets).unwrap();
        assert!(
            said.starts_with("0123456789ab has an address of 10.42.6.0/24, which this node does not hold"),
            "{said}"
        );
        former.name = Some("web".into());
        let said = strangers(&[former.clone(), own], &[]).unwrap();
        assert!(said.starts_with("web, c1 have addresses of 10.42.6.0/24,"), "{said}");
        let said = strangers(&vec![former; 10], &subnets).unwrap();
        assert!(said.contains("web, 2 more have addresses"), "{said}");
    }
}

//! `adit docker-options`: what dockerd is to be told so that its own bridge has this node's addresses, as flannel's script does it.

use std::fmt;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::container::{Fault, FaultKind, Node, Record};

/// Options of dockerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOptions {
    /// The address of its bridge.
    bridge: IpNet,
    /// The part of the subnet that it gives out, where not all of it.
    fixed: Option<IpNet>,
    /// The same of IPv6, where the node has it.
    fixed6: Option<IpNet>,
    mtu: u32,
}

impl DockerOptions {
    /// Those for this node, which has these containers.
    ///
    /// # Errors
    /// The node has no IPv4, without which Docker's bridge cannot be; or its addresses are given out by adit already.
    pub fn of(node: &Node, records: &[Record]) -> Result<Self, Fault> {
        if let Some(record) = records.first() {
            let sentence = format!(
                "adit gives the addresses of this node to containers already, {} among them, and Docker cannot give out the same ones; remove \
                 them first, or use `adit docker-plugin`, which shares with them",
                record.title()
            );
            return Err(Fault::new(FaultKind::Exists, sentence));
        }
        let Some(bridge) = node.gateways().find(|gateway| gateway.addr().is_ipv4()) else {
            let sentence = "this node has no IPv4, and Docker's own bridge needs it; use `adit docker-plugin` with `docker network create \
                            --ipv4=false --ipv6`, of Docker 28 and later";
            return Err(Fault::new(FaultKind::NotReady, sentence));
        };
        let part = |v6: bool| -> Option<IpNet> {
            node.subnets.iter().find(|subnet| subnet.addr().is_ipv6() == v6).map(|subnet| below_clients(node, *subnet))
        };
        let fixed = part(false).filter(|part| part.prefix_len() != bridge.prefix_len());
        Ok(Self { bridge, fixed, fixed6: part(true), mtu: node.mtu })
    }

    /// As keys of Docker's `daemon.json`.
    pub fn to_json(&self) -> Value {
        let mut keys = Map::new();
        keys.insert("bip".into(), json!(self.bridge.to_string()));
        if let Some(fixed) = self.fixed {
            keys.insert("fixed-cidr".into(), json!(fixed.to_string()));
        }
        if let Some(fixed) = self.fixed6 {
            keys.insert("ipv6".into(), json!(true));
            keys.insert("fixed-cidr-v6".into(), json!(fixed.to_string()));
        }
        keys.insert("mtu".into(), json!(self.mtu));
        keys.insert("ip-masq".into(), json!(false));
        Value::Object(keys)
    }
}

/// As words of dockerd's command line.
impl fmt::Display for DockerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--bip={}", self.bridge)?;
        if let Some(fixed) = self.fixed {
            write!(f, " --fixed-cidr={fixed}")?;
        }
        if let Some(fixed) = self.fixed6 {
            write!(f, " --ipv6 --fixed-cidr-v6={fixed}")?;
        }
        write!(f, " --mtu={} --ip-masq=false", self.mtu)
    }
}

/// The largest lower part of a subnet that has no address of the node's clients, which are given out from above.
fn below_clients(node: &Node, subnet: IpNet) -> IpNet {
    let mut part = subnet.trunc();
    while node.clients.iter().any(|client| part.contains(client)) {
        match IpNet::new(part.addr(), part.prefix_len() + 1) {
            Ok(lower) => part = lower,
            Err(_) => break,
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::record::tests::record;

    fn node(subnets: &[&str], clients: &[&str]) -> Node {
        Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: None,
            bridge: "adit-br0".into(),
            networks: Vec::new(),
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1420,
            clients: clients.iter().map(|text| text.parse().unwrap()).collect(),
            containers: None,
        }
    }

    fn words(subnets: &[&str], clients: &[&str]) -> String {
        DockerOptions::of(&node(subnets, clients), &[]).unwrap().to_string()
    }

    #[test]
    fn docker_is_told_what_the_node_has() {
        assert_eq!(words(&["10.42.7.0/24"], &[]), "--bip=10.42.7.1/24 --mtu=1420 --ip-masq=false");
        assert_eq!(
            words(&["10.42.7.0/24", "fd77:0:0:7::/64"], &["10.42.7.254", "fd77:0:0:7:ffff:ffff:ffff:fffe"]),
            "--bip=10.42.7.1/24 --fixed-cidr=10.42.7.0/25 --ipv6 --fixed-cidr-v6=fd77:0:0:7::/65 --mtu=1420 --ip-masq=false"
        );
        assert_eq!(
            words(&["10.42.7.0/24"], &["10.42.7.254", "10.42.7.100"]),
            "--bip=10.42.7.1/24 --fixed-cidr=10.42.7.0/26 --mtu=1420 --ip-masq=false"
        );
        let options = DockerOptions::of(&node(&["fd77:0:0:7::/64", "10.42.7.0/24"], &[]), &[]).unwrap();
        assert_eq!(
            options.to_json(),
            json!({ "bip": "10.42.7.1/24", "ipv6": true, "fixed-cidr-v6": "fd77:0:0:7::/64", "mtu": 1420, "ip-masq": false })
        );
    }

    #[test]
    fn what_docker_cannot_have_is_refused() {
        let fault = DockerOptions::of(&node(&["fd77:0:0:7::/64"], &[]), &[]).unwrap_err();
        assert!(fault.sentence.contains("--ipv4=false --ipv6"), "{fault}");
        let fault = DockerOptions::of(&node(&["10.42.7.0/24"], &[]), &[record("c1", &["10.42.7.2/24"])]).unwrap_err();
        assert!(fault.kind == FaultKind::Exists && fault.sentence.contains("c1"), "{fault}");
    }
}

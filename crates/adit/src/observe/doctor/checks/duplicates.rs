//! What should be one and is two: keys, addresses, subnets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::facts::Daemon;
use super::super::{Check, Facts, Finding, Kind, word};

static KEY: Kind = Kind::broken(
    "duplicate-key",
    "two have the same key: a host was copied with its key, or a key was written for another peer",
);
static ADDRESS: Kind = Kind::broken("duplicate-address", "an address of a container is somebody else's too");
static SUBNET: Kind = Kind::broken("duplicate-subnet", "two nodes have the same addresses");
static ENDPOINT: Kind = Kind::warning("duplicate-endpoint", "two peers are at the same address and port");

/// Duplicates.
pub(in super::super) const CHECK: Check = Check {
    id: "duplicates",
    title: "no key, address or subnet is there twice",
    kinds: &[&KEY, &ADDRESS, &SUBNET, &ENDPOINT],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        let mut of_key: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        if let Ok(examination) = &daemon.examination {
            for key in &examination.public_keys {
                of_key.extend([("sealed", key.as_str()), ("wireguard", key.as_str())].map(|key| (key, "this host")));
            }
        }
        let mut at: BTreeMap<&str, &str> = BTreeMap::new();
        for peer in &status.peers {
            if let Some(key) = &peer.public_key
                && let Some(other) = of_key.insert((&peer.transport, key), &peer.name)
            {
                findings.push(
                    KEY.found(format!("{} and {} have the same public key", peer.name, other))
                        .on(device)
                        .seen(key.clone())
                        .advise(format!(
                            "give one of them a key of its own, and write its public key into {} as `public-key` of {}",
                            daemon.file(),
                            peer.name
                        ))
                        .run("adit keygen"),
                );
            }
            if let Some(endpoint) = &peer.endpoint
                && let Some(other) = at.insert(endpoint, &peer.name)
            {
                findings.push(
                    ENDPOINT.found(format!("{} and {other} are both at {endpoint}", peer.name)).on(device).advise(
                        format!("one socket is one peer: correct the `endpoint` of one of them in {}", daemon.file()),
                    ),
                );
            }
        }
        if let Some(network) = &status.network {
            let ours = network.subnets.iter().map(|net| (*net, network.node.as_str()));
            let theirs =
                network.nodes.iter().flat_map(|node| node.subnets.iter().map(|net| (*net, node.name.as_str())));
            let all: Vec<_> = ours.chain(theirs).collect();
            for (i, (net, node)) in all.iter().enumerate() {
                for (other, whose) in
                    all.iter().skip(i + 1).filter(|(other, _)| net.contains(other) || other.contains(net))
                {
                    findings.push(
                        SUBNET
                            .found(format!("{net} of {node} and {other} of {whose} overlap"))
                            .on(device)
                            .advise("stop one of the two daemons, and start it again: it takes a subnet that is free"),
                    );
                }
            }
        }
        findings.extend(containers(facts, daemon).into_iter().map(|finding| finding.on(device)));
    }
    let mut seen = BTreeSet::new();
    findings.retain(|finding| seen.insert((finding.kind.id, finding.sentence.clone())));
    findings
}

fn containers(facts: &Facts, daemon: &Daemon) -> Vec<Finding> {
    let host = &facts.host;
    let bridge = daemon.bridge.as_deref().and_then(|bridge| host.index(bridge));
    let mut findings = Vec::new();
    let mut of: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for container in &daemon.containers {
        let name = container.shown.name.as_str();
        for address in container.shown.addresses.iter().map(ipnet::IpNet::addr) {
            if let Some(other) = of.insert(address, name) {
                findings.push(
                    ADDRESS
                        .found(format!("the containers {other} and {name} both have {address}"))
                        .advise("stop one of them and start it again")
                        .run("adit ps"),
                );
            }
            if let Some(card) = host.card_of(address) {
                let on = host.device(card);
                findings.push(
                    ADDRESS
                        .found(format!("{address} is the container {name}'s, and this host has it on {on} too"))
                        .run(facts.as_root(format!("ip address del {} dev {}", with_length(facts, address), word(on)))),
                );
            }
            let known = host.neighbours.iter().find(|n| Some(n.index) == bridge && n.address == address);
            if let Some(mac) = known.and_then(|neighbour| neighbour.mac).filter(|mac| *mac != container.mac) {
                let on = daemon.bridge.as_deref().unwrap_or("the bridge");
                let text = mac.map(|byte| format!("{byte:02x}")).join(":");
                findings.push(
                    ADDRESS
                        .found(format!("{address} is the container {name}'s, and somebody else on {on} answers for it"))
                        .seen(format!("neighbour {address} is at {text}, the container at {}", container.mac.map(|b| format!("{b:02x}")).join(":")))
                        .advise(format!("take the address from whoever has that link-layer address (`bridge fdb show br {on}` says behind which port), then forget it"))
                        .run(facts.as_root(format!("ip neighbour del {address} dev {}", word(on)))),
                );
            }
        }
    }
    findings
}

fn with_length(facts: &Facts, address: IpAddr) -> String {
    let own = facts.host.addresses.iter().find(|own| own.net.addr() == address);
    own.map_or_else(|| address.to_string(), |own| own.net.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::{address, status};
    use super::super::tests::{found, found_on_node, ids};
    use super::*;

    #[test]
    fn keys_and_endpoints_are_compared() {
        let findings = found(&CHECK, |facts| status(facts).peers[0].public_key = Some("ours".into()));
        assert_eq!(ids(&findings), ["duplicate-key"]);
        assert_eq!(findings[0].sentence, "berlin and this host have the same public key");
        let findings = found(&CHECK, |facts| {
            let other = status(facts).peers[0].clone();
            status(facts).peers.push(crate::api::status::PeerStatus { name: "oslo".into(), ..other });
        });
        assert_eq!(ids(&findings), ["duplicate-key", "duplicate-endpoint"]);
    }

    #[test]
    fn addresses_of_containers_are_theirs_alone() {
        let twice = found_on_node(&CHECK, |facts| {
            let container = facts.daemons[0].containers[0].clone();
            facts.daemons[0].containers.push(container);
        });
        assert_eq!(ids(&twice), ["duplicate-address"]);
        let here = found_on_node(&CHECK, |facts| facts.host.addresses.push(address(2, "10.42.7.2/24")));
        assert_eq!(here[0].commands, ["ip address del 10.42.7.2/24 dev eth0"]);
        let other = found_on_node(&CHECK, |facts| {
            facts.host.neighbours.push(linux::netlink::Neighbour {
                index: 4,
                address: "10.42.7.2".parse().unwrap(),
                mac: Some([2; 6]),
                state: linux::netlink::NeighbourState::Reachable,
            });
        });
        assert!(other[0].evidence[0].contains("02:02:02:02:02:02"), "{other:?}");
    }

    #[test]
    fn nodes_with_the_same_addresses_are_named() {
        let findings = found_on_node(&CHECK, |facts| {
            let network = status(facts).network.as_mut().unwrap();
            network.nodes[0].subnets = network.subnets.clone();
        });
        assert_eq!(ids(&findings), ["duplicate-subnet"]);
    }
}

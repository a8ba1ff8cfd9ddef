//! Whether the networks behind the tunnel are somebody else's too: routes of the host that lead there by another device, and networks of the host
//! that the tunnel takes a part of.

use ipnet::IpNet;
use linux::netlink::{PROTOCOL, Route, RouteKind};

use super::super::{Check, Facts, Finding, Kind};
use super::neighbours::owner;
use crate::plan::MAIN;

/// Who made a route: the kernel, for an address (`RTPROT_KERNEL`).
const KERNEL: u8 = 2;

static STOLEN: Kind = Kind::broken("subnet-stolen", "a route of others leads to a network behind the tunnel, and wins");
static SHARED: Kind = Kind::warning(
    "subnet-shared",
    "a network of this host and one behind the tunnel overlap: some hosts of the former cannot be reached",
);

/// Overlaps.
pub(in super::super) const CHECK: Check = Check {
    id: "subnets",
    title: "networks behind the tunnel are nobody else's on this host",
    kinds: &[&STOLEN, &SHARED],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let mut findings: Vec<Finding> = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        let tunnel = host.index(device);
        let network = status.network.as_ref();
        let own: Vec<IpNet> = network.map(|network| network.subnets.clone()).unwrap_or_default();
        let peers = status.peers.iter().flat_map(|peer| peer.allowed_ips.iter().map(|net| (*net, peer.name.as_str())));
        let networks = network.into_iter().flat_map(|network| network.networks.iter().map(|net| (*net, "the network")));
        // A tunnel that takes everything has its own table, and shares it with nobody.
        let behind: Vec<(IpNet, &str)> = peers.chain(networks).filter(|(net, _)| net.prefix_len() > 0).collect();
        let is_foreign = |route: &&Route| {
            let by_us = route.protocol == PROTOCOL || route.device == tunnel || route.device.is_none();
            // Containers of this node: on its bridge, or on one that a plugin made for the lease.
            let of_ours = own.iter().any(|subnet| subnet.contains(&route.destination));
            let is_bridge =
                daemon.bridge.as_deref().is_none_or(|bridge| route.device.map(|i| host.device(i)) == Some(bridge));
            route.table == MAIN && route.kind == RouteKind::Unicast && !by_us && !(of_ours && is_bridge)
        };
        for route in host.routes.iter().filter(is_foreign) {
            let (to, via) = (route.destination, route.device.map_or("?", |index| host.device(index)));
            let inside = behind.iter().filter(|(net, _)| net.contains(&to)).max_by_key(|(net, _)| net.prefix_len());
            let around = || behind.iter().find(|(net, _)| to.contains(net) && to.prefix_len() > 0 && to != *net);
            if let Some((net, whose)) = inside {
                // Of two routes to the same network the kernel has said which it takes.
                let ours_wins = *net == to && daemon.behind.get(net).is_some_and(|way| *way == tunnel);
                let kind = if ours_wins { &SHARED } else { &STOLEN };
                let what = if ours_wins { "leads there too" } else { "wins" };
                findings.push(
                    explain(
                        kind.found(format!("{net} of {whose} is behind {device}, and a route to {to} by {via} {what}")),
                        facts,
                        route,
                    )
                    .on(device),
                );
            } else if let (Some((net, whose)), KERNEL) = (around(), route.protocol) {
                findings.push(
                    SHARED
                        .found(format!("{net} of {whose} is behind {device}, and lies within {to}, the network on {via}"))
                        .on(device)
                        .seen(format!("route to {to} by {via}; {device} wins for {net}"))
                        .advise(format!(
                            "hosts of {to} that have addresses of {net} cannot be reached from here: number one of the two anew"
                        )),
                );
            }
        }
    }
    findings
}

fn explain(finding: Finding, facts: &Facts, route: &Route) -> Finding {
    let via = route.device.map_or("?", |index| facts.host.device(index));
    let six = if route.destination.addr().is_ipv6() { "-6 " } else { "" };
    let by = route.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
    let metric = route.metric.filter(|metric| *metric > 0).map_or(String::new(), |metric| format!(" metric {metric}"));
    let whose = owner(via, facts).map_or(String::new(), |owner| format!(", which is {owner}'s"));
    let finding = finding
        .seen(format!("{}{by} dev {via}{metric}{whose}", route.destination))
        .run(facts.as_root(format!("ip {six}route del {}{by} dev {via}{metric}", route.destination)));
    match (owner(via, facts), route.protocol) {
        (Some("Docker"), _) => finding.advise(
            "it comes back with the network: make that anew with another `--subnet` (`docker network ls` has its name), or set \
             `default-address-pools` in /etc/docker/daemon.json",
        ),
        (_, KERNEL) => finding.advise(format!("it comes back with the address on {via}: choose another for good")),
        _ => finding.advise("find out who made it, or it may come back"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::{link, route};
    use super::super::tests::{found, found_on_node, ids};
    use super::*;

    #[test]
    fn routes_of_others_are_told_by_whether_they_win() {
        for (destination, protocol, id) in [
            ("10.77.0.2/32", 3, Some("subnet-shared")),
            ("10.77.0.128/25", 3, None),
            ("10.77.0.0/24", 3, None),
            ("10.0.0.0/8", 3, None),
            ("10.0.0.0/8", KERNEL, Some("subnet-shared")),
            ("172.16.0.0/12", KERNEL, None),
        ] {
            let findings = found(&CHECK, |facts| facts.host.routes.push(route(destination, 2, protocol)));
            assert_eq!(ids(&findings), id.into_iter().collect::<Vec<_>>(), "{destination}");
        }
        let findings = found(&CHECK, |facts| {
            facts.host.routes.push(route("10.77.0.2/32", 2, 3));
            facts.daemons[0].behind.values_mut().for_each(|way| *way = Some(2));
        });
        assert_eq!(ids(&findings), ["subnet-stolen"]);
        assert_eq!(findings[0].commands, ["ip route del 10.77.0.2/32 dev eth0"]);
    }

    #[test]
    fn docker_within_the_network_is_named() {
        let findings = found_on_node(&CHECK, |facts| {
            facts.host.links.push(link(8, "docker0", Some("bridge")));
            facts.host.routes.push(route("10.42.9.0/24", 8, KERNEL));
        });
        assert_eq!(ids(&findings), ["subnet-stolen"]);
        assert!(findings[0].evidence[0].contains("Docker's") && findings[0].advice.contains("docker network"));
        let same = found_on_node(&CHECK, |facts| {
            facts.host.links.push(link(8, "docker0", Some("bridge")));
            facts.host.routes.push(route("10.42.7.0/24", 8, KERNEL));
        });
        assert_eq!(ids(&same), ["subnet-stolen"], "our own subnet on another bridge");
    }
}

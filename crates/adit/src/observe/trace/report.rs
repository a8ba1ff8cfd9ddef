//! What a host says beside observations: counters before and after, and what is set there that may stop a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};

use linux::netlink::{Link, Netlink, RouteKind};
use linux::sysctl;

use super::observation::{Direction, Fact, IcmpKind, Observation, Place};
use crate::api::status::PeerStatus;
use crate::observe::facts::Facts;

/// Devices of which something is said at most.
const MAX_DEVICES: usize = 32;

/// By which device a route leads to an address that this host has.
pub(super) const LOOPBACK: &str = "lo";

/// What a peer's own network says of it.
pub(super) const NOBODY_LISTENS: &str = "its host says that nobody listens at its port: no daemon runs there";
pub(super) const NOBODY_ANSWERS: &str = "nobody answers for its address on the network that it is in";

/// Ports of a bridge that are looked at to find a neighbour.
const MAX_PORTS: usize = 256;

/// All that counts on this host and may explain why a packet went no further.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// As they are now.
    pub(super) fn read(facts: &Facts) -> Self {
        let mut all = BTreeMap::new();
        all.extend(facts.status().drops.into_iter().map(|(reason, count)| (format!("adit:{reason}"), count)));
        for file in ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"] {
            all.extend(pairs_of_lines(&fs::read_to_string(file).unwrap_or_default()));
        }
        all.extend(one_per_line(&fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default()));
        let links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
        for link in links {
            let counts = link.statistics;
            for (what, count) in [
                ("rx_dropped", counts.rx_dropped),
                ("tx_dropped", counts.tx_dropped),
                ("rx_errors", counts.rx_errors),
                ("tx_errors", counts.tx_errors),
            ] {
                all.insert(format!("card:{}:{what}", link.name), count);
            }
        }
        Self(all)
    }

    /// What has grown since `before`, and by how much.
    pub(super) fn since(&self, before: &Self) -> BTreeMap<String, u64> {
        let grown = self.0.iter().filter_map(|(name, now)| {
            // A device that is new counts from nothing.
            let by = now.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (by > 0).then(|| (name.clone(), by))
        });
        grown.collect()
    }
}

/// `/proc/net/snmp` and `netstat`: two lines per group, names and values.
fn pairs_of_lines(text: &str) -> Vec<(String, u64)> {
    let mut pairs = Vec::new();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let Some((group, names)) = names.split_once(':') else { continue };
        let values = values.split_once(':').map_or("", |(_, values)| values);
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            // One of them, TCP's MaxConn, may be negative.
            pairs.extend(value.parse().ok().map(|value| (format!("{}:{name}", group.to_lowercase()), value)));
        }
    }
    pairs
}

/// `/proc/net/snmp6`: `Ip6InNoRoutes  3`.
fn one_per_line(text: &str) -> Vec<(String, u64)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        let (group, name) = name.split_once('6')?;
        Some((format!("{}6:{name}", group.to_lowercase()), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// What is set on this host, as far as probes to `destination` met it.
pub(super) fn facts(facts: &Facts, destination: IpAddr, peer: Option<&str>, observations: &[Observation]) -> Vec<Fact> {
    let mut found = Vec::new();
    let mut devices: BTreeSet<(&str, bool)> = BTreeSet::new();
    for seen in observations {
        if let Place::Device { name, direction, .. } = &seen.place {
            devices.insert((name, *direction == Direction::In));
        }
    }
    let Ok(mut netlink) = Netlink::open() else { return found };
    let links = netlink.links().unwrap_or_default();
    let (mut leaves_by, mut port) = (None, None);
    match netlink.route_to(destination) {
        Ok(route) if route.kind == RouteKind::Local => {
            found.push(Fact::RouteVia { to: destination, device: LOOPBACK.into(), gateway: None });
        }
        Ok(route) => {
            let device = links.iter().find(|link| link.index == route.device).map(|link| link.name.clone());
            let device = device.unwrap_or_default();
            leaves_by = Some(device.clone());
            port = facts
                .port_of_container(destination)
                .or_else(|| port_towards(&mut netlink, &links, route.device, route.gateway.unwrap_or(destination)));
            found.push(Fact::RouteVia { to: destination, device, gateway: route.gateway });
        }
        Err(_) => found.push(Fact::NoRoute { to: destination }),
    }
    let (v4, family) = (destination.is_ipv4(), if destination.is_ipv4() { 4 } else { 6 });
    let forwarding =
        if v4 { ["net", "ipv4", "conf", "all", "forwarding"] } else { ["net", "ipv6", "conf", "all", "forwarding"] };
    if let Ok(value) = sysctl::get(&forwarding) {
        found.push(Fact::Forwarding { family, on: value != "0" });
    }
    if v4 {
        for (device, _) in devices.iter().filter(|(_, came_in)| *came_in).take(MAX_DEVICES) {
            let of = |name: &str| {
                let value = sysctl::get(&["net", "ipv4", "conf", name, "rp_filter"]);
                value.ok().and_then(|value| value.parse::<u32>().ok()).unwrap_or(0)
            };
            found.push(Fact::RpFilter { device: (*device).to_owned(), value: of("all").max(of(device)) });
        }
    }
    let named: BTreeSet<&str> = devices.iter().map(|(name, _)| *name).chain(leaves_by.as_deref()).collect();
    let named: BTreeSet<&str> = named.into_iter().chain(port.as_deref()).collect();
    for link in links.iter().filter(|link| named.contains(link.name.as_str())).take(MAX_DEVICES) {
        found.push(Fact::Mtu { device: link.name.clone(), mtu: link.mtu });
    }
    let status = facts.status();
    if let Some(peer) = peer.and_then(|name| status.peers.iter().find(|peer| peer.name == name)) {
        found.extend(of_peer(peer));
    }
    found
}

/// The port of a bridge behind which a neighbour was last heard.
fn port_towards(netlink: &mut Netlink, links: &[Link], bridge: u32, neighbour: IpAddr) -> Option<String> {
    let neighbours = netlink.neighbours(None).ok()?;
    let known = neighbours.iter().find(|known| known.index == bridge && known.address == neighbour)?;
    let mac = known.mac?;
    let mut ports = links.iter().filter(|link| link.controller == Some(bridge)).take(MAX_PORTS);
    let port = ports.find(|port| {
        let entries = netlink.forwarding(port.index).unwrap_or_default();
        entries.iter().any(|entry| entry.mac == mac)
    });
    port.map(|port| port.name.clone())
}

/// What an ICMP error about a datagram to a peer says about that peer; where it says nothing of a peer, it stays what it is.
pub(super) fn about_peer(facts: &Facts, error: Fact) -> Fact {
    let Fact::Icmp { from, kind, .. } = &error else { return error };
    let problem = match kind {
        IcmpKind::PortUnreachable => NOBODY_LISTENS,
        IcmpKind::HostUnreachable => NOBODY_ANSWERS,
        _ => return error,
    };
    let status = facts.status();
    let is_there = |peer: &&PeerStatus| {
        let at = peer.endpoint.as_ref().and_then(|endpoint| endpoint.parse::<SocketAddr>().ok());
        at.is_some_and(|at| at.ip().to_canonical() == from.to_canonical())
    };
    // A router says it of a host behind it.
    let named = status.peers.iter().find(is_there).or_else(|| match &status.peers[..] {
        [only] => Some(only),
        _ => None,
    });
    match named {
        Some(peer) => Fact::PeerDown { peer: peer.name.clone(), problem: problem.into() },
        None => error,
    }
}

/// What the daemon says of a peer on the way.
fn of_peer(peer: &PeerStatus) -> Vec<Fact> {
    let mut found = Vec::new();
    if let Some(mtu) = peer.path_mtu.and_then(|mtu| u32::try_from(mtu).ok()) {
        found.push(Fact::PathMtu { peer: peer.name.clone(), mtu });
    }
    if peer.secure && peer.session != "up" {
        let problem = peer.problem.clone().unwrap_or_else(|| match peer.session.as_str() {
            "handshaking" => "it does not answer handshakes".to_owned(),
            _ => "there is no session with it".to_owned(),
        });
        found.push(Fact::PeerDown { peer: peer.name.clone(), problem });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_kernel_are_read_by_group() {
        let text = "Ip: Forwarding InNoRoutes\nIp: 1 7\nTcp: RtoMin MaxConn\nTcp: 200 -1\nodd\n";
        assert_eq!(
            pairs_of_lines(text),
            [("ip:Forwarding".to_owned(), 1), ("ip:InNoRoutes".into(), 7), ("tcp:RtoMin".into(), 200)]
        );
        assert_eq!(
            one_per_line("Ip6InNoRoutes    \t3\nUdp6NoPorts 4\nbroken\n"),
            [("ip6:InNoRoutes".to_owned(), 3), ("udp6:NoPorts".into(), 4)]
        );
    }

    #[test]
    fn only_what_grew_is_told() {
        let read = |pairs: &[(&str, u64)]| Counters(pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect());
        let before = read(&[("a", 1), ("b", 2), ("c", 9)]);
        let after = read(&[("a", 1), ("b", 5), ("c", 3), ("d", 1)]);
        assert_eq!(after.since(&before), [("b".to_owned(), 3), ("d".to_owned(), 1)].into());
    }
}

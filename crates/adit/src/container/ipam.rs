//! Which address a container gets: pure, from what others have.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Fault, FaultKind, Node, Record};

/// What is given to nobody: by the node's own clients and containers.
pub fn taken(node: &Node, records: &[Record]) -> HashSet<IpAddr> {
    let containers = records.iter().flat_map(|record| &record.addresses).map(IpNet::addr);
    node.clients.iter().copied().chain(containers).collect()
}

/// An address of each subnet of the node, each with the prefix length of its subnet. `wanted` are asked for by name, at most one per subnet. `last`
/// are those that were given out last: the search goes on behind them, so that an address rests before somebody else has it.
///
/// # Errors
/// [`FaultKind::Exhausted`], [`FaultKind::AddressTaken`], or [`FaultKind::Invalid`] for one that is not the node's to give.
pub fn choose(node: &Node, taken: &HashSet<IpAddr>, wanted: &[IpAddr], last: &[IpAddr]) -> Result<Vec<IpNet>, Fault> {
    for (n, ip) in wanted.iter().enumerate() {
        let Some(subnet) = node.subnets.iter().find(|subnet| subnet.contains(ip)) else {
            let subnets: Vec<_> = node.subnets.iter().map(ToString::to_string).collect();
            let sentence = format!("the address {ip} is not one of this node, which has {}", subnets.join(" and "));
            return Err(Fault::new(FaultKind::Invalid, sentence));
        };
        if wanted.iter().take(n).any(|other| subnet.contains(other)) {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("two addresses of {subnet} are asked for: ask for one"),
            ));
        }
        let (first, end) = bounds(subnet);
        if !(first..end).contains(&number(*ip)) {
            let sentence = format!(
                "the address {ip} is no container's: the first two of {subnet} are the node's, and the last is for all"
            );
            return Err(Fault::new(FaultKind::Invalid, sentence));
        }
        if taken.contains(ip) {
            return Err(Fault::new(FaultKind::AddressTaken, format!("the address {ip} is another's already")));
        }
    }
    node.subnets
        .iter()
        .map(|subnet| {
            let asked = wanted.iter().find(|ip| subnet.contains(*ip)).copied();
            let after = last.iter().find(|ip| subnet.contains(*ip)).copied();
            let ip = asked.or_else(|| next_free(subnet, taken, after)).ok_or_else(|| {
                let sentence = format!(
                    "no address of {subnet} is free; remove containers, or found a network with larger subnets"
                );
                Fault::new(FaultKind::Exhausted, sentence)
            })?;
            IpNet::new(ip, subnet.prefix_len()).map_err(|e| Fault::new(FaultKind::Invalid, e.to_string()))
        })
        .collect()
}

/// The next free address behind `after`, or from the start on.
fn next_free(subnet: &IpNet, taken: &HashSet<IpAddr>, after: Option<IpAddr>) -> Option<IpAddr> {
    let (first, end) = bounds(subnet);
    let start = after.map_or(first, |after| number(after).saturating_add(1)).clamp(first, end.max(first));
    // No more steps than addresses are taken can fail.
    let most = taken.len() as u128 + 1;
    let candidates = (start..end).take(usize::try_from(most).unwrap_or(usize::MAX));
    let again = (first..start).take(usize::try_from(most).unwrap_or(usize::MAX));
    candidates.chain(again).map(|n| address(n, subnet)).find(|ip| !taken.contains(ip))
}

/// The first address of a container, and the one behind the last: the first two are the node's, and the last of IPv4 is for all.
fn bounds(subnet: &IpNet) -> (u128, u128) {
    let (network, last) = (number(subnet.network()), number(subnet.broadcast()));
    let end = if subnet.addr().is_ipv4() { last } else { last.saturating_add(1) };
    (network.saturating_add(2), end)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, subnet: &IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(subnets: &[&str]) -> Node {
        let subnets: Vec<IpNet> = subnets.iter().map(|text| text.parse().unwrap()).collect();
        Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: Some("adit".into()),
            bridge: "adit-br0".into(),
            networks: Vec::new(),
            subnets,
            mtu: 1420,
            clients: Vec::new(),
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_given_in_order_and_rest_before_they_are_given_again() {
        let node = node(&["10.42.7.0/24", "fd77:0:0:7::/64"]);
        let given = choose(&node, &HashSet::new(), &[], &[]).unwrap();
        assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.7.2/24", "fd77:0:0:7::2/64"]);
        let last = ips(&["10.42.7.254", "fd77:0:0:7::9"]);
        let given = choose(&node, &HashSet::from_iter(ips(&["10.42.7.2"])), &[], &last).unwrap();
        assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.7.3/24", "fd77:0:0:7::a/64"]);
        let given = choose(&node, &HashSet::new(), &ips(&["10.42.7.77"]), &last).unwrap();
        assert_eq!(given[0].to_string(), "10.42.7.77/24");
    }

    #[test]
    fn what_is_not_the_nodes_to_give_is_refused() {
        let node = node(&["10.42.7.0/24"]);
        let taken = HashSet::from_iter(ips(&["10.42.7.9"]));
        for (wanted, kind) in [
            (&["10.42.8.2"][..], FaultKind::Invalid),
            (&["10.42.7.0"], FaultKind::Invalid),
            (&["10.42.7.1"], FaultKind::Invalid),
            (&["10.42.7.255"], FaultKind::Invalid),
            (&["fd77::2"], FaultKind::Invalid),
            (&["10.42.7.2", "10.42.7.3"], FaultKind::Invalid),
            (&["10.42.7.9"], FaultKind::AddressTaken),
        ] {
            assert_eq!(choose(&node, &taken, &ips(wanted), &[]).unwrap_err().kind, kind, "{wanted:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_and_all_is_given(length in 26u8..=32, last: Option<u8>, clients: u8) {
            let subnet: IpNet = format!("10.42.7.0/{length}").parse().unwrap();
            let mut node = node(&[&subnet.to_string()]);
            node.clients = subnet.hosts().skip(4).take(usize::from(clients % 4)).collect();
            let mut taken = taken(&node, &[]);
            let mut last: Vec<IpAddr> = last.map(|n| IpAddr::from([10, 42, 7, n])).into_iter().collect();
            let mut given = Vec::new();
            while let Ok(addresses) = choose(&node, &taken, &[], &last) {
                let ip = addresses[0].addr();
                prop_assert!(subnet.contains(&ip) && taken.insert(ip), "{ip}");
                prop_assert!(ip != subnet.network() && ip != subnet.broadcast() && Some(ip) != node.gateways().next().map(|net| net.addr()));
                last = vec![ip];
                given.push(ip);
            }
            let all = (1u32 << (32 - u32::from(length))).saturating_sub(3) as usize;
            let clients = node.clients.iter().filter(|ip| **ip != subnet.broadcast()).count();
            prop_assert_eq!(given.len(), all.saturating_sub(clients));
        }
    }
}

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

/// An address for a card on a LAN: of each family the next free one of its `reserve`, with the prefix length of that of the networks `lan` it is in.
/// `taken` and `last` are as for [`choose`].
///
/// # Errors
/// [`FaultKind::Exhausted`].
pub fn of_reserve(
    reserve: &[IpNet],
    lan: &[IpNet],
    taken: &HashSet<IpAddr>,
    last: &[IpAddr],
) -> Result<Vec<IpNet>, Fault> {
    let mut given = Vec::new();
    for v4 in [true, false] {
        let ranges: Vec<&IpNet> = reserve.iter().filter(|range| range.addr().is_ipv4() == v4).collect();
        if ranges.is_empty() {
            continue;
        }
        let free = |after: bool| {
            ranges.iter().find_map(|range| {
                let network = lan.iter().find(|net| net.contains(&range.network())).unwrap_or(range);
                let last = last.iter().find(|ip| range.contains(*ip)).filter(|_| after);
                let (first, end) = (number(range.network()), number(range.broadcast()));
                let start = last.map_or(first, |last| number(*last).saturating_add(1));
                // No more steps than addresses are taken can fail, but for the first and the last of the network.
                let most = taken.len().saturating_add(3);
                let is_free = |ip: &IpAddr| !taken.contains(ip) && is_a_hosts(*ip, network);
                let ip = (start..=end).take(most).map(|n| address(n, range)).find(is_free)?;
                IpNet::new(ip, network.prefix_len()).ok()
            })
        };
        given.push(free(true).or_else(|| free(false)).ok_or_else(|| {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let sentence = format!(
                "no address of {} is free; delete a card with `adit vm-tap NAME --delete`, or write a larger `reserve` under [device] and start the \
                 daemon again",
                ranges.join(" and ")
            );
            Fault::new(FaultKind::Exhausted, sentence)
        })?);
    }
    Ok(given)
}

/// Whether an address may be one host's: the first of a network is nobody's, and the last of IPv4 is for all, except in networks of one or two.
fn is_a_hosts(ip: IpAddr, network: &IpNet) -> bool {
    let is_small = network.prefix_len() + 1 >= network.max_prefix_len();
    is_small || (ip != network.network() && (ip.is_ipv6() || ip != network.broadcast()))
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
            containers: None,
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

    #[test]
    fn a_reserve_is_given_in_turn_and_without_what_is_no_hosts() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let said = |nets: Vec<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (reserve, lan) = (nets(&["10.20.0.252/30", "fd20::f0/124"]), nets(&["10.20.0.1/24", "fd20::1/64"]));
        let mut taken = HashSet::new();
        let mut last = Vec::new();
        for expected in ["10.20.0.252/24", "10.20.0.253/24", "10.20.0.254/24"] {
            let given = of_reserve(&reserve, &lan, &taken, &last).unwrap();
            assert_eq!(given[0].to_string(), expected);
            taken.extend(given.iter().map(IpNet::addr));
            last = given.iter().map(IpNet::addr).collect();
        }
        let full = of_reserve(&reserve, &lan, &taken, &last).unwrap_err();
        assert!(full.kind == FaultKind::Exhausted && full.sentence.contains("10.20.0.252/30"), "{full}");
        taken.remove(&"10.20.0.252".parse().unwrap());
        let given = of_reserve(&reserve, &lan, &taken, &last).unwrap();
        assert_eq!(said(given), ["10.20.0.252/24", "fd20::f3/64"], "the search begins anew behind the last one");
        // Of a network that nobody knows, the range is taken for the whole of it.
        assert_eq!(said(of_reserve(&nets(&["10.20.0.0/30"]), &[], &taken, &[]).unwrap()), ["10.20.0.1/30"]);
        assert_eq!(said(of_reserve(&nets(&["10.20.0.7/32"]), &[], &taken, &[]).unwrap()), ["10.20.0.7/32"]);
        assert_eq!(said(of_reserve(&[], &lan, &taken, &[]).unwrap()), Vec::<String>::new());
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

//! Who answers for clients. They have addresses of our subnets, so that a container looks for them beside itself on its bridge, where they are not. There the
//! kernel answers in their place (RFC 1027 for ARP, RFC 4389 for neighbour discovery), and gets what is for them.

use std::net::IpAddr;

use linux::netlink::{PROTOCOL, Proxy, Route, RouteKind};

use super::{Actual, MAIN, Operation, Territory};

/// The addresses of clients, each with a device that it is looked for behind: one, other than `device`, by which a route leads to a part of our
/// subnets that the address is in.
pub fn answering(territory: &Territory, routes: &[Route], device: Option<u32>) -> Vec<Proxy> {
    let is_inside = |route: &&Route| {
        route.kind == RouteKind::Unicast
            && route.table == MAIN
            && route.gateway.is_none()
            && route.device != device
            && territory.subnets.iter().any(|subnet| subnet.contains(&route.destination))
    };
    let mut proxies: Vec<Proxy> = Vec::new();
    for route in routes.iter().filter(is_inside) {
        let Some(index) = route.device else { continue };
        for address in territory.clients.iter().filter(|address| route.destination.contains(*address)) {
            let proxy = Proxy { index, address: *address, protocol: PROTOCOL };
            proxies.extend((!proxies.contains(&proxy)).then_some(proxy));
        }
    }
    proxies
}

/// The steps to where these are answered for, and of ours no others.
pub(super) fn steps(actual: &Actual) -> Vec<Operation> {
    let same = |one: &Proxy, other: &Proxy| (one.index, one.address) == (other.index, other.address);
    let missing = actual.to_answer.iter().filter(|wanted| !actual.answered.iter().any(|other| same(wanted, other)));
    let is_wanted = |proxy: &Proxy| actual.to_answer.iter().any(|wanted| same(wanted, proxy));
    let obsolete = actual.answered.iter().filter(|proxy| proxy.protocol == PROTOCOL && !is_wanted(proxy));
    let missing = missing.copied().map(Operation::AddProxy);
    missing.chain(obsolete.copied().map(Operation::DeleteProxy)).collect()
}

/// Whether an address is one that we answer for, or did, in any run.
pub fn may_be_ours(territory: Option<&Territory>, address: IpAddr) -> bool {
    territory.is_some_and(|territory| territory.networks.iter().any(|network| network.contains(&address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_answered_for_where_they_are_looked_for() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let territory = Territory {
            networks: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
            subnets: vec!["10.42.7.0/24".parse().unwrap(), "fd42:0:0:7::/64".parse().unwrap()],
            masquerade: false,
            forward: true,
            clients: vec![ip("10.42.7.254"), ip("fd42:0:0:7:ffff::fe")],
        };
        let route = |text: &str, device| Route { device: Some(device), ..Route::new(text.parse().unwrap()) };
        let routes = [
            route("0.0.0.0/0", 2),
            route("10.42.0.0/16", 5),
            route("10.42.7.254/32", 5),
            route("10.42.7.0/24", 3),
            route("10.42.7.9/32", 4),
            route("fd42:0:0:7::/64", 3),
            route("10.42.7.0/24", 3),
        ];
        let wanted = answering(&territory, &routes, Some(5));
        let on_bridge = |address| Proxy { index: 3, address, protocol: PROTOCOL };
        assert_eq!(wanted, territory.clients.iter().map(|address| on_bridge(*address)).collect::<Vec<_>>());

        let foreign = Proxy { protocol: 0, ..wanted[0] };
        let former = on_bridge(ip("10.42.7.253"));
        let other = Proxy { protocol: 0, ..on_bridge(ip("10.42.7.252")) };
        let actual = Actual { to_answer: wanted.clone(), answered: vec![foreign, former, other], ..Actual::default() };
        assert_eq!(steps(&actual), [Operation::AddProxy(wanted[1]), Operation::DeleteProxy(former)]);
        let ending = Actual { to_answer: Vec::new(), answered: wanted.clone(), ..Actual::default() };
        assert_eq!(steps(&ending), [Operation::DeleteProxy(wanted[0]), Operation::DeleteProxy(wanted[1])]);
        assert!(may_be_ours(Some(&territory), ip("10.42.7.253")) && !may_be_ours(None, ip("10.42.7.253")));
    }
}

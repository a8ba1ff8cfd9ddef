//! What is nearby: the networks that a tunnel which takes everything leaves to the main table.
//!
//! Who controls a network controls what its hosts are told by DHCP and router advertisements, so that no route in the main table
//! may be believed for being there. Left out of the tunnel is only what cannot take packets for the world with it: networks that a
//! card is directly in, of private addresses, and not larger than such networks are; and the prefixes of other tunnels, which no
//! network can hand out.

use ipnet::IpNet;
use linux::netlink::{Family, Layer, Link, PROTOCOL, Route, RouteKind};

use super::{BLACKHOLE_METRIC, MAIN};

/// A prefix that is looked up in the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearby {
    /// A private network that a card is in.
    Network(IpNet),
    /// What lies behind another tunnel of this host.
    Tunnel(IpNet),
    /// What must not leave when another tunnel is gone; or ours.
    Blackhole(IpNet),
}

/// Who made a route: the kernel, for an address (`RTPROT_KERNEL`, linux/rtnetlink.h).
const KERNEL: u8 = 2;

/// Private networks are this long at least. A card in 10.0.0.0/8 would leave all of that to whoever assigned the address.
const SHORTEST: [(Family, u8); 2] = [(Family::V4, 16), (Family::V6, 48)];

/// Of each route of the host, what it says. `device` is ours; `links` may lack devices that nothing is to be known of.
pub fn find(routes: &[Route], links: &[Link], device: Option<u32>) -> Vec<Nearby> {
    let foreign = routes.iter().filter(|r| r.table == MAIN && r.destination.prefix_len() > 0);
    foreign
        .filter_map(|route| match route.kind {
            RouteKind::Blackhole if route.protocol == PROTOCOL && route.metric == Some(BLACKHOLE_METRIC) => {
                Some(Nearby::Blackhole(route.destination))
            }
            RouteKind::Unicast if route.device.is_some() && route.device != device => {
                if is_private_network(route) {
                    Some(Nearby::Network(route.destination))
                } else {
                    let link = links.iter().find(|link| Some(link.index) == route.device)?;
                    is_tunnel(link).then_some(Nearby::Tunnel(route.destination))
                }
            }
            _ => None,
        })
        .collect()
}

/// Whether something has to be known of the links to say what these routes mean.
pub fn asks_for_links(routes: &[Route], device: Option<u32>) -> bool {
    routes
        .iter()
        .any(|r| r.table == MAIN && r.destination.prefix_len() > 0 && r.device != device && r.gateway.is_none())
}

fn is_private_network(route: &Route) -> bool {
    let net = route.destination;
    let is_private = match net {
        IpNet::V4(net) => net.network().is_private() || net.network().is_link_local(),
        IpNet::V6(net) => net.network().is_unique_local() || net.network().is_unicast_link_local(),
    };
    let shortest = SHORTEST.iter().find(|(family, _)| *family == Family::of(net.addr())).map(|(_, length)| *length);
    // The length sees to it that no network begins in a private range and ends beyond.
    is_private && route.protocol == KERNEL && route.gateway.is_none() && shortest.is_some_and(|s| net.prefix_len() >= s)
}

/// A device that packets leave by only within another program's or the kernel's tunnel. Not every device without link layer is one:
/// some modems have none.
fn is_tunnel(link: &Link) -> bool {
    match link.kind.as_deref() {
        Some("tun") => link.layer == Layer::None,
        Some("wireguard") => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(destination: &str) -> Route {
        let route = Route::new(destination.parse().unwrap());
        Route { device: Some(2), protocol: KERNEL, ..route }
    }

    #[test]
    fn only_private_networks_of_usual_size_are_near() {
        for (net, near) in [
            ("192.168.1.0/24", true),
            ("10.0.0.0/16", true),
            ("172.31.0.0/16", true),
            ("169.254.0.0/16", true),
            ("fd00:1::/64", true),
            ("fe80::/64", true),
            ("10.0.0.0/15", false),
            ("10.0.0.0/8", false),
            ("192.168.0.0/15", false),
            ("172.32.0.0/16", false),
            ("1.2.3.0/24", false),
            ("128.0.0.0/1", false),
            ("2001:db8::/64", false),
            ("fd00::/32", false),
            ("fe80::/10", false),
        ] {
            let found = find(&[card(net)], &[], Some(7));
            assert_eq!(!found.is_empty(), near, "{net}");
        }
    }

    #[test]
    fn what_somebody_said_by_dhcp_is_not_near() {
        let local = card("192.168.1.0/24");
        let dhcp = Route { protocol: 16, ..local.clone() };
        let by_hand = Route { protocol: 3, ..local.clone() };
        let routed = Route { gateway: Some([192, 168, 1, 1].into()), ..local.clone() };
        let elsewhere = Route { table: 100, ..local.clone() };
        let own = Route { device: Some(7), ..local.clone() };
        assert_eq!(find(&[dhcp, by_hand, routed, elsewhere, own], &[], Some(7)), []);
        assert_eq!(find(std::slice::from_ref(&local), &[], Some(7)), [Nearby::Network(local.destination)]);
    }

    #[test]
    fn a_device_without_link_layer_may_be_a_modem() {
        let link = |kind: Option<&str>, layer| Link {
            index: 2,
            name: "other0".into(),
            kind: kind.map(str::to_owned),
            layer,
            mac: None,
            mtu: 1420,
            up: true,
            running: true,
            controller: None,
            port: None,
            lower: None,
            alias: None,
            tx_queue_len: 500,
            gso_max_size: 65536,
            gso_max_segs: 65535,
            statistics: linux::netlink::Statistics::default(),
        };
        let route = Route { protocol: 3, ..card("203.0.113.0/25") };
        for (link, near) in [
            (link(Some("tun"), Layer::None), true),
            (link(Some("wireguard"), Layer::None), true),
            (link(Some("tun"), Layer::Ethernet), false),
            (link(Some("veth"), Layer::Ethernet), false),
            (link(None, Layer::None), false),
        ] {
            let found = find(std::slice::from_ref(&route), &[link], Some(7));
            assert_eq!(found, near.then_some(Nearby::Tunnel(route.destination)).into_iter().collect::<Vec<_>>());
        }
        let default = Route { destination: "0.0.0.0/0".parse().unwrap(), ..route };
        assert_eq!(find(&[default], &[link(Some("tun"), Layer::None)], Some(7)), []);
    }
}

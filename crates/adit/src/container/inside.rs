//! The inner end of a container's veth pair, in its namespace: addresses, routes, settings; and whether they are as they were made.

use std::net::IpAddr;

use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink, Route};
use linux::netns::NetNs;
use linux::sysctl;

use super::{Fault, FaultKind, Node, Record};

/// The number of the loopback device of every namespace.
const LOOPBACK: u32 = 1;

/// Behind other default routes that a namespace has already.
const BEHIND: u32 = 4096;

/// Gives the inner end what the record says.
pub(super) fn configure(namespace: &NetNs, node: &Node, record: &Record, default_route: bool) -> Result<(), Fault> {
    namespace.run(|| {
        let mut netlink = Netlink::open()?;
        netlink.set_up(LOOPBACK, true)?;
        let name = &record.key.interface;
        let index = netlink.existing_link(name)?.index;
        let has6 = record.addresses.iter().any(|net| net.addr().is_ipv6());
        let settings: &[(&str, &str)] = if has6 {
            // What its address is, the node has decided: nobody on the link is asked, and nobody is believed to be a router.
            &[("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0"), ("addr_gen_mode", "0")]
        } else {
            &[("disable_ipv6", "1")]
        };
        for (setting, value) in settings {
            if let Err(e) = sysctl::set(&["net", "ipv6", "conf", name, setting], value) {
                // Where there is no IPv6, there is nothing to switch off.
                tracing::debug!("{e}");
            }
        }
        for address in &record.addresses {
            netlink.add_address(index, *address, true)?;
        }
        netlink.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        for route in routes(node, record, default_route, index) {
            add_route(&mut netlink, &route)?;
        }
        Ok(())
    })?
}

/// Another network of the container may have a default route already: then ours stands behind it.
fn add_route(netlink: &mut Netlink, route: &Route) -> linux::Result<()> {
    match netlink.add_route(route) {
        Err(error) if error.errno() == Some(17) && route.destination.prefix_len() == 0 => {
            let metric = BEHIND.saturating_add(route.device.unwrap_or_default());
            netlink.add_route(&Route { metric: Some(metric), ..route.clone() })
        }
        Err(error) if error.errno() == Some(17) => Ok(()),
        added => added,
    }
}

/// The routes of a container besides that to its own subnet: everything, or the network alone, by way of the bridge.
fn routes(node: &Node, record: &Record, default_route: bool, index: u32) -> Vec<Route> {
    let mut routes = Vec::new();
    for gateway in node.gateways().map(|net| net.addr()) {
        if !record.addresses.iter().any(|net| net.addr().is_ipv4() == gateway.is_ipv4()) {
            continue;
        }
        let to: Vec<IpNet> = if default_route {
            vec![everything(gateway)]
        } else {
            node.networks.iter().filter(|net| net.addr().is_ipv4() == gateway.is_ipv4()).map(IpNet::trunc).collect()
        };
        let via = |destination| Route {
            gateway: Some(gateway),
            device: Some(index),
            // As `ip route add` has it: this is the container's table, in which nothing else is ours.
            protocol: BOOT,
            ..Route::new(destination)
        };
        // Where the whole network is one subnet, nothing of it is behind the gateway.
        let is_beyond = |net: &IpNet| !node.subnets.iter().any(|subnet| subnet.trunc() == *net);
        routes.extend(to.into_iter().filter(is_beyond).map(via));
    }
    routes
}

/// `RTPROT_BOOT` (linux/rtnetlink.h).
const BOOT: u8 = 3;

fn everything(like: IpAddr) -> IpNet {
    let ip: IpAddr = if like.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    IpNet::new_assert(ip, 0)
}

/// Whether the inner end is as it was made.
pub(super) fn check(namespace: &NetNs, record: &Record) -> Result<(), Fault> {
    namespace.run(|| {
        let mut netlink = Netlink::open()?;
        let name = &record.key.interface;
        let wrong = |what: String| Fault::new(FaultKind::NotAsMade, what);
        let link = netlink.link(name)?.ok_or_else(|| wrong(format!("the container has no device {name} any more")))?;
        if link.kind.as_deref() != Some("veth") {
            return Err(wrong(format!("the device {name} of the container is no veth")));
        }
        if link.mac != Some(record.mac) {
            return Err(wrong(format!("the device {name} of the container has another link-layer address")));
        }
        if !link.up {
            return Err(wrong(format!("the device {name} of the container is down")));
        }
        let present: Vec<IpNet> = netlink.addresses(Some(link.index))?.into_iter().map(|address| address.net).collect();
        match record.addresses.iter().find(|address| !present.contains(address)) {
            Some(missing) => Err(wrong(format!("the device {name} of the container has lost its address {missing}"))),
            None => Ok(()),
        }
    })?
}

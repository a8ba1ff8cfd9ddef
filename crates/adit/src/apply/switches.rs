//! Who forwards: the settings as they are, of the devices that matter.

use std::collections::{BTreeMap, BTreeSet};

use linux::netlink::{Netlink, Proxy, Route, RouteKind};
use linux::sysctl;

use crate::Result;
use crate::plan::{MAIN, Owned, Setting, Switches, Territory};

/// The switch of all devices.
const ALL4: [&str; 5] = ["net", "ipv4", "conf", "all", "forwarding"];

/// The loopback device, which nothing is forwarded from.
const LOOPBACK: &str = "lo";

/// Reads the switches of the devices by which packets of a network come, of those where clients are to be answered for, and of those in `owned`. `routes`
/// are all of the host.
pub(super) fn read(
    netlink: &mut Netlink,
    (device, routes): (&str, &[Route]),
    territory: Option<&Territory>,
    owned: &Owned,
    to_answer: &[Proxy],
) -> Result<Switches> {
    let links = netlink.links()?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let ways = [false, true].map(|v6| {
        let leads = |route: &&Route| {
            route.destination.addr().is_ipv6() == v6 && territory.is_some_and(|territory| is_way(territory, route))
        };
        let mut ways: BTreeSet<u32> = routes.iter().filter(leads).filter_map(|route| route.device).collect();
        ways.extend(links.iter().find(|link| link.name == device).map(|link| link.index));
        ways.into_iter().filter_map(name).filter(|name| name != LOOPBACK).collect::<Vec<_>>()
    });
    let hearing: Vec<String> =
        links.iter().map(|link| &link.name).filter(|name| *name != LOOPBACK && *name != device).cloned().collect();
    let others6 = routes.iter().any(|route| {
        let is_bridge = |index| links.iter().any(|l| l.index == index && l.kind.as_deref() == Some("bridge"));
        let territory = territory.or(owned.territory.as_ref());
        let is_ours = territory.is_some_and(|t| t.networks.iter().any(|network| network.contains(&route.destination)));
        is_network(route) && route.destination.addr().is_ipv6() && !is_ours && route.device.is_some_and(is_bridge)
    });
    let answering: BTreeSet<u32> =
        to_answer.iter().filter(|proxy| proxy.address.is_ipv6()).map(|proxy| proxy.index).collect();
    let answering6: Vec<String> = answering.into_iter().filter_map(name).collect();
    let mut values = BTreeMap::new();
    let mut note = |setting: Setting| {
        // Where there is none, this host has no such family, device or switch.
        if let Some(value) = sysctl::get(&setting.path()).ok().and_then(|text| text.parse().ok()) {
            values.insert(setting, value);
        }
    };
    ways[0].iter().cloned().map(Setting::Forward4).for_each(&mut note);
    if territory.is_some_and(|territory| territory.has(true)) {
        ways[1].iter().cloned().map(Setting::Forward6).for_each(&mut note);
        if sysctl::get(&Setting::Forward6(device.to_owned()).path()).is_err() {
            hearing.iter().cloned().map(Setting::AcceptRouters).for_each(&mut note);
        }
        note(Setting::ForwardAll6);
    }
    for device in &answering6 {
        [Setting::Router6(device.clone()), Setting::Answer6(device.clone())].into_iter().for_each(&mut note);
    }
    owned.settings.keys().cloned().for_each(&mut note);
    let all4 = sysctl::get(&ALL4).is_ok_and(|value| value != "0");
    Ok(Switches { all4, values, ways, answering6, hearing, others6 })
}

/// Whether a route says that a device is in a network, or leads on from there.
fn is_network(route: &Route) -> bool {
    let destination = route.destination;
    let is_link_local = matches!(destination.addr(), std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
    route.kind == RouteKind::Unicast && !is_link_local && !destination.addr().is_multicast()
}

/// Whether packets of the network come in where this route leads out: from containers, and where the world is reached from.
fn is_way(territory: &Territory, route: &Route) -> bool {
    let is_way_out = territory.masquerade && route.table == MAIN;
    let leads_to_ours = || territory.subnets.iter().any(|subnet| subnet.contains(&route.destination));
    is_network(route) && (is_way_out || leads_to_ours())
}

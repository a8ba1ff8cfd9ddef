//! Neighbours, forwarding databases, notifications and settings against the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::net::IpAddr;

use linux::netlink::{
    Changes, Database, EVERYONE, LinkChange, Monitor, NeighbourState, Netlink, PROTOCOL, Proxy, Route, RouteKind,
    VethEnd, Vxlan,
};
use linux::sysctl;
use support::{fresh, wait_for};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A bridge that is up; answers its index.
fn bridge(netlink: &mut Netlink) -> u32 {
    netlink.create_bridge("bridge", Some([2, 0, 0, 0, 0, 1])).unwrap();
    let index = netlink.existing_link("bridge").unwrap().index;
    netlink.set_up(index, true).unwrap();
    index
}

#[test]
fn neighbours_come_and_go() {
    let (_namespace, mut netlink) = fresh();
    let index = bridge(&mut netlink);
    for address in [ip("10.0.0.9"), ip("fd00::9")] {
        netlink.add_neighbour(index, address, MAC).unwrap();
        assert_eq!(netlink.add_neighbour(index, address, MAC).unwrap_err().errno(), Some(libc::EEXIST));
        let other = [2, 0, 0, 0, 0, 10];
        netlink.replace_neighbour(index, address, other).unwrap();
        let listed = netlink.neighbours(Some(index)).unwrap();
        let entry = listed.iter().find(|entry| entry.address == address).unwrap();
        assert_eq!((entry.mac, entry.state), (Some(other), NeighbourState::Permanent));
        assert!(netlink.neighbours(Some(1)).unwrap().iter().all(|entry| entry.index == 1));
        assert!(netlink.neighbours(None).unwrap().contains(entry));
        netlink.delete_neighbour(index, address).unwrap();
        assert!(!netlink.neighbours(Some(index)).unwrap().iter().any(|entry| entry.mac == Some(other)));
    }
}

#[test]
fn the_kernel_answers_for_others() {
    let (_namespace, mut netlink) = fresh();
    let index = bridge(&mut netlink);
    for address in [ip("10.0.0.9"), ip("fd00::9")] {
        let proxy = Proxy { index, address, protocol: PROTOCOL };
        netlink.add_proxy(&proxy).unwrap();
        netlink.add_proxy(&proxy).unwrap();
        assert_eq!(netlink.proxies().unwrap(), [proxy]);
        netlink.delete_proxy(&proxy).unwrap();
        assert_eq!(netlink.proxies().unwrap(), []);
        assert_eq!(netlink.delete_proxy(&proxy).unwrap_err().errno(), Some(libc::ENOENT));
    }
}

#[test]
fn a_bridge_remembers_a_static_entry() {
    let (_namespace, mut netlink) = fresh();
    let bridge = bridge(&mut netlink);
    netlink
        .create_veth(&VethEnd { name: "port", ..VethEnd::default() }, &VethEnd { name: "host", ..VethEnd::default() })
        .unwrap();
    let port = netlink.existing_link("port").unwrap().index;
    netlink.change_link(port, &LinkChange { controller: Some(Some(bridge)), ..LinkChange::default() }).unwrap();
    netlink.add_bridge_forwarding(port, MAC).unwrap();
    let entry = *netlink.forwarding(port).unwrap().iter().find(|entry| entry.mac == MAC).unwrap();
    assert_eq!((entry.database, entry.state, entry.destination), (Database::Bridge, NeighbourState::NoArp, None));
    netlink.delete_forwarding(&entry).unwrap();
    assert!(!netlink.forwarding(port).unwrap().contains(&entry));
}

#[test]
fn a_vxlan_sends_each_address_to_one_host_and_everyone_to_all() {
    let (_namespace, mut netlink) = fresh();
    let vxlan = Vxlan {
        name: "vx",
        id: 1,
        port: 8472,
        local: None,
        remote: None,
        device: None,
        learning: false,
        mac: None,
        mtu: None,
    };
    netlink.create_vxlan(&vxlan).unwrap();
    let index = netlink.existing_link("vx").unwrap().index;
    netlink.add_vxlan_forwarding(index, MAC, ip("192.0.2.1")).unwrap();
    netlink.add_vxlan_forwarding(index, MAC, ip("192.0.2.2")).unwrap();
    for host in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        netlink.add_vxlan_forwarding(index, EVERYONE, ip(host)).unwrap();
    }
    let listed = netlink.forwarding(index).unwrap();
    let hosts =
        |mac| listed.iter().filter(|entry| entry.mac == mac).filter_map(|entry| entry.destination).collect::<Vec<_>>();
    assert_eq!(hosts(MAC), [ip("192.0.2.2")]);
    assert_eq!(hosts(EVERYONE).len(), 3);
    let entry =
        listed.iter().find(|entry| entry.mac == EVERYONE && entry.destination == Some(ip("192.0.2.2"))).unwrap();
    assert_eq!((entry.database, entry.state), (Database::Device, NeighbourState::Permanent));
    netlink.delete_forwarding(entry).unwrap();
    assert!(!netlink.forwarding(index).unwrap().contains(entry));
}

#[test]
fn each_sort_of_change_is_told_once() {
    let (namespace, mut netlink) = fresh();
    let mut monitor = Monitor::open_in(&namespace).unwrap();
    assert!(monitor.drain().unwrap().is_empty());
    netlink.create_bridge("bridge", None).unwrap();
    let index = netlink.existing_link("bridge").unwrap().index;
    assert_eq!(monitor.drain().unwrap(), Changes { links: vec![index], ..Changes::default() });
    netlink.add_address(index, "10.0.0.1/24".parse().unwrap(), true).unwrap();
    assert!(monitor.drain().unwrap().addresses);
    let hole = Route { kind: RouteKind::Blackhole, ..Route::new("10.9.0.0/16".parse().unwrap()) };
    netlink.add_route(&hole).unwrap();
    assert_eq!(monitor.drain().unwrap(), Changes { routes: true, ..Changes::default() });
    netlink.delete_link(index).unwrap();
    let mut seen = Changes::default();
    wait_for("the end of the device", || {
        let changes = monitor.drain().unwrap();
        seen.links.extend(changes.links);
        seen.addresses |= changes.addresses;
        (seen.links.contains(&index) && seen.addresses).then_some(())
    });
    assert!(!monitor.drain().unwrap().overflowed);
}

#[test]
fn lost_notifications_are_told() {
    let (namespace, mut netlink) = fresh();
    let mut monitor = Monitor::open_in(&namespace).unwrap();
    for round in 0..6000u32 {
        netlink.change_link(1, &LinkChange { tx_queue_len: Some(round % 500 + 1), ..LinkChange::default() }).unwrap();
    }
    let changes = monitor.drain().unwrap();
    assert!(changes.overflowed, "the socket kept 6000 notifications");
    assert_eq!(changes.links, [1]);
    assert!(monitor.drain().unwrap().is_empty(), "told once");
}

#[test]
fn settings_are_those_of_the_namespace() {
    let (namespace, mut netlink) = fresh();
    netlink.create_bridge("with.dot", None).unwrap();
    let setting = ["net", "ipv4", "conf", "with.dot", "forwarding"];
    let read = namespace
        .run(|| {
            sysctl::set(&setting, "1").unwrap();
            sysctl::get(&setting).unwrap()
        })
        .unwrap();
    assert_eq!(read, "1");
    assert_eq!(sysctl::get(&setting).unwrap_err().errno(), Some(libc::ENOENT), "not in ours");
    let mut monitor = Monitor::open_in(&namespace).unwrap();
    let change = |value| namespace.run(|| sysctl::set(&setting, value)).unwrap().unwrap();
    change("0");
    assert!(monitor.drain().unwrap().is_empty(), "told to who asks for it");
    monitor.watch_settings().unwrap();
    monitor.watch_settings().unwrap();
    change("1");
    assert_eq!(monitor.drain().unwrap(), Changes { settings: true, ..Changes::default() });
}

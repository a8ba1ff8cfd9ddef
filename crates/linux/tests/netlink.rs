//! Links, addresses and routes against the real kernel, each test in namespaces of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::net::{IpAddr, UdpSocket};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use linux::netlink::{
    Family, Layer, Link, LinkChange, Monitor, Netlink, PROTOCOL, PortChange, Route, RouteKind, Rule, RuleAction,
    VethEnd, Vxlan,
};
use linux::netns::NetNs;
use linux::nft::{self, Ruleset};
use linux::poll::readable;
use support::{fresh, wait_for};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two namespaces with the ends `left` (10.0.0.1/24, fd00::1/64) and `right` (.2) of a veth pair, up.
struct Pair {
    left: (NetNs, Netlink, Link),
    right: (NetNs, Netlink, Link),
}

fn pair() -> Pair {
    let (left, mut left_netlink) = fresh();
    let (right, mut right_netlink) = fresh();
    let (a, b) = (
        VethEnd { name: "left", netns: Some(&left), ..VethEnd::default() },
        VethEnd { name: "right", netns: Some(&right), ..VethEnd::default() },
    );
    Netlink::open().unwrap().create_veth(&a, &b).unwrap();
    let up = |netlink: &mut Netlink, name: &str, host: u8| {
        let link = netlink.existing_link(name).unwrap();
        netlink.add_address(link.index, net(&format!("10.0.0.{host}/24")), true).unwrap();
        netlink.add_address(link.index, net(&format!("fd00::{host}/64")), true).unwrap();
        netlink.set_up(link.index, true).unwrap();
    };
    up(&mut left_netlink, "left", 1);
    up(&mut right_netlink, "right", 2);
    let running = |netlink: &mut Netlink, name: &str| {
        wait_for("carrier", || netlink.existing_link(name).ok().filter(|link| link.up && link.running))
    };
    let left_link = running(&mut left_netlink, "left");
    let right_link = running(&mut right_netlink, "right");
    Pair { left: (left, left_netlink, left_link), right: (right, right_netlink, right_link) }
}

#[test]
fn a_fresh_namespace_has_loopback_only() {
    let (_namespace, mut netlink) = fresh();
    let links = netlink.links().unwrap();
    let loopback = links.iter().find(|link| link.name == "lo").unwrap();
    assert_eq!((loopback.index, loopback.layer, loopback.mtu, loopback.up), (1, Layer::Loopback, 65536, true));
    assert_eq!(netlink.link("lo").unwrap().unwrap().name, "lo");
    assert_eq!(netlink.link_by_index(1).unwrap().unwrap().name, "lo");
    assert_eq!(netlink.link("nothing").unwrap(), None);
    assert_eq!(netlink.link_by_index(4711).unwrap(), None);
    assert_eq!(netlink.existing_link("nothing").unwrap_err().errno(), Some(libc::ENODEV));
    assert_eq!(netlink.link("a name too long for a device").unwrap_err().errno(), Some(libc::EINVAL));
}

#[test]
fn both_ends_of_a_pair_are_born_where_they_belong() {
    let (left, mut left_netlink) = fresh();
    let (right, mut right_netlink) = fresh();
    let mac = [0x02, 1, 2, 3, 4, 5];
    let a = VethEnd { name: "a", netns: Some(&left), mac: Some(mac), mtu: Some(9000) };
    let b = VethEnd { name: "b", netns: Some(&right), mac: None, mtu: Some(1400) };
    Netlink::open().unwrap().create_veth(&a, &b).unwrap();
    let made = left_netlink.existing_link("a").unwrap();
    assert_eq!((made.kind.as_deref(), made.mac, made.mtu, made.up), (Some("veth"), Some(mac), 9000, false));
    let peer = right_netlink.existing_link("b").unwrap();
    assert_eq!((peer.mtu, peer.layer), (1400, Layer::Ethernet));
    assert_eq!(left_netlink.link("b").unwrap(), None);
    assert_eq!(right_netlink.link("a").unwrap(), None);

    // An end without a namespace stays with the connection.
    left_netlink
        .create_veth(
            &VethEnd { name: "c", ..Default::default() },
            &VethEnd { name: "d", netns: Some(&right), ..Default::default() },
        )
        .unwrap();
    left_netlink
        .create_veth(
            &VethEnd { name: "e", netns: Some(&right), ..Default::default() },
            &VethEnd { name: "f", ..Default::default() },
        )
        .unwrap();
    for (netlink, names) in [(&mut left_netlink, ["c", "f"]), (&mut right_netlink, ["d", "e"])] {
        for name in names {
            assert!(netlink.link(name).unwrap().is_some(), "{name}");
        }
    }

    left_netlink.delete_link(made.index).unwrap();
    assert_eq!(right_netlink.link("b").unwrap(), None, "the other end goes too");
}

#[test]
fn a_pair_carries_traffic_and_counts_it() {
    let mut pair = pair();
    for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let receiver = pair.right.0.run(|| UdpSocket::bind((ip(to), 5000))).unwrap().unwrap();
        let sender = pair.left.0.run(|| UdpSocket::bind((ip(from), 0))).unwrap().unwrap();
        sender.send_to(b"hello", (ip(to), 5000)).unwrap();
        let mut buffer = [0; 16];
        let (length, source) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], source.ip()), (&b"hello"[..], ip(from)));
    }
    let counted = pair.right.1.existing_link("right").unwrap().statistics;
    assert!(counted.rx_packets >= 2 && counted.rx_bytes >= 2 * 47, "{counted:?}");
}

#[test]
fn every_change_is_seen_in_the_next_reading() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    let mac = [0x02, 0, 0, 0, 0, 9];
    let change = LinkChange {
        mtu: Some(1300),
        mac: Some(mac),
        alias: Some("adit: test"),
        tx_queue_len: Some(77),
        gso_max_size: Some(32_000),
        gso_max_segs: Some(20),
        ..LinkChange::default()
    };
    netlink.change_link(link.index, &change).unwrap();
    let now = netlink.link_by_index(link.index).unwrap().unwrap();
    assert_eq!((now.mtu, now.mac, now.alias.as_deref()), (1300, Some(mac), Some("adit: test")));
    assert_eq!((now.tx_queue_len, now.gso_max_size, now.gso_max_segs), (77, 32_000, 20));
    assert!(now.up, "what was not named stays");

    netlink.change_link(link.index, &LinkChange { up: Some(false), alias: Some(""), ..LinkChange::default() }).unwrap();
    netlink.change_link(link.index, &LinkChange { name: Some("renamed"), ..LinkChange::default() }).unwrap();
    let now = netlink.existing_link("renamed").unwrap();
    assert_eq!((now.up, now.alias, now.index), (false, None, link.index));

    let (elsewhere, mut there) = fresh();
    netlink.change_link(link.index, &LinkChange { netns: Some(&elsewhere), ..LinkChange::default() }).unwrap();
    assert_eq!(netlink.link("renamed").unwrap(), None);
    assert!(there.link("renamed").unwrap().is_some());
}

#[test]
fn a_bridge_takes_and_releases_ports() {
    let (_namespace, mut netlink) = fresh();
    let mac = [0x02, 0xad, 0, 0, 0, 1];
    netlink.create_bridge("bridge", Some(mac)).unwrap();
    let bridge = netlink.existing_link("bridge").unwrap();
    assert_eq!((bridge.kind.as_deref(), bridge.mac), (Some("bridge"), Some(mac)));
    netlink
        .create_veth(&VethEnd { name: "port", ..Default::default() }, &VethEnd { name: "host", ..Default::default() })
        .unwrap();
    let port = netlink.existing_link("port").unwrap();
    assert_eq!((port.controller, port.port), (None, None));
    assert!(netlink.change_port(port.index, &PortChange { isolated: Some(true), ..Default::default() }).is_err());

    netlink
        .change_link(port.index, &LinkChange { controller: Some(Some(bridge.index)), ..Default::default() })
        .unwrap();
    let port = netlink.link_by_index(port.index).unwrap().unwrap();
    let settings = port.port.unwrap();
    assert_eq!(port.controller, Some(bridge.index));
    assert_eq!((settings.isolated, settings.learning, settings.flood), (false, true, true));

    let change = PortChange {
        isolated: Some(true),
        hairpin: Some(true),
        learning: Some(false),
        guard: Some(true),
        flood: Some(false),
        neighbour_suppression: Some(true),
    };
    netlink.change_port(port.index, &change).unwrap();
    let settings = netlink.link_by_index(port.index).unwrap().unwrap().port.unwrap();
    assert!(settings.isolated && settings.hairpin && settings.guard && settings.neighbour_suppression);
    assert!(!settings.learning && !settings.flood);

    netlink.change_link(port.index, &LinkChange { controller: Some(None), ..Default::default() }).unwrap();
    assert_eq!(netlink.link_by_index(port.index).unwrap().unwrap().controller, None);
}

#[test]
fn a_vxlan_device_is_made_as_asked() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    let vxlan = Vxlan {
        name: "vx",
        id: 7,
        port: 8472,
        local: Some(ip("10.0.0.1")),
        remote: None,
        device: Some(link.index),
        learning: false,
        mac: Some([2, 0, 0, 0, 0, 7]),
        mtu: None,
    };
    netlink.create_vxlan(&vxlan).unwrap();
    let made = netlink.existing_link("vx").unwrap();
    assert_eq!(
        (made.kind.as_deref(), made.mac, made.mtu, made.lower),
        (Some("vxlan"), vxlan.mac, 1450, Some(link.index))
    );
    let error = netlink.create_vxlan(&Vxlan { name: "vy", id: 1 << 24, ..vxlan }).unwrap_err();
    assert!(error.to_string().contains("more than 24 bits"), "{error}");
    netlink
        .create_vxlan(&Vxlan {
            name: "v6",
            id: 8,
            port: 4789,
            local: Some(ip("fd00::1")),
            remote: Some(ip("fd00::2")),
            ..vxlan
        })
        .unwrap();
    assert_eq!(netlink.existing_link("v6").unwrap().mtu, 1430);
}

#[test]
fn addresses_come_and_go() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    let added = [net("192.0.2.1/32"), net("2001:db8::1/128")];
    for address in added {
        netlink.add_address(link.index, address, true).unwrap();
    }
    let listed = netlink.addresses(Some(link.index)).unwrap();
    for address in added {
        let found = listed.iter().find(|found| found.net == address).unwrap();
        assert_eq!((found.index, found.tentative, found.permanent, found.peer), (link.index, false, true, None));
    }
    assert!(listed.iter().all(|address| address.index == link.index));
    assert!(netlink.addresses(None).unwrap().iter().any(|address| address.net == net("127.0.0.1/8")));
    let error = netlink.add_address(link.index, added[0], true).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EEXIST));
    for address in added {
        netlink.delete_address(link.index, address).unwrap();
    }
    let error = netlink.delete_address(link.index, added[0]).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EADDRNOTAVAIL));
}

#[test]
fn routes_are_added_replaced_found_and_deleted() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    for (destination, gateway, source, host) in
        [("10.1.0.0/16", "10.0.0.2", "10.0.0.1", "10.1.2.3"), ("fd01::/64", "fd00::2", "fd00::1", "fd01::9")]
    {
        let mut route = Route {
            gateway: Some(ip(gateway)),
            device: Some(link.index),
            source: Some(ip(source)),
            metric: Some(50),
            ..Route::new(net(destination))
        };
        netlink.add_route(&route).unwrap();
        assert_eq!(netlink.add_route(&route).unwrap_err().errno(), Some(libc::EEXIST));
        route.mtu = Some(1280);
        netlink.replace_route(&route).unwrap();

        let family = Family::of(ip(host));
        let listed: Vec<_> = netlink.routes(Some(family)).unwrap();
        let ours: Vec<_> = listed.iter().filter(|route| route.protocol == PROTOCOL).collect();
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert_eq!(Route { scope: None, ..ours[0].clone() }, route);
        assert!(listed.iter().all(|route| Family::of(route.destination.addr()) == family));

        let lookup = netlink.route_to(ip(host)).unwrap();
        assert_eq!((lookup.device, lookup.gateway, lookup.mtu), (link.index, Some(ip(gateway)), Some(1280)));
        assert_eq!((lookup.source, lookup.kind), (Some(ip(source)), RouteKind::Unicast));
        assert!(netlink.wait_for_address(ip(source), Duration::from_secs(5)).unwrap());
        assert_eq!(netlink.route_to(ip(source)).unwrap().kind, RouteKind::Local);
        assert!(!netlink.wait_for_address(ip(host), Duration::ZERO).unwrap());

        netlink.delete_route(&Route { metric: Some(50), ..Route::new(net(destination)) }).unwrap();
        assert_eq!(netlink.delete_route(&route).unwrap_err().errno(), Some(libc::ESRCH));
        assert_eq!(netlink.route_to(ip(host)).unwrap_err().errno(), Some(libc::ENETUNREACH));
    }
}

#[test]
fn a_blackhole_of_worse_metric_waits_behind_a_route() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    for (destination, host) in [("10.9.0.0/16", "10.9.1.1"), ("fd09::/64", "fd09::1")] {
        let hole = Route { kind: RouteKind::Blackhole, metric: Some(9999), ..Route::new(net(destination)) };
        let way = Route { device: Some(link.index), metric: Some(10), ..Route::new(net(destination)) };
        netlink.add_route(&hole).unwrap();
        netlink.add_route(&way).unwrap();
        assert_eq!(netlink.route_to(ip(host)).unwrap().device, link.index);
        netlink.delete_route(&way).unwrap();
        assert_eq!(netlink.route_to(ip(host)).unwrap_err().errno(), Some(libc::EINVAL));
        let listed = netlink.routes(None).unwrap();
        assert!(listed.iter().any(|route| route.kind == RouteKind::Blackhole && route.destination == hole.destination));
        netlink.delete_route(&hole).unwrap();
    }
}

#[test]
fn other_tables_and_onlink_and_foreign_families() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    let route = Route { device: Some(link.index), table: 1000, ..Route::new(net("10.2.0.0/16")) };
    netlink.add_route(&route).unwrap();
    assert_eq!(netlink.routes(Some(Family::V4)).unwrap().iter().filter(|route| route.table == 1000).count(), 1);
    let onlink = Route {
        device: Some(link.index),
        gateway: Some(ip("172.31.0.1")),
        onlink: true,
        ..Route::new(net("0.0.0.0/0"))
    };
    let error = netlink.add_route(&Route { onlink: false, ..onlink.clone() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot add route 0.0.0.0/0 via 172.31.0.1 device 2: Nexthop has invalid gateway (Network is unreachable (os error 101))"
    );
    netlink.add_route(&onlink).unwrap();
    assert_eq!(netlink.route_to(ip("8.8.8.8")).unwrap().gateway, onlink.gateway);
    let via = Route { device: Some(link.index), gateway: Some(ip("fd00::2")), ..Route::new(net("10.3.0.0/16")) };
    netlink.add_route(&via).unwrap();
    assert_eq!(netlink.route_to(ip("10.3.0.1")).unwrap().gateway, via.gateway);
    let wrong = Route { gateway: Some(ip("10.0.0.2")), ..Route::new(net("fd05::/64")) };
    assert_eq!(netlink.add_route(&wrong).unwrap_err().errno(), Some(libc::EINVAL));
}

#[test]
fn a_refusal_carries_the_kernels_own_words() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    let error = netlink.change_link(link.index, &LinkChange { mtu: Some(10), ..Default::default() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot change device 2: mtu less than device minimum (Invalid argument (os error 22))"
    );
    let again = netlink.create_bridge("left", None).unwrap_err();
    assert_eq!(again.errno(), Some(libc::EEXIST));
}

#[test]
fn a_long_list_comes_whole_while_it_changes() {
    let (_namespace, mut netlink) = fresh();
    netlink.create_bridge("bridge", None).unwrap();
    let index = netlink.existing_link("bridge").unwrap().index;
    netlink.set_up(index, true).unwrap();
    for host in 0..2000u32 {
        let destination = IpNet::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + host * 256).into(), 24).unwrap();
        netlink.add_route(&Route { device: Some(index), ..Route::new(destination) }).unwrap();
    }
    let count = |netlink: &mut Netlink| {
        netlink.routes(Some(Family::V4)).unwrap().iter().filter(|route| route.protocol == PROTOCOL).count()
    };
    assert_eq!(count(&mut netlink), 2000);
    let mut other = _namespace.run(Netlink::open).unwrap().unwrap();
    std::thread::scope(|scope| {
        let changer = scope.spawn(move || {
            for round in 0..200u32 {
                let route = Route { device: Some(index), ..Route::new(net(&format!("172.16.{}.0/24", round % 200))) };
                other.add_route(&route).unwrap();
                other.delete_route(&route).unwrap();
            }
        });
        while !changer.is_finished() {
            let seen = count(&mut netlink);
            assert!((2000..=2001).contains(&seen), "{seen}");
        }
    });
}

#[test]
fn a_rule_sends_packets_without_a_mark_to_a_table_of_their_own() {
    let mut pair = pair();
    let (_, netlink, link) = &mut pair.left;
    let device = Some(link.index);
    let to_mark = |family, priority, action| Rule {
        inverted: true,
        mark: Some((51_820, u32::MAX)),
        ..Rule::new(family, priority, action)
    };
    let before = netlink.rules().unwrap();
    for (family, everywhere, far, gateway) in
        [(Family::V4, "0.0.0.0/0", "8.8.8.8", "10.0.0.2"), (Family::V6, "::/0", "2001:db8::8", "fd00::2")]
    {
        let main = Route { gateway: Some(ip(gateway)), device, ..Route::new(net(everywhere)) };
        netlink.add_route(&main).unwrap();
        let hole = Route { kind: RouteKind::Blackhole, table: 51_820, ..Route::new(net(everywhere)) };
        netlink.add_route(&hole).unwrap();
        let rules = [
            to_mark(family, 17_300, RuleAction::Lookup(51_820)),
            Rule { suppress: Some(0), ..to_mark(family, 17_301, RuleAction::Lookup(254)) },
            to_mark(family, 17_302, RuleAction::Unreachable),
        ];
        for rule in &rules {
            netlink.add_rule(rule).unwrap();
            assert_eq!(netlink.add_rule(rule).unwrap_err().errno(), Some(libc::EEXIST), "{rule}");
        }
        let ours: Vec<_> =
            netlink.rules().unwrap().into_iter().filter(|r| r.protocol == PROTOCOL && r.family == family).collect();
        assert_eq!(ours, rules);
        assert!(netlink.route_to(ip(far)).is_err());
        assert_eq!(netlink.route_with_mark(ip(far), NonZero::new(51_820)).unwrap().gateway, Some(ip(gateway)));
        assert!(netlink.route_with_mark(ip(far), NonZero::new(51_821)).is_err());
        netlink.delete_rule(&rules[0]).unwrap();
        // What is left of main is the network of the card.
        assert!(netlink.route_to(ip(far)).is_err());
        assert_eq!(netlink.route_to(ip(gateway)).unwrap().device, link.index);
        for rule in &rules[1..] {
            netlink.delete_rule(rule).unwrap();
            assert_eq!(netlink.delete_rule(rule).unwrap_err().errno(), Some(libc::ENOENT), "{rule}");
        }
        assert_eq!(netlink.route_to(ip(far)).unwrap().gateway, Some(ip(gateway)));
    }
    assert_eq!(netlink.rules().unwrap(), before);
}

#[test]
fn changes_of_rules_and_of_packet_filters_are_told() {
    let (namespace, mut netlink) = fresh();
    let mut monitor = Monitor::open_in(&namespace).unwrap();
    let changed = |monitor: &mut Monitor| {
        let [ready] = readable([monitor.as_fd()], Some(Duration::from_secs(5))).unwrap();
        assert!(ready);
        monitor.drain().unwrap()
    };
    netlink.add_rule(&Rule::new(Family::V6, 7, RuleAction::Unreachable)).unwrap();
    assert!(changed(&mut monitor).rules);
    let table = Ruleset { family: nft::Family::Inet, table: "x".into(), sets: vec![], chains: vec![] };
    let mut filters = nft::Nft::open_in(&namespace).unwrap();
    filters.apply(&table).unwrap();
    assert!(monitor.drain().unwrap().is_empty());
    namespace.run(|| monitor.watch_filters()).unwrap().unwrap();
    filters.delete(nft::Family::Inet, "x").unwrap();
    assert!(changed(&mut monitor).filters);
    assert!(monitor.drain().unwrap().is_empty());
}

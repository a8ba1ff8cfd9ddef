//! What is made for a container, and what is left when it goes.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use adit::container::{self, FaultKind, Stage, Store, ports};
use linux::netlink::{LinkChange, Netlink, Route};
use linux::nft::{Family, Nft};
use linux::poll::readable;
use linux::sysctl;
use wire::vnet::VnetHdr;

use crate::bed::packet;
use crate::bed::sniffer::{Injector, Sniffer, contains};
use crate::bed::traffic::{End, exchange_tcp, exchange_udp};
use crate::world::{Container, World, empty};

const DUAL: &[&str] = &["10.42.7.0/24", "fd42:0:0:7::/64"];

fn end(container: &Container, v6: bool) -> End<'_> {
    End::new(&container.namespace, container.ip(v6))
}

#[test]
fn containers_speak_to_each_other_to_their_host_and_beyond() {
    let world = World::new(DUAL);
    let [a, b] = [world.container(), world.container()];
    for v6 in [false, true] {
        exchange_tcp(end(&a, v6), end(&b, v6), 300_000, 200_000);
        exchange_udp(end(&b, v6), end(&a, v6), [0, 1, 1000, 1392 - 20]);
        let gateway = world.node.gateways().map(|net| net.addr()).find(|ip| ip.is_ipv6() == v6).unwrap();
        exchange_tcp(end(&a, v6), End::new(&world.bed.host(1).namespace, gateway), 1000, 1000);
    }
    let mut inside = Netlink::open_in(&a.namespace).unwrap();
    let link = inside.existing_link("eth0").unwrap();
    assert_eq!((link.mtu, link.mac), (1420, Some(a.record.mac)));
    let ways: Vec<_> =
        inside.routes(None).unwrap().into_iter().filter(|route| route.destination.prefix_len() == 0).collect();
    assert_eq!(ways.len(), 2, "{ways:?}");
    let check = || world.on_host(|| container::check(&world.node, &a.record));
    check().unwrap();
    inside.delete_address(link.index, a.record.addresses[0]).unwrap();
    assert!(check().unwrap_err().sentence.contains("has lost its address"));
    inside.delete_link(link.index).unwrap();
    assert_eq!(check().unwrap_err().kind, FaultKind::NotAsMade);
}

#[test]
fn the_last_one_leaves_nothing_behind() {
    let world = World::new(DUAL);
    let (links, tables) = (world.links(), world.tables());
    let [a, b] = [world.publishing("8080:80"), world.container()];
    assert_ne!(world.links(), links);
    assert!(world.detach(&a.record.key));
    assert_eq!(world.rules(Family::Inet, "adit-adit0-ports"), 0);
    assert!(world.detach(&b.record.key) && !world.detach(&b.record.key));
    assert_eq!((world.links(), world.tables()), (links, tables));
    assert!(world.store.read_all().unwrap().is_empty());
}

#[test]
fn a_container_whose_namespace_is_gone_can_be_removed() {
    let world = World::new(DUAL);
    let [Container { namespace, record }, other] = [world.container(), world.container()];
    drop(namespace);
    crate::bed::wait_for("the end of a device", || (!world.links().contains(&record.host_interface)).then_some(()));
    assert!(world.detach(&record.key));
    assert!(!world.tables().contains(&record.host_interface));
    exchange_tcp(end(&other, false), end(&world.container(), false), 100, 100);
}

#[test]
fn what_cannot_be_made_leaves_nothing_half_made() {
    let world = World::new(&["10.42.7.0/29"]);
    let (links, tables) = (world.links(), world.tables());
    let namespace = empty();
    Netlink::open_in(&namespace).unwrap().create_bridge("eth0", None).unwrap();
    let request = world.request(&namespace);
    assert_eq!(world.attach(&request).unwrap_err().kind, FaultKind::Exists);
    for (change, kind) in [
        (
            &(|r: &mut container::Request| r.key.interface = "a".repeat(16)) as &dyn Fn(&mut container::Request),
            FaultKind::Invalid,
        ),
        (&|r| r.key.interface = "../eth0".into(), FaultKind::Invalid),
        (&|r| r.wanted = vec!["10.42.8.2".parse().unwrap()], FaultKind::Invalid),
        (&|r| r.mac = Some([1, 0, 0, 0, 0, 1]), FaultKind::Invalid),
        (&|r| r.mtu = Some(9000), FaultKind::Invalid),
    ] {
        let mut request = world.request(&empty());
        change(&mut request);
        assert_eq!(world.attach(&request).unwrap_err().kind, kind);
    }
    assert_eq!((world.links(), world.tables()), (links, tables));
    assert!(world.store.read_all().unwrap().is_empty());
    // The bridge's name is somebody's.
    world.netlink().create_bridge("adit-br0", None).unwrap();
    let fault = world.attach(&world.request(&empty())).unwrap_err();
    assert!(fault.kind == FaultKind::Exists && !fault.sentence.contains("delete"), "{fault}");
    let index = world.netlink().existing_link("adit-br0").unwrap().index;
    world.netlink().delete_link(index).unwrap();
    // Five addresses are a container's: then there is none, and none is taken from another.
    let all: Vec<_> = (0..5).map(|_| world.container()).collect();
    assert_eq!(world.attach(&world.request(&empty())).unwrap_err().kind, FaultKind::Exhausted);
    let mut taken = world.request(&empty());
    taken.wanted = vec![all[2].ip(false)];
    assert_eq!(world.attach(&taken).unwrap_err().kind, FaultKind::AddressTaken);
    taken.key = all[0].record.key.clone();
    assert_eq!(world.attach(&taken).unwrap_err().kind, FaultKind::Exists);
    exchange_tcp(end(&all[0], false), end(&all[4], false), 1000, 1000);
}

/// Whether a TCP connection from this namespace comes to whoever listens at `port` of `to`.
fn connects(from: &linux::netns::NetNs, to: SocketAddr, listener: &TcpListener) -> bool {
    let stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).unwrap();
    let [comes] = readable([listener.as_fd()], Some(Duration::from_secs(2))).unwrap();
    stream.is_ok() && comes && listener.accept().is_ok()
}

#[test]
fn published_ports_lead_to_their_container_from_everywhere() {
    let world = World::new(DUAL);
    let [web, other] = [world.publishing("8080:80"), world.container()];
    let host = &world.bed.host(1).namespace;
    // Whether or not frames between containers pass the host's connection tracking.
    for (v6, bridged) in [(false, "1"), (true, "1"), (false, "0"), (true, "0")] {
        for family in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            // A kernel without this has no such frames.
            let _ = host.run(|| sysctl::set(&["net", "bridge", family], bridged)).unwrap();
        }
        let ip = web.ip(v6);
        let listener = web.namespace.run(|| TcpListener::bind((ip, 80))).unwrap().unwrap();
        let gateway = world.node.gateways().map(|net| net.addr()).find(|ip| ip.is_ipv6() == v6).unwrap();
        let own = world.bed.host(1).underlay(if v6 { crate::bed::Family::V6 } else { crate::bed::Family::V4 });
        for (who, from) in [("the host", host), ("a neighbour", &other.namespace), ("itself", &web.namespace)] {
            for to in [gateway, own] {
                assert!(connects(from, (to, 8080).into(), &listener), "{who} to {to}, bridged {bridged}");
            }
        }
        if !v6 {
            assert!(connects(host, ([127, 0, 0, 1], 8080).into(), &listener), "the host by its loopback address");
        }
    }
    // Another network of the host: a client on the underlay.
    let listener = web.namespace.run(|| TcpListener::bind((web.ip(false), 80))).unwrap().unwrap();
    let mut outside = Netlink::open_in(&world.bed.switch).unwrap();
    let switch = outside.existing_link("switch").unwrap().index;
    outside.add_address(switch, "192.0.2.200/24".parse().unwrap(), true).unwrap();
    world.bed.host(1).set(&["net", "ipv4", "conf", "under0", "forwarding"], "1");
    let own = world.bed.host(1).underlay(crate::bed::Family::V4);
    assert!(connects(&world.bed.switch, (own, 8080).into(), &listener), "from outside");
    // Another asks for the port, and does not get it; and gets it when it is free.
    let mut request = world.request(&empty());
    request.ports = container::ports::parse("192.0.2.1:8080:81").unwrap();
    let fault = world.attach(&request).unwrap_err();
    assert!(fault.kind == FaultKind::PortTaken && fault.sentence.contains(&web.record.title()), "{fault}");
    world.detach(&web.record.key);
    world.attach(&request).unwrap();
}

#[test]
fn a_port_of_one_address_is_that_addresss_alone() {
    let world = World::new(DUAL);
    let web = world.publishing("192.0.2.1:8080:80/tcp");
    let listener = web.namespace.run(|| TcpListener::bind((web.ip(false), 80))).unwrap().unwrap();
    let host = &world.bed.host(1).namespace;
    assert!(connects(host, "192.0.2.1:8080".parse().unwrap(), &listener));
    let gateway: IpAddr = "10.42.7.1".parse().unwrap();
    let refused = host.run(|| TcpStream::connect_timeout(&(gateway, 8080).into(), Duration::from_secs(2))).unwrap();
    assert!(refused.is_err());
}

#[test]
fn an_address_that_is_not_the_hosts_stays_where_it_is() {
    let world = World::new(DUAL);
    let web = world.publishing("192.0.2.200:8080:80/tcp");
    let _listener = web.namespace.run(|| TcpListener::bind((web.ip(false), 80))).unwrap().unwrap();
    // It is a neighbour's.
    let mut outside = Netlink::open_in(&world.bed.switch).unwrap();
    let switch = outside.existing_link("switch").unwrap().index;
    outside.add_address(switch, "192.0.2.200/24".parse().unwrap(), true).unwrap();
    let listener = world.bed.switch.run(|| TcpListener::bind("192.0.2.200:8080")).unwrap().unwrap();
    let host = &world.bed.host(1).namespace;
    assert!(connects(host, "192.0.2.200:8080".parse().unwrap(), &listener));
}

#[test]
fn ports_of_loopback_addresses_are_the_hosts_alone() {
    let world = World::new(DUAL);
    let [web, any] = ["127.0.0.1:8080:80", "9090:80"].map(|what| {
        let udp = ports::parse(&format!("{what}/udp")).unwrap();
        world.container_with(|request| request.ports = [ports::parse(what).unwrap(), udp].concat())
    });
    let listeners = [&web, &any].map(|to| to.namespace.run(|| TcpListener::bind((to.ip(false), 80))).unwrap().unwrap());
    let host = &world.bed.host(1).namespace;
    assert!(connects(host, "127.0.0.1:8080".parse().unwrap(), &listeners[0]));
    assert!(connects(host, "127.0.0.1:9090".parse().unwrap(), &listeners[1]));
    // A neighbour on the link sends to such an address.
    world.bed.host(1).set(&["net", "ipv4", "conf", "under0", "forwarding"], "1");
    let sniffers = [&web, &any].map(|to| Sniffer::open(&to.namespace, "eth0"));
    let mut injector = Injector::open(&world.bed.switch, "switch");
    let from: SocketAddr = "192.0.2.200:1000".parse().unwrap();
    let macs = ([2, 0, 0, 0, 0, 0xfe], world.bed.host(1).mac());
    for port in [8080, 9090] {
        let packet = packet::UdpPacket::new((from.ip(), 1000), ("127.0.0.1".parse().unwrap(), port), packet::MARK);
        let frame = [&macs.1[..], &macs.0, &[8, 0], &packet.bytes()].concat();
        injector.send(&VnetHdr::NONE, &frame).unwrap();
    }
    for mut sniffer in sniffers {
        let seen =
            sniffer.find_within(Duration::from_millis(300), |_, bytes| contains(bytes, packet::MARK).then_some(()));
        assert!(seen.is_none());
    }
}

#[test]
fn a_link_layer_address_is_one_containers() {
    let world = World::new(DUAL);
    let first = world.container();
    for mac in [first.record.mac, world.node.bridge_mac()] {
        let mut request = world.request(&empty());
        request.mac = Some(mac);
        assert_eq!(world.attach(&request).unwrap_err().kind, FaultKind::AddressTaken);
    }
}

#[test]
fn isolated_containers_reach_their_host_and_no_neighbour() {
    let world = World::new(DUAL);
    let [a, b] = [(), ()].map(|()| world.container_with(|request| request.isolated = true));
    exchange_tcp(end(&a, false), End::new(&world.bed.host(1).namespace, "10.42.7.1".parse().unwrap()), 100, 100);
    let listener = end(&b, false).listen();
    let to = listener.local_addr().unwrap();
    let outcome = a.namespace.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(500))).unwrap();
    assert!(outcome.is_err());
    // Nor by way of the host, which would route it back.
    let mut sniffer = Sniffer::open(&b.namespace, "eth0");
    for v6 in [false, true] {
        let gateway = world.node.gateways().map(|net| net.addr()).find(|ip| ip.is_ipv6() == v6).unwrap();
        let mut inside = Netlink::open_in(&a.namespace).unwrap();
        let device = inside.existing_link("eth0").unwrap().index;
        let route = Route { gateway: Some(gateway), device: Some(device), ..Route::new(b.ip(v6).into()) };
        inside.add_route(&route).unwrap();
        end(&a, v6).udp().send_to(packet::MARK, (b.ip(v6), 9)).unwrap();
        end(&a, v6).udp().send_to(packet::MARK, (gateway, 9)).unwrap();
    }
    let seen = sniffer.find_within(Duration::from_millis(500), |_, bytes| contains(bytes, packet::MARK).then_some(()));
    assert!(seen.is_none());
    // Others are not kept from anybody.
    let open = world.container();
    exchange_tcp(end(&a, false), end(&open, false), 100, 100);
}

#[test]
fn what_others_take_away_is_brought_back() {
    let world = World::new(DUAL);
    let [web, other] = [world.publishing("8080:80"), world.container()];
    let repair = || world.on_host(|| container::repair(&world.node, &world.store)).unwrap();
    assert_eq!(repair(), (0, Vec::new()), "nothing is amiss");
    let index = |name: &str| world.netlink().existing_link(name).unwrap().index;
    let bridge = || index("adit-br0");
    let (veth, address) = (web.record.host_interface.clone(), "10.42.7.1/24".parse().unwrap());
    let table = format!("adit-{veth}");
    for (what, fault) in [
        ("the bridge is deleted", &(|| world.netlink().delete_link(bridge()).unwrap()) as &(dyn Fn() + Sync)),
        ("the bridge loses its address", &|| world.netlink().delete_address(bridge(), address).unwrap()),
        ("the bridge is down", &|| world.netlink().set_up(bridge(), false).unwrap()),
        ("the bridge has another MTU", &|| {
            world.netlink().change_link(bridge(), &LinkChange { mtu: Some(1280), ..LinkChange::default() }).unwrap();
        }),
        ("a port leaves", &|| {
            world
                .netlink()
                .change_link(index(&veth), &LinkChange { controller: Some(None), ..LinkChange::default() })
                .unwrap();
        }),
        ("a port is down", &|| world.netlink().set_up(index(&veth), false).unwrap()),
        ("filters are deleted", &|| world.on_host(|| Nft::open().unwrap().delete(Family::Netdev, &table).unwrap())),
        ("all packet filters are flushed", &|| drop(world.bed.host(1).run("nft", &["flush", "ruleset"]))),
    ] {
        fault();
        let (done, failures) = repair();
        assert!(done > 0 && failures.is_empty(), "{what}: {failures:?}");
        assert_eq!(repair(), (0, Vec::new()), "{what}");
        exchange_tcp(end(&other, false), end(&web, false), 100, 100);
        let listener = web.namespace.run(|| TcpListener::bind((web.ip(false), 80))).unwrap().unwrap();
        assert!(connects(&world.bed.host(1).namespace, "10.42.7.1:8080".parse().unwrap(), &listener), "{what}");
    }
}

#[test]
fn programs_that_run_side_by_side_never_give_an_address_twice() {
    let world = World::new(&["10.42.7.0/24"]);
    let start = Barrier::new(16);
    let all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    (0..6).map(|_| world.container()).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> = all.iter().map(|container| container.ip(false)).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 96);
    assert!(world.store.read_all().unwrap().iter().all(|record| record.stage == Stage::Made));
    thread::scope(|scope| {
        for part in all.chunks(6) {
            scope.spawn(|| part.iter().for_each(|container| assert!(world.detach(&container.record.key))));
        }
    });
    assert!(world.store.read_all().unwrap().is_empty() && !world.links().contains(&"adit-br0".to_owned()));
}

#[test]
fn purging_removes_everything_and_nothing_else() {
    let world = World::new(DUAL);
    let (links, tables) = (world.links(), world.tables());
    let _containers = [world.publishing("8080:80"), world.container()];
    let removed = world.on_host(|| container::remove_all(&world.directories, "adit0")).unwrap();
    assert_eq!(removed, ["2 containers"]);
    assert_eq!((world.links(), world.tables()), (links, tables));
    assert!(!Store::of(&world.directories, "adit0").directory().exists());
    assert!(world.on_host(|| container::remove_all(&world.directories, "adit0")).unwrap().is_empty());
}

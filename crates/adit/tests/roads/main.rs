//! A tunnel that takes everything: nothing that the host sends goes around it, whatever its networks say and whatever becomes of
//! the daemon; and afterwards the host is as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod world;

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bed::daemon::{Configuration, PORT, Place};
use bed::packet::Random;
use bed::traffic::{End, connection, exchange_over, exchange_tcp};
use bed::{Family, at, over, wait_at_most, wait_for};
use linux::netlink::{LinkChange, Netlink, PROTOCOL, Route, RouteKind};
use world::{FAMILIES, FAR, GATEWAYS, NEIGHBOUR, World, route, which};

/// How soon a daemon has repaired what somebody broke.
const REPAIR: Duration = Duration::from_secs(2);

over! {
    sealed: {
        everything_goes_into_the_tunnel_or_nowhere
        what_networks_say_leads_nothing_around
        another_card_takes_over
        what_somebody_breaks_is_repaired_and_leaks_nothing
    }
}
over! {
    wireguard: {
        everything_goes_into_the_tunnel_or_nowhere
        another_card_takes_over
    }
}
over! {
    plain: { everything_goes_into_the_tunnel_or_nowhere }
}

fn everything_goes_into_the_tunnel_or_nowhere(transport: &'static str) {
    for outer in FAMILIES {
        let world = World::new();
        let before = world.state();
        let [one, two] = world.places(&world.pair(outer, transport));
        let _far = two.start();
        // What this test would see, did the host not keep to the tunnel.
        let witness = world.watch();
        world.reaches_the_world_in_the_clear();
        assert!(witness.leaks().len() > 2);

        let daemon = one.start();
        let witness = world.watch();
        world.reaches_the_world();
        world.reaches_its_neighbour();
        world.try_everything();
        daemon.crash();
        world.try_everything();
        world.reaches_its_neighbour();
        let daemon = one.start();
        world.reaches_the_world();
        world.try_everything();
        let [first, second] = witness.testify();
        assert!(first > 100 && second < 20, "{first} and {second} packets");
        daemon.terminate();
        world.check(&before);
        world.reaches_the_world_in_the_clear();

        one.start().crash();
        let output = one.run("down", &["--device", "adit0"]);
        assert!(output.status.success(), "{output:?}");
        world.check(&before);
        world.reaches_the_world_in_the_clear();
    }
}

/// What a DHCP server or a router's advertisement may say (CVE-2024-3661), and an address assigned so that the world seems to be in the
/// card's own network (CVE-2023-36672).
fn what_networks_say_leads_nothing_around(transport: &'static str) {
    let world = World::new();
    let [four, six] = GATEWAYS[0];
    let pushed = [
        format!("0.0.0.0/1 via {four} dev eth0 proto dhcp"),
        format!("128.0.0.0/1 via {four} dev eth0 proto dhcp"),
        format!("9.9.9.9/32 via {four} dev eth0 proto dhcp"),
        format!("10.0.0.0/8 via {four} dev eth0 proto dhcp"),
        format!("10.9.9.0/24 via {four} dev eth0"),
        "172.16.0.0/16 dev eth0 scope link proto dhcp".to_owned(),
        format!("default via {} dev eth1 proto dhcp metric 1", GATEWAYS[1][0]),
        format!("::/1 via {six} dev eth0 proto ra"),
        format!("8000::/1 via {six} dev eth0 proto ra"),
        format!("2620:fe::fe/128 via {six} dev eth0 proto ra"),
        format!("fd99::/64 via {six} dev eth0 proto ra"),
        format!("default via {} dev eth1 proto ra metric 1", GATEWAYS[1][1]),
    ];
    let assigned = ["1.2.3.4/1", "10.1.2.3/8", "9.9.9.8/24", "2620:fe::1/48", "fd99::5/16"];
    let addresses = |verb: &str| {
        for address in assigned {
            let nodad: &[&str] = if address.contains(':') && verb == "add" { &["nodad"] } else { &[] };
            world.host.run("ip", &[&["address", verb, address, "dev", "eth0"], nodad].concat());
        }
    };
    let before = world.state();
    let [one, two] = world.places(&world.pair(Family::V4, transport));
    let _far = two.start();
    let daemon = one.start();
    let witness = world.watch();
    world.reaches_the_world();
    pushed.iter().for_each(|words| route(&world.host, "add", words));
    addresses("add");
    world.reaches_the_world();
    world.try_everything();
    world.reaches_its_neighbour();
    // The kernel asks for its own new addresses then; who answers for the router does too.
    daemon.crash();
    world.try_everything();
    let daemon = one.start();
    world.reaches_the_world();
    world.try_everything();
    world.reaches_its_neighbour();
    witness.testify();
    addresses("delete");
    pushed.iter().for_each(|words| route(&world.host, "delete", words));
    daemon.terminate();
    world.check(&before);
}

fn another_card_takes_over(transport: &'static str) {
    for outer in FAMILIES {
        let world = World::new();
        let [one, two] = world.places(&world.pair(outer, transport));
        let (far, daemon) = (two.start(), one.start());
        let (a, b) = connection(world.inner(Family::V4), world.world(Family::V4));
        let stop = AtomicBool::new(false);
        let witness = world.watch();
        thread::scope(|scope| {
            let _end = Ending(&stop);
            // Somebody sends all the time, to whom the way around would be open.
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    world.try_everything();
                }
            });
            let sends_by = |card: usize| {
                let mut random = Random::new(5);
                exchange_over((&a, &b), &random.bytes(50_001), &random.bytes(50_003));
                let own = [["192.0.2.1", "2001:db8:1::1"], ["198.51.100.1", "2001:db8:2::1"]][card][which(outer)];
                // The far end learns of the way by data, and answers there.
                let is_there = || {
                    exchange_over((&a, &b), b"?", b"!");
                    let seen = far.status().peers.remove(0).endpoint;
                    seen.filter(|endpoint| *endpoint == at(own.parse().unwrap(), PORT).to_string())
                };
                wait_at_most(2 * REPAIR, &format!("datagrams from {own}"), is_there);
            };
            sends_by(0);
            for card in [1, 0, 1] {
                for family in FAMILIES {
                    let default = ["0.0.0.0/0", "::/0"][which(family)];
                    let change = format!("{default} via {} proto static", GATEWAYS[card][which(family)]);
                    let old = format!("{default} via {} proto static", GATEWAYS[1 - card][which(family)]);
                    if family == Family::V4 {
                        route(&world.host, "replace", &change);
                    } else {
                        // For a moment there is no way at all.
                        route(&world.host, "delete", &old);
                        route(&world.host, "add", &change);
                    }
                }
                sends_by(card);
            }
            // The card goes down with all its routes, and another is all there is.
            world.host.run("ip", &["link", "set", "eth1", "down"]);
            for family in FAMILIES {
                let default = ["0.0.0.0/0", "::/0"][which(family)];
                route(&world.host, "replace", &format!("{default} via {}", GATEWAYS[0][which(family)]));
            }
            sends_by(0);
        });
        let [first, second] = witness.testify();
        assert!(first > 20 && second > 20, "{first} and {second} packets");
        drop(daemon);
    }
}

fn what_somebody_breaks_is_repaired_and_leaks_nothing(transport: &'static str) {
    let world = World::new();
    let before = world.state();
    let [one, two] = world.places(&world.pair(Family::V6, transport));
    let (_far, daemon) = (two.start(), one.start());
    let witness = world.watch();
    world.reaches_the_world();
    let whole = world.roads();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Ending(&stop);
        // A program that sends to the world without pause: no moment is missed.
        for (family, to) in [(Family::V4, "9.9.9.9"), (Family::V6, "2620:fe::fe")] {
            let (stop, host) = (&stop, &world.host.namespace);
            scope.spawn(move || {
                let any = ["0.0.0.0:0", "[::]:0"][which(family)];
                let socket = host.run(|| UdpSocket::bind(any)).unwrap().unwrap();
                while !stop.load(Ordering::Acquire) {
                    let _ = socket.send_to(b"adit-must-hide-!", (to, 53));
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
        let run = |words: &str| {
            let words: Vec<_> = words.split(' ').collect();
            world.host.run(words[0], &words[1..]);
        };
        for breakage in [
            &["ip link delete adit0"][..],
            &["ip link set adit0 down"],
            &["ip rule delete priority 17300", "ip -6 rule delete priority 17300"],
            &["ip rule delete priority 17301", "ip -6 rule delete priority 17301"],
            &["ip rule delete priority 17302", "ip -6 rule delete priority 17302"],
            &["ip route flush table 51820", "ip -6 route flush table 51820"],
            &["ip route delete default table 51820 dev adit0", "ip -6 route delete default table 51820 dev adit0"],
            &["nft flush ruleset"],
            &["nft delete table arp adit-adit0"],
            &["nft flush chain inet adit-adit0 leave"],
            // All rules at once, as somebody does who starts over.
            &[
                "ip rule delete priority 17302",
                "ip -6 rule delete priority 17302",
                "ip rule delete priority 17301",
                "ip -6 rule delete priority 17301",
                "ip rule delete priority 17300",
                "ip -6 rule delete priority 17300",
            ],
        ] {
            breakage.iter().for_each(|words| run(words));
            wait_at_most(REPAIR, &format!("repair after {breakage:?}"), || (world.roads() == whole).then_some(()));
            world.reaches_the_world();
        }
        world.host.set(&["net", "ipv4", "conf", "all", "src_valid_mark"], "0");
        run("ip link set adit0 mtu 1300");
        wait_at_most(REPAIR, "the setting", || (world.roads() == whole).then_some(()));
    });
    witness.testify();
    daemon.terminate();
    world.check(&before);
}

/// Ends what runs beside, also when a test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_network_that_was_left_leads_nothing_around() {
    let world = World::new();
    let [one, two] = world.places(&world.pair(Family::V4, "sealed"));
    let (_far, daemon) = (two.start(), one.start());
    world.reaches_its_neighbour();
    let throws = || {
        let routes = world.host.netlink().routes(None).unwrap().into_iter().filter(|r| r.kind == RouteKind::Throw);
        routes.filter(|r| r.destination.to_string() != "fe80::/64").count()
    };
    assert_eq!(throws(), 2);
    daemon.crash();
    let witness = world.watch();
    world.host.run("ip", &["link", "set", "lan0", "down"]);
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        route(&world.host, "add", &format!("{half} via {} dev eth0 proto dhcp", GATEWAYS[0][0]));
    }
    route(&world.host, "add", &format!("fc00::/8 via {} dev eth0 proto ra", GATEWAYS[0][1]));
    let to_the_neighbour = || {
        for (any, neighbour) in ["0.0.0.0:0", "[::]:0"].into_iter().zip(NEIGHBOUR) {
            let socket = world.host.namespace.run(|| UdpSocket::bind(any)).unwrap().unwrap();
            let _ = socket.send_to(b"adit-must-hide-!", (neighbour.parse::<IpAddr>().unwrap(), 53));
        }
    };
    to_the_neighbour();
    let daemon = one.start();
    to_the_neighbour();
    assert_eq!(throws(), 0);
    // A card comes into a network while the daemon looks on.
    world.host.run("ip", &["link", "set", "lan0", "up"]);
    world.host.run("ip", &["address", "add", "fd07::1/64", "dev", "lan0", "nodad"]);
    wait_at_most(REPAIR, "throws", || (throws() == 2).then_some(()));
    world.reaches_its_neighbour();
    witness.testify();
    drop(daemon);
}

#[test]
fn nobody_reaches_the_tunnels_addresses_but_by_the_tunnel() {
    let world = World::new();
    let [one, two] = world.places(&world.pair(Family::V4, "sealed"));
    let (_far, _daemon) = (two.start(), one.start());
    world.reaches_the_world();
    let intruders = [(&world.router, "192.0.2.1", "2001:db8:1::1"), (&world.lan, "192.168.7.1", "fd07::1")];
    for family in FAMILIES {
        let own = world.host.inner(family);
        let socket = world.inner(family).udp();
        let to = at(own, socket.local_addr().unwrap().port());
        for (intruder, four, six) in intruders {
            let via: IpAddr = [four, six][which(family)].parse().unwrap();
            let mut netlink = Netlink::open_in(intruder).unwrap();
            netlink.add_route(&Route { gateway: Some(via), ..Route::new(own.into()) }).unwrap();
            let sender = intruder.run(|| UdpSocket::bind(["0.0.0.0:0", "[::]:0"][which(family)])).unwrap().unwrap();
            let before = world.intruders();
            wait_for("intruders that were turned away", || {
                sender.send_to(b"intruder", to).unwrap();
                (world.intruders() >= before + 3).then_some(())
            });
        }
        // The host itself and the world reach them.
        let local = world.inner(family).udp();
        local.send_to(b"local", to).unwrap();
        world.world(family).udp().send_to(b"world", to).unwrap();
        let mut received: Vec<_> = (0..2)
            .map(|_| {
                let mut buffer = [0; 32];
                let length = socket.recv_from(&mut buffer).unwrap().0;
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            })
            .collect();
        received.sort();
        assert_eq!(received, ["local", "world"]);
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 32]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn the_router_finds_us_and_tells_of_narrow_paths_in_spite_of_a_strict_reverse_path_filter() {
    let world = World::new();
    let [one, two] = world.places(&world.pair(Family::V4, "sealed"));
    let (_far, daemon) = (two.start(), one.start());
    world.reaches_the_world();
    // It forgets us, and asks before it answers.
    let mut router = Netlink::open_in(&world.router).unwrap();
    let port = router.existing_link("port1").unwrap().index;
    let own: IpAddr = "192.0.2.1".parse().unwrap();
    for _ in 0..3 {
        let (a, b) = connection(world.inner(Family::V4), world.world(Family::V4));
        router.delete_neighbour(port, own).unwrap();
        // From the world first, so that the router has a packet for us and no idea where we are.
        exchange_over((&b, &a), &[7; 100_000], &[]);
        drop((a, b));
    }
    // The network behind the router becomes narrow. The router says so from an address that is not of the tunnel's world.
    world.far.set_mtu("under0", 1300);
    let out = router.existing_link("out").unwrap().index;
    router.change_link(out, &LinkChange { mtu: Some(1300), ..LinkChange::default() }).unwrap();
    let (a, b) = connection(world.inner(Family::V4), world.world(Family::V4));
    exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
    let mut netlink = world.host.netlink();
    let learned = netlink.route_with_mark(FAR[0].parse().unwrap(), NonZero::new(51_820)).unwrap();
    assert_eq!(learned.mtu, Some(1300));
    assert!(daemon.status().peers[0].path_mtu.is_some_and(|mtu| mtu <= 1300 - 60));
}

#[test]
fn what_is_forwarded_goes_into_the_tunnel_too() {
    let world = World::new();
    let mut pair = world.pair(Family::V4, "sealed");
    pair[0].peers[0].allowed_ips.push("10.42.0.0/16".into());
    let [one, two] = world.places(&pair);
    let container = world.host.container();
    let (_far, daemon) = (two.start(), one.start());
    let witness = world.watch();
    let inside = |family| End::new(&container, world.host.behind(family, 2));
    for family in FAMILIES {
        exchange_tcp(inside(family), world.world(family), 100_001, 100_003);
        // Containers of one host need no tunnel.
        let host = End::new(&world.host.namespace, world.host.behind(family, 1));
        exchange_tcp(inside(family), host, 10_001, 10_003);
    }
    daemon.crash();
    for to in ["9.9.9.9:53", "1.1.1.1:53", "10.9.9.9:53", "[2620:fe::fe]:53"] {
        let to: SocketAddr = to.parse().unwrap();
        let socket = inside(if to.is_ipv4() { Family::V4 } else { Family::V6 }).udp();
        socket.send_to(b"adit-must-hide-!", to).unwrap();
    }
    world.host.run("ip", &["link", "delete", "adit0"]);
    for to in ["9.9.9.9:53", "1.1.1.1:53", "10.9.9.9:53", "[2620:fe::fe]:53"] {
        let to: SocketAddr = to.parse().unwrap();
        let socket = inside(if to.is_ipv4() { Family::V4 } else { Family::V6 }).udp();
        let _ = socket.send_to(b"adit-must-hide-!", to);
    }
    witness.testify();
}

#[test]
fn one_family_goes_into_the_tunnel_and_it_is_said_that_the_other_does_not() {
    let world = World::new();
    let mut pair = world.pair(Family::V6, "sealed");
    pair[0].peers[0].allowed_ips = vec!["0.0.0.0/0".into()];
    pair[0].addresses = vec!["10.77.0.1/32".into()];
    let before = world.state();
    let [one, two] = world.places(&pair);
    let (_far, daemon) = (two.start(), one.start());
    assert!(daemon.log().contains("IPv6 leaves this host around the tunnel"), "{}", daemon.log());
    let (a, b) = connection(world.inner(Family::V4), world.world(Family::V4));
    exchange_over((&a, &b), &[7; 10_000], &[7; 10_000]);
    let listener = world.world(Family::V6).listen();
    let to = listener.local_addr().unwrap();
    let outside = End::new(&world.host.namespace, "2001:db8:1::1".parse().unwrap());
    let _stream = outside.connect(to);
    assert_eq!(listener.accept().unwrap().1.ip(), outside.address);
    assert_eq!(world.host.run("ip", &["-6", "rule"]).lines().count(), 2);
    daemon.terminate();
    world.check(&before);
}

#[test]
fn two_daemons_share_a_host_of_which_one_takes_everything() {
    let world = World::new();
    let before = world.state();
    let pair = world.pair(Family::V4, "sealed");
    let [one, two] = world.places(&pair);
    // The other tunnel's ends, on the same two hosts: its datagrams are packets like any to the first.
    let mut small = world.pair(Family::V4, "wireguard");
    small[0].addresses = vec!["10.99.0.1/24".into()];
    small[0].peers[0].allowed_ips = vec!["10.99.0.2/32".into(), "203.0.113.128/25".into()];
    small[1].addresses = vec!["10.99.0.2/24".into(), "203.0.113.129/32".into()];
    small[1].peers[0].allowed_ips = vec!["10.99.0.1/32".into()];
    for end in &mut small {
        end.device = "adit1".into();
        end.listen = "[::]:7778".into();
    }
    small[0].peers[0].endpoint = "203.0.113.2:7778".into();
    let [three, four] = [Place::beside(&one, &small[0]), Place::beside(&two, &small[1])];
    let carries = || {
        for address in ["10.99.0.2", "203.0.113.129"] {
            let here = End::new(&world.host.namespace, "10.99.0.1".parse().unwrap());
            let there = End::new(&world.far.namespace, address.parse().unwrap());
            let (a, b) = connection(here, there);
            assert_eq!(b.peer_addr().unwrap().ip(), here.address);
            exchange_over((&a, &b), &[7; 50_000], &[7; 50_000]);
        }
    };
    let (_far, _other_far) = (two.start(), four.start());
    let other = three.start();
    carries();
    let alone = world.state();
    let mtu = || world.host.netlink().existing_link("adit1").unwrap().mtu;
    let before_mtu = mtu();
    let daemon = one.start();
    let witness = world.watch();
    world.reaches_the_world();
    // Within the first tunnel, for nothing but that one's datagrams is seen.
    carries();
    other.crash();
    world.try_everything();
    carries_not(&world, "10.99.0.2");
    let other = three.start();
    carries();
    witness.testify();
    daemon.terminate();
    // Its datagrams have more room again.
    wait_for("room again", || (mtu() == before_mtu).then_some(()));
    world.check(&alone);
    carries();
    let daemon = one.start();
    other.terminate();
    world.reaches_the_world();
    // A second one that takes everything would take the first one's datagrams.
    let mut greedy = small[0].clone();
    greedy.peers[0].allowed_ips = vec!["0.0.0.0/0".into()];
    three.configure(&greedy);
    let (code, said) = three.fail();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another tunnel, adit0, takes 0.0.0.0/0 already"), "{said}");
    daemon.terminate();
    world.check(&before);
}

/// Nothing for a tunnel whose daemon is dead gets into another.
fn carries_not(world: &World, address: &str) {
    let sniffer = bed::sniffer::Sniffer::open(&world.host.namespace, "adit0");
    let to: IpAddr = address.parse().unwrap();
    let watch = sniffer.watch(move |_, packet| {
        let IpAddr::V4(to) = to else { return None };
        (packet.get(16..20) == Some(&to.octets()[..])).then_some(())
    });
    let socket = world.host.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for _ in 0..3 {
        let _ = socket.send_to(b"adit-must-hide-!", (to, 9));
    }
    world.host.run("ip", &["link", "delete", "adit1"]);
    // Until the other daemon has seen that, it left the device's network to the main table.
    let is_seen = || {
        let mut routes = world.host.netlink().routes(None).unwrap().into_iter();
        (!routes.any(|r| r.kind == RouteKind::Throw && r.destination.to_string() == "10.99.0.0/24")).then_some(())
    };
    wait_at_most(REPAIR, "the end of a local network", is_seen);
    for _ in 0..3 {
        let _ = socket.send_to(b"adit-must-hide-!", (to, 9));
    }
    assert_eq!(watch.collect().len(), 0);
}

#[test]
fn routes_go_where_the_configuration_says() {
    let world = World::new();
    let before = world.state();
    let pair = world.pair(Family::V4, "sealed");
    let [one, two] = world.places(&pair);
    let _far = two.start();
    let ours = || world.host.netlink().routes(None).unwrap().into_iter().filter(|r| r.protocol == PROTOCOL);
    for (table, fwmark) in [("\"off\"", None), ("1234", Some(99))] {
        let mut configuration = pair[0].clone();
        configuration.device_lines = format!("table = {table}\n");
        if let Some(mark) = fwmark {
            configuration = configuration.with(&format!("fwmark = {mark}"));
        }
        one.configure(&configuration);
        let daemon = one.start();
        let tables: Vec<_> = ours().map(|route| (route.table, route.kind, route.destination.prefix_len())).collect();
        match fwmark {
            None => assert_eq!(tables, []),
            Some(_) => {
                let both = [(1234, RouteKind::Unicast, 0), (1234, RouteKind::Blackhole, 0)];
                assert_eq!(tables, [both, both].concat());
                // The host's own rules send packets there.
                for family in ["-4", "-6"] {
                    let rule = [family, "rule", "add", "not", "fwmark", "99", "lookup", "1234"];
                    world.host.run("ip", &rule);
                }
                world.host.set(&["net", "ipv4", "conf", "all", "rp_filter"], "0");
                world.host.set(&["net", "ipv4", "conf", "eth0", "rp_filter"], "0");
                world.reaches_the_world();
                for family in ["-4", "-6"] {
                    world.host.run("ip", &[family, "rule", "delete", "not", "fwmark", "99", "lookup", "1234"]);
                }
                for of in ["all", "eth0"] {
                    world.host.set(&["net", "ipv4", "conf", of, "rp_filter"], "1");
                }
            }
        }
        daemon.terminate();
        world.check(&before);
    }
}

#[test]
fn a_mark_that_is_configured_or_was_chosen_stays() {
    let world = World::new();
    let before = world.state();
    let pair = world.pair(Family::V4, "sealed");
    let [one, two] = world.places(&pair);
    let _far = two.start();
    let marks = || {
        let rules = world.host.netlink().rules().unwrap().into_iter().filter(|rule| rule.protocol == PROTOCOL);
        let mut marks: Vec<_> = rules.map(|rule| (rule.mark.unwrap().0, rule.priority)).collect();
        marks.dedup();
        marks
    };
    // Somebody has a rule and a table with the usual numbers.
    let taken = |verb: &str| {
        world.host.run("ip", &["rule", verb, "fwmark", "51820", "lookup", "51821", "priority", "17301"]);
        world.host.run("ip", &["route", verb, "blackhole", "10.255.0.0/16", "table", "51822"]);
    };
    taken("add");
    one.start().crash();
    let is_chosen = || marks().iter().all(|(mark, priority)| *mark == 51_823 && (17_304..17_307).contains(priority));
    assert!(is_chosen(), "{:?}", marks());
    taken("delete");
    // Others are free now, but what stands is adopted.
    let daemon = one.start();
    world.reaches_the_world();
    assert!(is_chosen(), "{:?}", marks());
    daemon.crash();
    // Another mark by configuration; the old road goes.
    one.configure(&pair[0].clone().with("fwmark = 0x63"));
    let daemon = one.start();
    world.reaches_the_world();
    assert!(marks().iter().all(|(mark, _)| *mark == 0x63), "{:?}", marks());
    daemon.terminate();
    world.check(&before);
}

#[test]
fn a_setting_that_others_rely_on_stays() {
    let world = World::new();
    let [one, two] = world.places(&world.pair(Family::V4, "sealed"));
    let _far = two.start();
    let setting = || world.host.run("sysctl", &["-n", "net.ipv4.conf.all.src_valid_mark"]).trim() == "1";
    let daemon = one.start();
    assert!(setting());
    world.host.run("ip", &["rule", "add", "not", "fwmark", "7", "lookup", "7"]);
    daemon.terminate();
    assert!(setting());
    world.host.run("ip", &["rule", "delete", "not", "fwmark", "7", "lookup", "7"]);
    // Whoever had set it before keeps it.
    one.start().terminate();
    assert!(setting());
}

#[test]
fn a_start_that_fails_leaves_no_roads() {
    let world = World::new();
    let before = world.state();
    let mut pair = world.pair(Family::V4, "sealed");
    pair[0].addresses.push("10.77.0.3/32".into());
    let [one, _] = world.places(&pair);
    // A route of the host's own is in the way of the last of ours.
    pair[0].peers[0].allowed_ips.push("10.200.0.0/16".into());
    one.configure(&pair[0]);
    world.host.run("ip", &["route", "add", "blackhole", "10.200.0.0/16", "metric", "2913840557"]);
    let (code, said) = one.fail();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("10.200.0.0/16"), "{said}");
    world.host.run("ip", &["route", "delete", "blackhole", "10.200.0.0/16", "metric", "2913840557"]);
    world.check(&before);
    assert_eq!(one.leftovers(), [""; 0]);
}

#[test]
fn a_name_that_nobody_can_be_asked_for_is_remembered() {
    let world = World::new();
    let before = world.state();
    let mut pair = world.pair(Family::V4, "sealed");
    pair[0].peers[0].endpoint = format!("far.example:{PORT}");
    let [one, two] = world.places(&pair);
    let _far = two.start();
    let hosts = |text: &str| fs::write(one.path("hosts"), text).unwrap();
    // Without an address nothing would ever get out.
    let (code, said) = one.fail();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("far.example:7777 of peer host2 does not resolve"), "{said}");
    assert_eq!(world.state(), before);
    hosts("203.0.113.2 far.example\n");
    let daemon = one.start_with_hosts("hosts");
    world.reaches_the_world();
    daemon.crash();
    hosts("");
    let daemon = one.start();
    world.reaches_the_world();
    daemon.terminate();
    world.check(&before);
}

#[test]
fn a_running_daemon_takes_everything_and_lets_it_go_again() {
    let world = World::new();
    let pair = world.pair(Family::V6, "sealed");
    let mut small = pair.clone();
    small[0].peers[0].allowed_ips = vec!["9.9.9.9/32".into(), "2620:fe::fe/128".into()];
    let [one, two] = world.places(&small);
    let (_far, daemon) = (two.start(), one.start());
    world.reaches_the_world();
    let before = world.state();
    let reload = |configuration: &Configuration| {
        one.configure(configuration);
        let output = one.run("reload", &["--device", "adit0"]);
        assert!(output.status.success(), "{output:?}");
    };
    let (a, b) = connection(world.inner(Family::V4), world.world(Family::V4));
    for _ in 0..3 {
        reload(&pair[0]);
        let witness = world.watch();
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        world.try_everything();
        // Another mark and another port while it takes everything.
        let mut other = pair[0].clone().with("fwmark = 77");
        reload(&other);
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        world.try_everything();
        witness.testify();
        other.listen = "[::]:7790".into();
        reload(&other);
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        reload(&small[0]);
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        world.check(&before);
    }
    drop(daemon);
}

//! A tunnel that takes everything: nothing that the host sends goes around it, whatever its networks say and whatever becomes of
//! the daemon; and afterwards the host is as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod settings;
mod sharing;
mod world;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bed::daemon::PORT;
use bed::packet::Random;
use bed::traffic::{End, connection, exchange_over, exchange_tcp};
use bed::{Family, at, over, wait_at_most};
use linux::netlink::RouteKind;
use world::{FAMILIES, GATEWAYS, NEIGHBOUR, World, route, which};

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
        assert!(first >= 10 && second >= 10, "{first} and {second} packets");
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

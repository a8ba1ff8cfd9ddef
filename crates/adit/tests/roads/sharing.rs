//! Whom a tunnel that takes everything lives beside: neighbours, the router, other tunnels, the other family.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::num::NonZero;

use linux::netlink::{LinkChange, Netlink, Route, RouteKind};

use crate::REPAIR;
use crate::bed::daemon::Place;
use crate::bed::sniffer::Sniffer;
use crate::bed::traffic::{End, connection, exchange_over};
use crate::bed::{Family, at, wait_at_most, wait_for};
use crate::world::{FAMILIES, FAR, World, which};

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
    // Another program's tunnel keeps what it has.
    for words in ["tuntap add mode tun name other0", "link set other0 up", "route add 198.18.0.0/15 dev other0"] {
        world.host.run("ip", &words.split(' ').collect::<Vec<_>>());
    }
    let by_the_other = || world.host.run("ip", &["route", "get", "198.18.0.1"]).contains("dev other0").then_some(());
    wait_at_most(REPAIR, "a way into another program's tunnel", by_the_other);
    world.host.run("ip", &["link", "delete", "other0"]);
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
    let sniffer = Sniffer::open(&world.host.namespace, "adit0");
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

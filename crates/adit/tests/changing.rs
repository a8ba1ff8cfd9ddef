//! What changes around a daemon, or between one and its successor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use bed::daemon::{Configuration, Peer, Place};
use bed::packet::Random;
use bed::traffic::{End, connection, exchange_over, exchange_tcp};
use bed::{Bed, Family, wait_for};
use ipnet::IpNet;
use linux::netlink::{PROTOCOL, RouteKind};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn carries(bed: &Bed) {
    let end = |n: usize, family| End::new(&bed.host(n).namespace, bed.host(n).inner(family));
    for family in FAMILIES {
        exchange_tcp(end(1, family), end(2, family), 100_001, 100_003);
    }
}

#[test]
fn a_successor_with_another_configuration_leaves_nothing_of_the_old_one() {
    let bed = Bed::new(2);
    let (host, peer) = (bed.host(1), bed.host(2));
    let before = host.state();
    let old = Configuration::new(host, &[2], Family::V4).with("workers = 3");
    let one = Place::new(host, &old);
    let two = Place::new(peer, &Configuration::new(peer, &[1], Family::V4));
    let _two = two.start();
    let mut new = Configuration::new(host, &[2], Family::V4).with("offload = false");
    new.mtu = Some(1300);
    new.addresses.push("10.99.0.1/24".into());
    new.peers[0].allowed_ips.retain(|prefix| prefix != "10.42.0.0/16");
    new.peers[0].allowed_ips.push("10.44.0.0/16".into());
    // Forth and back, so that each is the other's successor, after a crash and after a clean stop.
    for configuration in [&old, &new, &old, &new] {
        one.configure(configuration);
        let daemon = one.start();
        carries(&bed);
        let prefixes: Vec<IpNet> = configuration.peers[0].allowed_ips.iter().map(|p| p.parse().unwrap()).collect();
        let mut netlink = host.netlink();
        let ours = netlink.routes(None).unwrap().into_iter().filter(|route| route.protocol == PROTOCOL);
        for kind in [RouteKind::Unicast, RouteKind::Blackhole] {
            let mut standing: Vec<_> = ours.clone().filter(|r| r.kind == kind).map(|r| r.destination).collect();
            let mut expected = prefixes.clone();
            standing.sort();
            expected.sort();
            assert_eq!(standing, expected, "{kind:?}");
        }
        let link = netlink.existing_link("adit0").unwrap();
        assert_eq!(link.mtu, configuration.mtu.unwrap_or(1472));
        let addresses = netlink.addresses(Some(link.index)).unwrap();
        assert_eq!(addresses.len(), configuration.addresses.len(), "{addresses:?}");
        daemon.crash();
    }
    one.start().terminate();
    assert_eq!(host.state(), before);
    assert_eq!(one.leftovers(), [""; 0]);
}

#[test]
fn a_stream_survives_an_underlay_that_goes_and_comes() {
    let bed = Bed::new(2);
    let places = [(1, 2), (2, 1)].map(|(me, peer)| {
        let host = bed.host(me);
        Place::new(host, &Configuration::new(host, &[peer], Family::V4))
    });
    let [mut one, _two] = places.each_ref().map(Place::start);
    let end = |n: usize| End::new(&bed.host(n).namespace, bed.host(n).inner(Family::V6));
    let (a, b) = connection(end(1), end(2));
    let mut netlink = bed.host(1).netlink();
    let underlay = netlink.existing_link("under0").unwrap().index;
    for _ in 0..3 {
        netlink.set_up(underlay, false).unwrap();
        let before = one.drops("unreachable");
        let socket = end(1).udp();
        wait_for("packets that have no way", || {
            socket.send_to(b"x", (bed.host(2).inner(Family::V6), 9)).unwrap();
            (one.drops("unreachable") > before).then_some(())
        });
        netlink.set_up(underlay, true).unwrap();
        let mut random = Random::new(1);
        exchange_over((&a, &b), &random.bytes(300_001), &random.bytes(300_003));
    }
    assert!(one.is_running());
}

#[test]
fn many_peers_come_and_go_as_one() {
    const PEERS: usize = 500;
    let bed = Bed::new(2);
    let (host, far) = (bed.host(1), bed.host(2));
    let before = host.state();
    let mut configuration = Configuration::new(host, &[2], Family::V4);
    configuration.peers.extend((0..PEERS).map(|i| {
        let behind = vec![format!("10.{}.{}.0/24", 128 + i / 250, i % 250), format!("fd00:{i}::/32")];
        Peer::plain(format!("peer{i}"), format!("192.0.2.200:{}", 10_000 + i), behind)
    }));
    let one = Place::new(host, &configuration);
    let two = Place::new(far, &Configuration::new(far, &[1], Family::V4));
    let (daemon, _two) = (one.start(), two.start());
    carries(&bed);
    assert_eq!(daemon.status().peers.len(), PEERS + 1);
    daemon.crash();
    let daemon = one.start();
    carries(&bed);
    daemon.terminate();
    assert_eq!(host.state(), before);
}

//! How nodes find each other: by addresses that change, through NAT, over IPv6.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use linux::netlink::{Netlink, Route, VethEnd};
use linux::netns::NetNs;
use linux::sysctl;

use crate::bed::traffic::{connection, exchange_over};
use crate::bed::{Bed, Family, Host, wait_at_most, wait_for};
use crate::world::{Node, all_talk, network};

/// How soon a node that moved is found again.
const FOUND: Duration = Duration::from_secs(10);

fn nodes(bed: &Bed) -> Vec<Node<'_>> {
    bed.hosts.iter().map(Node::new).collect()
}

#[test]
fn a_node_whose_address_changes_is_found_again() {
    let bed = Bed::new(3);
    let nodes = nodes(&bed);
    let daemons = network(&nodes, &[]);
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    let [one, two, _] = &containers[..] else { panic!() };
    let (client, server) = connection(one.end(), two.end());
    exchange_over((&client, &server), &[1; 10_000], &[2; 10_000]);
    for (family, address) in [(Family::V4, "192.0.2.77/24"), (Family::V6, "2001:db8::77/64")] {
        nodes[1].host.move_to(address.parse().unwrap());
        let moved = Instant::now();
        // Nothing but what comes to it makes it speak.
        wait_at_most(FOUND, "a node that moved", || one.pings(two.address).then_some(()));
        eprintln!("found again by {family:?} after {:.1?}", moved.elapsed());
        exchange_over((&client, &server), &[3; 50_000], &[4; 50_000]);
        let named = address.parse::<IpNet>().unwrap().addr().to_string();
        for daemon in [&daemons[0], &daemons[2]] {
            wait_at_most(FOUND, "its record", || {
                let nodes = daemon.network().nodes;
                let moved = nodes.iter().find(|node| node.name == "host2").unwrap();
                moved.endpoints.iter().any(|endpoint| endpoint.contains(&named)).then_some(())
            });
        }
        all_talk(&containers);
    }
}

#[test]
fn a_node_that_nobody_speaks_to_is_found_at_its_new_address_by_its_record() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let _daemons = network(&nodes, &[]);
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    // There was never a session.
    nodes[1].host.move_to("192.0.2.77/24".parse().unwrap());
    nodes[1]
        .host
        .netlink()
        .delete_address(
            nodes[1].host.netlink().existing_link("under0").unwrap().index,
            "2001:db8::2/64".parse().unwrap(),
        )
        .unwrap();
    wait_at_most(FOUND, "a node that moved", || containers[0].pings(containers[1].address).then_some(()));
    all_talk(&containers);
}

/// A host behind a router that translates addresses: the router has the network 192.168.1.0/24 behind it.
fn behind_nat(router: &Host, number: usize) -> Host {
    let namespace = NetNs::anonymous().unwrap();
    namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
    router.set(&["net", "ipv4", "ip_forward"], "1");
    let mut outside = router.netlink();
    let ends = (
        VethEnd { name: "lan0", ..VethEnd::default() },
        VethEnd { name: "under0", netns: Some(&namespace), ..VethEnd::default() },
    );
    outside.create_veth(&ends.0, &ends.1).unwrap();
    let mut inside = Netlink::open_in(&namespace).unwrap();
    inside.set_up(1, true).unwrap();
    for (netlink, name, address) in
        [(&mut outside, "lan0", "192.168.1.1/24"), (&mut inside, "under0", "192.168.1.2/24")]
    {
        let index = netlink.existing_link(name).unwrap().index;
        netlink.set_up(index, true).unwrap();
        netlink.add_address(index, address.parse().unwrap(), true).unwrap();
    }
    let gateway = Some("192.168.1.1".parse().unwrap());
    inside.add_route(&Route { gateway, ..Route::new("0.0.0.0/0".parse().unwrap()) }).unwrap();
    // Nothing comes in that was not called out for.
    let rules = "add table ip nat
        add chain ip nat out { type nat hook postrouting priority srcnat; }
        add rule ip nat out oifname under0 masquerade
        add chain ip nat in { type filter hook forward priority filter; policy drop; }
        add rule ip nat in iifname lan0 accept
        add rule ip nat in ct state established,related accept";
    router.run("nft", &[&rules.replace('\n', ";")]);
    Host { number, namespace, guard: router.guard.clone() }
}

#[test]
fn a_node_behind_nat_calls_and_is_answered() {
    let bed = Bed::new(3);
    let inside = behind_nat(bed.host(3), 33);
    let nodes = [Node::new(bed.host(1)), Node::new(bed.host(2)), Node::new(&inside)];
    let token = nodes[0].init(&["--uses", "2"]);
    let one = nodes[0].up();
    nodes[1].join(&token);
    let two = nodes[1].up();
    let said = nodes[2].adit(&["join", &token, "--config", &nodes[2].file(), "--name", "host33", "--no-start"]);
    assert!(said.contains("seen from 192.0.2.3") && said.contains("behind NAT"), "{said}");
    let three = nodes[2].up();
    for daemon in [&one, &two, &three] {
        daemon.await_nodes(2);
    }
    assert!(three.network().behind_nat && nodes[2].adit(&["status"]).contains("behind NAT"));
    let known = one.network().nodes.into_iter().find(|node| node.name == "host33").unwrap();
    assert!(known.behind_nat && known.endpoints.is_empty(), "{known:?}");
    assert!(nodes[0].adit(&["node", "list"]).contains("behind NAT"));
    // It calls the others by itself, and keeps the way open.
    for peer in ["host1", "host2"] {
        wait_for("a session", || {
            let status = three.status();
            let peer = status.peers.iter().find(|known| known.name == peer).unwrap();
            (peer.keepalive_s == Some(25) && peer.session == "up").then_some(())
        });
    }
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    containers[0].reaches(&containers[2]);
    containers[1].reaches(&containers[2]);
    all_talk(&containers);
    assert!(three.network().problems.is_empty(), "{:?}", three.network().problems);
    // A router forgets what is silent for 30 s; this lasts longer.
    if std::env::var_os("ADIT_NAT_IDLE").is_some() {
        bed.host(3).set(&["net", "netfilter", "nf_conntrack_udp_timeout"], "30");
        bed.host(3).set(&["net", "netfilter", "nf_conntrack_udp_timeout_stream"], "30");
        std::thread::sleep(Duration::from_secs(40));
        // Without the way that is kept open it would be up to 25 s.
        wait_at_most(Duration::from_secs(3), "an answer after 40 s of silence", || {
            containers[0].pings(containers[2].address).then_some(())
        });
        eprintln!("a node behind NAT was reached after 40 s of silence");
    }
    // A node that was killed calls it where it was, as long as the router remembers.
    let mut daemons = vec![one];
    for gentle in [false, true] {
        let before = daemons.pop().unwrap();
        if gentle {
            before.terminate()
        } else {
            before.crash()
        }
        daemons.push(nodes[0].up());
        wait_at_most(Duration::from_secs(5), "an answer after a restart", || {
            containers[0].pings(containers[2].address).then_some(())
        });
    }
    // The router forgets everything: the next word of the node is seen from elsewhere, and followed.
    let (client, server) = connection(containers[0].end(), containers[2].end());
    bed.host(3).run("ip", &["address", "add", "192.0.2.93/24", "dev", "under0"]);
    bed.host(3).run("nft", &["replace rule ip nat out handle 2 oifname under0 snat to 192.0.2.93"]);
    exchange_over((&client, &server), &[5; 30_000], &[6; 30_000]);
}

#[test]
fn two_nodes_behind_two_nats_say_that_they_cannot_meet() {
    let bed = Bed::new(3);
    let inside = [behind_nat(bed.host(2), 22), behind_nat(bed.host(3), 33)];
    let nodes = [Node::new(bed.host(1)), Node::new(&inside[0]), Node::new(&inside[1])];
    let daemons = network(&nodes, &[]);
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    for (daemon, node, other) in [(&daemons[1], &nodes[1], "host33"), (&daemons[2], &nodes[2], "host22")] {
        let problem = daemon.await_problem("behind NAT, as we are");
        assert!(problem.contains(other), "{problem}");
        let status = node.adit(&["status"]);
        assert!(status.contains("behind NAT, as we are") && status.contains(other), "{status}");
    }
    assert!(daemons[0].network().problems.is_empty(), "{:?}", daemons[0].network().problems);
    assert!(!containers[1].pings(containers[2].address));
    containers[0].reaches(&containers[1]);
    containers[0].reaches(&containers[2]);
    containers[1].reaches(&containers[0]);
}

#[test]
fn a_network_of_both_families_over_either() {
    for underlay in [Family::V4, Family::V6] {
        let bed = Bed::new(3);
        for host in &bed.hosts {
            let other = if underlay == Family::V4 { Family::V6 } else { Family::V4 };
            let mut netlink = host.netlink();
            let index = netlink.existing_link("under0").unwrap().index;
            let length = if other == Family::V4 { 24 } else { 64 };
            netlink.delete_address(index, IpNet::new(host.underlay(other), length).unwrap()).unwrap();
        }
        let nodes = nodes(&bed);
        let daemons = network(&nodes, &["--ipv6-network", "fd42::/48"]);
        let network = daemons[1].network();
        assert_eq!(network.subnets.len(), 2, "{network:?}");
        let outside = nodes[1].host.underlay(underlay).to_string();
        assert!(network.public.iter().all(|place| place.contains(&outside)), "{:?}", network.public);
        let containers: Vec<_> = nodes.iter().map(Node::container).collect();
        assert!(containers.iter().all(|container| container.addresses.len() == 2));
        all_talk(&containers);
    }
}

#[test]
fn a_peer_that_is_reached_by_another_card_is_sent_to_from_that_card() {
    let bed = Bed::new(2);
    let far = VethEnd { name: "second0", netns: Some(&bed.host(2).namespace), ..VethEnd::default() };
    bed.host(1).netlink().create_veth(&VethEnd { name: "second0", ..VethEnd::default() }, &far).unwrap();
    for (number, address) in [(1, "198.51.100.1/24"), (2, "198.51.100.2/24")] {
        let mut netlink = bed.host(number).netlink();
        let index = netlink.existing_link("second0").unwrap().index;
        netlink.set_up(index, true).unwrap();
        netlink.add_address(index, address.parse().unwrap(), true).unwrap();
    }
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&["--public-ip", "192.0.2.1,198.51.100.1"]);
    let one = nodes[0].up();
    nodes[1].join(&token);
    nodes[1].configure("public-ip = [\"192.0.2.2\"]");
    let two = nodes[1].up();
    [&one, &two].iter().for_each(|daemon| daemon.await_nodes(1));
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    // The second host sees nothing of it but that there is no answer.
    let mut netlink = bed.host(1).netlink();
    let index = netlink.existing_link("under0").unwrap().index;
    netlink.set_up(index, false).unwrap();
    // It tries a way for 15 s before it takes another.
    wait_at_most(Duration::from_secs(40), "the way by the other cards", || {
        containers[1].pings(containers[0].address).then_some(())
    });
}

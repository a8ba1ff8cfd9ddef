//! A node of a network and its host: what stands there, who may send what through it, what is repaired, what stays when the daemon ends
//! and what goes when the node is taken down.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod containers;
mod ending;
mod world;

use std::net::UdpSocket;
use std::time::Duration;

use adit::plan::BLACKHOLE_METRIC;
use bed::daemon::Peer;
use bed::traffic::{End, exchange_tcp};
use bed::{Family, wait_at_most};
use ipnet::IpNet;
use linux::netlink::{LinkChange, PROTOCOL, Route, RouteKind};
use linux::nft::{self, Nft};
use world::{FAMILIES, Lease, NETWORK, Node, REPAIR, World, inside, seen, subnet, which};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn containers_of_all_nodes_reach_each_other_and_the_world() {
    let world = World::new();
    let [one, two] = world.nodes();
    let before = [one.state(), two.state()];
    let daemons = [one.start(), two.start()];
    world.containers_talk();
    for family in FAMILIES {
        let (here, there) = (world.container(1, family), world.container(2, family));
        let (host, outsider) = (world.host(1), world.outsider(family));
        // The host speaks as the first address of its subnet.
        let own = End::new(&host.namespace, inside(1, family, ["0", ""][which(family)]));
        assert_eq!(seen(own, there), own.address);
        exchange_tcp(there, own, 10_001, 10_003);
        // Who leaves the network is the host.
        assert_eq!(seen(here, outsider), host.underlay(family));
        // Who enters it is the node that he enters by; to its own containers he is who he is.
        let through = |net: IpNet| {
            let route = Route { gateway: Some(host.underlay(family)), ..Route::new(net) };
            world.host(3).netlink().replace_route(&route).unwrap();
        };
        through(NETWORK[which(family)].parse().unwrap());
        assert_eq!(seen(outsider, here), outsider.address);
        assert_eq!(seen(outsider, there), own.address);
    }
    // One route and one blackhole per network, whatever number of nodes.
    let routes: Vec<_> =
        world.host(1).netlink().routes(None).unwrap().into_iter().filter(|r| r.protocol == PROTOCOL).collect();
    for network in NETWORK {
        let of_kind = |kind| routes.iter().filter(|r| r.kind == kind && r.destination == net(network)).count();
        assert_eq!((of_kind(RouteKind::Unicast), of_kind(RouteKind::Blackhole)), (1, 1), "{routes:?}");
    }
    assert_eq!(routes.len(), 4, "{routes:?}");
    assert!(routes.iter().all(|r| (r.metric == Some(BLACKHOLE_METRIC)) == (r.kind == RouteKind::Blackhole)));
    let addresses = world.host(1).run("ip", &["address", "show", "adit0"]);
    for address in ["10.42.1.0/32", "fd42:0:0:1::/128", "10.77.0.1/32"] {
        assert!(addresses.contains(address), "{addresses}");
    }
    // It says that the host forwards now, and no more than it has to.
    let log = daemons[0].log();
    for setting in ["adit0.forwarding is 1", "br0.forwarding is 1", "under0.forwarding is 1"] {
        assert!(log.contains(&format!("net.ipv4.conf.{setting} now, and was 0")), "{log}");
    }
    let all = world.host(1).run("sysctl", &["-n", "net.ipv4.ip_forward"]);
    assert_eq!(all.trim(), "0");
    for (node, before) in [&one, &two].into_iter().zip(&before) {
        node.run("down", &["--device", "adit0"]);
        node.check(before);
    }
    daemons.into_iter().for_each(world::Running::await_end);
}

#[test]
fn the_rules_are_flannels() {
    let world = World::new();
    let [one, _] = world.nodes();
    let _daemon = one.start();
    let rules = world.host(1).run("nft", &["list", "table", "inet", "adit-adit0"]);
    let lines: Vec<_> = rules.lines().map(|line| line.split(" comment").next().unwrap().trim()).collect();
    let from = |first: &str| lines.iter().skip_while(|line| !line.starts_with(first)).copied().collect::<Vec<_>>();
    assert_eq!(
        from("chain postrouting")[1..8],
        [
            "type nat hook postrouting priority srcnat; policy accept;",
            "meta nfproto ipv4 meta mark & 0x00004000 == 0x00004000 return",
            "ip saddr @subnet4 ip daddr @network4 return",
            "ip saddr @network4 ip daddr @subnet4 return",
            "ip saddr != @subnet4 ip daddr @subnet4 return",
            "ip saddr @network4 ip daddr != 224.0.0.0/4 masquerade fully-random",
            "ip saddr != @network4 ip daddr @network4 masquerade fully-random",
        ],
        "{rules}"
    );
    assert_eq!(
        from("chain postrouting")[8..14],
        [
            "meta nfproto ipv6 meta mark & 0x00004000 == 0x00004000 return",
            "ip6 saddr @subnet6 ip6 daddr @network6 return",
            "ip6 saddr @network6 ip6 daddr @subnet6 return",
            "ip6 saddr != @subnet6 ip6 daddr @subnet6 return",
            "ip6 saddr @network6 ip6 daddr != ff00::/8 masquerade fully-random",
            "ip6 saddr != @network6 ip6 daddr @network6 masquerade fully-random",
        ],
        "{rules}"
    );
    assert_eq!(
        from("chain forward")[1..6],
        [
            "type filter hook forward priority filter; policy accept;",
            "ip saddr @network4 accept",
            "ip daddr @network4 accept",
            "ip6 saddr @network6 accept",
            "ip6 daddr @network6 accept",
        ],
        "{rules}"
    );
    assert!(
        rules
            .lines()
            .filter(|line| line.contains(" return") || line.contains(" accept"))
            .all(|line| { line.contains("comment \"") || line.contains("policy accept") })
    );
}

#[test]
fn who_wants_neither_has_no_filters_and_masquerades_nothing() {
    let world = World::new();
    let [one, two] = world.nodes();
    let before = one.state();
    let lease = Lease { masquerade: false, forward: false, in_network: false, ..Lease::WHOLE };
    let (daemon, _two) = (one.start_with(lease), two.start());
    world.containers_talk();
    assert!(!Nft::open_in(&world.host(1).namespace).unwrap().exists(nft::Family::Inet, "adit-adit0").unwrap());
    // Nobody is to be answered from the world: the card goes on forwarding nothing.
    assert_eq!(world.host(1).run("sysctl", &["-n", "net.ipv4.conf.under0.forwarding"]).trim(), "0");
    assert_eq!(world.host(1).run("sysctl", &["-n", "net.ipv4.conf.br0.forwarding"]).trim(), "1");
    daemon.terminate();
    one.check(&before);
}

#[test]
fn a_neighbour_is_no_member() {
    let world = World::new();
    let [one, two] = world.nodes();
    let _daemons = [one.start(), two.start()];
    world.containers_talk();
    let outsider = world.host(3);
    for family in FAMILIES {
        let host = world.host(1).underlay(family);
        let route = Route { gateway: Some(host), ..Route::new(subnet(1, family)) };
        outsider.netlink().replace_route(&route).unwrap();
        let there = world.container(1, family).udp();
        there.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let to = there.local_addr().unwrap();
        // As himself he is let in; as another node's container, or as one of ours, he is not.
        let knock = |from: std::net::IpAddr| {
            let address = IpNet::from(from);
            let mine = from == outsider.underlay(family);
            if !mine {
                outsider.netlink().add_address(1, address, true).unwrap();
                outsider.await_address(from);
            }
            let socket = outsider.namespace.run(|| UdpSocket::bind((from, 0))).unwrap().unwrap();
            let heard = (0..5).any(|_| {
                socket.send_to(b"?", to).unwrap();
                there.recv_from(&mut [0; 8]).is_ok_and(|(_, who)| who.ip() == from)
            });
            if !mine {
                outsider.netlink().delete_address(1, address).unwrap();
            }
            heard
        };
        assert!(knock(outsider.underlay(family)), "{family:?}");
        assert!(!knock(inside(2, family, "77")), "{family:?}");
        assert!(!knock(inside(1, family, "77")), "{family:?}");
    }
    let guard = Nft::open_in(&world.host(1).namespace).unwrap().rules(nft::Family::Inet, "adit-adit0").unwrap();
    let turned_away: u64 =
        guard.iter().filter(|rule| rule.chain == "guard").filter_map(|r| r.counter).map(|(n, _)| n).sum();
    assert!(turned_away >= 20, "{turned_away}");
    world.containers_talk();
}

#[test]
fn what_somebody_breaks_is_repaired_within_two_seconds() {
    let world = World::new();
    let [one, two] = world.nodes();
    // Somebody else's, which is to stay as it is.
    let host = world.host(1);
    host.run("nft", &["add table inet foreign; add chain inet foreign c { type filter hook forward priority 0; }"]);
    host.run("ip", &["route", "add", "203.0.113.0/24", "dev", "under0"]);
    let foreign = one.state();
    let _two = two.start();
    let daemon = one.start();
    world.containers_talk();
    let whole = one.state();
    let run = |words: &str| {
        let words: Vec<_> = words.split(' ').collect();
        host.run(words[0], &words[1..]);
    };
    for breakage in [
        &["ip link delete adit0"][..],
        &["ip link set adit0 down"],
        &["ip address delete 10.42.1.0/32 dev adit0"],
        &["ip address delete fd42:0:0:1::/128 dev adit0"],
        &["ip address flush dev adit0"],
        &["ip route delete 10.42.0.0/16 dev adit0", "ip -6 route delete fd42::/48 dev adit0"],
        &["ip route delete blackhole 10.42.0.0/16", "ip -6 route delete blackhole fd42::/48"],
        &["ip route flush proto 173"],
        &["nft delete table inet adit-adit0"],
        &["nft flush chain inet adit-adit0 postrouting"],
        &["nft delete chain inet adit-adit0 forward"],
        &["nft flush table inet adit-adit0"],
        &["sysctl -q -w net.ipv4.conf.adit0.forwarding=0"],
        &["sysctl -q -w net.ipv4.conf.br0.forwarding=0"],
        &["sysctl -q -w net.ipv4.ip_forward=0"],
        &["ip link set adit0 mtu 1300"],
    ] {
        breakage.iter().for_each(|words| run(words));
        wait_at_most(REPAIR, &format!("repair after {breakage:?}"), || (one.state() == whole).then_some(()));
        world.containers_talk();
    }
    // Everything that is ours at once, while a connection is under way.
    let (a, b) = bed::traffic::connection(world.container(1, Family::V4), world.container(2, Family::V4));
    ["ip link delete adit0", "nft delete table inet adit-adit0"].iter().for_each(|words| run(words));
    bed::traffic::exchange_over((&a, &b), &[1; 100_001], &[2; 100_003]);
    wait_at_most(REPAIR, "repair", || (one.state() == whole).then_some(()));
    one.run("down", &["--device", "adit0"]);
    daemon.await_end();
    one.check(&foreign);
}

#[test]
fn a_container_that_comes_later_is_reached() {
    let world = World::new();
    let [one, two] = world.nodes();
    let before = one.state();
    let (daemon, _two) = (one.start(), two.start());
    world.containers_talk();
    // Another bridge, with a part of the subnet.
    let host = world.host(1);
    let mut netlink = host.netlink();
    netlink.create_bridge("br1", None).unwrap();
    let index = netlink.existing_link("br1").unwrap().index;
    netlink.set_up(index, true).unwrap();
    netlink.add_address(index, net("10.42.1.129/28"), true).unwrap();
    let forwards = || host.run("sysctl", &["-n", "net.ipv4.conf.br1.forwarding"]).trim() == "1";
    wait_at_most(REPAIR, "a bridge that forwards", || forwards().then_some(()));
    netlink.delete_link(index).unwrap();
    one.run("down", &["--device", "adit0"]);
    daemon.await_end();
    one.check(&before);
}

#[test]
fn a_client_in_our_own_subnet_has_a_route_of_its_own() {
    let world = World::new();
    let [mut one, two] = world.pair();
    let key = one.clone().make_key();
    let phone = Peer {
        transport: "wireguard",
        public_key: Some(key),
        ..Peer::plain("phone".into(), String::new(), vec!["10.42.1.200/32".into(), "192.168.50.0/24".into()])
    };
    one.peers.push(phone);
    one.wireguard_private_key = {
        let mut other = one.clone();
        other.make_key();
        other.private_key
    };
    let (one, two) = (Node::new(world.host(1), &one), Node::new(world.host(2), &two));
    let (_one, _two) = (one.start(), two.start());
    let way = |to: &str| world.host(1).run("ip", &["route", "get", to]);
    assert!(way("10.42.1.200").contains("dev adit0"), "{}", way("10.42.1.200"));
    // And no container gets its address.
    let told = adit::container::Node::read(&bed::attached::directories(&one.place.path("")), "adit0").unwrap();
    assert_eq!(told.clients, [inside(1, Family::V4, "200")]);
    assert!(way("10.42.1.2").contains("dev br0"));
    assert!(way("192.168.50.7").contains("dev adit0"));
    world.containers_talk();
}

#[test]
fn a_tunnel_that_takes_everything_and_a_network_go_together() {
    let world = World::new();
    let [mut one, mut two] = world.pair();
    // Node 2 takes what node 1 sends to the world, too.
    one.peers[0].allowed_ips.extend(["0.0.0.0/0".into(), "::/0".into()]);
    two.peers[0].allowed_ips.push("10.77.0.1/32".into());
    let (one, two) = (Node::new(world.host(1), &one), Node::new(world.host(2), &two));
    let foreign = one.state();
    let (daemon, _two) = (one.start(), two.start());
    world.containers_talk();
    let rules = world.host(1).run("nft", &["list", "table", "inet", "adit-adit0"]);
    for chain in ["arrive", "mark", "leave", "guard", "forward", "postrouting"] {
        assert!(rules.contains(&format!("chain {chain} {{")), "{rules}");
    }
    // What goes to the world goes into the tunnel and not around it; a node takes from another one only what is for its own subnets.
    let ping = || {
        let outsider = world.outsider(Family::V4).address.to_string();
        std::process::Command::new("ping").args(["-c", "1", "-W", "1", "-n", &outsider]).output().unwrap()
    };
    let answered = world.container(1, Family::V4).namespace.run(ping).unwrap();
    assert!(!answered.status.success(), "{answered:?}");
    let whole = one.state();
    world.host(1).run("nft", &["delete", "table", "inet", "adit-adit0"]);
    wait_at_most(REPAIR, "repair", || (one.state() == whole).then_some(()));
    one.run("down", &["--device", "adit0"]);
    daemon.await_end();
    one.check(&foreign);
}

#[test]
fn another_daemon_on_the_host_keeps_what_it_needs() {
    let world = World::new();
    let [one, two] = world.nodes();
    let before = one.state();
    let (daemon, _two) = (one.start(), two.start());
    world.containers_talk();
    // As Docker does when it starts: from now on it is not ours to take back.
    let host = world.host(1);
    host.set(&["net", "ipv4", "ip_forward"], "1");
    one.run("down", &["--device", "adit0"]);
    daemon.await_end();
    assert_eq!(host.run("sysctl", &["-n", "net.ipv4.conf.under0.forwarding"]).trim(), "1");
    host.set(&["net", "ipv4", "ip_forward"], "0");
    one.check(&before);
}

#[test]
fn a_card_that_goes_down_takes_nothing_with_it() {
    let world = World::new();
    let [one, two] = world.nodes();
    let (_one, _two) = (one.start(), two.start());
    world.containers_talk();
    let mut netlink = world.host(1).netlink();
    let index = netlink.existing_link("br0").unwrap().index;
    let change = |up| LinkChange { up: Some(up), ..LinkChange::default() };
    netlink.change_link(index, &change(false)).unwrap();
    netlink.change_link(index, &change(true)).unwrap();
    // Addresses of IPv6 went with the card: whoever made the bridge brings them back.
    let address = IpNet::new(inside(1, Family::V6, "1"), 64).unwrap();
    netlink.add_address(index, address, true).unwrap();
    world.host(1).await_address(address.addr());
    wait_at_most(REPAIR, "a bridge that forwards", || {
        (world.host(1).run("sysctl", &["-n", "net.ipv4.conf.br0.forwarding"]).trim() == "1").then_some(())
    });
    world.containers_talk();
}

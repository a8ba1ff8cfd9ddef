//! Containers that came when the device's MTU was another: a packet that is too long is answered for by ICMP, wherever it comes from and goes to, and never
//! vanishes.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use linux::netns::NetNs;

use crate::bed::attached::{Attached, attach, directories};
use crate::bed::{Bed, wait_at_most, wait_for};
use crate::world::{Daemon, Node};

/// What becomes of an echo request that may not be fragmented.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// An ICMP error came, or the kernel remembers one.
    Refused,
    Silence,
}

/// Sends one, as so many bytes from the IP header on.
fn ping(from: &NetNs, to: IpAddr, size: u32) -> Fate {
    let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let (payload, to) = ((size - headers).to_string(), to.to_string());
    let ping = || Command::new("ping").args(["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &payload, &to]).output();
    let output = from.run(ping).unwrap().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap().to_lowercase()).concat();
    match output.status.success() {
        true => Fate::Answered,
        false if said.contains("frag needed") || said.contains("too big") || said.contains("too long") => Fate::Refused,
        false => Fate::Silence,
    }
}

/// What fits goes through; one byte more is refused aloud, by both families.
fn check(from: &NetNs, to: &Attached, fits: u32) {
    for v6 in [false, true] {
        wait_for("a first answer", || (ping(from, to.ip(v6), 100) == Fate::Answered).then_some(()));
        for (size, fate) in [(fits + 1, Fate::Refused), (fits, Fate::Answered)] {
            assert_eq!(ping(from, to.ip(v6), size), fate, "{size} bytes to {}", to.ip(v6));
        }
    }
}

fn mtu_inside(container: &Attached) -> u32 {
    linux::netlink::Netlink::open_in(&container.namespace).unwrap().existing_link("eth0").unwrap().mtu
}

fn await_mtu(daemon: &Daemon<'_, '_>, mtu: u32) {
    wait_for("the MTU", || (daemon.status().device.mtu == mtu).then_some(()));
    let node = adit::container::Node::path(&directories(daemon.node.directory.path()), "adit0");
    wait_for("doors to be told", || {
        std::fs::read_to_string(&node).is_ok_and(|text| text.contains(&format!("\"mtu\":{mtu}"))).then_some(())
    });
}

/// Two hosts that are reached by IPv4 alone, so that tunnels between them take 1,440 bytes.
fn init(node: &Node<'_>) -> String {
    node.init(&["--ipv6-network", "fd42::/48", "--public-ip", &node.underlay().to_string()])
}

fn join(node: &Node<'_>, token: &str) {
    let (file, name, ip) = (node.file(), format!("host{}", node.host.number), node.underlay().to_string());
    node.adit(&["join", token, "--config", &file, "--name", &name, "--public-ip", &ip, "--no-start"]);
}

/// Nothing of it is a repair: no other hand changed anything.
fn check_log(node: &Node<'_>) {
    assert!(!node.log().contains("brought the containers' side"), "{}", node.log());
}

#[test]
fn a_container_that_came_before_the_first_peer() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let place = |n: usize| directories(nodes[n].directory.path());
    let token = init(&nodes[0]);
    let first = nodes[0].up();
    assert_eq!(first.status().device.mtu, 1420);
    let web = attach(nodes[0].host, &place(0), "web");
    join(&nodes[1], &token);
    let second = nodes[1].up();
    [&first, &second].into_iter().for_each(|daemon| await_mtu(daemon, 1440));
    let other = attach(nodes[1].host, &place(1), "other");
    assert_eq!([mtu_inside(&web), mtu_inside(&other)], [1420, 1440]);
    check(&nodes[1].host.namespace, &web, 1420);
    check(&other.namespace, &web, 1420);
    check(&web.namespace, &other, 1420);
    // Who comes now has what those have that are there.
    let more = attach(nodes[0].host, &place(0), "more");
    check(&more.namespace, &web, 1420);
    // So it stays when the daemon is started anew, and at `down`.
    first.terminate();
    let mut first = nodes[0].up();
    await_mtu(&first, 1440);
    check(&other.namespace, &web, 1420);
    nodes[0].adit(&["down"]);
    first.await_end();
    let _first = nodes[0].up();
    check(&other.namespace, &web, 1420);
    check_log(&nodes[0]);
    // When the last is gone, the next has what the device has.
    [&web, &more].into_iter().for_each(|container| container.detach(nodes[0].host, &place(0)));
    let next = attach(nodes[0].host, &place(0), "next");
    assert_eq!(mtu_inside(&next), 1440);
    check(&other.namespace, &next, 1440);
}

#[test]
fn a_container_that_came_before_the_device_became_narrower() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let place = |n: usize| directories(nodes[n].directory.path());
    let token = init(&nodes[0]);
    let first = nodes[0].up();
    join(&nodes[1], &token);
    let second = nodes[1].up();
    [&first, &second].into_iter().for_each(|daemon| await_mtu(daemon, 1440));
    let web = attach(nodes[0].host, &place(0), "web");
    let other = attach(nodes[1].host, &place(1), "other");
    check(&web.namespace, &other, 1440);
    // A client may come by IPv6.
    nodes[0].adit(&["client", "add", "phone"]);
    await_mtu(&first, 1420);
    let more = attach(nodes[0].host, &place(0), "more");
    assert_eq!(mtu_inside(&more), 1440);
    check(&more.namespace, &web, 1440);
    check(&web.namespace, &other, 1420);
    check(&other.namespace, &web, 1440);
    // The bridge is made anew as it was.
    nodes[0].host.run("ip", &["link", "delete", "adit-br0"]);
    wait_at_most(Duration::from_secs(5), "the bridge", || {
        let bridge = nodes[0].host.netlink().link("adit-br0").unwrap();
        bridge.filter(|link| link.up && link.mtu == 1440).map(drop)
    });
    check(&more.namespace, &web, 1440);
}

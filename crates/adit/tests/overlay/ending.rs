//! What stays when a node's daemon ends, and what goes when the node is taken down.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use adit::subnet_env::{SubnetEnv, SubnetFiles};
use linux::capture::Direction;

use crate::bed::sniffer::{Sniffer, Watch, contains};
use crate::bed::{Family, wait_for};
use crate::world::{FAMILIES, Lease, Node, Running, World, inside};

const MARK: &[u8] = b"adit-must-hide-!";

/// Watches what node 1 sends by its card for what must not leave in the clear.
fn watch(world: &World) -> Watch<String> {
    Sniffer::open(&world.bed.switch, "port1").watch(|captured, frame| {
        let leaks = captured.direction == Direction::Incoming && contains(frame, MARK);
        leaks.then(|| format!("{captured:?}"))
    })
}

/// Sends to the other node's container, from the container and from the host.
fn try_to_leave(world: &World) {
    for family in FAMILIES {
        let to = (inside(2, family, "2"), 53);
        let container = world.container(1, family).udp();
        let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
        let host = world.host(1).namespace.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        for _ in 0..20 {
            let _ = container.send_to(MARK, to);
            let _ = host.send_to(MARK, to);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Ends the daemon of node 1 in some way after which nothing may leave, and starts another.
fn stays(end: fn(Running<'_>)) {
    let world = World::new();
    let [one, two] = world.nodes();
    let before = one.state();
    let _two = two.start();
    let daemon = one.start();
    world.containers_talk();
    let whole = one.state();
    let index = world.host(1).netlink().existing_link("adit0").unwrap().index;
    let leaks = watch(&world);
    end(daemon);
    wait_for("a device without a reader", || {
        (!world.host(1).netlink().existing_link("adit0").unwrap().running).then_some(())
    });
    let without = one.state();
    let gone: Vec<_> = whole.iter().filter(|line| !without.contains(line) && !line.contains("adit0")).collect();
    assert!(gone.is_empty(), "{gone:#?}");
    try_to_leave(&world);
    // Also without the device.
    let daemon = one.start();
    assert_eq!(world.host(1).netlink().existing_link("adit0").unwrap().index, index, "it was taken over");
    world.containers_talk();
    assert_eq!(one.state(), whole);
    end(daemon);
    world.host(1).run("ip", &["link", "delete", "adit0"]);
    try_to_leave(&world);
    // And another daemon makes it anew.
    let daemon = one.start();
    assert_eq!(one.state(), whole);
    end(daemon);
    let leaks = leaks.collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    let said = one.run("down", &[]);
    assert!(said.contains("adit0 was down; removed") && said.contains("device adit0"), "{said}");
    one.check(&before);
}

#[test]
fn a_signal_leaves_the_host_as_it_is() {
    stays(|daemon| daemon.terminate());
}

#[test]
fn a_crash_leaves_the_host_as_it_is() {
    stays(|daemon| daemon.crash());
}

/// Files such as a node keeps, and one that it wrote for others.
fn keep_something(node: &Node<'_>) -> SubnetFiles {
    let directory = node.place.path("state/adit0.network");
    fs::create_dir_all(directory.join("authority")).unwrap();
    fs::write(directory.join("node.key"), "secret").unwrap();
    fs::write(directory.join("authority/ledger.json"), "{}").unwrap();
    let files = SubnetFiles::of("adit0", &node.place.path("state"));
    let env = SubnetEnv {
        v4: Some(("10.42.0.0/16".parse().unwrap(), "10.42.1.0/24".parse().unwrap())),
        v6: None,
        mtu: 1420,
        masquerade: true,
    };
    files.write(&[node.place.runtime().join("subnet.env"), node.place.path("flannel/subnet.env")], &env).unwrap();
    files
}

#[test]
fn down_keeps_who_the_node_is_and_purge_does_not() {
    let world = World::new();
    let [one, _] = world.nodes();
    let before = one.state();
    for running in [true, false] {
        let daemon = one.start();
        let _files = keep_something(&one);
        if running {
            one.run("down", &[]);
            daemon.await_end();
        } else {
            daemon.terminate();
            one.run("down", &[]);
        }
        one.check(&before);
        assert!(one.place.path("state/adit0.network/node.key").exists());
        assert!(!one.place.path("flannel/subnet.env").exists() && !one.place.runtime().join("subnet.env").exists());
        let output = one.place.run("down", &["--device", "adit0"]);
        assert_eq!(output.status.code(), Some(1), "there is nothing to be done: {output:?}");

        let daemon = one.start();
        let _files = keep_something(&one);
        let said = if running {
            let said = one.run("down", &["--purge"]);
            daemon.await_end();
            said
        } else {
            daemon.terminate();
            one.run("down", &["--purge"])
        };
        assert!(said.contains("its keys and what it knew of its network are removed"), "{said}");
        assert!(said.contains("; the configuration file stays: remove it before another `adit init`"), "{said}");
        one.check(&before);
        assert_eq!(one.place.leftovers(), [""; 0]);
        assert!(!one.place.path("state").exists() && one.place.path("adit0.toml").exists());
        assert_eq!(fs::read_dir(one.place.path("flannel")).unwrap().count(), 0);
    }
    // A node that is down and has nothing on the host.
    keep_something(&one);
    let said = one.run("down", &["--purge"]);
    assert!(said.starts_with("adit0 was down; its keys"), "{said}");
    assert!(!one.place.path("state").exists());
}

#[test]
fn a_tunnel_without_a_network_goes_with_its_daemon() {
    let world = World::new();
    let [one, _] = world.nodes();
    let before = one.state();
    one.start_with(Lease { in_network: false, ..Lease::WHOLE }).terminate();
    one.check(&before);
    // And one whose file names no network any more leaves nothing of it.
    one.start().terminate();
    one.start_with(Lease { in_network: false, known: false, ..Lease::WHOLE }).terminate();
    one.check(&before);
}

//! A host that is a node of two networks: each has ports, a bridge and containers of its own.

use std::fs;
use std::time::Duration;

use adit::api;
use adit::container::{self, FaultKind};

use crate::bed::attached::{Attached, attach, directories, try_attach_to};
use crate::bed::traffic::exchange_tcp;
use crate::bed::{Bed, wait_at_most, wait_for};
use crate::world::Node;

fn attach_to(node: &Node<'_>, device: &str, name: &str) -> Attached {
    try_attach_to(device, node.host, &directories(node.directory.path()), name, |_| ()).unwrap()
}

/// Starts the node of `adit1`, which is to fail; what it says.
fn fails_to_start(node: &Node<'_>, file: &str) -> String {
    let mut daemon = node.spawn(&["up", "--config", file]);
    let status = wait_for("the end of a daemon", || daemon.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(2), "{}", node.log());
    node.log()
}

#[test]
fn a_host_in_two_networks_has_containers_of_both() {
    let bed = Bed::new(2);
    let [one, two] = [Node::new(bed.host(1)), Node::new(bed.host(2))];
    one.init(&[]);
    let _first = one.up();
    let token = two.init(&["--network", "10.43.0.0/16"]);
    let _far = two.up();
    // As the verb itself recommends it.
    let refused = one.refused(&["join", &token, "--config", &one.file(), "--no-start"]);
    assert!(refused.contains("--device adit1 --config /etc/adit/adit1.toml"), "{refused}");
    let file = one.path("adit1.toml").to_str().unwrap().to_owned();
    let said = one.adit(&["join", &token, "--config", &file, "--device", "adit1", "--name", "host1", "--no-start"]);
    assert!(said.contains("UDP port 7778"), "{said}");
    let second = one.up_with(&["up", "--config", &file]);
    let place = directories(one.directory.path());
    wait_for("the second network", || {
        let status = api::status(&place.runtime, "adit1").ok()?;
        status.network.filter(|network| network.nodes.len() == 1 && !network.subnets.is_empty())
    });

    let env = |name: &str| fs::read_to_string(one.path("run").join(name)).unwrap();
    assert!(env("subnet.env").contains("=10.42.") && env("adit1.subnet.env").contains("=10.43."));

    let [a, b] = ["adit0", "adit1"].map(|device| attach_to(&one, device, device));
    assert_eq!([&a, &b].map(|of| of.record.bridge.as_str()), ["adit-br0", "adit-br1"]);
    let far = attach(two.host, &directories(two.directory.path()), "far");
    exchange_tcp(b.end(false), far.end(false), 100_000, 100_000);
    let more = attach_to(&one, "adit0", "more");
    exchange_tcp(a.end(false), more.end(false), 1000, 1000);
    // Neither daemon takes from the other what it has made.
    one.host.run("ip", &["link", "delete", "adit-br1"]);
    wait_at_most(Duration::from_secs(5), "the bridge of the second", || {
        let bridge = one.host.netlink().link("adit-br1").unwrap();
        bridge.filter(|link| link.up).map(drop)
    });
    wait_at_most(Duration::from_secs(5), "what hangs on it", || {
        let node = container::Node::read(&place, "adit1").unwrap();
        one.host.namespace.run(|| container::check(&node, &b.record)).unwrap().ok()
    });
    exchange_tcp(b.end(false), far.end(false), 1000, 1000);
    let log = one.log();
    assert!(!log.contains("side of adit0 back") && log.contains("side of adit1 back"), "{log}");
    // A third one that is made here has other ports too.
    let (third, network) = (one.path("adit2.toml"), ["--network", "10.44.0.0/16", "--device", "adit2", "--no-start"]);
    let said = one.adit(&[&["init", "--config", third.to_str().unwrap()][..], &network].concat());
    assert!(said.contains("UDP port 7779") && said.contains("TCP port 7781"), "{said}");

    // A bridge is one node's, whether that is asked for while it runs, or at the start.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}bridge = \"adit-br0\"\n")).unwrap();
    let refused = one.refused(&["reload", "--device", "adit1"]);
    assert!(refused.contains("adit-br0 is in use by adit0, another node of this host"), "{refused}");
    second.terminate();
    let said = fails_to_start(&one, &file);
    assert!(said.contains("in use by adit0") && said.contains("write bridge = \"adit-br1\""), "{said}");
    // Nor does a door believe a file that says otherwise.
    let mut node = container::Node::read(&place, "adit1").unwrap();
    node.bridge = "adit-br0".into();
    node.write(&place).unwrap();
    let fault = try_attach_to("adit1", one.host, &place, "third", |_| ()).err().unwrap();
    assert!(fault.kind == FaultKind::NotReady && fault.sentence.contains("that of adit0"), "{fault}");
}

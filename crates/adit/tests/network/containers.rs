//! A node's own containers: what status and the file for their programs say of them, addresses that clients and they share, and a subnet that is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use adit::Directories;
use adit::container::{self, FaultKind, Node as Told, Record, Store};

use crate::bed::attached::{attach, attach_with, directories, try_attach};
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Bed, wait_at_most, wait_for};
use crate::world::{Node, network};

fn places(node: &Node<'_>) -> Directories {
    directories(node.directory.path())
}

fn told(node: &Node<'_>) -> Told {
    Told::read(&places(node), "adit0").unwrap_or_else(|fault| panic!("{fault}\n{}", node.log()))
}

#[test]
fn containers_of_two_nodes_talk_and_are_shown() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let daemons = network(&nodes, &["--ipv6-network", "fd42::/48"]);
    let web = attach_with(nodes[0].host, &places(&nodes[0]), "web", |request| {
        request.ports = container::ports::parse("8080-8085:80-85").unwrap();
        request.isolated = true;
    });
    let other = attach(nodes[1].host, &places(&nodes[1]), "other");
    for v6 in [false, true] {
        exchange_tcp(web.end(v6), other.end(v6), 200_000, 100_000);
        exchange_tcp(other.end(v6), web.end(v6), 200_000, 100_000);
        // From the other host too, by the bridge of this one.
        let gateway = told(&nodes[1]).gateways().map(|net| net.addr()).find(|ip| ip.is_ipv6() == v6).unwrap();
        exchange_tcp(End::new(&nodes[1].host.namespace, gateway), web.end(v6), 1000, 1000);
    }
    let network = daemons[0].network();
    let [shown] = &network.containers[..] else { panic!("{network:?}") };
    assert_eq!((shown.name.as_str(), shown.id.as_str(), shown.door.as_str()), ("web", "id-of-web", "cni"));
    assert_eq!((shown.interface.as_str(), shown.isolated, shown.since), ("eth0", true, web.record.created));
    assert_eq!((&shown.addresses, shown.ports.len()), (&web.record.addresses, 6));
    assert_eq!(shown.ports[5], "8085:85/tcp");
    assert_eq!(network.problems, [""; 0]);
    let text = nodes[0].adit(&["status"]);
    let line = text.lines().find(|line| line.starts_with("  web ")).unwrap_or_else(|| panic!("{text}"));
    for part in ["cni", &web.ip(false).to_string(), &web.ip(true).to_string(), "8080:80/tcp", "and 2 more", "Z"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(text.contains("1 other node, 1 container"), "{text}");
    // A record that cannot be read is named, and keeps nobody from being shown.
    fs::write(nodes[0].path("state/adit0.containers/0123456789abcdef.json"), "{").unwrap();
    let network = daemons[0].network();
    assert_eq!(network.containers.len(), 1);
    assert!(network.problems.iter().any(|problem| problem.contains("0123456789abcdef.json")), "{network:?}");
    fs::remove_file(nodes[0].path("state/adit0.containers/0123456789abcdef.json")).unwrap();
    web.detach(nodes[0].host, &places(&nodes[0]));
    assert!(daemons[0].network().containers.is_empty());
    assert!(!nodes[0].adit(&["status"]).contains("CONTAINER"));
}

#[test]
fn the_daemon_mends_with_the_rights_that_it_keeps() {
    let bed = Bed::new(1);
    let node = Node::new(bed.host(1));
    node.init(&[]);
    let daemon = node.up();
    let web = attach_with(node.host, &places(&node), "web", |request| {
        request.ports = container::ports::parse("8080:80").unwrap();
    });
    let mode = |name: &str| fs::metadata(node.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state/adit0.containers"), mode("run/adit0.node")), (0o700, 0o644));
    // Each thread of it: CAP_NET_ADMIN (linux/capability.h) at most; the resolver has CAP_NET_BIND_SERVICE, for its port.
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap().map(Result::unwrap) {
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        let effective = u64::from_str_radix(&value("CapEff:"), 16).unwrap();
        let allowed = if value("Name:") == "names" { 1 << 10 } else { 1 << 12 };
        assert_eq!(effective & !allowed, 0, "{} of thread {}", value("CapEff:"), value("Name:"));
    }
    for breakage in [&["ip", "link", "delete", "adit-br0"][..], &["nft", "flush", "ruleset"]] {
        node.host.run(breakage[0], &breakage[1..]);
        wait_at_most(Duration::from_secs(2), &format!("repair after {breakage:?}"), || {
            node.host.namespace.run(|| container::check(&told(&node), &web.record)).unwrap().ok()
        });
        assert!(node.host.run("nft", &["list", "ruleset"]).contains("table inet adit-adit0-ports"));
    }
}

#[test]
fn what_doors_are_told_follows_the_node() {
    let bed = Bed::new(1);
    let node = Node::new(bed.host(1));
    node.init(&["--ipv6-network", "fd42::/48"]);
    node.configure("domain = \"Home.Example\"");
    let daemon = node.up();
    let first = told(&node);
    let subnets = daemon.network().subnets;
    let expected = Told {
        device: "adit0".into(),
        name: "host1".into(),
        domain: Some("home.example".into()),
        bridge: "adit-br0".into(),
        networks: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
        subnets: subnets.clone(),
        mtu: daemon.status().device.mtu,
        clients: Vec::new(),
        containers: first.containers.clone(),
    };
    assert_eq!(first, expected);
    // A client is on the list before who asked has its configuration.
    node.adit(&["client", "add", "phone"]);
    let of_client = |node: &Node<'_>| told(node).clients;
    assert_eq!(of_client(&node).len(), 2);
    node.adit(&["client", "remove", "phone"]);
    assert!(of_client(&node).is_empty());
    // Names may change while it runs, and a bridge that nothing hangs on.
    let configure = |from: &str, to: &str| {
        let text = fs::read_to_string(node.file()).unwrap();
        assert!(text.contains(from));
        fs::write(node.file(), text.replace(from, to)).unwrap();
    };
    configure("domain = \"Home.Example\"", "domain = \"off\"\nbridge = \"adit-br7\"");
    assert!(node.adit(&["reload"]).contains("changed: bridge, domain"));
    assert_eq!(told(&node), Told { domain: None, bridge: "adit-br7".into(), ..first.clone() });
    let web = attach(node.host, &places(&node), "web");
    assert_eq!(web.record.bridge, "adit-br7");
    configure("adit-br7", "adit-br8");
    let refused = node.refused(&["reload"]);
    assert!(refused.contains("1 container hangs on the bridge adit-br7"), "{refused}");
    assert_eq!(told(&node).bridge, "adit-br7");
    // Whoever takes the file away, or starts the node with another bridge, changes nothing for those that there are.
    fs::remove_file(node.path("run/adit0.node")).unwrap();
    node.host.run("ip", &["route", "add", "203.0.113.0/24", "dev", "under0"]);
    wait_at_most(Duration::from_secs(2), "the file", || node.path("run/adit0.node").exists().then_some(()));
    daemon.terminate();
    assert!(node.path("run/adit0.node").exists());
    let daemon = node.up();
    assert_eq!(told(&node).bridge, "adit-br7");
    // What they hang on may be written again.
    configure("adit-br8", "adit-br7");
    assert!(node.adit(&["reload"]).contains("changed: bridge"));
    configure("adit-br7", "adit-br8");
    node.refused(&["reload"]);
    daemon.terminate();
    let daemon = node.up();
    let more = attach(node.host, &places(&node), "more");
    exchange_tcp(web.end(false), more.end(false), 1000, 1000);
    [&web, &more].into_iter().for_each(|container| container.detach(node.host, &places(&node)));
    wait_at_most(Duration::from_secs(2), "the other bridge", || (told(&node).bridge == "adit-br8").then_some(()));
    let mut daemon = daemon;
    node.adit(&["down"]);
    daemon.await_end();
    let fault = Told::read(&places(&node), "adit0").unwrap_err();
    assert!(fault.kind == FaultKind::NotReady && !node.path("run/adit0.node").exists());
}

#[test]
fn a_client_and_a_container_never_have_the_same_address() {
    let bed = Bed::new(1);
    let node = Node::new(bed.host(1));
    node.init(&["--network", "10.42.0.0/20", "--subnet-len", "28"]);
    let _daemon = node.up();
    let subnet = told(&node).subnets[0];
    let last: std::net::IpAddr = subnet.hosts().last().unwrap();
    let highest = attach_with(node.host, &places(&node), "highest", |request| request.wanted = vec![last]);
    node.adit(&["client", "add", "phone"]);
    let client = told(&node).clients[0];
    assert_ne!(client, last);
    // Containers look for it beside themselves, where the host answers.
    wait_for("the host to answer for the client", || {
        let answered = node.host.run("ip", &["neighbour", "show", "proxy"]);
        answered.contains(&format!("{client} dev adit-br0")).then_some(())
    });
    // All that is left goes to containers; none has the client's.
    let mut all = vec![highest];
    let fault = loop {
        match try_attach(node.host, &places(&node), &format!("c{}", all.len()), |_| ()) {
            Ok(container) => all.push(container),
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault.kind, FaultKind::Exhausted);
    assert_eq!(all.len(), 16 - 3 - 1);
    assert!(all.iter().all(|container| container.ip(false) != client));
    let taken = try_attach(node.host, &places(&node), "thief", |request| request.wanted = vec![client]);
    assert_eq!(taken.err().unwrap().kind, FaultKind::AddressTaken);
    let refused = node.refused(&["client", "add", "laptop"]);
    assert!(refused.contains("no address of"), "{refused}");
}

#[test]
fn containers_whose_subnet_is_lost_are_named_until_they_are_gone() {
    let bed = Bed::new(1);
    let node = Node::new(bed.host(1));
    node.init(&[]);
    let daemon = node.up();
    let [web, _stays] = ["web", "stays"].map(|name| attach(node.host, &places(&node), name));
    assert_eq!(daemon.network().problems, [""; 0]);
    // As if it had been another's when the container came.
    let store = Store::of(&places(&node), "adit0");
    let former = Record { addresses: vec!["10.42.255.2/24".parse().unwrap()], ..web.record.clone() };
    store.lock().unwrap().put(&former).unwrap();
    let problem = daemon.await_problem("which this node does not hold");
    assert!(problem.starts_with("web has an address of 10.42.255.0/24"), "{problem}");
    assert!(!problem.contains("stays"), "{problem}");
    assert!(node.adit(&["status"]).contains("problem    web has an address"));
    node.host.run("ip", &["route", "add", "203.0.113.0/24", "dev", "under0"]);
    wait_for("the log", || node.log().contains("web has an address of 10.42.255.0/24").then_some(()));
    web.detach(node.host, &places(&node));
    wait_for("no problem", || daemon.network().problems.is_empty().then_some(()));
}

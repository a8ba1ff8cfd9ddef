//! Containers on two hosts, by the verbs a person types.

use std::net::IpAddr;

use linux::netns::NetNs;

use crate::bed::daemon::ADIT;
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Bed, wait_for};
use crate::nodes::{Node, network};
use crate::world::{Program, World};

#[test]
fn containers_on_two_hosts_ping_exchange_tcp_and_find_each_other_by_name() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let _daemons = network(&nodes, &["--network", "10.42.0.0/16", "--ipv6-network", "fd42::/48"]);
    let programs = programs(&nodes);
    let running: Vec<_> = programs.iter().map(|program| program.container("web", &[], "echo ready; read x")).collect();
    let ends: Vec<(NetNs, Vec<IpAddr>)> = programs
        .iter()
        .map(|program| {
            let record = program.record("web");
            let namespace = NetNs::open(record.netns.as_ref().unwrap()).unwrap();
            (namespace, record.addresses.iter().map(ipnet::IpNet::addr).collect())
        })
        .collect();
    for (from, to) in [(0, 1), (1, 0)] {
        for address in &ends[to].1 {
            let ping = ["exec", "web", "--", "ping", "-c1", "-W1", "-n", &address.to_string()];
            wait_for("an answer", || programs[from].adit(&ping).status.success().then_some(()));
        }
        for (ours, theirs) in ends[from].1.iter().zip(&ends[to].1) {
            exchange_tcp(End::new(&ends[from].0, *ours), End::new(&ends[to].0, *theirs), 3_000_000, 2_000_000);
        }
    }
    for (from, name, to) in [(0, "web", 0), (0, "web.host2.adit", 1), (1, "web.host1", 0)] {
        let addresses: Vec<String> = ends[to].1.iter().map(ToString::to_string).collect();
        wait_for(&format!("an address of {name}"), || {
            let found = programs[from].adit(&["exec", "web", "--", "getent", "ahosts", name]).stdout;
            let found = String::from_utf8(found).unwrap();
            addresses.iter().all(|address| found.contains(address.as_str())).then_some(())
        });
    }
    // Each host by its name, also the one that they are on, in both families.
    for program in &programs {
        for name in ["host1.adit", "host2.adit"] {
            for family in ["-4", "-6"] {
                let ping = ["exec", "web", "--", "ping", family, "-c1", "-W1", name];
                wait_for(&format!("{name} by {family}"), || program.adit(&ping).status.success().then_some(()));
            }
        }
    }
    // Who looks for containers elsewhere than the daemon would give out again what is in use.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = programs[0].command(ADIT, &["run", "--", "true"]);
    command.env("ADIT_STATE_DIR", elsewhere.path());
    let refused = programs[0].host.namespace.run(|| command.output()).unwrap().unwrap();
    let (said, state) = (String::from_utf8(refused.stderr).unwrap(), programs[0].path("state"));
    assert!(said.contains(&format!("use the same: --state-dir {}", state.display())), "{said}");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    running.into_iter().for_each(crate::world::Running::stop);
    for program in &programs {
        assert_eq!(program.succeeds(&["ps"]), "NAME  DOOR  ADDRESS  PORTS  SINCE\n");
        assert!(program.host.netlink().link("adit-br0").unwrap().is_none());
    }
}

/// The program on each of them.
fn programs<'a>(nodes: &'a [Node<'a>]) -> Vec<Program<'a>> {
    nodes.iter().map(|node| Program { host: node.host, directory: node.directory.path() }).collect()
}

#[test]
fn an_address_that_the_host_does_not_have_is_warned_of() {
    let world = World::new();
    let program = world.program();
    let said = |port: &str| {
        let output = program.adit(&["run", "--publish", port, "--", "true"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (port, address) in [("203.0.113.77:9000:80", "203.0.113.77"), ("[2001:db8::77]:9000:80", "2001:db8::77")] {
        let warned = said(port);
        assert!(warned.contains(&format!("this host does not have the address {address}")), "{warned}");
    }
    for port in ["192.0.2.1:9000:80", "127.0.0.1:9000:80", "9000:80"] {
        assert_eq!(said(port), "");
    }
    world.is_clean();
}

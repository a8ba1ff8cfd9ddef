//! The quick start, as it is written.

use std::fs;

use crate::bed::{Bed, wait_for};
use crate::world::{Daemon, Node, all_talk, network};

#[test]
fn three_hosts_make_a_network_and_a_fourth_joins_later() {
    let bed = Bed::new(4);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&["--network", "10.42.0.0/16", "--uses", "2"]);
    let mut daemons = vec![nodes[0].up()];
    for node in &nodes[1..3] {
        node.join(&token);
        daemons.push(node.up());
    }
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
    let mut containers: Vec<_> = nodes[..3].iter().map(Node::container).collect();
    all_talk(&containers);

    let used = nodes[3].refused(&["join", &token, "--config", &nodes[3].file(), "--name", "host4", "--no-start"]);
    assert!(used.contains("already used") && used.contains("adit token create"), "{used}");
    assert!(!nodes[3].path("state/adit0.network").exists() && !nodes[3].path("adit.toml").exists(), "nothing is made");
    let token = nodes[0].token(&[]);
    nodes[3].join(&token);
    daemons.push(nodes[3].up());
    daemons.iter().for_each(|daemon| daemon.await_nodes(3));
    containers.push(nodes[3].container());
    all_talk(&containers);
    let table = nodes[2].adit(&["node", "list"]);
    for name in ["host1", "host2", "host3 (this one)", "host4"] {
        assert!(table.contains(name), "{table}");
    }
    let status = nodes[1].adit(&["status"]);
    assert!(status.contains("network    host2 with ") && status.contains("3 other nodes"), "{status}");
}

#[test]
fn a_removed_node_is_out_everywhere_and_for_good() {
    let bed = Bed::new(3);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&["--uses", "2"]);
    let mut daemons = vec![nodes[0].up()];
    for node in &nodes[1..] {
        node.join(&token);
        daemons.push(node.up());
    }
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    let said = nodes[0].adit(&["node", "remove", "host3"]);
    assert!(said.contains("host3"), "{said}");
    daemons[..2].iter().for_each(|daemon| daemon.await_nodes(1));
    assert!(!containers[2].pings(containers[0].address) && !containers[2].pings(containers[1].address));
    all_talk(&containers[..2]);
    wait_for("the next secret", || daemons[..2].iter().all(|daemon| daemon.network().epoch == Some(2)).then_some(()));
    let told = daemons[2].await_problem("has been removed from the network by its authority");
    assert!(told.contains("`adit down --device adit0 --purge`") && told.contains("`adit join TOKEN`"), "{told}");
    // Restarted, it is out as before, and knows it; so it is where those that were restarted remember it.
    daemons.pop().unwrap().terminate();
    let third = nodes[2].up();
    assert_eq!(third.network().removed, Some(told));
    let doctor = nodes[2].try_adit(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("[registry-removed]"), "{doctor:?}");
    daemons.remove(1).crash();
    let second = nodes[1].up();
    second.await_nodes(1);
    assert!(!containers[2].pings(containers[1].address));
    all_talk(&containers[..2]);
    drop(third);
    let again = nodes[0].refused(&["node", "remove", "host3"]);
    assert!(again.contains("host3"), "{again}");
}

#[test]
fn a_node_that_was_away_when_it_was_removed_is_told_so() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    network(&nodes, &[]).into_iter().for_each(Daemon::terminate);
    nodes[0].adit(&["node", "remove", "host2"]);
    let daemon = nodes[1].up();
    wait_for("the outage to be said", || daemon.network().registry_problem);
    assert_eq!(daemon.network().removed, None);
    let one = nodes[0].up();
    let told = daemon.await_problem("has been removed from the network by its authority");
    one.terminate();
    daemon.terminate();
    assert_eq!(nodes[1].up().network().removed, Some(told), "it is remembered");
}

#[test]
fn a_node_that_the_registry_does_not_know_is_told_what_is_probable() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    network(&nodes, &[]).into_iter().for_each(Daemon::terminate);
    // As where the authority was brought back from a copy that is older than this node.
    let credential = nodes[1].path("state/adit0.network/credential");
    let known = fs::read_to_string(&credential).unwrap();
    fs::write(&credential, known.replacen("node-2:", "node-9:", 1)).unwrap();
    let daemon = nodes[1].up();
    wait_for("the outage to be said", || daemon.network().registry_problem);
    assert_eq!(daemon.network().removed, None);
    let one = nodes[0].up();
    let told = daemon.await_problem("has probably been removed from the network");
    assert_eq!(daemon.network().removed, Some(told));
    // A registry that is away says nothing of the kind; nor is the hint given up for that.
    one.terminate();
    assert!(daemon.network().removed.is_some());
}

#[test]
fn a_secret_is_rotated_under_traffic() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&[]);
    let one = nodes[0].up();
    nodes[1].join(&token);
    let two = nodes[1].up();
    one.await_nodes(1);
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    for epoch in 2..5 {
        nodes[0].adit(&["secret", "rotate"]);
        wait_for("the next secret", || {
            [&one, &two].iter().all(|daemon| daemon.network().epoch == Some(epoch)).then_some(())
        });
        all_talk(&containers);
    }
}

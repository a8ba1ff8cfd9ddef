//! Faults of nodes of a network.

use crate::bed::attached::{attach, directories};
use crate::bed::{Bed, wait_for};
use crate::patient::Patient;
use crate::world::{Node, network};

#[test]
fn a_registry_that_is_away_is_found_and_its_return_too() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let mut daemons = network(&nodes, &[]);
    let patient = Patient::node(&nodes[1]);
    assert_eq!(patient.examine().ids(), [""; 0]);
    daemons.remove(0).terminate();
    let finding = patient.await_finding("registry-away");
    assert!(finding.severity == "broken" && finding.evidence.contains("https://192.0.2.1:"), "{finding:?}");
    assert!(finding.advice.contains("start the daemon again"), "{finding:?}");
    let _first = nodes[0].up();
    let report = patient.await_mended("registry-away");
    assert!(report.find("registry-lease").is_none(), "{:#}", report.json);
}

#[test]
fn an_address_of_a_container_that_the_host_has_too_is_found() {
    let bed = Bed::new(1);
    let node = Node::new(bed.host(1));
    let _daemons = network(std::slice::from_ref(&node), &[]);
    let web = attach(node.host, &directories(node.directory.path()), "web");
    let patient = Patient::node(&node);
    let address = web.ip(false);
    patient.type_in(&format!("ip address add {address}/32 dev under0"));
    let finding = patient.examine().find("duplicate-address").unwrap();
    assert!(finding.sentence.contains("web") && finding.sentence.contains("under0"), "{finding:?}");
    assert_eq!(finding.commands, [format!("ip address del {address}/32 dev under0")]);
    patient.mend(&finding);
}

#[test]
fn somebody_who_answers_for_a_container_is_found_by_his_link_layer_address() {
    let bed = Bed::new(1);
    let node = Node::new(bed.host(1));
    let _daemons = network(std::slice::from_ref(&node), &[]);
    let web = attach(node.host, &directories(node.directory.path()), "web");
    let patient = Patient::node(&node);
    let (address, bridge) = (web.ip(false), &web.record.bridge);
    patient.type_in(&format!("ip neighbour replace {address} lladdr 02:00:00:00:00:99 dev {bridge} nud reachable"));
    let finding = patient.examine().find("duplicate-address").unwrap();
    assert!(finding.evidence.contains("02:00:00:00:00:99"), "{finding:?}");
    patient.mend(&finding);
}

#[test]
fn a_network_of_docker_within_ours_is_found_and_named() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let daemons = network(&nodes, &[]);
    let other = wait_for("a subnet", || daemons[1].network().subnets.first().copied());
    let patient = Patient::node(&nodes[0]);
    // Docker chose a part of the other node's subnet.
    let part = other.subnets(26).unwrap().nth(1).unwrap();
    let gateway = part.hosts().next().unwrap();
    patient.type_in("ip link add docker0 type bridge && ip link set docker0 up");
    patient.type_in(&format!("ip address add {gateway}/26 dev docker0"));
    let finding = patient.await_finding("subnet-stolen");
    assert!(finding.evidence.contains("Docker's") && finding.advice.contains("docker network"), "{finding:?}");
    assert!(patient.examine().find("neighbour-present").unwrap().sentence.contains("docker0 (Docker)"));
    patient.mend(&finding);
}

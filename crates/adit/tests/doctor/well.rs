//! Hosts that are well, hosts without a daemon, and users without rights.

use std::fs;
use std::os::unix::process::CommandExt;

use crate::bed::attached::{attach, directories};
use crate::bed::daemon::ADIT;
use crate::bed::traffic::{End, exchange_udp};
use crate::bed::{Bed, Family, wait_for};
use crate::patient::{Patient, Report, await_session, pair};
use crate::world::{Node, network};

/// Nothing is found, and every check was made.
fn check_well(patient: &Patient<'_>) -> Report {
    let report = patient.examine();
    assert_eq!(report.ids(), [""; 0], "{:#}", report.json);
    let checks = report.json["checks"].as_array().unwrap();
    assert!(checks.len() > 15 && checks.iter().all(|check| check["well"] == true), "{:#}", report.json);
    let (text, code) = patient.examine_aloud();
    assert!(code == 0 && text.ends_with("\nnothing is wrong\n"), "{text}");
    assert!(text.lines().count() < 25, "{text}");
    report
}

#[test]
fn nothing_is_found_on_the_ends_of_a_tunnel() {
    for transport in ["sealed", "wireguard", "plain"] {
        let (bed, places) = pair(transport, |_| ());
        let daemons = places.each_ref().map(|place| place.start());
        if transport == "sealed" {
            daemons.iter().for_each(await_session);
        }
        let ends = [1, 2].map(|n| End::new(&bed.host(n).namespace, bed.host(n).inner(Family::V4)));
        exchange_udp(ends[0], ends[1], [100, 1000]);
        for (number, place) in places.iter().enumerate() {
            let patient = Patient::of(bed.host(number + 1), place);
            if transport == "sealed" {
                check_well(&patient);
            } else {
                // No peer that could be asked what time it is: on a machine whose clock nobody keeps that is noted.
                let report = patient.examine();
                let others: Vec<_> = report.ids().into_iter().filter(|id| id != "clock-unsynchronised").collect();
                assert_eq!(others, [""; 0], "{:#}", report.json);
            }
        }
    }
}

#[test]
fn nothing_is_found_on_nodes_with_containers() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let daemons = network(&nodes, &["--ipv6-network", "fd42::/48"]);
    let containers: Vec<_> =
        nodes.iter().map(|node| attach(node.host, &directories(node.directory.path()), "web")).collect();
    assert_eq!(containers.len(), 2);
    for (node, daemon) in nodes.iter().zip(&daemons) {
        // The registry sees the nodes' first words a moment later than they see each other.
        wait_for("a lease", || {
            (daemon.network().lease == "held" && daemon.network().problems.is_empty()).then_some(())
        });
        check_well(&Patient::node(node));
    }
}

#[test]
fn a_host_without_a_daemon_is_looked_at_too() {
    let (bed, [place, _]) = pair("plain", |_| ());
    let report = Patient::of(bed.host(1), &place).examine();
    assert!(!report.is_broken());
    let others: Vec<_> = report.ids().into_iter().filter(|id| id != "clock-unsynchronised").collect();
    assert_eq!(others, ["daemon-none"], "{:#}", report.json);
}

#[test]
fn whoever_has_no_rights_is_told_what_was_not_looked_at() {
    const NOBODY: u32 = 65534;
    let (bed, places) = pair("sealed", |_| ());
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    // In a user namespace of one user there is nobody else to be.
    if !fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") {
        return;
    }
    let program = places[0].path("adit");
    fs::copy(ADIT, &program).unwrap();
    let patient = Patient::of(bed.host(1), &places[0]);
    let mut command = patient.command(program.to_str().unwrap());
    command.args(["doctor", "--json"]).uid(NOBODY).gid(NOBODY);
    let output = bed.host(1).namespace.run(|| command.output()).unwrap().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!((output.status.code(), &json["broken"]), (Some(0), &false.into()), "{json:#}");
    let unseen: Vec<&str> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["severity"] == "unseen")
        .map(|finding| finding["id"].as_str().unwrap())
        .collect();
    for id in ["rights-ours", "firewall-unseen", "gso-unseen", "daemon-unmeasured"] {
        assert!(unseen.contains(&id), "{id}: {json:#}");
    }
}

//! Firewalls of others.

use crate::bed::attached::{attach, directories};
use crate::bed::{Bed, wait_for};
use crate::patient::{Patient, await_session, pair};
use crate::world::{Node, network};

#[test]
fn a_policy_of_nftables_that_shuts_peers_out_is_found_and_opened() {
    // Whether the peer is one that is called, or one that is to call.
    for calls in [true, false] {
        let (bed, places) = pair("sealed", |ends| {
            if !calls {
                ends[0].peers[0].endpoint.clear();
            }
        });
        let host = bed.host(1);
        let rules = "iifname lo accept; tcp dport { 22, 80 } accept; ct state invalid accept;";
        host.run(
            "nft",
            &[&format!(
                "table inet filter {{ chain input {{ type filter hook input priority 0; policy drop; {rules} }}; }}"
            )],
        );
        let daemons = places.each_ref().map(|place| place.start());
        let patient = Patient::of(host, &places[0]);
        let finding = patient.await_finding("firewall-in");
        assert_eq!(finding.commands, ["nft insert rule inet filter input udp dport 7777 accept"], "{finding:?}");
        assert!(finding.evidence.contains("policy is drop") && finding.severity == "broken", "{finding:?}");
        assert_ne!(daemons[0].status().peers[0].session, "up");
        let inner = patient.mend(&finding).find("firewall-inner").unwrap();
        await_session(&daemons[0]);
        patient.mend(&inner);
        assert_eq!(patient.await_mended("peer-nobody").ids(), [""; 0]);
    }
}

#[test]
fn a_table_that_is_switched_off_is_not_in_the_way() {
    let (bed, places) = pair("sealed", |_| ());
    let host = bed.host(1);
    let rules = "type filter hook input priority 0; policy drop;";
    host.run("nft", &[&format!("table inet off {{ flags dormant; chain input {{ {rules} }}; }}")]);
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    assert_eq!(Patient::of(host, &places[0]).examine().ids(), [""; 0]);
}

#[test]
fn a_rule_that_knows_no_connections_is_broken_while_the_session_looks_up() {
    let (bed, places) = pair("sealed", |_| ());
    let host = bed.host(1);
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let rules = "type filter hook input priority 0; udp dport 7777 drop;";
    host.run("nft", &[&format!("table inet filter {{ chain input {{ {rules} }}; }}")]);
    let patient = Patient::of(host, &places[0]);
    let report = patient.examine();
    let finding = report.find("firewall-in").unwrap_or_else(|| panic!("{:#}", report.json));
    assert!(finding.severity == "broken" && finding.evidence.contains("dropped as well"), "{finding:?}");
    assert!(report.find("peer-nobody").is_some(), "{:#}", report.json);
    patient.mend(&finding);
    assert_eq!(patient.await_mended("peer-nobody").ids(), [""; 0]);
}

#[test]
fn a_rule_of_iptables_that_drops_is_found_by_its_number() {
    let (bed, places) = pair("sealed", |_| ());
    let host = bed.host(1);
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let patient = Patient::of(host, &places[0]);
    host.run("iptables", &["-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"]);
    host.run("iptables", &["-A", "INPUT", "-p", "udp", "-m", "multiport", "--dports", "7000:8000", "-j", "REJECT"]);
    let finding = patient.examine().find("firewall-in-later").unwrap();
    assert!(finding.severity == "warning" && finding.sentence.contains("iptables"), "{finding:?}");
    assert_eq!(finding.commands, ["iptables -I INPUT -p udp --dport 7777 -j ACCEPT"]);
    assert_eq!(patient.mend(&finding).ids(), [""; 0]);
    host.run("iptables", &["-A", "OUTPUT", "-p", "udp", "--dport", "7777", "-j", "DROP"]);
    let finding = patient.examine().find("firewall-out").unwrap();
    assert_eq!(finding.commands, ["iptables -I OUTPUT -p udp --sport 7777 -j ACCEPT"]);
    patient.mend(&finding);
}

#[test]
fn the_policy_of_docker_that_cuts_containers_off_is_found_and_opened() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let _daemons = network(&nodes, &[]);
    let containers: Vec<_> =
        nodes.iter().map(|node| attach(node.host, &directories(node.directory.path()), "web")).collect();
    let host = nodes[0].host;
    let pings = || {
        let to = containers[1].ip(false).to_string();
        let ping = || std::process::Command::new("ping").args(["-c", "1", "-W", "1", "-n", &to]).output();
        containers[0].namespace.run(ping).unwrap().unwrap().status.success()
    };
    wait_for("an answer", || pings().then_some(()));
    // As dockerd has it.
    for line in ["-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN"] {
        host.run("iptables", &line.split(' ').collect::<Vec<_>>());
    }
    assert!(!pings());
    let patient = Patient::node(&nodes[0]);
    let report = patient.examine();
    let cut: Vec<_> = report.findings().into_iter().filter(|finding| finding.id == "firewall-forward").collect();
    assert_eq!(cut.len(), 2, "{:#}", report.json);
    assert!(
        cut.iter().all(|finding| finding.sentence.starts_with("Docker's firewall") && finding.severity == "broken")
    );
    for finding in &cut {
        assert!(finding.evidence.contains("the container web got no answer"), "{finding:?}");
        finding.commands.iter().for_each(|line| patient.type_in(line));
    }
    assert!(patient.examine().find("firewall-forward").is_none());
    wait_for("an answer", || pings().then_some(()));
    // What is bridged is filtered too, where br_netfilter is loaded and switched on.
    let filtered = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if host.namespace.run(|| std::fs::read_to_string(filtered)).unwrap().is_ok_and(|value| value.trim() == "1") {
        let finding = patient.examine().find("bridge-filtered").unwrap();
        assert!(!patient.mend(&finding).is_broken());
    }
}

#[test]
fn tables_of_the_former_iptables_are_told_of_once_they_do_something() {
    let (bed, places) = pair("plain", |_| ());
    let patient = Patient::of(bed.host(1), &places[0]);
    let legacy = |line: &str| {
        let mut command = patient.command("iptables-legacy");
        command.args(line.split(' '));
        bed.host(1).namespace.run(|| command.output()).unwrap().is_ok_and(|output| output.status.success())
    };
    // Where the kernel or the host has none of it there is nothing to be seen.
    if !legacy("-L INPUT") {
        return;
    }
    assert!(patient.examine().find("firewall-legacy").is_none());
    for (plant, undo) in [("-A INPUT -j ACCEPT", "-F INPUT"), ("-P FORWARD DROP", "-P FORWARD ACCEPT")] {
        assert!(legacy(plant));
        let finding = patient.examine().find("firewall-legacy").unwrap_or_else(|| panic!("{plant}"));
        assert!(finding.evidence.contains("iptables filter"), "{finding:?}");
        assert!(legacy(undo));
        assert!(patient.examine().find("firewall-legacy").is_none(), "{undo}");
    }
}

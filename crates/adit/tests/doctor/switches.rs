//! Faults of bridges that adit joins to one network, and hosts of which nothing is found.

use std::process::Command;

use linux::netlink::{LinkChange, VethEnd};

use crate::bed::traffic::exchange_tcp;
use crate::bed::{Family, wait_for};
use crate::lan::{ALL, Machine, World, plug, strange};
use crate::patient::Patient;

/// Two hosts whose devices take what machines send, with something in `[switch]`.
fn world(switch: &str) -> World {
    World::new(2, |_, end| end.device_lines += &format!("mtu = 1500\n{switch}"))
}

fn patient(world: &World, number: usize) -> Patient<'_> {
    Patient::of(world.host(number), &world.places[number - 1])
}

fn pings(from: &Machine, to: &Machine) -> bool {
    let to = to.ip(Family::V4).to_string();
    let ping = || Command::new("ping").args(["-c", "1", "-W", "1", "-n", &to]).output();
    from.namespace.run(ping).unwrap().unwrap().status.success()
}

#[test]
fn nothing_is_found_on_bridges_that_are_well() {
    let world = world("");
    let _daemons = world.start();
    // An address of the host on the bridge needs no forwarding: what the tunnel brings is its neighbour's.
    world.host(1).run("ip", &["address", "add", "10.88.0.99/24", "dev", "br0"]);
    world.host(1).set(&["net", "ipv4", "ip_forward"], "0");
    let [here, there] = [world.machine(1, 1), world.machine(2, 2)];
    exchange_tcp(here.end(Family::V4), there.end(Family::V4), 10_000, 10_000);
    for number in [1, 2] {
        let report = patient(&world, number).examine();
        assert_eq!(report.ids(), [""; 0], "{:#}", report.json);
    }
}

#[test]
fn a_loop_is_found_until_it_is_cut() {
    let world = world("");
    let _daemons = world.start();
    let far = VethEnd { name: "cable", netns: Some(&world.host(2).namespace), ..VethEnd::default() };
    world.host(1).netlink().create_veth(&VethEnd { name: "cable", ..VethEnd::default() }, &far).unwrap();
    for number in [1, 2] {
        plug(&mut world.host(number).netlink(), "cable", "br0");
    }
    let patient = patient(&world, 1);
    let finding = patient.await_finding("switch-loop");
    assert!(finding.severity == "broken" && finding.sentence.contains("host2"), "{finding:?}");
    // What it says to type shows what is plugged in.
    assert!(world.host(1).run("sh", &["-c", &finding.commands[0]]).contains("cable"), "{finding:?}");
    world.host(1).run("ip", &["link", "del", "cable"]);
    patient.await_mended("switch-loop");
}

#[test]
fn filters_in_the_way_of_frames_are_found() {
    let world = world("");
    let _daemons = world.start();
    let [here, there] = [world.machine(1, 1), world.machine(2, 2)];
    wait_for("a way to the other", || pings(&here, &there).then_some(()));
    let patient = patient(&world, 1);
    let mut filters = vec![
        "nft add table bridge strict && nft add chain bridge strict forward '{ type filter hook forward priority 0; policy drop; }'",
    ];
    // What is bridged is filtered as if it were routed too, where br_netfilter is loaded and switched on.
    let setting = "cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0";
    if world.host(1).run("sh", &["-c", setting]).trim() == "1" {
        filters.push("iptables -P FORWARD DROP");
    }
    for filter in filters {
        patient.type_in(filter);
        assert!(!pings(&here, &there), "{filter}");
        let finding = patient.examine().find("switch-filtered").unwrap_or_else(|| panic!("{filter}"));
        assert_eq!(finding.severity, "broken");
        // A chain of bridges ends both ways, each of which has its line.
        wait_for("the way to be free", || {
            let report = patient.examine();
            let Some(finding) = report.find("switch-filtered") else { return Some(()) };
            finding.commands.iter().for_each(|line| patient.type_in(line));
            None
        });
        if filter.contains("bridge strict") {
            // Questions for addresses are no IP packets, of which the doctor says nothing.
            patient.type_in("nft insert rule bridge strict forward ether type arp accept");
        }
        wait_for("a way to the other again", || pings(&here, &there).then_some(()));
    }
}

#[test]
fn machines_whose_packets_are_too_long_are_found() {
    let world = World::new(2, |_, _| ());
    let daemons = world.start();
    let _machine = world.machine(1, 1);
    let patient = patient(&world, 1);
    let finding = patient.examine().find("switch-mtu").unwrap();
    assert!(finding.severity == "note" && finding.evidence.contains("m1 (1500)"), "{finding:?}");
    assert!(finding.advice.contains("mtu = 1500"), "{finding:?}");
    let mut end = world.ends[0].clone();
    end.device_lines += "mtu = 1500\n";
    world.places[0].configure(&end);
    daemons[0].reload();
    patient.await_mended("switch-mtu");
}

#[test]
fn a_bridge_of_somebody_else_that_is_down_is_found() {
    let world = world("");
    world.host(1).run("ip", &["link", "add", "br0", "type", "bridge"]);
    world.host(1).run("ip", &["link", "set", "br0", "up"]);
    let _daemons = world.start();
    let mut netlink = world.host(1).netlink();
    let index = netlink.existing_link("br0").unwrap().index;
    netlink.change_link(index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    let patient = patient(&world, 1);
    let finding = patient.await_finding("switch-unplugged");
    assert_eq!(finding.commands, ["ip link set br0 up"], "{finding:?}");
    patient.mend(&finding);
}

#[test]
fn too_many_addresses_and_broadcasts_are_found_with_who_sends_them() {
    let world = world("[switch]\nmacs-per-peer = 16\nstorm-limit = 50\n");
    let daemons = world.start();
    let card = world.card(1, 1);
    let there = world.machine(2, 2);
    // From many addresses to one, which is not flooded once it is known.
    for number in 0..200u32 {
        let [.., a, b] = number.to_be_bytes();
        card.send(&strange([2, 0xaa, 0, 0, a, b], there.mac(), &[0; 46]));
    }
    for _ in 0..500 {
        card.send(&strange(card.mac, ALL, &[0; 46]));
    }
    wait_for("a storm", || (daemons[0].drops("storm") > 0).then_some(()));
    assert!(patient(&world, 1).await_finding("switch-storm").sentence.contains("frames for everybody"));
    let finding = patient(&world, 2).await_finding("switch-full");
    assert!(finding.severity == "warning" && finding.evidence.contains("host1: 16"), "{finding:?}");
}

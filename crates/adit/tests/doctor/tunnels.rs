//! Faults of tunnels from files.

use linux::netlink::{LinkChange, Netlink, VethEnd};

use crate::bed::daemon::{Configuration, Place};
use crate::bed::{Bed, Family, Host, wait_for};
use crate::patient::{Patient, await_session, pair};

#[test]
fn a_device_file_that_is_missing_is_found() {
    let (bed, places) = pair("sealed", |_| ());
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let patient = Patient::of(bed.host(1), &places[0]);
    let report = patient.examine_within("mount -t tmpfs none /dev/net && exec \"$@\"");
    let finding = report.find("tun-unusable").unwrap_or_else(|| panic!("{:#}", report.json));
    assert_eq!((finding.severity.as_str(), &finding.commands[..]), ("broken", &["modprobe tun".to_owned()][..]));
    assert!(patient.examine().find("tun-unusable").is_none());
}

#[test]
fn a_peer_that_is_not_there_is_found_until_it_is() {
    let (bed, [one, two]) = pair("sealed", |_| ());
    let daemon = one.start();
    let patient = Patient::of(bed.host(1), &one);
    let finding = patient.await_finding("peer-nobody");
    assert!(finding.severity == "broken" && finding.evidence.contains("host2 at 192.0.2.2:7777"), "{finding:?}");
    let _other = two.start();
    await_session(&daemon);
    assert_eq!(patient.await_mended("peer-nobody").ids(), [""; 0]);
}

#[test]
fn a_daemon_that_was_killed_is_found_and_cleaned_up_after() {
    let (bed, [one, _]) = pair("plain", |_| ());
    one.start().crash();
    let patient = Patient::of(bed.host(1), &one);
    let finding = patient.examine().find("daemon-dead").unwrap();
    assert_eq!(
        (finding.severity.as_str(), &finding.commands[..]),
        ("broken", &["adit down --device adit0".to_owned()][..])
    );
    let report = patient.mend(&finding);
    assert!(report.ids().contains(&"daemon-none".to_owned()) && !report.is_broken(), "{:#}", report.json);
    assert!(patient.host.netlink().link("adit0").unwrap().is_none());
}

#[test]
fn a_route_of_somebody_else_is_found() {
    let (bed, places) = pair("sealed", |_| ());
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let patient = Patient::of(bed.host(1), &places[0]);
    for (add, six) in
        [("ip route add 10.42.7.0/24 via 192.0.2.2", false), ("ip -6 route add fd40:2:7::/48 via 2001:db8::2", true)]
    {
        patient.type_in(add);
        let finding = patient.await_finding("subnet-stolen");
        assert!(finding.sentence.contains("under0") && finding.commands[0].contains("-6") == six, "{finding:?}");
        assert_eq!(patient.mend(&finding).ids(), [""; 0]);
    }
}

#[test]
fn a_strict_reverse_path_filter_is_found_where_it_bites() {
    let (bed, places) = pair("sealed", |_| ());
    let host = bed.host(1);
    // A second card of the first host, by which it sends to its peer; what the peer sends comes by the first.
    let mut switch = Netlink::open_in(&bed.switch).unwrap();
    let card = VethEnd { name: "under1", netns: Some(&host.namespace), ..VethEnd::default() };
    switch.create_veth(&VethEnd { name: "port9", ..VethEnd::default() }, &card).unwrap();
    let bridge = switch.existing_link("switch").unwrap().index;
    let port = switch.existing_link("port9").unwrap().index;
    let change = LinkChange { controller: Some(Some(bridge)), up: Some(true), ..LinkChange::default() };
    switch.change_link(port, &change).unwrap();
    host.run("ip", &["link", "set", "under1", "up"]);
    host.run("ip", &["route", "add", "192.0.2.2/32", "dev", "under1", "src", "192.0.2.1"]);
    // What two hosts learn by ARP of such a way is chance.
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    host.run("ip", &["neighbour", "replace", "192.0.2.2", "lladdr", &text(bed.host(2).mac()), "dev", "under1"]);
    bed.host(2).run("ip", &["neighbour", "replace", "192.0.2.1", "lladdr", &text(host.mac()), "dev", "under0"]);
    host.set(&["net", "ipv4", "conf", "under0", "rp_filter"], "1");
    let daemons = places.each_ref().map(|place| place.start());
    let patient = Patient::of(host, &places[0]);
    let finding = patient.await_finding("rp-filter-underlay");
    assert_eq!(finding.commands, ["sysctl -w net/ipv4/conf/under0/rp_filter=2"], "{finding:?}");
    assert_ne!(daemons[0].status().peers[0].session, "up");
    patient.mend(&finding);
    await_session(&daemons[0]);
    assert!(!patient.examine().is_broken());
}

#[test]
fn a_black_hole_is_measured_and_mended() {
    let (bed, places) = pair("sealed", |_| ());
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let patient = Patient::of(bed.host(1), &places[0]);
    assert_eq!(patient.examine().ids(), [""; 0]);
    // From now on the way swallows what is longer, without a word: datagrams of 1,300 bytes with their IP header.
    let hole = "table bridge hole { chain way { type filter hook forward priority 0; ether type ip meta length > 1300 drop; }; }";
    let run = || std::process::Command::new("nft").arg(hole).status();
    assert!(bed.switch.run(run).unwrap().unwrap().success());
    let finding = patient.examine().find("mtu-black-hole").unwrap();
    // 1,300 bytes, less IP and UDP headers, less those of the transport and its tag.
    let size: u32 = finding.sentence.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((1240 - 8..=1240).contains(&size), "{finding:?}");
    assert!(finding.commands[0].starts_with("ip route replace 192.0.2.2 dev under0 mtu 1"), "{finding:?}");
    patient.mend(&finding);
    // The daemon follows the route a moment later, and tries larger packets no more.
    assert_eq!(patient.await_mended("mtu-narrow").ids(), [""; 0]);
    wait_for("packets that fit", || daemons[0].status().peers[0].path_mtu.filter(|mtu| *mtu <= 1240));
}

#[test]
fn forwarding_that_is_off_is_found_where_a_network_is_behind() {
    let (bed, places) = pair("plain", |_| ());
    let host = bed.host(1);
    let container = host.container();
    host.set(&["net", "ipv4", "ip_forward"], "0");
    let _daemons = places.each_ref().map(|place| place.start());
    let patient = Patient::of(host, &places[0]);
    // Nobody was heard there.
    let report = patient.examine();
    assert!(report.find("forwarding-behind").is_none(), "{:#}", report.json);
    container
        .run(|| std::process::Command::new("ping").args(["-c", "1", "-n", "10.41.0.1"]).output())
        .unwrap()
        .unwrap();
    let finding = patient.examine().find("forwarding-behind").unwrap();
    assert!(
        finding.severity == "note" && finding.sentence.contains("10.41.0.0/24") && finding.sentence.contains("c0"),
        "{finding:?}"
    );
    let pings = || {
        let ping = || std::process::Command::new("ping").args(["-c", "1", "-W", "1", "-n", "10.77.0.2"]).output();
        container.run(ping).unwrap().unwrap().status.success()
    };
    assert!(!pings());
    patient.mend(&finding);
    wait_for("an answer", || pings().then_some(()));
}

#[test]
fn a_tunnel_without_offloads_says_why() {
    let (bed, [one, _]) = pair("plain", |ends| ends[0].transport += "offload = false\n");
    let daemon = one.start();
    let patient = Patient::of(bed.host(1), &one);
    let finding = patient.examine().find("offload-off").unwrap();
    assert_eq!(finding.severity, "note");
    assert!(finding.evidence.contains("configuration") && finding.advice.contains("adit0.toml"), "{finding:?}");
    daemon.terminate();
    one.configure(&Configuration::new(bed.host(1), &[2], Family::V4));
    let _daemon = one.start();
    assert!(patient.examine().find("offload-off").is_none());
}

#[test]
fn a_host_behind_nat_without_keepalive_is_found() {
    let bed = Bed::new(2);
    let (host, router) = (bed.host(1), bed.host(2));
    let hidden = Host { number: 3, namespace: router.container(), guard: std::sync::Arc::clone(&router.guard) };
    let rules = "table ip hide { chain leaving { type nat hook postrouting priority 100; oifname under0 meta l4proto udp masquerade; }; }";
    router.run("nft", &[rules]);
    let [mut near, mut far] = Configuration::pair([host, &hidden], Family::V4, "sealed");
    near.peers[0].endpoint.clear();
    far.listen = "[::]:7777".into();
    let (one, two) = (Place::new(host, &near), Place::new(&hidden, &far));
    let (_one, daemon) = (one.start(), two.start());
    await_session(&daemon);
    let patient = Patient::of(&hidden, &two);
    let finding = patient.await_finding("nat-keepalive");
    assert!(finding.evidence.contains("host1 sees us at 192.0.2.2:"), "{finding:?}");
    assert!(finding.advice.contains("keepalive = \"25s\"") && finding.advice.contains("host1"), "{finding:?}");
    far.peers[0].keepalive = Some("25s");
    two.configure(&far);
    patient.mend(&finding);
}

#[test]
fn a_way_into_the_tunnel_itself_is_found() {
    let (bed, places) = pair("sealed", |_| ());
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let patient = Patient::of(bed.host(1), &places[0]);
    patient.type_in("ip route add 192.0.2.2/32 dev adit0");
    let finding = patient.await_finding("peer-loop");
    assert!(finding.severity == "broken" && finding.sentence.contains("192.0.2.2:7777"), "{finding:?}");
    patient.type_in("ip route del 192.0.2.2/32 dev adit0");
    patient.await_mended("peer-loop");
}

#[test]
fn what_policy_routing_takes_past_the_tunnel_is_found() {
    let (bed, places) = pair("sealed", |_| ());
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let patient = Patient::of(bed.host(1), &places[0]);
    for (plant, command) in [
        (
            "ip route add 10.77.0.2 via 192.0.2.2 dev under0 table 77 && ip rule add to 10.77.0.2 lookup 77 prio 5",
            "ip route del 10.77.0.2/32 via 192.0.2.2 dev under0 table 77",
        ),
        (
            "ip route add default via 192.0.2.2 dev under0 table 78 && ip rule add to 10.77.0.2 lookup 78 prio 6",
            "ip rule del prio 6 lookup 78",
        ),
        ("ip rule add to 10.77.0.2 blackhole prio 7", "ip rule del prio 7 blackhole"),
        ("ip rule add to 10.42.0.0/16 prohibit prio 8", "ip rule del prio 8 prohibit"),
        ("ip route add blackhole 10.42.9.0/24", "ip route del blackhole 10.42.9.0/24"),
        ("ip -6 rule add to fd40:2::/32 prohibit prio 9", "ip -6 rule del prio 9 prohibit"),
        ("ip -6 rule add to fd40:2::/32 unreachable prio 9", "ip -6 rule del prio 9 unreachable"),
    ] {
        patient.type_in(plant);
        let report = patient.examine();
        let finding = report.find("subnet-stolen").unwrap_or_else(|| panic!("{plant}: {:#}", report.json));
        assert_eq!((finding.severity.as_str(), &finding.commands[..]), ("broken", &[command.to_owned()][..]));
        assert_eq!(patient.mend(&finding).ids(), [""; 0], "{plant}");
    }
}

#[test]
fn the_only_peer_is_found_when_it_stands_still_within_a_session() {
    let (bed, places) = pair("sealed", |_| ());
    let daemons = places.each_ref().map(|place| place.start());
    daemons.iter().for_each(await_session);
    let patient = Patient::of(bed.host(1), &places[0]);
    daemons[1].signal("STOP");
    let report = patient.examine();
    let finding = report.find("peer-nobody").unwrap_or_else(|| panic!("{:#}", report.json));
    assert!(finding.severity == "broken" && finding.evidence.contains("host2 at 192.0.2.2:7777"), "{finding:?}");
    daemons[1].signal("CONT");
    assert_eq!(patient.await_mended("peer-nobody").ids(), [""; 0]);
}

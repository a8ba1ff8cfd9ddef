//! Packets that do not arrive: the trace names the place and the cause.

use crate::scene::{Scene, Traced};

/// Checks where a probe ended, and why.
fn check(traced: &Traced, probe: usize, (last, cause): (&str, &str), parts: &[&str]) {
    let (was, because, words) = traced.end(probe, "host1");
    assert_eq!((was.as_str(), because.as_str()), (last, cause), "{words}\n{}", traced.json);
    for part in parts {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(traced.code, Some(1));
}

#[test]
fn a_rule_of_a_firewall_is_named() {
    let scene = Scene::pair("sealed", true);
    let host = scene.bed.host(2);
    host.run("nft", &["add table inet guard"]);
    host.run("nft", &["add chain inet guard way { type filter hook forward priority 0; }"]);
    // One that lets through what comes first, and one that does not.
    host.run("nft", &["add rule inet guard way ip daddr 10.42.0.9 drop"]);
    host.run("nft", &["add rule inet guard way ip daddr 10.42.0.2 drop"]);
    let listed = host.run("nft", &["-a", "list", "chain", "inet", "guard", "way"]);
    let handle = listed.lines().find(|line| line.contains("10.42.0.2")).unwrap().rsplit(' ').next().unwrap();
    for kind in [&[][..], &["--udp", "9"], &["--tcp", "9"]] {
        let traced = scene.trace(1, &[&["10.42.0.2", "--count", "1"], kind].concat());
        check(&traced, 0, ("host2 adit0 in", "firewall"), &["inet guard", "way", handle]);
    }
    // What was put in to find out is gone.
    let tables = host.run("nft", &["list", "tables"]);
    assert!(!tables.contains("adit-trace"), "{tables}");
}

#[test]
fn a_policy_of_a_chain_is_named() {
    let scene = Scene::pair("sealed", true);
    let host = scene.bed.host(2);
    host.run("nft", &["add table inet guard"]);
    host.run("nft", &["add chain inet guard way { type filter hook forward priority 0; policy drop; }"]);
    let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
    check(&traced, 0, ("host2 adit0 in", "firewall"), &["inet guard", "way"]);
}

#[test]
fn a_firewall_that_refuses_is_told_from_a_closed_port() {
    let scene = Scene::pair("sealed", true);
    let host = scene.bed.host(2);
    // Refused with the very answer of a closed port, where the address is, and on the way to another.
    host.run("nft", &["add table inet guard"]);
    for (chain, hook, to) in [("near", "input", "10.77.0.2"), ("way", "forward", "10.42.0.2")] {
        host.run("nft", &[&format!("add chain inet guard {chain} {{ type filter hook {hook} priority 0; }}")]);
        host.run(
            "nft",
            &[&format!("add rule inet guard {chain} iif adit0 ip daddr {to} reject with icmpx port-unreachable")],
        );
        for kind in [&[][..], &["--tcp", "22"]] {
            let traced = scene.trace(1, &[&[to, "--count", "1"], kind].concat());
            assert_eq!(traced.answered(), [false], "{}", traced.json);
            check(&traced, 0, ("host2 adit0 in", "firewall"), &["inet guard", chain]);
        }
    }
    // A port that is closed says so itself.
    host.run("nft", &["delete", "table", "inet", "guard"]);
    assert_eq!(scene.trace(1, &["10.77.0.2", "--udp", "9", "--count", "1"]).answered(), [true]);
}

#[test]
fn whoever_has_the_address_and_says_nothing_is_told_nothing_to_do() {
    let scene = Scene::pair("sealed", true);
    let host = scene.bed.host(2);
    host.set(&["net", "ipv4", "ip_forward"], "0");
    host.set(&["net", "ipv4", "icmp_echo_ignore_all"], "1");
    let traced = scene.trace(1, &["10.77.0.2", "--count", "1"]);
    check(&traced, 0, ("host2 adit0 in", "no_answer"), &["host2 has the address and took it"]);
    assert!(traced.probes()[0]["lost"]["remedy"].is_null(), "{}", traced.json);
}

#[test]
fn ways_that_this_host_forbids_itself_are_told() {
    let scene = Scene::pair("sealed", true);
    let host = scene.bed.host(1);
    host.run("ip", &["route", "add", "prohibit", "10.99.0.1/32"]);
    for kind in [&[][..], &["--tcp", "80"], &["--udp", "80"]] {
        let traced = scene.trace(1, &[&["10.99.0.1", "--count", "1"], kind].concat());
        let (_, because, words) = traced.end(0, "host1");
        assert!(because == "no_route" && words.contains("no route to 10.99.0.1"), "{words}\n{}", traced.json);
    }
    // All hosts of a network are no destination.
    let output = scene.run(1, &["trace", "192.0.2.255"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("the address of all hosts of a network"), "{said}");
    // Nobody has the address, as the kernel finds out by itself and says to itself.
    let traced = scene.trace(1, &["192.0.2.99", "--count", "1"]);
    let (_, because, words) = traced.end(0, "host1");
    assert_eq!(because, "host_unreachable", "{words}\n{}", traced.json);
    // What does not get from the socket to the card is not the peer's fault.
    host.run("nft", &["add table netdev guard"]);
    host.run("nft", &["add chain netdev guard out { type filter hook egress device under0 priority 0; }"]);
    host.run("nft", &["add rule netdev guard out udp dport 7777 drop"]);
    let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
    let (was, because, words) = traced.end(0, "host1");
    assert!(was == "host1 sent" && because != "peer_down", "{was} {because} {words}\n{}", traced.json);
}

#[test]
fn a_cable_that_swallows_long_packets_is_named() {
    let scene = Scene::pair("sealed", true);
    scene.narrow_cable(2, 1300);
    let traced = scene.trace(1, &["10.42.0.2", "--size", "1400", "--count", "1"]);
    check(&traced, 0, ("host1 under0 out", "too_big"), &[]);
    // One that is small, and passes, says that it is the size.
    assert_eq!(traced.probes()[1]["size"], 84);
    assert!(!traced.probes()[1]["answered_ns"].is_null(), "{}", traced.json);
}

#[test]
fn a_peer_that_is_dead_is_named() {
    let mut scene = Scene::pair("sealed", true);
    scene.daemons.pop().unwrap().crash();
    let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
    check(&traced, 0, ("host1 under0 out", "peer_down"), &["host2"]);
}

#[test]
fn a_host_that_has_looked_often_enough_is_not_blamed() {
    let scene = Scene::pair("sealed", true);
    let probe = ["10.42.0.2", "--count", "1"];
    for _ in 0..12 {
        assert_eq!(scene.trace(1, &probe).places(0, "there", "host1").last().unwrap(), "host2 c0 out");
    }
    let is_named = |text: &str| {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        words.contains("host2 was not seen") && words.contains("it permits 12 traces a minute")
    };
    // Answered, and not seen there.
    let traced = scene.trace(1, &probe);
    assert_eq!(traced.answered(), [true]);
    let host = &traced.json["hosts"][1];
    assert_eq!((&host["name"], &host["permitted"]), (&"host2".into(), &true.into()), "{}", traced.json);
    assert!(host["unseen"].as_str().unwrap().contains("try again in a minute"), "{host}");
    let directory = tempfile::tempdir().unwrap();
    let svg = directory.path().join("a.svg");
    let drawing = scene.drawing(1, &[&probe[..], &["--svg", svg.to_str().unwrap()]].concat());
    assert!(is_named(&drawing), "{drawing}");
    assert!(is_named(&std::fs::read_to_string(&svg).unwrap()));
    // Lost, and nobody knows where.
    let host = scene.bed.host(2);
    host.run("nft", &["add table inet guard"]);
    host.run("nft", &["add chain inet guard way { type filter hook forward priority 0; policy drop; }"]);
    let traced = scene.trace(1, &probe);
    check(&traced, 0, ("host1 under0 out", "not_known"), &["host2 was not seen", "try again in a minute"]);
    let words = traced.probes()[0]["lost"]["sentence"].as_str().unwrap();
    assert!(!words.contains("answer"), "{words}");
}

#[test]
fn a_check_of_source_addresses_is_named() {
    let scene = Scene::pair("sealed", true);
    // The way back to the probes' source leads elsewhere.
    scene.misroute(2, "10.77.0.1", 1);
    scene.bed.host(2).set(&["net", "ipv4", "conf", "adit0", "rp_filter"], "1");
    let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
    check(&traced, 0, ("host2 adit0 in", "rp_filter"), &["adit0"]);
}

#[test]
fn a_host_that_does_not_forward_is_named() {
    let scene = Scene::pair("sealed", true);
    scene.bed.host(2).set(&["net", "ipv4", "ip_forward"], "0");
    let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
    check(&traced, 0, ("host2 adit0 in", "forwarding_off"), &["host2"]);
}

#[test]
fn an_address_that_nobody_has_is_named() {
    let scene = Scene::pair("sealed", true);
    let traced = scene.trace(1, &["10.42.0.77", "--count", "1"]);
    let (last, cause, words) = traced.end(0, "host1");
    assert_eq!((last.as_str(), cause.as_str()), ("host2 adit0 in", "host_unreachable"), "{words}");
    let traced = scene.trace(1, &["203.0.113.1", "--count", "1"]);
    let (_, cause, words) = traced.end(0, "host1");
    assert_eq!((cause.as_str(), traced.code), ("no_route", Some(1)), "{words}: {}", traced.json);
}

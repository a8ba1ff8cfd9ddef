//! Traces: what `adit trace` says of packets that arrive, of packets that do not, and of hosts that do not want to be asked, beside what
//! tcpdump sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod beside;
mod faults;
mod helper;
mod nodes;
mod scene;
#[path = "../network/world.rs"]
#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
mod world;

use std::fs;

use scene::Scene;

/// Where a probe from host 1 passes on its way to the container behind host 2.
const THERE: [&str; 11] = [
    "host1 adit0 out",
    "host1 read",
    "host1 sealed",
    "host1 sent",
    "host1 under0 out",
    "host2 under0 in",
    "host2 received",
    "host2 opened",
    "host2 written",
    "host2 adit0 in",
    "host2 c0 out",
];

#[test]
fn a_probe_is_seen_at_every_place_there_and_back() {
    let scene = Scene::pair("sealed", true);
    for kind in [&[][..], &["--icmp"], &["--udp", "9"], &["--tcp", "9"]] {
        for destination in ["10.42.0.2", "fd40:2::2"] {
            let traced = scene.trace(1, &[&[destination, "--count", "2"], kind].concat());
            assert_eq!(traced.answered(), [true; 2], "{kind:?} {destination}: {}", traced.json);
            assert_eq!(traced.code, Some(0));
            for probe in 0..2 {
                assert_eq!(traced.places(probe, "there", "host1"), THERE, "{kind:?} {destination}: {}", traced.json);
            }
            // What is refused by ICMP has no answer of its own.
            if kind != ["--udp", "9"] {
                let back = traced.places(1, "back", "host1");
                let mirrored: Vec<_> = back.iter().map(|place| place.split(' ').next().unwrap().to_owned()).collect();
                assert_eq!(mirrored, [vec!["host2"; 6], vec!["host1"; 5]].concat(), "{back:?}");
            }
            let hosts = traced.json["hosts"].as_array().unwrap();
            assert!(hosts.iter().all(|host| host["permitted"] == true && host["lost_records"] == 0), "{hosts:?}");
        }
    }
}

#[test]
fn a_sealed_datagram_is_the_same_on_both_cards() {
    let scene = Scene::pair("sealed", true);
    let traced = scene.trace(1, &["10.42.0.2", "--count", "3"]);
    for probe in 0..3 {
        let hops = traced.hops(probe, "there");
        let sealed: Vec<_> =
            hops.iter().filter(|hop| !hop["sealed"].is_null()).map(|hop| hop["sealed"].clone()).collect();
        // Sealed, sent, two cards, received, opened.
        assert_eq!(sealed.len(), 6, "{hops:?}");
        assert!(sealed.iter().all(|outer| *outer == sealed[0]), "{sealed:?}");
    }
}

#[test]
fn a_super_packet_stays_one_until_it_is_sealed() {
    let scene = Scene::pair("sealed", true);
    let traced = scene.trace(1, &["10.42.0.2", "--super", "--count", "1"]);
    let hops = traced.hops(0, "there");
    assert_eq!(hops[0]["place"]["device"], "adit0", "{}", traced.json);
    let packets = |hop: &serde_json::Value| hop["packets"].as_u64().unwrap();
    // 32 KiB in packets that fit the tunnel.
    assert!(packets(&hops[0]) >= 23 && hops[0]["pieces"] == 1, "{}", hops[0]);
    let read = hops.iter().find(|hop| hop["place"]["step"] == "read").unwrap();
    assert_eq!((packets(read), &read["pieces"]), (packets(&hops[0]), &1.into()));
    let arrived = hops.iter().rfind(|hop| hop["place"]["device"] == "adit0").unwrap();
    assert_eq!(packets(arrived), packets(&hops[0]), "nothing is lost: {}", traced.json);
    let totals = &traced.probes()[0]["legs"][0]["totals"];
    assert!(totals["classic"]["packets"].as_u64().unwrap() >= 23, "{totals}");
}

#[test]
fn a_plain_tunnel_is_traced_as_well() {
    let scene = Scene::pair("plain", true);
    let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
    assert_eq!(traced.answered(), [true]);
    let places = traced.places(0, "there", "host1");
    for place in ["host1 adit0 out", "host1 read", "host1 sent", "host1 under0 out"] {
        assert!(places.iter().any(|seen| seen == place), "{place}: {places:?}");
    }
    // Nothing can be said to such a peer.
    let host = &traced.json["hosts"][1];
    assert_eq!(
        (&host["permitted"], &host["unseen"]),
        (&true.into(), &"peers by plain cannot be asked, only sealed ones".into())
    );
    // Nothing is asked of it that it could not do.
    scene.bed.host(2).set(&["net", "ipv4", "icmp_echo_ignore_all"], "1");
    let drawing = scene.drawing(1, &["10.77.0.2", "--count", "1"]);
    let text = drawing.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        !text.contains("does not permit") && text.contains("only sealed ones") && drawing.ends_with('\n'),
        "{text}"
    );
}

#[test]
fn a_tunnel_of_frames_is_traced_as_well() {
    let scene = Scene::frames();
    let traced = scene.trace(1, &["10.88.0.2"]);
    assert_eq!(traced.answered(), [true; 3], "{}", traced.json);
    // Between the bridges of both.
    let expected: Vec<_> =
        ["host1 br0 out"].into_iter().chain(THERE[..10].iter().copied()).chain(["host2 br0 in"]).collect();
    assert_eq!(traced.places(2, "there", "host1"), expected, "{}", traced.json);
}

#[test]
fn three_hosts_are_asked_one_by_the_other() {
    let scene = Scene::chain();
    let traced = scene.trace(1, &["10.43.0.2"]);
    assert_eq!(traced.answered(), [true; 3], "{}", traced.json);
    let expected = [
        &THERE[..10],
        &["host2 adit0 out", "host2 read", "host2 sealed", "host2 sent", "host2 under0 out"],
        &["host3 under0 in", "host3 received", "host3 opened", "host3 written", "host3 adit0 in", "host3 c0 out"],
    ]
    .concat();
    assert_eq!(traced.places(2, "there", "host1"), expected, "{}", traced.json);
}

#[test]
fn a_host_that_does_not_permit_it_says_so_and_is_not_looked_into() {
    let scene = Scene::pair("sealed", false);
    let traced = scene.trace(1, &["10.42.0.2", "--count", "1"]);
    assert_eq!((traced.answered(), traced.code), (vec![true], Some(0)));
    assert_eq!(traced.places(0, "there", "host1"), THERE[..5], "{}", traced.json);
    let host = &traced.json["hosts"][1];
    assert_eq!((&host["name"], &host["permitted"]), (&"host2".into(), &false.into()));
    let drawing = scene.drawing(1, &["10.42.0.2", "--count", "1"]);
    assert!(drawing.contains("host2") && drawing.contains("permit"), "{drawing}");
}

#[test]
fn figures_and_captures_are_written() {
    let scene = Scene::pair("sealed", true);
    let directory = tempfile::tempdir().unwrap();
    let [svg, pcap] = ["a.svg", "a.pcapng"].map(|name| directory.path().join(name).to_str().unwrap().to_owned());
    let drawing = scene.drawing(1, &["10.42.0.2", "--count", "1", "--svg", &svg, "--pcap", &pcap]);
    assert!(drawing.contains("probe 0"), "{drawing}");
    assert!(fs::read_to_string(&svg).unwrap().contains("<svg"));
    assert_eq!(fs::read(&pcap).unwrap()[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let listed = scene.bed.host(1).run("tshark", &["-nr", &pcap]);
    // Of host 1: its device; of host 2: its device and the veth.
    assert_eq!(listed.lines().filter(|line| line.contains("Echo (ping) request")).count(), 3, "{listed}");
}

#[test]
fn what_cannot_be_traced_is_said_in_a_sentence() {
    let scene = Scene::pair("sealed", true);
    for (arguments, code, part) in [
        (&["10.42.0.2", "--size", "3000"][..], 1, "choose a `--size` up to 1440"),
        (&["10.42.0.2", "--size", "30"], 2, "40 to 65000"),
        (&["10.42.0.2", "--count", "0"], 2, "1 to 20"),
        (&["10.42.0.2", "--from", "web"], 1, "no container web"),
        (&["nobody.invalid"], 2, "adit ps"),
        (&["10.42.0.2", "--device", "adit9"], 1, "adit up"),
    ] {
        let told = scene.run(1, &[&["trace"], arguments].concat());
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert_eq!(told.status.code(), Some(code), "{arguments:?}");
    }
    // None of these keeps another trace from beginning.
    assert_eq!(scene.trace(1, &["10.42.0.2", "--count", "1"]).answered(), [true]);
}

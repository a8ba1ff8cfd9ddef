//! What `adit status` says is what happened, and who may hear it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use adit::api::{control_socket, status_socket};
use bed::daemon::{ADIT, Configuration, Daemon, Place};
use bed::sniffer::Injector;
use bed::traffic::{End, exchange_udp};
use bed::{Bed, Family, wait_for};
use serde_json::Value;
use wire::vnet::VnetHdr;

/// A user without rights, on every system (`nobody`).
const NOBODY: u32 = 65534;

fn pair(line: &str) -> (Bed, [Place; 2]) {
    let bed = Bed::new(2);
    let places = [(1, 2), (2, 1)].map(|(me, peer)| {
        let host = bed.host(me);
        Place::new(host, &Configuration::new(host, &[peer], Family::V4).with(line))
    });
    (bed, places)
}

/// The answer of `adit status --json`.
fn json(place: &Place) -> Value {
    let output = place.run("status", &["--json"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "one line for one daemon: {text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_field_has_its_value() {
    let (bed, [one, _]) = pair("workers = 2");
    let daemon = one.start();
    let status = json(&one);
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let device = &status["device"];
    assert_eq!((&device["name"], &device["mode"], &device["mtu"]), (&"adit0".into(), &"tun".into(), &1472.into()));
    assert_eq!(device["addresses"], serde_json::json!(["10.77.0.1/24", "fd77::1/64"]));
    assert_eq!(device["offloads"], serde_json::json!(["csum", "tso4", "tso6", "uso4", "uso6"]));
    assert_eq!(device["reason"], Value::Null);
    let transport = &status["transport"];
    assert_eq!((&transport["listen"], &transport["workers"]), (&"192.0.2.1:7777".into(), &2.into()));
    assert_eq!(status["workers"].as_array().unwrap().len(), 2);
    let peer = &status["peers"][0];
    assert_eq!((&peer["name"], &peer["endpoint"]), (&"host2".into(), &"192.0.2.2:7777".into()));
    assert_eq!((&peer["transport"], &peer["secure"]), (&"plain".into(), &false.into()));
    let prefixes = ["10.77.0.2/32", "10.42.0.0/16", "fd77::2/128", "fd40:2::/32"];
    assert_eq!(peer["allowed_ips"], serde_json::json!(prefixes));
    for counter in ["rx_bytes", "tx_bytes", "rx_packets", "tx_packets"] {
        assert_eq!(peer[counter], 0, "{counter}");
    }
    assert_eq!(status["drops"], serde_json::json!({}));
    drop((daemon, bed));
}

#[test]
fn a_device_without_offloads_says_why() {
    let (_bed, [one, _]) = pair("offload = false");
    let _daemon = one.start();
    let status = json(&one);
    assert_eq!(status["device"]["offloads"], serde_json::json!([]));
    assert!(status["device"]["reason"].as_str().unwrap().contains("configuration"), "{status}");
    assert_eq!((&status["transport"]["offload"], &status["transport"]["workers"]), (&false.into(), &1.into()));
}

#[test]
fn counters_match_the_traffic_packet_by_packet() {
    for line in ["", "workers = 3", "offload = false"] {
        let (bed, [one, two]) = pair(line);
        let (a, b) = (one.start(), two.start());
        let (mut packets, mut bytes) = (0, 0);
        for (family, headers) in [(Family::V4, 28), (Family::V6, 48)] {
            let end = |n: usize| End::new(&bed.host(n).namespace, bed.host(n).inner(family));
            let sizes: Vec<usize> = (1..1400).step_by(11).collect();
            bytes += sizes.iter().map(|size| (size + headers) as u64).sum::<u64>();
            packets += exchange_udp(end(1), end(2), sizes);
            // Each direction of this traffic has the same packets.
            let counted = |daemon: &Daemon<'_>| {
                let status = daemon.status();
                let peer = &status.peers[0];
                let sum = |of: fn(&adit::api::status::WorkerStatus) -> u64| status.workers.iter().map(of).sum::<u64>();
                let workers = [sum(|w| w.rx_packets), sum(|w| w.tx_packets)];
                (workers, [peer.rx_packets, peer.tx_packets, peer.rx_bytes, peer.tx_bytes])
            };
            let expected = ([packets, packets], [packets, packets, bytes, bytes]);
            for daemon in [&a, &b] {
                // A worker counts a packet after it has handed it over.
                wait_for(&format!("{expected:?} with {line:?}"), || (counted(daemon) == expected).then_some(()));
            }
        }
        assert_eq!((a.status().drops, b.status().drops), Default::default());
    }
}

#[test]
fn what_the_device_brings_and_cannot_be_carried_is_counted() {
    let (bed, [one, _]) = pair("");
    let daemon = one.start();
    let mut injector = Injector::open(&bed.host(1).namespace, "adit0");
    let packet = |to: &str| {
        let from = bed.host(1).inner(if to.contains(':') { Family::V6 } else { Family::V4 });
        bed::packet::UdpPacket::new((from, 1), (to.parse().unwrap(), 2), b"x").bytes()
    };
    for (reason, destinations) in [
        ("no_route", ["10.99.0.1", "fd99::1", "10.77.0.1"]),
        ("multicast", ["224.0.0.251", "255.255.255.255", "ff02::fb"]),
    ] {
        for (i, to) in destinations.iter().enumerate() {
            injector.send(&VnetHdr::NONE, &packet(to)).unwrap();
            daemon.await_drops(reason, i as u64 + 1);
        }
    }
    for (i, garbage) in [&[0x45u8; 19][..], &[0xff; 40], &[0x60; 30], &packet("10.77.0.2")[..24]].iter().enumerate() {
        injector.send(&VnetHdr::NONE, garbage).unwrap();
        daemon.await_drops("malformed", i as u64 + 1);
    }
    let shown = json(&one)["drops"].clone();
    assert_eq!(shown, serde_json::json!({"no_route": 3, "multicast": 3, "malformed": 4}));
}

#[test]
fn a_peer_that_cannot_be_reached_is_counted() {
    let bed = Bed::new(2);
    let mut configuration = Configuration::new(bed.host(1), &[2], Family::V4);
    // There is no route there.
    configuration.peers[0].endpoint = "198.51.100.1:7777".into();
    let place = Place::new(bed.host(1), &configuration);
    let daemon = place.start();
    let socket = End::new(&bed.host(1).namespace, bed.host(1).inner(Family::V4)).udp();
    for i in 1..5 {
        socket.send_to(b"x", (bed.host(2).inner(Family::V4), 9)).unwrap();
        daemon.await_drops("unreachable", i);
    }
    assert_eq!(daemon.status().peers[0].tx_packets, 0, "what was not sent does not count as sent");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Runs a verb as `nobody`; the program stands where everybody can run it.
fn as_nobody(place: &Place, program: &Path, verb: &str) -> Output {
    let mut command = std::process::Command::new(program);
    command.arg(verb).arg("--runtime-dir").arg(place.runtime()).arg("--state-dir").arg(place.path("state"));
    command.args(["--device", "adit0"]).uid(NOBODY).gid(NOBODY).output().unwrap()
}

#[test]
fn anybody_may_read_the_status_and_only_some_may_stop() {
    let (_bed, [one, _]) = pair("");
    let mut daemon = one.start();
    assert_eq!(mode(&status_socket(&one.runtime(), "adit0")), 0o666);
    assert_eq!(mode(&control_socket(&one.runtime(), "adit0")), 0o660);
    // In a user namespace of one user there is no nobody to be; the modes above say the same.
    if fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") {
        let program = one.path("adit");
        fs::copy(ADIT, &program).unwrap();
        let status = as_nobody(&one, &program, "status");
        assert!(status.status.success(), "{status:?}");
        assert!(String::from_utf8_lossy(&status.stdout).contains("adit0"));
        let down = as_nobody(&one, &program, "down");
        assert_eq!(down.status.code(), Some(1));
        let said = String::from_utf8_lossy(&down.stderr).into_owned();
        assert!(said.contains("permission denied"), "{said}");
        assert!(daemon.is_running());
    }
    let down = one.run("down", &[]);
    assert!(down.status.success(), "{down:?}");
    wait_for("the daemon's end", || (!daemon.is_running()).then_some(()));
    assert_eq!(one.run("status", &["--device", "adit0"]).status.code(), Some(1));
}

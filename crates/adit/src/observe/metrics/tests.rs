//! What is told of made-up daemons, read by a strict reader.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::api::status::tests::{node, sample};
use crate::counters::per_worker;

#[path = "../../../tests/metrics/reader.rs"]
mod reader;

use reader::Read;

/// The text of a status with made-up counters.
fn told(status: &Status, format: Format) -> String {
    let workers = per_worker::<WorkerCounters>(2);
    workers[1].ingress.add(3, 300);
    workers[1].batches.turns.see(30_000);
    workers[1].batches.received.see(17);
    let control = ControlCounters::default();
    control.handshakes.add(4);
    control.handshake_failed(tunnel::peer::Problem::NoAnswer);
    control.round_trips.see(12_000_000);
    control.repairs.add(2);
    let names = NamesCounters::default();
    names.answered.add(5);
    let now = PeerNow {
        endpoint: None,
        handshake: Some(Duration::from_millis(1_795_000_000_500)),
        received: 1000,
        sent: 2000,
    };
    let peers = vec![now; status.peers.len()];
    let log = logging::Counts { written: [1, 2, 3, 4, 5], withheld: [0, 9, 0, 0, 0] };
    let began = Duration::from_millis(1_795_000_000_250);
    let sample = Sample { status, peers: &peers, began, workers: &workers, control: &control, names: &names, log };
    text(&sample, format)
}

fn encrypted() -> Status {
    let mut status = node();
    let peer = &mut status.peers[0];
    (peer.secure, peer.transport, peer.session) = (true, "sealed".into(), "up".into());
    peer.round_trip_us = Some(1500);
    status.peers[1].round_trip_us = None;
    status.switch = Some(SwitchStatus { local_macs: 3, flooded: 7, ..SwitchStatus::default() });
    status
}

#[test]
fn what_is_told_is_what_is_known() {
    let read = Read::strictly(&told(&encrypted(), Format::OpenMetrics), Format::OpenMetrics);
    for (name, labels, value) in [
        ("adit_build_info", &[("version", "0.1.0")][..], 1.0),
        ("adit_start_time_seconds", &[], 1_795_000_000.25),
        ("adit_device_info", &[("device", "adit0"), ("mode", "tun"), ("node", "oslo")], 1.0),
        ("adit_device_offload", &[("offload", "tso4")], 1.0),
        ("adit_device_offload", &[("offload", "uso4")], 0.0),
        ("adit_worker_packets_total", &[("worker", "1"), ("direction", "receive")], 3.0),
        ("adit_worker_turn_seconds_bucket", &[("worker", "1"), ("le", "2.5e-05")], 0.0),
        ("adit_worker_turn_seconds_bucket", &[("worker", "1"), ("le", "5e-05")], 1.0),
        ("adit_worker_turn_seconds_sum", &[("worker", "1")], 0.00003),
        ("adit_worker_receive_batch_datagrams_sum", &[("worker", "1")], 17.0),
        ("adit_dropped_packets_total", &[("reason", "no_route")], 17.0),
        ("adit_dropped_packets_total", &[("reason", "forged")], 0.0),
        ("adit_peers", &[("session", "up")], 1.0),
        ("adit_peer_info", &[("peer", "berlin"), ("transport", "sealed")], 1.0),
        ("adit_peer_bytes_total", &[("peer", "berlin"), ("direction", "receive")], 1_288_490_189.0),
        ("adit_peer_wire_bytes_total", &[("peer", "oslo"), ("direction", "transmit")], 2000.0),
        ("adit_peer_session", &[("peer", "berlin"), ("session", "up")], 1.0),
        ("adit_peer_session", &[("peer", "berlin"), ("session", "none")], 0.0),
        ("adit_peer_last_handshake_seconds", &[("peer", "berlin")], 1_795_000_000.5),
        ("adit_peer_path_mtu_bytes", &[("peer", "berlin")], 1472.0),
        ("adit_peer_round_trip_seconds", &[("peer", "berlin")], 0.0015),
        ("adit_handshakes_total", &[], 4.0),
        ("adit_handshake_failures_total", &[("cause", "no_answer")], 1.0),
        ("adit_round_trip_seconds_bucket", &[("le", "0.025")], 1.0),
        ("adit_repairs_total", &[("what", "host")], 2.0),
        ("adit_log_withheld_lines_total", &[("level", "warn")], 9.0),
        ("adit_switch_macs", &[("side", "local")], 3.0),
        ("adit_switch_flooded_frames_total", &[], 7.0),
        ("adit_registry_connected", &[], 1.0),
        ("adit_lease", &[("state", "held")], 1.0),
        ("adit_lease_remaining_seconds", &[], 86_000.0),
        ("adit_nodes", &[], 1.0),
        ("adit_containers", &[("door", "cni")], 1.0),
        ("adit_names_questions_total", &[("result", "answered")], 5.0),
    ] {
        assert_eq!(read.value(name, labels), Some(value), "{name} {labels:?}");
    }
    // A plain peer has no session, and none is told of it.
    assert_eq!(read.value("adit_peer_session", &[("peer", "oslo"), ("session", "none")]), None);
    assert_eq!(read.value("adit_peer_round_trip_seconds", &[("peer", "oslo")]), None);
}

#[test]
fn both_formats_say_the_same_under_the_same_names() {
    let (open, text) = (told(&encrypted(), Format::OpenMetrics), told(&encrypted(), Format::Text));
    let (open, text) = (Read::strictly(&open, Format::OpenMetrics), Read::strictly(&text, Format::Text));
    assert_eq!(open.samples, text.samples);
    assert_eq!(open.kinds["adit_handshakes"], "counter");
    assert_eq!(text.kinds["adit_handshakes_total"], "counter");
    assert_eq!((&*open.kinds["adit_build"], &*text.kinds["adit_build_info"]), ("info", "gauge"));
}

#[test]
fn what_is_not_known_is_not_told() {
    let mut status = sample();
    status.peers.clear();
    status.switch = None;
    for format in [Format::Text, Format::OpenMetrics] {
        let text = told(&status, format);
        Read::strictly(&text, format);
        assert!(
            ["adit_registry", "adit_lease", "adit_names", "adit_peer_", "adit_switch"]
                .iter()
                .all(|name| !text.contains(name))
        );
    }
}

#[test]
fn names_are_of_one_mould() {
    let mut names = BTreeSet::new();
    for family in families::ALL {
        let Family { name, kind, unit, labels, .. } = family;
        assert!(names.insert(name), "{name} comes twice");
        assert!(name.starts_with("adit_") && !name.ends_with("_total") && !name.ends_with("_info"), "{name}");
        assert!(unit.is_none_or(|unit| ["seconds", "bytes"].contains(&unit) && name.ends_with(unit)), "{name}");
        assert_eq!(unit.is_some(), name.ends_with("_seconds") || name.ends_with("_bytes"), "{name}");
        assert!(*kind != exposition::Kind::Info || !labels.is_empty());
    }
}

/// The rows of the tables of docs/METRICS.md.
#[test]
fn the_documentation_names_each_metric_with_its_type_and_labels() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");
    let page = std::fs::read_to_string(path).unwrap();
    let rows: BTreeSet<String> = page.lines().filter(|line| line.starts_with("| `adit_")).map(heads).collect();
    let expected: BTreeSet<String> = families::ALL
        .iter()
        .map(|family| {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = format!("{:?}", family.kind).to_lowercase();
            format!("| `{}{}` | {kind} | {} |", family.name, family.suffix(), labels.join(", "))
        })
        .collect();
    assert_eq!(rows, expected);
}

/// The first three cells of a row.
fn heads(row: &str) -> String {
    let cells: Vec<&str> = row.split('|').map(str::trim).skip(1).take(3).collect();
    format!("| {} |", cells.join(" | "))
}

#[test]
fn peers_beyond_the_limit_are_summed() {
    let mut status = encrypted();
    let peer = PeerStatus { rx_packets: 2, tx_packets: 3, ..status.peers[0].clone() };
    status.peers =
        (0..NAMED_PEERS + 10).map(|number| PeerStatus { name: format!("p{number}"), ..peer.clone() }).collect();
    let text = told(&status, Format::OpenMetrics);
    let read = Read::strictly(&text, Format::OpenMetrics);
    let packets = |peer, direction| read.value("adit_peer_packets_total", &[("peer", peer), ("direction", direction)]);
    assert_eq!((packets("p999", "receive"), packets("p1000", "receive")), (Some(2.0), None));
    assert_eq!((packets(OTHERS, "receive"), packets(OTHERS, "transmit")), (Some(20.0), Some(30.0)));
    assert_eq!(read.value("adit_peers", &[("session", "up")]), Some(1010.0), "all are counted");
    assert!(read.samples.len() < 17 * NAMED_PEERS, "{}", read.samples.len());
    assert!(crate::config::check_peer(OTHERS).is_err(), "no peer is called so");
    // As many again cost nothing.
    let twice = status.peers.iter().map(|peer| PeerStatus { name: format!("x{}", peer.name), ..peer.clone() });
    status.peers = status.peers.iter().cloned().chain(twice).collect();
    assert_eq!(told(&status, Format::OpenMetrics).lines().count(), text.lines().count());
}

proptest! {
    #[test]
    fn any_text_survives_as_a_label(name in any::<String>(), version in "[\\\\\"\n{},= é-]{0,20}", node in any::<String>()) {
        let mut status = encrypted();
        status.peers.truncate(1);
        status.peers[0].name = name.clone();
        status.version = version.clone();
        status.network.as_mut().unwrap().node = node.clone();
        for format in [Format::Text, Format::OpenMetrics] {
            let read = Read::strictly(&told(&status, format), format);
            prop_assert_eq!(read.value("adit_peer_info", &[("peer", &name), ("transport", "sealed")]), Some(1.0));
            prop_assert_eq!(read.value("adit_build_info", &[("version", &version)]), Some(1.0));
            prop_assert_eq!(read.value("adit_device_info", &[("device", "adit0"), ("mode", "tun"), ("node", &node)]), Some(1.0));
        }
    }
}

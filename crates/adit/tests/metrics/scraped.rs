//! Metrics of real daemons: both formats, read strictly, passed by Prometheus' own tool, and true.

use adit::observe::metrics::Format;

use crate::bed::daemon::{Configuration, Place};
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Bed, Family, wait_for};
use crate::visitor::PAGE;
use crate::world::Node;
use crate::{number, promtool, scrape};

fn observed(configuration: Configuration) -> Configuration {
    configuration.with(&format!("workers = 2\n[observe]\nlisten = {PAGE:?}"))
}

#[test]
fn a_tunnel_tells_what_it_moved_and_prometheus_takes_it() {
    let bed = Bed::new(2);
    let [one, two] = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "sealed");
    let places = [Place::new(bed.host(1), &observed(one)), Place::new(bed.host(2), &observed(two))];
    let daemons = places.each_ref().map(Place::start);
    let host = bed.host(1);
    let up = || number(host, "adit_peer_session", &[("peer", "host2"), ("session", "up")]) == 1.0;
    wait_for("a session", || up().then_some(()));
    let ends = [1, 2].map(|n| End::new(&bed.host(n).namespace, bed.host(n).inner(Family::V4)));
    exchange_tcp(ends[0], ends[1], 4 << 20, 4 << 20);
    wait_for("a measured round trip", || (number(host, "adit_round_trip_seconds_count", &[]) > 0.0).then_some(()));

    let (text, _) = scrape(host, Format::Text);
    promtool(&["check", "metrics"], &text);
    let (_, read) = scrape(host, Format::OpenMetrics);
    let status = daemons[0].status();
    let value = |name: &str, labels: &[(&str, &str)]| {
        read.value(name, labels).unwrap_or_else(|| panic!("there is no {name} {labels:?}"))
    };
    for (direction, peer) in [("receive", &status.peers[0].rx_bytes), ("transmit", &status.peers[0].tx_bytes)] {
        let inside = value("adit_peer_bytes_total", &[("peer", "host2"), ("direction", direction)]);
        assert!(inside > f64::from(4 << 20) && inside <= *peer as f64, "{direction}");
        let outside = value("adit_peer_wire_bytes_total", &[("peer", "host2"), ("direction", direction)]);
        assert!(outside > inside, "{direction}: {outside} {inside}");
        let sum = |name: &str| -> f64 {
            ["0", "1"].iter().map(|worker| value(name, &[("worker", worker), ("direction", direction)])).sum()
        };
        assert!(sum("adit_worker_bytes_total") >= inside);
    }
    let both = |name: &str| -> f64 { ["0", "1"].iter().map(|worker| value(name, &[("worker", worker)])).sum() };
    assert_eq!(both("adit_worker_device_batch_packets_sum"), both("adit_worker_device_reads_total"));
    assert!(both("adit_worker_device_batch_packets_count") <= both("adit_worker_device_batch_packets_sum"));
    let sent = both("adit_worker_send_batch_datagrams_sum");
    assert!(sent >= both("adit_worker_socket_sends_total") && both("adit_worker_send_batch_datagrams_count") > 0.0);
    assert!(both("adit_worker_receive_batch_datagrams_sum") >= both("adit_worker_socket_receives_total"));
    let turns = both("adit_worker_turn_seconds_count");
    assert!(turns > 0.0 && both("adit_worker_turn_seconds_sum") > 0.0);
    assert!(
        turns <= both("adit_worker_device_batch_packets_count") + both("adit_worker_receive_batch_datagrams_count")
    );
    assert!(value("adit_handshakes_total", &[]) >= 1.0);
    assert!((0.0..5.0).contains(&value("adit_peer_round_trip_seconds", &[("peer", "host2")])));
    assert_eq!(value("adit_peer_path_mtu_bytes", &[("peer", "host2")]), status.peers[0].path_mtu.unwrap() as f64);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    for name in [("adit_start_time_seconds", &[][..]), ("adit_peer_last_handshake_seconds", &[("peer", "host2")])] {
        assert!((now - 120.0..=now).contains(&value(name.0, name.1)), "{name:?}");
    }

    // What is dropped, and what somebody breaks.
    let ping = ["-c1", "-W1", "10.77.0.99"];
    let _ = host.namespace.run(|| std::process::Command::new("ping").args(ping).output()).unwrap().unwrap();
    let dropped = |reason| number(host, "adit_dropped_packets_total", &[("reason", reason)]);
    wait_for("a drop", || (dropped("no_route") >= 1.0).then_some(()));
    host.run("ip", &["address", "del", "10.77.0.1/24", "dev", "adit0"]);
    wait_for("a repair", || (number(host, "adit_repairs_total", &[("what", "host")]) >= 1.0).then_some(()));
    drop(daemons);
}

#[test]
fn a_peer_that_nobody_can_call_is_a_failed_handshake() {
    let bed = Bed::new(2);
    let [mut one, _] = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "wireguard");
    one.peers[0].endpoint.clear();
    let place = Place::new(bed.host(1), &observed(one));
    let _daemon = place.start();
    let ping = ["-c1", "-W1", "10.77.0.2"];
    let _ = bed.host(1).namespace.run(|| std::process::Command::new("ping").args(ping).output()).unwrap().unwrap();
    let failed = |cause| number(bed.host(1), "adit_handshake_failures_total", &[("cause", cause)]);
    wait_for("a failed handshake", || (failed("no_endpoint") >= 1.0).then_some(()));
    assert_eq!((failed("no_answer"), number(bed.host(1), "adit_handshakes_total", &[])), (0.0, 0.0));
    let (text, read) = scrape(bed.host(1), Format::Text);
    promtool(&["check", "metrics"], &text);
    // What WireGuard does not tell is not made up.
    assert_eq!(read.value("adit_peer_round_trip_seconds", &[("peer", "host2")]), None);
    assert_eq!(read.value("adit_peer_last_handshake_seconds", &[("peer", "host2")]), None);
}

#[test]
fn a_node_tells_of_its_registry_its_lease_and_its_names() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&[]);
    let observe = format!("[observe]\nlisten = {PAGE:?}");
    nodes[0].configure(&observe);
    let mut daemons = vec![nodes[0].up()];
    nodes[1].join(&token);
    nodes[1].configure(&observe);
    daemons.push(nodes[1].up());
    daemons.iter().for_each(|daemon| daemon.await_nodes(1));
    let host = bed.host(2);
    let (text, read) = scrape(host, Format::Text);
    promtool(&["check", "metrics"], &text);
    let value = |name: &str, labels: &[(&str, &str)]| {
        read.value(name, labels).unwrap_or_else(|| panic!("there is no {name} {labels:?}"))
    };
    assert_eq!(value("adit_registry_connected", &[]), 1.0);
    assert!(value("adit_registry_revision", &[]) > 0.0 && value("adit_registry_age_seconds", &[]) < 60.0);
    assert_eq!(value("adit_lease", &[("state", "held")]), 1.0);
    assert!(value("adit_lease_remaining_seconds", &[]) > 60.0 && value("adit_lease_age_seconds", &[]) < 60.0);
    assert_eq!((value("adit_nodes", &[]), value("adit_secret_epoch", &[])), (1.0, 1.0));
    assert_eq!(value("adit_device_info", &[("device", "adit0"), ("mode", "tun"), ("node", "host2")]), 1.0);
    // Both know as much of the registry, sooner or later.
    let revision = |host| number(host, "adit_registry_revision", &[]);
    wait_for("the same revision", || (revision(bed.host(1)) == revision(host)).then_some(()));

    let server = format!("@{}", daemons[1].subnet().addr());
    let asked = || number(host, "adit_names_questions_total", &[("result", "answered")]);
    let before = asked();
    wait_for("an answer for a name", || {
        let _ = host
            .namespace
            .run(|| std::process::Command::new("dig").args(["+time=1", "+tries=1", &server, "host1.adit"]).output());
        (asked() > before).then_some(())
    });

    daemons.remove(0).crash();
    wait_for("a registry that is away", || (number(host, "adit_registry_connected", &[]) == 0.0).then_some(()));
    assert!(number(host, "adit_problems", &[]) >= 1.0);
    assert_eq!(number(host, "adit_lease", &[("state", "held")]), 1.0, "the lease lives on");
}

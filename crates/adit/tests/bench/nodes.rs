//! Between two nodes, through the tunnel that runs.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use linux::bound;
use serde_json::Value;

use crate::assert_documented;
use crate::bed::daemon::{Configuration, Daemon, Place};
use crate::bed::{Bed, Family, Host, wait_for};
use crate::lan::World;
use crate::world::Node;

const PERMIT: &str = "[observe]\nallow = [\"bench\"]";

/// Two hosts with a sealed tunnel; the second permits benches, or does not.
fn pair(permits: bool) -> (Bed, [Configuration; 2]) {
    let bed = Bed::new(2);
    let [one, two] = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "sealed");
    let two = if permits { two.with(PERMIT) } else { two };
    (bed, [one, two])
}

fn places(bed: &Bed, [one, two]: &[Configuration; 2]) -> [Place; 2] {
    [Place::new(bed.host(1), one), Place::new(bed.host(2), two)]
}

/// Both daemons, with a session.
fn start(places: &[Place; 2]) -> [Daemon<'_>; 2] {
    let daemons = places.each_ref().map(Place::start);
    for daemon in &daemons {
        wait_for("a session", || (daemon.status().peers[0].session == "up").then_some(()));
    }
    daemons
}

const SHORT: [&str; 4] = ["--rounds", "1", "--seconds", "0.1"];

fn bench(place: &Place, node: &str, more: &[&str]) -> Output {
    place.run("bench", &[&["--to", node], SHORT.as_slice(), more].concat())
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The threads of a daemon that serve a bench.
fn serving(daemon: &Daemon<'_>) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
    threads.filter(|t| fs::read_to_string(t.path().join("comm")).unwrap_or_default().starts_with("bench-")).count()
}

fn await_end_of_service(daemon: &Daemon<'_>) {
    wait_for("the end of the service", || (serving(daemon) == 0).then_some(()));
}

#[test]
fn two_nodes_are_measured_through_their_tunnel() {
    let (bed, configurations) = pair(true);
    let places = places(&bed, &configurations);
    let daemons = start(&places);
    let output = bench(&places[0], "host2", &["--json"]);
    assert!(output.status.success(), "{output:?}\n{}", daemons[1].log());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_documented(&document);
    assert_eq!((&document["kind"], &document["node"]), (&"nodes".into(), &"host2".into()));
    assert_eq!(document["node_version"], env!("CARGO_PKG_VERSION"));
    let way = &document["way"];
    assert_eq!((&way["from"], &way["to"], &way["device"]), (&"10.77.0.1".into(), &"10.77.0.2".into(), &"adit0".into()));
    assert_eq!((&way["transport"], &way["encrypted"], &way["mtu"]), (&"sealed".into(), &true.into(), &1440.into()));
    assert_eq!(way["endpoint"], "192.0.2.2:7777");
    assert!(way["suite"].is_string() && way["path_mtu"].is_u64(), "{way}");
    let figures = document["figures"].as_object().unwrap();
    let expected = [
        "cpu_here_s_per_gb",
        "cpu_there_s_per_gb",
        "rtt_lost",
        "rtt_p50_us",
        "rtt_p99_us",
        "tcp1_back_gbps",
        "tcp1_gbps",
        "tcp4_back_gbps",
        "tcp4_gbps",
        "udp64_kpps",
        "udp64_lost",
    ];
    assert_eq!(figures.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    for (key, figure) in figures {
        let value = figure["median"].as_f64().unwrap();
        let fits = if key.ends_with("_lost") { (0.0..=1.0).contains(&value) } else { value > 0.0 };
        assert!(fits, "{key}: {figure}");
    }
    assert_eq!(document["faults"], serde_json::json!([]));
    // All of it went through the tunnel, and not beside it: far more bytes than a session alone has.
    let peer = &daemons[0].status().peers[0];
    assert!(peer.tx_bytes > 100_000 && peer.rx_bytes > 100_000, "{peer:?}");
    await_end_of_service(&daemons[1]);
}

#[test]
fn nodes_whose_bridges_are_one_network_are_measured_from_bridge_to_bridge() {
    // The first one's bridge is adit's, with an address; the second's is somebody else's.
    let world = World::new(2, |number, end| {
        if number == 1 {
            end.addresses = vec!["10.88.0.101/24".into()];
        }
        end.device_lines += PERMIT;
        end.device_lines += "\n";
    });
    let host = world.host(2);
    for command in ["link add br0 type bridge", "link set br0 up", "address add 10.88.0.102/24 dev br0"] {
        host.run("ip", &command.split(' ').collect::<Vec<_>>());
    }
    let daemons = world.start();
    for (place, to) in [(0, "host2"), (1, "host1")] {
        let output = bench(&world.places[place], to, &["--json"]);
        assert!(output.status.success(), "{output:?}\n{}", daemons[1 - place].log());
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let own = format!("10.88.0.10{}", place + 1);
        assert_eq!((&document["way"]["from"], &document["faults"]), (&own.into(), &serde_json::json!([])));
    }
}

#[test]
fn the_text_says_what_carried_it() {
    let (bed, configurations) = pair(true);
    let places = places(&bed, &configurations);
    let _daemons = start(&places);
    let output = bench(&places[0], "host2", &["--device", "adit0"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for words in
        ["this host and host2", "sealed, encrypted with ", "mtu 1440", "one stream there", "daemon there", "lost"]
    {
        assert!(text.contains(words), "{words:?} is missing in:\n{text}");
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn a_node_that_does_not_permit_it_refuses_until_it_does() {
    let (bed, configurations) = pair(false);
    let places = places(&bed, &configurations);
    let daemons = start(&places);
    let refusal = error(&bench(&places[0], "host2", &[]));
    assert_eq!(
        refusal,
        "adit: host2 does not permit benches; on host2, write `allow = [\"bench\"]` under [observe] in its configuration and type `adit \
         reload`\n"
    );
    assert_eq!(serving(&daemons[1]), 0);
    places[1].configure(&configurations[1].clone().with(PERMIT));
    daemons[1].reload();
    let output = bench(&places[0], "host2", &[]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn who_cannot_be_asked_is_said_with_a_remedy() {
    let (bed, [one, two]) = pair(true);
    let places = places(&bed, &[one, two]);
    let daemon = places[0].start();
    let unknown = error(&bench(&places[0], "oslo", &[]));
    assert!(unknown.contains("no daemon here has a peer \"oslo\": there are host2; `adit status`"), "{unknown}");
    let unknown = error(&bench(&places[0], "oslo", &["--device", "adit0"]));
    assert!(unknown.contains("\"oslo\" is no peer of adit0: they are host2"), "{unknown}");
    let away = error(&bench(&places[0], "host2", &[]));
    assert!(away.contains("host2 cannot be asked: ") && away.contains("`adit status`"), "{away}");
    drop(daemon);
    let nobody = error(&bench(&places[0], "host2", &[]));
    assert!(nobody.contains("adit up --config FILE") || nobody.contains("there are none"), "{nobody}");

    let plain = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "plain");
    places[0].configure(&plain[0]);
    let _daemon = places[0].start();
    let refusal = error(&bench(&places[0], "host2", &[]));
    assert!(refusal.contains("host2 is a plain peer, and only sealed sessions carry the question"), "{refusal}");
}

#[test]
fn nodes_of_a_network_are_measured_though_they_had_nothing_to_say() {
    let bed = Bed::new(2);
    let nodes = [Node::new(bed.host(1)), Node::new(bed.host(2))];
    let token = nodes[0].init(&[]);
    let first = nodes[0].up();
    nodes[1].join(&token);
    nodes[1].configure(PERMIT);
    let second = nodes[1].up();
    first.await_nodes(1);
    second.await_nodes(1);
    let text = nodes[0].adit(&[["bench", "--to", "host2", "--json"].as_slice(), &SHORT].concat());
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&document["node"], &document["way"]["transport"]), (&"host2".into(), &"sealed".into()));
    assert_eq!(document["faults"], serde_json::json!([]));
    // The other way it is not permitted.
    let refusal = nodes[1].refused(&[["bench", "--to", "host1"].as_slice(), &SHORT].concat());
    assert!(refusal.contains("host1 does not permit benches"), "{refusal}");
}

/// A bench that runs until it is interrupted, or the test ends.
struct Long(Child);

impl Long {
    fn start(host: &Host, place: &Place, server: &Daemon<'_>) -> Self {
        let mut command = place.command("bench");
        command
            .args(["--to", "host2", "--rounds", "1", "--seconds", "40"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let long = Self(host.namespace.run(|| command.spawn()).unwrap().unwrap());
        // Two threads serve, one more is control, one at least a stream.
        wait_for("a load", || (serving(server) >= 4).then_some(()));
        long
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_bench_is_served_at_a_time_and_an_interrupt_frees_the_node() {
    let (bed, configurations) = pair(true);
    let places = places(&bed, &configurations);
    let daemons = start(&places);
    let mut long = Long::start(bed.host(1), &places[0], &daemons[1]);
    let busy = error(&bench(&places[0], "host2", &[]));
    assert!(busy.contains("host2 serves another bench at this moment; try again"), "{busy}");
    let kill = format!("kill -INT {}", long.0.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let mut said = String::new();
    long.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((long.0.wait().unwrap().code(), said.as_str()), (Some(1), "adit: interrupted\n"));
    await_end_of_service(&daemons[1]);
    let output = bench(&places[0], "host2", &[]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn nobody_but_who_asked_is_served() {
    let (bed, configurations) = pair(true);
    let places = places(&bed, &configurations);
    let daemons = start(&places);
    let _long = Long::start(bed.host(1), &places[0], &daemons[1]);
    let log = daemons[1].log();
    let line = log.lines().find(|line| line.contains("serving a bench to host1")).unwrap();
    let port: u16 = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    let before = serving(&daemons[1]);
    let patience = Duration::from_secs(2);
    // By the underlay nobody listens there.
    let outside = SocketAddr::new(bed.host(2).underlay(Family::V4), port);
    let refused = bed.host(1).namespace.run(|| TcpStream::connect_timeout(&outside, patience)).unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // From the right address, without the token; and from an address that is the same peer's but not the one that was named.
    let mut netlink = bed.host(1).netlink();
    let loopback = netlink.existing_link("lo").unwrap().index;
    netlink.set_up(loopback, true).unwrap();
    netlink.add_address(loopback, "10.41.0.1/32".parse().unwrap(), true).unwrap();
    for from in ["10.77.0.1", "10.41.0.1"] {
        let at = SocketAddr::new(bed.host(2).inner(Family::V4), port);
        let connect = || bound::connect("adit0", from.parse().unwrap(), at, patience);
        let mut stream = bed.host(1).namespace.run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // As long as a head, and all of it wrong.
        let _ = stream.write_all(&[1; 21]);
        match stream.read(&mut [0; 8]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{from} got {other:?}"),
        }
    }
    wait_for("strangers to be gone", || (serving(&daemons[1]) <= before).then_some(()));
}

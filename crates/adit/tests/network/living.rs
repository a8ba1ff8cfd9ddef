//! A node's life: killed, stopped, without its registry, away for too long, and gone.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit::container::FaultKind;

use crate::bed::attached::{attach, directories, try_attach};
use crate::bed::packet::Random;
use crate::bed::traffic::{connection, exchange_over};
use crate::bed::{Bed, wait_at_most, wait_for};
use crate::world::{Container, Node, all_talk, network};

/// How soon traffic is back, for ninety-nine of a hundred. Asserted where there are enough to say so.
const BACK: Duration = Duration::from_secs(2);

/// Connections, and those of them that are never idle.
const CONNECTIONS: usize = 100;
const BUSY: usize = 20;

fn nodes(bed: &Bed) -> Vec<Node<'_>> {
    bed.hosts.iter().map(Node::new).collect()
}

/// One end sends chunk after chunk and has each sent back; what is counted is what came back right.
fn keep_busy((client, server): (&TcpStream, &TcpStream), seed: u64, done: &AtomicU64, stop: &AtomicBool) {
    let echo = |mut stream: &TcpStream| {
        let mut buffer = [0; 8192];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => stream.write_all(&buffer[..length]).expect("an echo"),
                Err(e) => panic!("the server's end: {e}"),
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(move || echo(server));
        let (mut random, mut stream) = (Random::new(seed), client);
        while !stop.load(Ordering::Acquire) {
            let sent = random.bytes(3000);
            let mut received = vec![0; sent.len()];
            stream.write_all(&sent).expect("the client's end takes bytes");
            stream.read_exact(&mut received).expect("the client's end");
            assert!(sent == received, "other bytes come back");
            done.fetch_add(1, Ordering::AcqRel);
            thread::sleep(Duration::from_millis(10));
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
}

/// Sends a numbered datagram every few milliseconds, and notes the newest one that came back.
fn probe(from: &Container, to: &Container, sent: &AtomicU64, back: &AtomicU64, stop: &AtomicBool) {
    let (here, there) = (from.end().udp(), to.end().udp());
    let address = there.local_addr().unwrap();
    let is_quiet = |e: &std::io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    let receive = |socket: &UdpSocket, each: &dyn Fn(u64, std::net::SocketAddr)| {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Acquire) {
            match socket.recv_from(&mut buffer) {
                Ok((_, source)) => each(u64::from_be_bytes(buffer[..8].try_into().unwrap()), source),
                Err(e) if is_quiet(&e) || e.kind() == ErrorKind::ConnectionRefused => {}
                // While a device is gone the kernel may say so.
                Err(e) => panic!("the probe: {e}"),
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            receive(&there, &|number, source| {
                let _ = there.send_to(&number.to_be_bytes(), source);
            });
        });
        scope.spawn(|| {
            receive(&here, &|number, _| {
                let _ = back.fetch_max(number, Ordering::AcqRel);
            })
        });
        while !stop.load(Ordering::Acquire) {
            let number = sent.fetch_add(1, Ordering::AcqRel) + 1;
            let _ = here.send_to(&number.to_be_bytes(), address);
            thread::sleep(Duration::from_millis(5));
        }
    });
}

/// Ends what runs beside a test, also when that fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The value that so many of a hundred do not exceed.
fn percentile(sorted: &[Duration], of_hundred: usize) -> Duration {
    sorted[(sorted.len() * of_hundred).div_ceil(100).max(1) - 1]
}

fn describe(what: &str, times: &mut [Duration]) -> Duration {
    times.sort();
    let [p50, p99] = [50, 99].map(|of| percentile(times, of));
    let max = times.last().unwrap();
    eprintln!("{what} after {} kills: p50 {p50:.0?}, p99 {p99:.0?}, max {max:.0?}", times.len());
    p99
}

#[test]
fn a_killed_daemon_costs_no_connection() {
    let kills: usize = std::env::var("ADIT_KILLS").map_or(8, |text| text.parse().expect("a number"));
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let mut daemons: Vec<_> = network(&nodes, &[]).into_iter().map(Some).collect();
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    let [one, two] = &containers[..] else { panic!() };
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|number| match number % 2 {
            0 => connection(one.end(), two.end()),
            _ => connection(two.end(), one.end()),
        })
        .collect();
    let (mut packets, mut bytes) = (Vec::new(), Vec::new());
    let done: Vec<AtomicU64> = (0..BUSY).map(|_| AtomicU64::new(0)).collect();
    let (sent, back) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let mut random = Random::new(11);
    let mut pause = |most: usize| Duration::from_millis(random.below(most) as u64);
    thread::scope(|scope| {
        let _end = Ending(&stop);
        for (number, ((client, server), done)) in connections.iter().zip(&done).enumerate() {
            let stop = &stop;
            scope.spawn(move || keep_busy((client, server), number as u64, done, stop));
        }
        scope.spawn(|| probe(one, two, &sent, &back, &stop));
        for number in 0..kills {
            thread::sleep(pause(400));
            let victim = number % 2;
            let began = Instant::now();
            daemons[victim].take().unwrap().crash();
            let before: Vec<u64> = done.iter().map(|done| done.load(Ordering::Acquire)).collect();
            let goal = sent.load(Ordering::Acquire);
            daemons[victim] = Some(nodes[victim].spawn(&["up", "--config", &nodes[victim].file()]));
            let (mut answered, mut moved) = (None, None);
            // An answer that was on its way when the daemon died is none; one round more than that counts.
            wait_at_most(Duration::from_secs(10), "traffic after a kill", || {
                if answered.is_none() && back.load(Ordering::Acquire) > goal {
                    answered = Some(began.elapsed());
                }
                if moved.is_none()
                    && done.iter().zip(&before).all(|(done, before)| done.load(Ordering::Acquire) > before + 1)
                {
                    moved = Some(began.elapsed());
                }
                answered.and(moved)
            });
            packets.push(answered.unwrap());
            bytes.push(moved.unwrap());
        }
    });
    let answers = describe("packets are answered", &mut packets);
    let connections_back = describe("all busy connections go on", &mut bytes);
    if kills >= 100 {
        assert!(answers <= BACK && connections_back <= BACK, "{answers:?}, {connections_back:?}");
    }
    // Those that were idle have heard of nothing.
    for (number, (client, server)) in connections[BUSY..].iter().enumerate() {
        let mut random = Random::new(1000 + number as u64);
        exchange_over((client, server), &random.bytes(5000), &random.bytes(7000));
    }
}

#[test]
fn purge_leaves_the_host_as_it_was_before_it_was_a_node() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let before: Vec<_> = nodes.iter().map(Node::state).collect();
    for killed in [false, true] {
        let subnet_file = nodes[1].path("elsewhere.env");
        let token = nodes[0].init(&["--lease-ttl", "1h"]);
        let one = nodes[0].up();
        nodes[1].join(&token);
        nodes[1].configure(&format!(
            "subnet-files = [\"{}\", \"{}\"]",
            subnet_file.display(),
            nodes[1].path("run/subnet.env").display()
        ));
        nodes[1].configure("ip-masq = true");
        let two = nodes[1].up();
        two.await_nodes(1);
        one.await_nodes(1);
        let containers: Vec<_> = nodes.iter().map(Node::container).collect();
        all_talk(&containers);
        nodes[1].adit(&["client", "add", "phone"]);
        assert!(subnet_file.exists());
        drop(containers);
        nodes.iter().for_each(Node::remove_bridge);
        // A node that leaves is gone for the others at once.
        let mut daemons = vec![two, one];
        for (daemon, node) in daemons.iter_mut().zip([&nodes[1], &nodes[0]]) {
            if killed {
                daemon.child.kill().unwrap();
                daemon.child.wait().unwrap();
            }
            let said = node.adit(&["down", "--purge"]);
            assert_eq!(said.contains("THE AUTHORITY OF THE NETWORK"), node.host.number == 1, "{said}");
            if !killed {
                daemon.await_end();
            }
        }
        drop(daemons);
        for (node, before) in nodes.iter().zip(&before) {
            node.check_state(before);
            // The configuration is the administrator's.
            let left: Vec<_> =
                node.files().into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
            assert_eq!(left, ["adit.toml"], "host{}", node.host.number);
            fs::remove_file(node.file()).unwrap();
        }
    }
}

#[test]
fn a_node_moves_to_another_port_and_back_and_the_others_follow() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let daemons = network(&nodes, &[]);
    let usual = fs::read_to_string(nodes[1].file()).unwrap();
    let moved = format!("{usual}\n[transport]\nlisten = \"[::]:7779\"\n");
    for (file, port) in [(&moved, ":7779"), (&usual, ":7777")] {
        fs::write(nodes[1].file(), file).unwrap();
        assert_eq!(nodes[1].adit(&["reload"]), "adit0: changed: listen\n");
        assert!(daemons[1].status().transport.listen.to_string().ends_with(port));
        wait_for("the others to know", || {
            let node = daemons[0].network().nodes.pop()?;
            node.endpoints.iter().all(|endpoint| endpoint.ends_with(port)).then_some(())
        });
        // A client is told the same.
        let client = nodes[1].adit(&["client", "add", &format!("phone{port}").replace(':', "")]);
        assert!(client.lines().any(|line| line.starts_with("Endpoint = ") && line.ends_with(port)), "{client}");
    }
}

#[test]
fn a_node_that_leaves_is_gone_at_once() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let mut daemons = network(&nodes, &[]);
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    nodes[1].adit(&["down", "--purge"]);
    daemons.pop().unwrap().await_end();
    wait_at_most(Duration::from_secs(2), "the others to know", || daemons[0].network().nodes.is_empty().then_some(()));
}

#[test]
fn a_stop_by_signal_leaves_all_in_place_for_the_next_start() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let mut daemons = network(&nodes, &[]);
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    let (client, server) = connection(containers[0].end(), containers[1].end());
    for victim in [1, 0] {
        let (state, index) = (nodes[victim].state(), nodes[victim].device().index);
        daemons.remove(victim).terminate();
        nodes[victim].await_no_reader();
        let gone = |state: &[String]| -> Vec<String> {
            let now = nodes[victim].state();
            let is_of_carrier =
                |line: &str| line.contains("adit0") && !line.starts_with("nft") && !line.contains("route");
            state.iter().filter(|line| !now.contains(line) && !is_of_carrier(line)).cloned().collect()
        };
        let gone: Vec<_> = gone(&state).into_iter().filter(|line| !line.contains(" dev adit0")).collect();
        assert!(gone.is_empty(), "{gone:#?}");
        let routes = nodes[victim].host.run("ip", &["route"]);
        assert!(routes.contains("10.42.0.0/16 dev adit0") && routes.contains("blackhole 10.42.0.0/16"), "{routes}");
        daemons.insert(victim, nodes[victim].up());
        assert_eq!(nodes[victim].device().index, index, "it was taken over");
        exchange_over((&client, &server), &[5; 100_000], &[6; 50_000]);
    }
}

#[test]
fn a_node_starts_without_its_registry_and_catches_up() {
    let bed = Bed::new(4);
    let nodes = nodes(&bed);
    let mut daemons = network(&nodes[..3], &[]);
    let mut containers: Vec<_> = nodes[..3].iter().map(Node::container).collect();
    all_talk(&containers);
    // Written down soon after.
    wait_for("the notes", || {
        nodes[1].files().iter().any(|line| line.starts_with("state/adit0.network/memory.json")).then_some(())
    });
    let subnet = daemons[1].subnet();
    let token = nodes[0].token(&[]);
    daemons.remove(0).terminate();
    daemons.remove(0).crash();
    let began = Instant::now();
    let two = nodes[1].up();
    wait_at_most(Duration::from_secs(3), "traffic without the registry", || {
        containers[1].pings(containers[2].address).then_some(())
    });
    eprintln!("traffic without the registry: {:.0?}", began.elapsed());
    all_talk(&containers[1..]);
    assert_eq!(two.subnet(), subnet);
    wait_for("the outage to be said", || two.network().registry_problem);
    let status = nodes[1].adit(&["status"]);
    assert!(status.contains("NOT REACHED"), "{status}");

    // What happens meanwhile is known when it is back.
    let said = nodes[0].adit(&["node", "remove", "host3"]);
    assert!(said.contains("when the daemon of this host runs"), "{said}");
    let one = nodes[0].up();
    nodes[3].join(&token);
    let four = nodes[3].up();
    for daemon in [&one, &two, &four] {
        wait_for("those who are in", || {
            let network = daemon.network();
            let names: Vec<_> = network.nodes.iter().map(|node| node.name.as_str()).collect();
            let others = ["host1", "host2", "host4"].into_iter().filter(|name| *name != network.node);
            (names == others.collect::<Vec<_>>() && network.epoch == Some(2) && network.registry_problem.is_none())
                .then_some(())
        });
    }
    containers.push(nodes[3].container());
    containers.remove(2);
    all_talk(&containers);
    assert_eq!(two.subnet(), subnet);
}

/// Who lives on a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inhabitant {
    Nobody,
    /// A container that another program has made.
    Foreign,
    Ours,
}

/// Four nodes and three subnets: the second is stopped until the fourth has what was its.
fn stopped_too_long(inhabitant: Inhabitant) {
    let bed = Bed::new(4);
    let nodes = nodes(&bed);
    let token = nodes[0].init(&["--network", "10.9.0.0/22", "--subnet-len", "24", "--lease-ttl", "5s", "--uses", "3"]);
    let mut daemons = vec![nodes[0].up()];
    for node in &nodes[1..3] {
        node.join(&token);
        node.configure("lease-ttl = \"5s\"");
        daemons.push(node.up());
    }
    nodes[3].join(&token);
    nodes[3].configure("lease-ttl = \"5s\"");
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
    let first = nodes[0].container();
    let places = directories(nodes[1].directory.path());
    let container = match inhabitant {
        Inhabitant::Nobody => None,
        Inhabitant::Foreign => Some(nodes[1].container()),
        Inhabitant::Ours => Some(attach(nodes[1].host, &places, "web").into()),
    };
    if let Some(container) = &container {
        container.reaches(&first);
    }
    let subnet = daemons[1].subnet();
    daemons[1].signal("STOP");
    // There is no subnet for another one until the lease has ended.
    let refused = nodes[3].refused(&["up", "--config", &nodes[3].file()]);
    assert!(refused.contains("no subnet is free in 10.9.0.0/22"), "{refused}");
    daemons.push(wait_for("a subnet", || nodes[3].try_up()));
    assert_eq!(daemons[3].subnet(), subnet);
    let heir = nodes[3].container();
    let took = Instant::now();
    heir.reaches(&first);
    first.reaches(&heir);
    eprintln!("the others follow within {:.1?}", took.elapsed());
    daemons[1].signal("CONT");
    if let Some(container) = &container {
        let problem = daemons[1].await_problem("we step back from it");
        assert!(problem.contains("host4") && problem.contains(&subnet.to_string()), "{problem}");
        assert_eq!(daemons[1].network().lease, "taken");
        let status = nodes[1].adit(&["status"]);
        assert!(status.contains("ANOTHER NODE HAS OUR SUBNET"), "{status}");
        assert!(daemons[1].network().subnets.is_empty());
        // Nothing is sent for it, and nothing accepted: neither reaches the other, though both are called the same.
        let unknown = |status: &adit::api::Status| -> u64 { status.drops.values().sum() };
        let before = unknown(&daemons[0].status());
        assert!(!container.pings(first.address));
        assert_eq!(unknown(&daemons[0].status()), before, "it sends as whom it is not any more");
        if inhabitant == Inhabitant::Ours {
            daemons[1].await_problem(&format!("web has an address of {subnet}, which this node does not hold"));
            let fault = try_attach(nodes[1].host, &places, "other", |_| ()).err().unwrap();
            assert!(fault.kind == FaultKind::NotReady && fault.sentence.contains("no subnet yet"), "{fault}");
            // Started again, it has another one as soon as there is one; the container is where it was, and named.
            nodes[2].adit(&["down", "--purge"]);
            daemons.remove(2).await_end();
            daemons.remove(1).terminate();
            let daemon = wait_for("another subnet", || nodes[1].try_up());
            assert_ne!(daemon.subnet(), subnet);
            daemon.await_problem(&format!("web has an address of {subnet}, which this node does not hold"));
            let other: Container = attach(nodes[1].host, &places, "other").into();
            other.reaches(&first);
            other.reaches(&heir);
            daemons.push(daemon);
        }
    } else {
        // There is none left for it, until somebody goes.
        daemons[1].await_problem("no subnet is free");
        nodes[2].adit(&["down", "--purge"]);
        daemons.remove(2).await_end();
        let other = wait_for("another subnet", || daemons[1].network().subnets.first().copied());
        assert_ne!(other, subnet);
        let container = nodes[1].container();
        container.reaches(&first);
        container.reaches(&heir);
    }
    // It makes no difference to the heir.
    heir.reaches(&first);
    first.reaches(&heir);
}

#[test]
fn a_node_away_for_too_long_steps_back_from_its_subnet_and_keeps_its_containers_addresses() {
    stopped_too_long(Inhabitant::Foreign);
}

#[test]
fn containers_of_a_node_away_for_too_long_are_named_and_others_are_in_the_next_subnet() {
    stopped_too_long(Inhabitant::Ours);
}

#[test]
fn a_node_away_for_too_long_takes_another_subnet_where_nothing_lives_in_the_first() {
    stopped_too_long(Inhabitant::Nobody);
}

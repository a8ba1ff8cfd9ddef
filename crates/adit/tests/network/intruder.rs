//! A container that speaks to the daemon itself: to its port, its registry, its sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::attached::{attach, directories};
use crate::bed::packet::Random;
use crate::bed::traffic::exchange_tcp;
use crate::bed::{Bed, Family, wait_for};
use crate::world::{Node, network};

/// How long the port is talked at.
const TALK: Duration = Duration::from_secs(2);

#[test]
fn a_container_that_talks_to_the_daemon_disturbs_nobody() {
    let bed = Bed::new(2);
    bed.guard.expect_a_flood();
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let daemons = network(&nodes, &["--network", "10.42.0.0/16"]);
    let places: Vec<_> = nodes.iter().map(|node| directories(node.directory.path())).collect();
    let (intruder, web) = (attach(nodes[0].host, &places[0], "intruder"), attach(nodes[0].host, &places[0], "web"));
    let other = attach(nodes[1].host, &places[1], "other");
    exchange_tcp(web.end(false), other.end(false), 1000, 1000);
    let gateway: IpAddr = container_gateway(&daemons[0].subnet());
    let targets = [gateway, bed.host(1).underlay(Family::V4)].map(|ip| SocketAddr::new(ip, 7777));
    thread::scope(|scope| {
        let (talk, stop) = (&intruder, Instant::now() + TALK);
        scope.spawn(move || {
            let socket = talk.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            let mut random = Random::new(6);
            while Instant::now() < stop {
                // Each kind of message by its first byte, in each length.
                let mut bytes = random.noise(1 + random.clone().below(1400));
                bytes[0] = (random.below(256)) as u8;
                for target in targets {
                    // The kernel may say that the queue of the device is full.
                    let _ = socket.send_to(&bytes, target);
                }
            }
        });
        let mut rounds = 0;
        while Instant::now() < stop {
            exchange_tcp(web.end(false), other.end(false), 50_000, 50_000);
            rounds += 1;
        }
        assert!(rounds > 3, "{rounds}");
    });
    // The registry asks who is there: without a certificate's pin and a credential nothing is written or read.
    let registry = SocketAddr::new(gateway, 7780);
    let mut stream = intruder.namespace.run(|| TcpStream::connect(registry)).unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < 64 && !answer.windows(4).any(|part| part == b"etcd"), "{answer:02x?}");
    // Sockets of the daemon are files of the host, none is reached through a network namespace.
    let sockets = intruder.namespace.run(|| fs::read_to_string("/proc/net/unix")).unwrap().unwrap();
    assert!(!sockets.contains("adit"), "{sockets}");
    let sockets = nodes[0].host.namespace.run(|| fs::read_to_string("/proc/net/unix")).unwrap().unwrap();
    assert!(sockets.lines().all(|line| !line.contains('@')), "no abstract one: {sockets}");
    // It was heard, counted, and changed nothing.
    let drops = wait_for("the count of what was no message", || {
        let drops = daemons[0].status().drops;
        (drops.values().sum::<u64>() > 100).then_some(drops)
    });
    assert!(!drops.is_empty());
    let status = daemons[0].status();
    assert!(
        status.peers.iter().all(|peer| peer.endpoint == status.peers[0].endpoint && peer.session == "up"),
        "{status:?}"
    );
    exchange_tcp(web.end(false), other.end(false), 100_000, 100_000);
}

/// The second address of a subnet, at which its host is for containers.
fn container_gateway(subnet: &ipnet::IpNet) -> IpAddr {
    subnet.hosts().next().unwrap()
}

//! Those who may not ask, those who ask too much, and a node that lies.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit::resolver::message::{A, NO_ERROR, NO_NAME, PTR, Query, REFUSED, SERVER_FAILURE};
use adit::resolver::name::Name;
use linux::netns::NetNs;

use crate::bed::{Bed, Family, Host};
use crate::scene::{
    Guest, Script, Server, address, ask, ask_by_tcp, await_resolver, client, device_of, exchange, network, query, read,
    timed,
};
use crate::world::Node;

/// `ip`, on a host.
fn ip(host: &Host, arguments: &str) {
    host.run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

#[test]
fn strangers_and_others_containers_are_refused() {
    let bed = Bed::new(3);
    let nodes = [Node::new(bed.host(1)), Node::new(bed.host(2))];
    let stranger = bed.host(3);
    let daemons = network(&nodes, &[], &[]);
    let [web, other] = [Guest::attach(&nodes[0], "web"), Guest::attach(&nodes[1], "other")];
    web.await_address("other.host2.adit", other.ip(false));
    let resolver = web.resolvers[0];
    // A neighbour on the card, who sends to our addresses by way of the host.
    ip(stranger, &format!("route add {} via {}", daemons[0].subnet(), bed.host(1).underlay(Family::V4)));
    for at in [resolver, device_of(&daemons[0])] {
        let socket = client(&stranger.namespace, at);
        for name in ["web.host1.adit", "host1.adit", "a.example"] {
            let query = query(name, A);
            let answer = exchange(&socket, &query).unwrap();
            assert_eq!(read(&answer), (REFUSED, Vec::new()), "{name}");
            assert_eq!(answer.len(), query.to_bytes().len(), "no more comes back than went");
        }
        assert_eq!(ask_by_tcp(&stranger.namespace, at, "web.host1.adit", A), None);
    }
    // As a container of ours it is not heard.
    ip(stranger, &format!("address add {}/32 dev lo", web.ip(false)));
    let socket = stranger.namespace.run(|| UdpSocket::bind((web.ip(false), 0))).unwrap().unwrap();
    socket.connect((resolver, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(exchange(&socket, &query("web.host1.adit", A)), None);
    // A container of another node has its own resolver.
    assert_eq!(ask(&other.namespace, resolver, "web.host1.adit", A).unwrap().0, REFUSED);
    // Another node is told of ours, and of nothing else.
    let host = &bed.host(2).namespace;
    assert_eq!(ask(host, resolver, "web.host1.adit", A), Some((NO_ERROR, vec![web.ip(false).to_string()])));
    assert_eq!(ask(host, resolver, "none.host1.adit", A).unwrap().0, NO_NAME);
    for name in ["other.host2.adit", "host2.adit", "none.adit", "a.example"] {
        assert_eq!(ask(host, resolver, name, A).unwrap().0, REFUSED, "{name}");
    }
}

/// Tells others to stop, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends questions as fast as it can, until told to stop; answers how many.
fn flood(namespace: &NetNs, to: IpAddr, name: &str, stop: &AtomicBool) -> u64 {
    let socket = client(namespace, to);
    socket.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut bytes = query(name, A).to_bytes();
    while !stop.load(Ordering::Relaxed) {
        // Each is another question.
        bytes[..2].copy_from_slice(&(sent as u16).to_be_bytes());
        sent += u64::from(socket.send(&bytes).is_ok());
    }
    sent
}

#[test]
fn a_container_that_floods_keeps_nobody_else_from_answers() {
    let bed = Bed::new(3);
    let nodes = [Node::new(bed.host(1))];
    let upstream = bed.host(2).underlay(Family::V4);
    // A resolver that says nothing holds places until they are given up.
    let script: Script = Arc::new(|query: &Query, _| match query.name.to_string().as_str() {
        "a.example" => vec![query.answer(NO_ERROR, false, &[address("198.51.100.7")], 512)],
        _ => Vec::new(),
    });
    let _server = Server::new(&bed.host(2).namespace, upstream, script);
    let daemons = network(&nodes, &[], &[upstream]);
    let stranger = bed.host(3);
    ip(stranger, &format!("route add {} via {}", daemons[0].subnet(), bed.host(1).underlay(Family::V4)));
    let guests: Vec<Guest> = ["web", "flooder", "waster", "idler"].map(|name| Guest::attach(&nodes[0], name)).into();
    let [web, flooder, waster, idler] = &guests[..] else { panic!() };
    web.await_address("web.host1.adit", web.ip(false));
    let resolver = web.resolvers[0];
    // One that opens connections and says nothing.
    let idle: Vec<_> = (0..50)
        .map(|_| {
            let at = SocketAddr::new(resolver, 53);
            idler.namespace.run(|| std::net::TcpStream::connect_timeout(&at, Duration::from_secs(5))).unwrap()
        })
        .collect();
    let (stop, flooded) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| {
        for (namespace, name) in [
            (&flooder.namespace, "web.host1.adit"),
            (&waster.namespace, "silent.example"),
            (&stranger.namespace, "web.host1.adit"),
        ] {
            let (stop, flooded) = (&stop, &flooded);
            scope.spawn(move || flooded.fetch_add(flood(namespace, resolver, name, stop), Ordering::Relaxed));
        }
        let end = Stop(&stop);
        let began = Instant::now();
        let mut rounds = 0;
        while rounds < 10 || began.elapsed() < Duration::from_secs(3) {
            for (name, kind, expected) in [
                ("web.host1.adit".to_owned(), A, web.ip(false).to_string()),
                ("a.example".to_owned(), A, "198.51.100.7".into()),
                (Name::of_address(web.ip(false)).to_string(), PTR, "web.host1.adit".into()),
            ] {
                let (answer, took) = timed(|| ask(&web.namespace, resolver, &name, kind));
                assert_eq!(answer, Some((NO_ERROR, vec![expected])), "{name} after {rounds} rounds");
                slowest = slowest.max(took);
            }
            let (answer, took) = timed(|| ask_by_tcp(&web.namespace, resolver, "a.example", A));
            assert_eq!(answer.unwrap().1, ["198.51.100.7"]);
            slowest = slowest.max(took);
            rounds += 1;
        }
        drop(end);
        eprintln!("{rounds} rounds of four questions, the slowest {slowest:.1?}");
    });
    eprintln!("{} questions by who flooded", flooded.load(Ordering::Relaxed));
    assert!(flooded.load(Ordering::Relaxed) > 50_000);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    drop(idle);
}

#[test]
fn a_node_that_lies_is_believed_for_itself_only() {
    let bed = Bed::new(2);
    let nodes = [Node::new(bed.host(1)), Node::new(bed.host(2))];
    let token = {
        crate::scene::set_resolvers(&nodes[0], &[]);
        nodes[0].init(&["--uses", "2"])
    };
    let first = nodes[0].up();
    nodes[1].join(&token);
    // Its own resolver makes room for another one.
    nodes[1].configure("domain = \"\"");
    let second = nodes[1].up();
    first.await_nodes(1);
    second.await_nodes(1);
    let web = Guest::attach(&nodes[0], "web");
    web.await_address("web.host1.adit", web.ip(false));
    // Nobody answers there.
    let (answer, took) = timed(|| web.ask("web.host2.adit", A));
    assert_eq!(answer.0, SERVER_FAILURE);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let theirs = device_of(&second);
    let IpAddr::V4(device) = theirs else { panic!() };
    let [a, b, c, _] = device.octets();
    let (own, of_others) = (IpAddr::from([a, b, c, 5]), web.ip(false));
    let script: Script = Arc::new(move |query: &Query, _| {
        let data = |ip: IpAddr| address(&ip.to_string());
        let name = |text: &str| adit::resolver::message::Data::Name(Name::from_text(text).unwrap());
        let data = match query.name.labels().next() {
            Some(b"good") => vec![data(of_others), address("192.0.2.1"), data(own), address("127.0.0.1")],
            Some(b"bad") => vec![data(of_others)],
            Some(b"refused") => return vec![query.answer(REFUSED, true, &[], 512)],
            Some(b"5") => vec![name("web.host1.adit"), name("five.host2.adit")],
            Some(b"6") => vec![name("bank.example")],
            _ => vec![],
        };
        vec![query.answer(NO_ERROR, true, &data, 512)]
    });
    let server = Server::new(&bed.host(2).namespace, theirs, script);
    assert_eq!(web.ask("good.host2.adit", A), (NO_ERROR, vec![own.to_string()]));
    assert_eq!(web.ask("bad.host2.adit", A), (NO_ERROR, Vec::new()));
    assert_eq!(web.ask("refused.host2.adit", A).0, SERVER_FAILURE);
    assert_eq!(web.ask(&format!("5.{c}.{b}.{a}.in-addr.arpa"), PTR).1, ["five.host2.adit"]);
    assert_eq!(web.ask(&format!("6.{c}.{b}.{a}.in-addr.arpa"), PTR).1, Vec::<String>::new());
    let asked = server.count();
    assert_eq!(asked, 5);
    // It is not asked for others' names, nor for its own, which its certificate says.
    assert_eq!(web.ask("web.host1.adit", A).1, [web.ip(false).to_string()]);
    assert_eq!(web.ask("host2.adit", A).1, [theirs.to_string()]);
    assert_eq!(server.count(), asked);
    // And it cannot make us ask for it.
    assert_eq!(ask(&bed.host(2).namespace, web.resolvers[0], "good.host2.adit", A).unwrap().0, REFUSED);
}

#[test]
fn nonsense_is_answered_as_such_or_not_at_all() {
    let bed = Bed::new(1);
    let nodes = [Node::new(bed.host(1))];
    let daemons = network(&nodes, &[], &[]);
    await_resolver(nodes[0].host, &daemons[0]);
    let web = Guest::attach(&nodes[0], "web");
    let socket = client(&web.namespace, web.resolvers[0]);
    let good = query("web.host1.adit", A).to_bytes();
    let mut answer = good.clone();
    answer[2] |= 0x80;
    // An answer is never answered: two that do would never end.
    for silent in [&answer[..], &good[..11], b"", b"x"] {
        socket.send(silent).unwrap();
    }
    for (at, byte, code) in [(2, 0x28, 4), (5, 2, 1), (12, 0xc0, 1), (7, 1, 1)] {
        let mut bad = good.clone();
        bad[at] = byte;
        socket.send(&bad).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!((length, &buffer[..2], buffer[3] & 15), (12, &good[..2], code), "byte {at} is {byte}");
    }
    // Connections that break off, and ones that say more than can be.
    for bytes in [&b"\x00"[..], b"\x00\x20short", b"\xff\xff", b"\x00\x00", b"\x00\x01x"] {
        let at = SocketAddr::new(web.resolvers[0], 53);
        let mut stream = web.namespace.run(|| std::net::TcpStream::connect(at)).unwrap().unwrap();
        std::io::Write::write_all(&mut stream, bytes).unwrap();
    }
    let path = format!("+notcp @{}", web.resolvers[0]);
    let run = || Command::new("dig").args(path.split(' ')).args(["web.host1.adit", "+short"]).output();
    let said = web.namespace.run(run).unwrap().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), web.ip(false).to_string());
    assert!(nodes[0].log().lines().all(|line| !line.contains("panic")), "{}", nodes[0].log());
}

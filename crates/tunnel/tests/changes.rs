//! What people change while a node runs, from outside: peers that come and go, and keys that change.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test prepares must succeed")]

use std::net::SocketAddr;
use std::time::Duration;

use tunnel::handshake::Identity;
use tunnel::node::{Random, Settings};
use tunnel::peer::{PeerSettings, Problem, Standing};
use tunnel::{Node, Now, Output, PeerId, Time};
use wire::message::{Handshake, Mode, Protocol};
use zeroize::Zeroizing;

const BOTH: [Protocol; 2] = [Protocol::Sealed, Protocol::WireGuard];

struct Counting(u64);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&self.0.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[..chunk.len()]);
        }
        true
    }
}

fn at(millis: u64) -> Now {
    let since = Duration::from_millis(millis);
    Now { time: Time::from_nanos(1_000_000_000) + since, wall: Duration::from_secs(1_795_000_000) + since }
}

fn endpoint(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 7777).into()
}

fn identity(seed: u8) -> Identity {
    Identity::new(&[seed; 32]).unwrap()
}

fn peer(protocol: Protocol, number: u8) -> PeerSettings {
    PeerSettings {
        protocol,
        public: *identity(100 + number).public(),
        preshared: Zeroizing::new([0; 32]),
        keepalive: None,
        endpoint: Some(endpoint(number)),
    }
}

/// A node without peers that has started, with a key for both protocols.
fn node() -> Node {
    let identities = vec![(Protocol::Sealed, identity(1)), (Protocol::WireGuard, identity(2))];
    let settings = Settings { identities, mode: Mode::Tun, mtu: 1440, aes: true, mark: Duration::ZERO, network: None };
    let mut node = Node::new(settings, Vec::new(), Box::new(Counting(0)));
    node.start(at(0));
    assert_eq!(obey(&mut node, 0), []);
    node
}

/// Does what a node asks for; answers where it called.
fn obey(node: &mut Node, millis: u64) -> Vec<SocketAddr> {
    let mut called = Vec::new();
    while let Some(output) = node.next_output() {
        match output {
            Output::Mark(mark) => node.marked(mark, at(millis)),
            Output::Transmit { to, datagram, .. } => {
                assert!(Handshake::parse(&datagram).is_ok());
                called.push(to);
            }
            Output::GaveUp(_) | Output::Moved(..) | Output::Failed(..) | Output::RoundTrip(..) => {}
            other => panic!("{other:?}"),
        }
    }
    called
}

/// Lets time pass, and answers where it called.
fn pass(node: &mut Node, millis: std::ops::Range<u64>) -> Vec<SocketAddr> {
    let mut called = Vec::new();
    for now in millis {
        if node.deadline().is_some_and(|deadline| deadline <= at(now).time) {
            node.handle_timeout(at(now));
        }
        called.extend(obey(node, now));
    }
    called
}

fn want(node: &mut Node, id: PeerId, millis: u64) -> Vec<SocketAddr> {
    node.handle_notice(tunnel::node::Notice::Wanted(id), at(millis));
    obey(node, millis)
}

#[test]
fn an_added_peer_is_called_as_one_that_was_there_at_the_start() {
    let mut node = node();
    node.add_peer(PeerId(5), peer(Protocol::Sealed, 5), at(10));
    assert_eq!(obey(&mut node, 10), [endpoint(5)]);
    node.add_peer(PeerId(2), peer(Protocol::WireGuard, 2), at(20));
    assert_eq!(obey(&mut node, 20), [], "WireGuard's are called when there is something to say");
    assert_eq!(want(&mut node, PeerId(2), 30), [endpoint(2)]);
    assert!([0, 1, 3, 4, 6].iter().all(|free| node.remote(PeerId(*free)).is_none()));
}

#[test]
fn many_that_are_added_at_once_are_called_one_by_one() {
    let mut node = node();
    for number in 0..100 {
        node.add_peer(PeerId(number.into()), peer(Protocol::Sealed, number), at(10));
    }
    assert!(obey(&mut node, 10).len() < 3);
    assert_eq!(pass(&mut node, 10..600).len(), 99);
}

#[test]
fn of_a_removed_peer_nothing_is_left() {
    for protocol in BOTH {
        let mut node = node();
        node.add_peer(PeerId(0), peer(protocol, 7), at(10));
        obey(&mut node, 10);
        want(&mut node, PeerId(0), 20);
        assert_eq!(node.state(PeerId(0), at(20).time).unwrap().standing, Standing::Calling);
        let remote = node.remote(PeerId(0)).unwrap();
        node.remove_peer(PeerId(0));
        assert!(node.state(PeerId(0), at(20).time).is_none() && node.remote(PeerId(0)).is_none());
        assert!(remote.path.load().is_none() && remote.session.load().is_none());
        assert_eq!(node.deadline(), None);
        assert_eq!((want(&mut node, PeerId(0), 30), pass(&mut node, 30..20_000)), (vec![], vec![]));
        // Twice does no harm, nor does one that never was.
        node.remove_peer(PeerId(0));
        node.remove_peer(PeerId(77));
    }
}

#[test]
fn another_endpoint_is_asked_at_once() {
    for protocol in BOTH {
        let mut node = node();
        node.add_peer(PeerId(0), peer(protocol, 7), at(10));
        obey(&mut node, 10);
        want(&mut node, PeerId(0), 20);
        node.set_endpoint(PeerId(0), Some(endpoint(8)), at(1000));
        assert_eq!(obey(&mut node, 1000), [endpoint(8)], "{protocol:?}");
        node.set_endpoint(PeerId(0), Some(endpoint(8)), at(1010));
        assert_eq!(obey(&mut node, 1010), [], "the same as before");
        node.set_endpoint(PeerId(0), None, at(1020));
        assert!(pass(&mut node, 1020..13_000).iter().all(|to| *to == endpoint(8)));
    }
}

#[test]
fn w12_with_another_key_of_ours_the_next_packet_calls_at_once() {
    for protocol in BOTH {
        let mut node = node();
        node.add_peer(PeerId(0), peer(protocol, 7), at(10));
        obey(&mut node, 10);
        want(&mut node, PeerId(0), 20);
        // A call is under way, to which no answer can come any more.
        node.set_identity(protocol, Some(identity(9)), at(100));
        assert_eq!(obey(&mut node, 100), [endpoint(7)], "{protocol:?}");
        node.set_identity(protocol, Some(identity(9)), at(110));
        assert_eq!(obey(&mut node, 110), [], "the same as before");
        node.set_identity(protocol, None, at(120));
        assert_eq!(pass(&mut node, 120..3000), []);
        assert_eq!(node.state(PeerId(0), at(3000).time).unwrap().problem, Some(Problem::NoIdentity));
        node.set_identity(protocol, Some(identity(10)), at(3000));
        assert_eq!(obey(&mut node, 3000), []);
        assert_eq!(want(&mut node, PeerId(0), 3010), [endpoint(7)]);
    }
}

#[test]
fn w29_a_peer_with_our_own_key_never_gets_a_datagram() {
    for protocol in BOTH {
        let mut node = node();
        let own = *identity(if protocol == Protocol::Sealed { 1 } else { 2 }).public();
        let keepalive = Some(Duration::from_secs(1));
        node.add_peer(PeerId(0), PeerSettings { public: own, keepalive, ..peer(protocol, 7) }, at(10));
        assert_eq!(obey(&mut node, 10), []);
        assert_eq!((want(&mut node, PeerId(0), 20), pass(&mut node, 20..20_000)), (vec![], vec![]));
        assert_eq!(node.state(PeerId(0), at(20_000).time).unwrap().problem, Some(Problem::Key));
        // Nor does one that we become.
        node.set_identity(protocol, Some(identity(105)), at(20_000));
        node.add_peer(PeerId(5), peer(protocol, 5), at(20_000));
        let called = [obey(&mut node, 20_000), want(&mut node, PeerId(5), 20_010), pass(&mut node, 20_010..30_000)];
        assert!(!called.concat().contains(&endpoint(5)));
    }
}

#[test]
fn a_keepalive_that_is_turned_on_calls_and_one_that_is_turned_off_is_silent() {
    for protocol in BOTH {
        let mut node = node();
        node.add_peer(PeerId(0), PeerSettings { endpoint: None, ..peer(protocol, 7) }, at(10));
        node.set_endpoint(PeerId(0), Some(endpoint(7)), at(20));
        pass(&mut node, 20..200_000);
        node.set_keepalive(PeerId(0), Some(Duration::from_secs(25)), at(200_000));
        assert_eq!(obey(&mut node, 200_000), [endpoint(7)], "{protocol:?}");
        node.set_keepalive(PeerId(0), None, at(200_010));
        // What was begun is tried to its end, and then never again.
        pass(&mut node, 200_010..300_000);
        assert_eq!((pass(&mut node, 300_000..600_000), node.deadline()), (vec![], None));
    }
}

#[test]
fn the_same_key_in_both_protocols_is_two_peers_and_twice_in_one_is_one() {
    let mut node = node();
    let public = *identity(42).public();
    for (number, protocol) in (0..).zip(BOTH) {
        node.add_peer(PeerId(number), PeerSettings { public, ..peer(protocol, 7) }, at(10));
    }
    assert!(node.remote(PeerId(0)).is_some() && node.remote(PeerId(1)).is_some());
    node.add_peer(PeerId(2), PeerSettings { public, ..peer(Protocol::Sealed, 7) }, at(20));
    assert!(node.remote(PeerId(0)).is_none() && node.remote(PeerId(2)).is_some());
}

#[test]
fn w31_an_added_peer_with_a_key_of_low_order_never_gets_a_datagram() {
    let mut ends = [0xff; 32];
    (ends[0], ends[31]) = (0xec, 0x7f);
    let one = std::array::from_fn(|at| u8::from(at == 0));
    for protocol in BOTH {
        for public in [[0; 32], one, ends] {
            let mut node = node();
            let keepalive = Some(Duration::from_secs(1));
            node.add_peer(PeerId(0), PeerSettings { public, keepalive, ..peer(protocol, 7) }, at(10));
            let called = [obey(&mut node, 10), want(&mut node, PeerId(0), 20), pass(&mut node, 20..20_000)];
            assert_eq!(called.concat(), [], "{protocol:?}");
            assert_eq!(node.state(PeerId(0), at(20_000).time).unwrap().problem, Some(Problem::Key));
        }
    }
}

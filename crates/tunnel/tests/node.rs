//! What a node does by itself, before anything came from outside.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test prepares must succeed")]

use std::net::SocketAddr;
use std::time::Duration;

use tunnel::handshake::Identity;
use tunnel::network::{Epoch, Membership};
use tunnel::node::{Random, Settings};
use tunnel::peer::PeerSettings;
use tunnel::{Node, Now, Output, PeerId, Time};
use wire::message::{Handshake, Mode, Protocol};
use zeroize::Zeroizing;

struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self.0 = self.0.wrapping_add(1);
        bytes.fill(self.0);
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

fn node(protocol: Protocol, peers: u8) -> Node {
    let identity = |seed| Identity::new(&[seed; 32]).unwrap();
    let peer = |number: u8| {
        let settings = PeerSettings {
            protocol,
            public: *identity(100 + number).public(),
            preshared: Zeroizing::new([0; 32]),
            keepalive: None,
            endpoint: Some(endpoint(number)),
        };
        (PeerId(u32::from(number)), settings)
    };
    let identities = vec![(protocol, identity(1))];
    let settings = Settings { identities, mode: Mode::Tun, mtu: 1440, aes: true, mark: Duration::ZERO, network: None };
    Node::new(settings, (0..peers).map(peer).collect(), Box::new(Counting(0)))
}

fn outputs(node: &mut Node) -> Vec<Output> {
    std::iter::from_fn(|| node.next_output()).collect()
}

/// Does what a node asks for until `millis` from the start; answers where it called.
fn calls(node: &mut Node, millis: u64) -> Vec<SocketAddr> {
    let mut called = Vec::new();
    node.start(at(0));
    let mut now = 0;
    loop {
        for output in outputs(node) {
            match output {
                Output::Mark(mark) => node.marked(mark, at(now)),
                Output::Transmit { to, datagram, .. } => {
                    assert!(Handshake::parse(&datagram).is_ok());
                    called.push(to);
                }
                other => panic!("{other:?}"),
            }
        }
        now += 1;
        if now > millis {
            return called;
        }
        if node.deadline().is_some_and(|deadline| deadline <= at(now).time) {
            node.handle_timeout(at(now));
        }
    }
}

#[test]
fn nobody_is_called_before_the_mark_is_on_disk() {
    let mut node = node(Protocol::Sealed, 3);
    node.start(at(0));
    for millis in [0, 5, 10, 1000] {
        node.handle_timeout(at(millis));
        assert!(outputs(&mut node).iter().all(|output| matches!(output, Output::Mark(_))), "{millis} ms");
    }
}

#[test]
fn a_node_calls_its_peers_once_when_it_starts() {
    assert_eq!(calls(&mut node(Protocol::Sealed, 3), 1000), [0, 1, 2].map(endpoint));
}

#[test]
fn a_node_of_a_network_calls_those_that_it_is_told_to_one_after_the_other() {
    let mut node = node(Protocol::Sealed, 100);
    let epoch = Epoch { number: 1, secret: Zeroizing::new([7; 32]) };
    node.set_membership(Some(Membership { id: [1; 16], epochs: vec![epoch] }), at(0));
    assert_eq!(calls(&mut node, 1000), []);
    for number in [3, 1, 4] {
        node.call_soon(PeerId(number), at(1000));
        node.call_soon(PeerId(number), at(1000));
    }
    let called = |output| match output {
        Output::Transmit { to, .. } => to,
        other => panic!("{other:?}"),
    };
    assert_eq!(outputs(&mut node).into_iter().map(called).collect::<Vec<_>>(), [endpoint(3)]);
    for (millis, number) in [(1005, 1), (1010, 4)] {
        assert_eq!(node.deadline(), Some(at(millis).time));
        node.handle_timeout(at(millis));
        assert_eq!(outputs(&mut node).into_iter().map(called).collect::<Vec<_>>(), [endpoint(number)]);
    }
}

#[test]
fn a_wireguard_node_waits_until_there_is_something_to_say() {
    assert_eq!(calls(&mut node(Protocol::WireGuard, 3), 1000), []);
}

//! What ten thousand peers cost control: a picture of them for workers, and one more or less. And what they cost a worker: to find a
//! session among theirs.
#![allow(clippy::unwrap_used, missing_docs, reason = "what a benchmark prepares must succeed")]

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tunnel::handshake::Identity;
use tunnel::node::{Random, Settings};
use tunnel::peer::PeerSettings;
use tunnel::{Node, Now, Peer, PeerId, Snapshot, Time, Way};
use wire::message::{Mode, Protocol};
use zeroize::Zeroizing;

const PEERS: u32 = 10_000;

struct Counting(u64);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&self.0.to_be_bytes()[..chunk.len()]);
        }
        true
    }
}

fn now() -> Now {
    Now { time: Time::from_nanos(1_000_000_000), wall: Duration::from_secs(1_795_000_000) }
}

fn peer(number: u32) -> PeerSettings {
    let mut public = [7; 32];
    public[..4].copy_from_slice(&number.to_le_bytes());
    PeerSettings {
        protocol: Protocol::WireGuard,
        public,
        preshared: Zeroizing::new([0; 32]),
        keepalive: None,
        endpoint: Some((Ipv4Addr::from_bits(0xc612_0000 + number), 7777).into()),
    }
}

fn node(peers: u32) -> Node {
    let identities = vec![(Protocol::WireGuard, Identity::new(&[1; 32]).unwrap())];
    let settings = Settings { identities, mode: Mode::Tun, mtu: 1440, aes: true, mark: Duration::ZERO, network: None };
    let mut node = Node::new(settings, Vec::new(), Box::new(Counting(0)));
    for number in 0..peers {
        node.add_peer(PeerId(number), peer(number), now());
    }
    node
}

/// Two prefixes of each family for each peer.
fn picture(node: &Node) -> Vec<Option<Peer>> {
    let one = |number: u32| {
        let settings = peer(number);
        let four = |first: u32, length| ipnet::Ipv4Net::new(Ipv4Addr::from_bits(first), length).unwrap().into();
        let six = |first: u128, length| ipnet::Ipv6Net::new(Ipv6Addr::from_bits(first), length).unwrap().into();
        Peer {
            way: Way::Secure {
                protocol: settings.protocol,
                configured: settings.endpoint,
                remote: node.remote(PeerId(number)).unwrap(),
            },
            mtu: 1420,
            allowed_ips: vec![
                four(0x0a00_0000 + (number << 8), 24),
                four(0xac10_0000 + number, 32),
                six((0xfd00 << 112) + (u128::from(number) << 64), 64),
                six((0xfd01 << 112) + u128::from(number), 128),
            ],
        }
    };
    (0..PEERS).map(|number| Some(one(number))).collect()
}

fn benches(c: &mut Criterion) {
    let mut node = node(PEERS);
    let peers = picture(&node);
    let mut group = c.benchmark_group("10,000 peers");
    group.sample_size(20);
    group.bench_function("snapshot", |b| {
        b.iter_batched(|| peers.clone(), |peers| Snapshot::new(black_box(peers), &[]), BatchSize::PerIteration);
    });
    group.bench_function("node", |b| b.iter(|| self::node(PEERS)));
    group.bench_function("add and remove", |b| {
        b.iter(|| {
            node.add_peer(PeerId(PEERS), peer(PEERS), now());
            node.remove_peer(PeerId(PEERS));
        });
    });
    let table = node.table();
    group.bench_function("find", |b| b.iter(|| table.find(black_box(0x1234_5670)).session().is_some()));
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
